"""Every option of distill, noise, robust, regularize and scale, by existing, is run through the
command line: broken off after an epoch and gone on with it ends where an unbroken run does.
"""

import csv
import math

import numpy as np
import pytest
import torch
from conformance import tiny

import compressor

# what an option asks for beside its name
NEEDS = {
    "distill=collaborative": (
        "distill.terms.collaborative.heads=2", "distill.terms.collaborative.split_at=[depthwise]",
        "train.epochs=3",
    ),
    "distill=data_free": (
        "distill.at=train", "distill.teacher.source=model", "distill.teacher.model=resnet20",
        "distill.teacher.arguments.width=0.5", "distill.teacher.epochs=1",
        "distill.terms.data_free.steps=2", "distill.terms.data_free.count=16",
        "distill.terms.data_free.generator_lr=0.002", "stages=[train]",
        "train.epochs=3",
    ),
    "distill=ensemble_net": ("distill.terms.ensemble_net.split_at=depthwise", "train.epochs=3"),
    "distill=attention": (
        "distill.terms.attention.student_layers=[plain,grouped]",
        "distill.terms.attention.teacher_layers=[plain,grouped]",
    ),
    "distill=hints": (
        "distill.terms.hints.student_layer=plain", "distill.terms.hints.teacher_layer=plain",
    ),
    "distill=mimic": ("finetune.lr=0.002",),
    "robust=confident": ("robust.folds=2", "robust.estimate_epochs=1"),
    "noise=asymmetric": ("noise.map={0: 1, 1: 0}",),
    "noise=matrix": ("noise.file=FOLDER/matrix.csv",),
    "noise=file": ("noise.file=FOLDER/labels.csv", "noise.known=true"),
    "scale=multiplier": ("scale.resolution=1.5",),
    "regularize=slimming": ("regularize.weight=0.01",),
}  # fmt: skip
# the groups whose run is broken off, when the line of the second of three epochs is printed: the
# checkpoint of the first is written then
BROKEN_OFF = ("robust", "regularize", "distill")


def words_of(group, option, folder):
    own = NEEDS.get(f"{group}={option}", ())
    return [f"{group}={option}", *(word.replace("FOLDER", str(folder)) for word in own)]


def same_unbroken_and_resumed(tmp_path, group, option, *words):
    words = [*words, *words_of(group, option, tmp_path)]
    unbroken = tiny.run(tmp_path / "a", "run", *words)
    if group in BROKEN_OFF:
        tiny.interrupted(tmp_path / "b", "run", "epoch 2 of 3", *words)
    says = "goes on after epoch 1 of 3" if group in BROKEN_OFF else ""
    resumed = tiny.run(tmp_path / "b", "run", *words, says=says)
    assert tiny.figures(unbroken) == tiny.figures(resumed)
    for point in unbroken["points"].values():
        assert math.isfinite(point["loss"]) and 0 <= point["accuracy"] <= 1
    for path in (tmp_path / "a" / "run" / "history").glob("*.csv"):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert rows and all(math.isfinite(float(v)) for row in rows for v in row.values() if v)
    return unbroken, compressor.load(tmp_path / "a" / "run", trust=tiny.TRUST)


def gradients_are_finite(net, size=(3, 8, 8)):
    images = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    net.train()(images).square().sum().backward()
    return all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("option", tiny.options("robust"))
def test_a_remedy_runs(option, tmp_path):
    noisy = ("noise=symmetric", "prune=none", "stages=[train]", "train.epochs=3")
    report, net = same_unbroken_and_resumed(tmp_path, "robust", option, *noisy)
    assert 0.3 < report["labels"]["flip_rate"] < 0.5
    assert gradients_are_finite(net)


@pytest.mark.parametrize("option", tiny.options("distill"))
def test_a_distiller_runs(option, tmp_path):
    words = ["prune=weight_sum", "prune.ratio=0.5", "train.epochs=1", "finetune.epochs=3"]
    report, net = same_unbroken_and_resumed(tmp_path, "distill", option, *words)
    assert gradients_are_finite(net)


@pytest.mark.parametrize("option", tiny.options("regularize"))
def test_a_regulariser_runs(option, tmp_path):
    words = ("prune=none", "stages=[train]", "train.epochs=3")
    _, net = same_unbroken_and_resumed(tmp_path, "regularize", option, *words)
    assert gradients_are_finite(net)


@pytest.mark.parametrize("option", tiny.options("noise"))
def test_a_kind_of_noise_gives_labels_in_range(option, tmp_path):
    shares = np.full((10, 10), 0.02) + 0.8 * np.eye(10)
    np.savetxt(tmp_path / "matrix.csv", shares, delimiter=",")
    labels = [f"{row},{row % 10}" for row in range(160)]
    (tmp_path / "labels.csv").write_text("\n".join(["index,label", *labels]) + "\n")
    words = ("prune=none", "stages=[train]", "train.epochs=1")
    report, _ = same_unbroken_and_resumed(tmp_path, "noise", option, *words)
    assert 0 <= report["labels"]["flip_rate"] <= 1
    stored = [folder / "run" / "labels.npz" for folder in (tmp_path / "a", tmp_path / "b")]
    if stored[0].exists():
        first, second = (np.load(path, allow_pickle=False) for path in stored)
        assert first["given"].min() >= 0 and first["given"].max() < 10
        assert (first["given"] == second["given"]).all()
        assert (first["given"] != first["clean"]).mean() == pytest.approx(
            report["labels"]["flip_rate"]
        )


@pytest.mark.parametrize("option", tiny.options("scale"))
def test_a_scaler_runs_and_its_image_size_reaches_the_end(option, tmp_path):
    words = ("prune=none", "stages=[train]", "train.epochs=1", "dataset.image_size=16")
    report, net = same_unbroken_and_resumed(tmp_path, "scale", option, *words)
    side = 24 if option == "multiplier" else 16
    assert gradients_are_finite(net, (3, side, side))
    assert net.input_size == (3, side, side)
