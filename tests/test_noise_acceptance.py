"""What the papers claim, at the size of digits.

A multilayer perceptron 64-256-256-10 on 1,212 digits without augmentation, 40 % symmetric noise.
"""

import pytest
import torch
from torch import nn

from compressor import measure
from compressor.cache import Cache
from compressor.data.digits import Digits
from compressor.noise import Part
from compressor.noise.symmetric import Symmetric
from compressor.robust import Samples
from compressor.robust.confident import confident_joint, estimated_joint, find_issues
from compressor.robust.none import CrossEntropy
from compressor.robust.pencil import Pencil
from compressor.stages import Context, Machine
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._labels import trusted
from compressor.stages._recipe import Recipe
from compressor.tasks.classification import Classification
from compressor.tasks.optimization import OptimizerOptions


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=8, channels=1, augment={"crop": 0, "flip": False})
    data.prepare()
    return data


def perceptron(seed):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for before, after in ((64, 256), (256, 256)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def train(folder, data, net, seed, training, epochs, lr=0.05, robust=None):
    folder.mkdir()
    machine = Machine(
        accelerator="cpu", devices=1, strategy="auto", threads=None, workers=0, progress=False,
        log_every=50, eval_batch_size=256, channels_last=True, latency_batch_size=1,
        latency_seconds=0.0,
    )  # fmt: skip
    labels = data.labels("train")
    context = Context(
        seed=seed, folder=folder, data=data, task=Classification(), machine=machine,
        precision="32-true", targets=labels, clean_targets=labels, cache=Cache(folder / "cache"),
        data_key="d",
    )  # fmt: skip
    options = OptimizerOptions(
        epochs=epochs, batch_size=128, optimizer="sgd", lr=lr, momentum=0.9, nesterov=False,
        weight_decay=1e-4, decay_norm_and_bias=True, schedule="constant", warmup_epochs=0.0,
        milestones=(), gamma=0.1, clip_norm=None,
    )  # fmt: skip
    recipe, remedy = Recipe(optimizer=options, select="last"), robust or CrossEntropy()
    job = Job(name="train", recipe=recipe, remedy=remedy, training=training)
    return fit(net, job, context).net


def accuracy(net, data):
    loader = data.loader("test", 256)
    found = measure.evaluate(net, Classification(), loader, torch.device("cpu"), num_classes=10)
    return found["accuracy"]


def noisy(data, seed, rate=0.4):
    clean = data.labels("train")
    return TrainingSet(targets=Symmetric(rate, seed=seed).corrupt(Part(clean, 10)), clean=clean)


@pytest.mark.slow
def test_pencil_puts_labels_right_and_leaves_cross_entropy_far_behind(tmp_path, digits):
    training = noisy(digits, 0)
    plain = train(tmp_path / "ce", digits, perceptron(0), 0, training, 60)
    robust = Pencil(warmup=3 / 73, correct=40 / 73, label_lr=4000.0, refine_lr_scale=5 / 3)
    robust.begin(Samples(targets=training.targets, num_classes=10, batch_size=128, epochs=73))
    ours = train(tmp_path / "pencil", digits, perceptron(0), 0, training, 73, 0.03, robust)
    right = robust.figures(training.targets, training.clean)["labels_right"]
    assert (training.targets == training.clean).double().mean().item() == pytest.approx(
        0.6, abs=1e-3
    )
    assert right >= 0.95
    assert accuracy(ours, digits) - accuracy(plain, digits) >= 0.15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noisy_then_clean_beats_the_noisy_and_the_clean_labels_alone(tmp_path, digits, seed):
    training = noisy(digits, seed)
    first = train(tmp_path / "noisy", digits, perceptron(seed), seed, training, 5)
    start = accuracy(first, digits)
    few = trusted(training.clean, None, 50 / 1212, seed)
    clean = TrainingSet(targets=training.clean, index=few, norms_rest=True)
    second = train(tmp_path / "then", digits, first, seed, clean, 30, 0.005)
    alone = TrainingSet(targets=training.clean, index=few)
    only = train(tmp_path / "clean", digits, perceptron(seed), seed, alone, 60)
    assert accuracy(second, digits) > max(start, accuracy(only, digits))


@pytest.mark.slow
def test_a_training_without_the_flagged_samples_beats_one_with_them(tmp_path, digits):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    training = noisy(digits, 0, 0.2)
    given = training.targets
    x = digits.pixels("train", torch.arange(len(given))).flatten(1).double().numpy() / 255
    model = LogisticRegression(C=0.3, max_iter=500)
    p = torch.from_numpy(cross_val_predict(model, x, given.numpy(), cv=5, method="predict_proba"))
    issues = find_issues(given, p, estimated_joint(confident_joint(given, p), given))
    kept = TrainingSet(targets=given, index=torch.nonzero(~issues).flatten())
    cleaned = train(tmp_path / "drop", digits, perceptron(0), 0, kept, 60)
    plain = train(tmp_path / "ce", digits, perceptron(0), 0, training, 60)
    assert accuracy(cleaned, digits) - accuracy(plain, digits) > 0.05
