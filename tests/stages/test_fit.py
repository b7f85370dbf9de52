"""The training loop, with deliberately odd tenants of every seam."""

import csv
from types import MappingProxyType

import doubles
import pytest
import torch
from doubles import LossAlone, Masked, Thinned
from torch import nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from compressor.cache import RESUME, Cache
from compressor.data.digits import Digits
from compressor.distill import Term
from compressor.distill.kd import KD
from compressor.errors import RunError
from compressor.loop import Loop
from compressor.regularize.slimming import Slimming
from compressor.robust import Phase, Remedy, Samples
from compressor.robust.none import CrossEntropy
from compressor.robust.pencil import Pencil
from compressor.stages import Context, Machine
from compressor.stages._fit import Job, TrainingSet, _phase_options, fit, legs
from compressor.stages._recipe import Recipe
from compressor.stages._resume import Resume
from compressor.taps import Tap
from compressor.tasks.classification import Accuracy, Classification
from compressor.tasks.classification import CrossEntropy as CrossEntropyMetric
from compressor.tasks.optimization import OptimizerOptions
from compressor.tasks.supervised import Supervised
from compressor.tasks.training import Distillation


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=8, channels=1)
    data.prepare()
    return data


def tiny(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def options(**changes):
    values = {
        "epochs": 2, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9,
        "nesterov": False, "weight_decay": 0.0, "decay_norm_and_bias": True, "schedule": "cosine",
        "warmup_epochs": 0.0, "milestones": (), "gamma": 0.1, "clip_norm": None,
    }  # fmt: skip
    return OptimizerOptions(**{**values, **changes})


def context(folder, data, task=None, **machine):
    values = {
        "accelerator": "cpu", "devices": 1, "strategy": "auto", "threads": None, "workers": 0,
        "progress": False, "log_every": 10, "eval_batch_size": 256, "channels_last": True,
        "latency_batch_size": 1, "latency_seconds": 0.0,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    labels = data.labels("train")
    return Context(
        seed=5, folder=folder, data=data, task=task or Classification(),
        machine=Machine(**{**values, **machine}), precision="32-true", targets=labels,
        clean_targets=labels, cache=Cache(folder / "cache"), data_key="d",
    )  # fmt: skip


def train(
    folder,
    data,
    net=None,
    task=None,
    **more,
):
    machine = {k: more.pop(k) for k in ("workers", "devices", "strategy", "progress") if k in more}
    own = {k: more.pop(k) for k in ("select", "select_by", "patience") if k in more}
    parts = ("start", "stop", "training", "distillation", "regularizer", "holding")
    given = {name: more.pop(name) for name in parts if name in more}
    given = {name: part for name, part in given.items() if part is not None}
    remedy = more.pop("robust", None) or CrossEntropy()
    recipe = Recipe(optimizer=options(**more), **{"select": "last", **own})
    job = Job(name="train", recipe=recipe, remedy=remedy, **given)
    return fit(net or tiny(), job, context(folder, data, task, **machine))


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_learns_and_writes_one_row_an_epoch(tmp_path, digits):
    fitted = train(tmp_path / "a", digits, epochs=3)
    rows = history(tmp_path / "a")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert fitted.metrics["epochs"] == 3 and fitted.metrics["picked_epoch"] == 3
    assert not fitted.net.training
    assert not (tmp_path / "a" / "checkpoints").exists()
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("inputs, kept", [(16, True), (4, False)])
def test_a_network_trains_in_channels_last_unless_it_would_overrun(tmp_path, digits, inputs, kept):
    net = nn.Sequential(
        nn.Conv2d(1, inputs, 3, padding=1), nn.Conv2d(inputs, 8, 1, stride=2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    seen = set()
    net[1].register_forward_pre_hook(
        lambda _, given: seen.add(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    train(tmp_path / "a", digits, net, epochs=1)
    assert seen == {kept}


def test_without_a_terminal_every_epoch_is_one_line(tmp_path, digits, capsys):
    train(tmp_path / "a", digits, progress=True)
    out = capsys.readouterr().out
    first, second = out.splitlines()
    assert first.startswith("train: epoch 1 of 2, val loss ") and ", val accuracy 0." in first
    assert second.startswith("train: epoch 2 of 2, ") and "\r" not in out


def test_the_same_seed_gives_the_same_weights_whatever_ran_before(tmp_path, digits):
    first = train(tmp_path / "a", digits).net.state_dict()
    torch.rand(17)
    second = train(tmp_path / "b", digits, workers=2).net.state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("select", ["last", "clean_peak"])
def test_a_training_without_a_validation_part_tells_no_figure_of_it(tmp_path, select):
    data = Digits(image_size=8, channels=1, validation=0.0)
    data.prepare()
    labels = data.labels("train")
    training = TrainingSet(targets=labels.roll(1), clean=labels) if select != "last" else None
    patience = None if select == "last" else 5
    fitted = train(tmp_path / "a", data, select=select, training=training, patience=patience)
    assert {row["val_loss"] for row in history(tmp_path / "a")} == {""}
    told = fitted.metrics
    assert set(told) == {"epochs", "picked_epoch", "last_epoch"} and told["last_epoch"] == 2


def test_the_picked_epoch_has_the_best_validation_accuracy_the_later_of_equals(tmp_path, digits):
    fitted = train(tmp_path / "a", digits, select="best", epochs=4, lr=0.5, schedule="constant")
    accuracy = [float(row["val_accuracy"]) for row in history(tmp_path / "a")]
    best = max(range(4), key=lambda e: (accuracy[e], e))
    assert fitted.metrics["picked_epoch"] == best + 1
    assert fitted.metrics["picked_val_accuracy"] == pytest.approx(accuracy[best])
    assert fitted.metrics["last_val_accuracy"] == pytest.approx(accuracy[-1])


def test_a_penalty_enters_the_loss_and_is_logged_as_a_term_of_its_own(tmp_path, digits):
    plain = train(tmp_path / "a", digits, epochs=1)
    slim = train(tmp_path / "b", digits, epochs=1, regularizer=Slimming(weight=0.5))
    sums = [float(fitted.net[1].weight.detach().abs().sum()) for fitted in (plain, slim)]
    assert sums[1] < 0.8 * sums[0]
    events = [
        next((tmp_path / name / "tensorboard").glob("events*")).read_bytes() for name in ("a", "b")
    ]
    assert [b"train/slimming" in log for log in events] == [False, True]


class Frozen(nn.Module):
    """The same answer for ever: every epoch ties."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()
        self.line = nn.Linear(64, 10)

    def forward(self, x):
        return self.line(self.flat(x)).detach() + 0 * self.line.bias.sum()


def test_of_epochs_that_tie_the_last_is_picked(tmp_path, digits):
    fitted = train(tmp_path / "a", digits, net=Frozen(), select="best", epochs=3, lr=1e-9)
    assert fitted.metrics["picked_epoch"] == 3


class TwoPhases(Remedy):
    """A remedy with a second phase of another loss and schedule."""

    def __init__(self):
        self.indices = []

    def loss(self, outputs, targets, index):
        return F.cross_entropy(outputs["logits"], targets)

    def after_backward(self, index):
        self.indices.append(index.clone())

    def phases(self, epochs):
        second = TwoPhases()
        self.second = second
        return (Phase(1, self, schedule="constant"), Phase(epochs - 1, second, lr_scale=0.1))


def test_phases_are_fitted_in_turn_and_do_not_repeat_the_order_of_images(tmp_path, digits):
    robust = TwoPhases()
    train(tmp_path / "a", digits, robust=robust, epochs=2)
    rows = history(tmp_path / "a")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["lr"]) == pytest.approx(0.1)
    assert float(rows[1]["lr"]) < 0.01
    first, second = torch.cat(robust.indices), torch.cat(robust.second.indices)
    assert torch.equal(first.sort().values, torch.arange(digits.size("train")))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("robust", "schedule", "at"),
    [(CrossEntropy, "cosine", 2), (CrossEntropy, "step", 1), (TwoPhases, "cosine", 2)],
)
def test_a_training_in_two_windows_is_the_unbroken_one(tmp_path, digits, robust, schedule, at):
    """Without momentum the optimizer has no memory: weights, schedule, images, dropout decide."""
    kind = dict(schedule=schedule, epochs=4, momentum=0.0, milestones=(0.4,), warmup_epochs=0.5)
    whole = train(tmp_path / "a", digits, robust=robust(), **kind)
    first = train(tmp_path / "b", digits, robust=robust(), stop=at, **kind)
    assert [row["epoch"] for row in history(tmp_path / "b")] == ["1", "2", "3", "4"][:at]
    rest = train(tmp_path / "c", digits, net=first.net, robust=robust(), start=at, **kind)
    assert rest.metrics["picked_epoch"] == 4 and rest.metrics["epochs"] == 4 - at
    assert figures(tmp_path / "a") == figures(tmp_path / "b") + figures(tmp_path / "c")
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, rest.net.state_dict()[name]), name


def test_a_later_window_that_was_killed_goes_on_to_the_same_numbers(tmp_path, digits, monkeypatch):
    kind = dict(epochs=4, start=1, schedule="onecycle")
    whole = train(tmp_path / "a", digits, **kind)
    resumed = train(killed(monkeypatch, tmp_path / "b", digits, 3, **kind), digits, **kind)
    assert torch.equal(whole.net[0].weight, resumed.net[0].weight)


class Doubled(Loop):
    """A loop of its own: each batch is trained on twice its loss."""

    def __init__(self):
        self.usual = Supervised()

    def tag(self, part, name):
        return self.usual.tag(part, name)

    def step(self, training, batch, number):
        return 2 * self.usual.step(training, batch, number)

    def validate(self, training, batch, number):
        self.usual.validate(training, batch, number)

    def optimizers(self, training):
        return self.usual.optimizers(training)


class OwnLoop(Term):
    """A distiller that owns the loop."""

    def loss(self, student, teacher, batch):
        self.seen = student["features"]["2"][0].shape, teacher["features"]["2"][0].shape
        return student["logits"].sum() * 0

    def loop(self):
        return Doubled()


def test_a_distiller_may_own_the_loop_and_read_features(tmp_path, digits):
    term = OwnLoop()
    taps = {"2": (Tap("2", "output"),)}
    distillation = Distillation(
        terms={"own": term}, teacher=tiny(3).eval(), student_taps=taps, teacher_taps=taps
    )
    twice = train(tmp_path / "a", digits, distillation=distillation, epochs=1).net
    once = train(tmp_path / "b", digits, epochs=1, lr=0.2).net
    # doubling the loss of plain SGD is doubling its learning rate
    torch.testing.assert_close(twice[0].weight, once[0].weight)
    assert term.seen[0][1:] == term.seen[1][1:] == (8, 8, 8)


def test_a_term_of_nothing_but_a_loss_needs_no_other_hook(tmp_path, digits):
    distillation = Distillation(terms={"own": LossAlone()}, teacher=tiny(3).eval())
    train(tmp_path / "a", digits, distillation=distillation, epochs=1)
    (row,) = history(tmp_path / "a")
    assert float(row["train_own"]) > 0


def test_every_hook_of_a_regularizer_acts_and_none_is_left_behind(tmp_path, digits):
    odd = Thinned("0")
    fitted = train(tmp_path / "a", digits, regularizer=odd, epochs=2)
    steps = len(odd.seen) // 2
    assert odd.seen[:steps] == pytest.approx([step / steps / 2 for step in range(steps)])
    assert odd.seen[steps] == 0.5 and max(odd.seen) < 1
    first, last = history(tmp_path / "a")
    assert all(float(first[f"train_{name}"]) > 0 for name in ("size", "again", "weights"))
    assert float(last["train_size"]) < float(first["train_size"])
    assert not fitted.net[0]._forward_hooks


def test_weights_that_a_fit_holds_stay_at_0_and_are_the_same_after_a_kill(
    tmp_path, digits, monkeypatch
):
    def holding():
        return Masked("6", (10, 32))

    kept = holding()
    whole = train(tmp_path / "a", digits, holding=kept)
    assert whole.net[6].weight.eq(0).sum() == 160
    assert torch.equal(whole.net[6].weight != 0, kept.mask.bool())
    folder = killed(monkeypatch, tmp_path / "b", digits, 1, holding=holding())
    # with other weights to begin with it would draw another mask
    resumed = train(folder, digits, net=tiny(9), holding=holding())
    assert torch.equal(whole.net[6].weight, resumed.net[6].weight)
    assert figures(folder) == figures(tmp_path / "a")


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, [(0, 0, 1, False, 0.1), (1, 0, 3, True, 0.01)]),
        ({"start": 2}, [(1, 1, 3, True, 0.01)]),
        ({"stop": 1}, [(0, 0, 1, False, 0.1)]),
        ({"start": 1, "stop": 3}, [(1, 0, 2, True, 0.01)]),
    ],
)
def test_the_legs_of_a_training_are_its_phases_within_the_window(window, expected):
    recipe = Recipe(optimizer=options(epochs=4))
    found = legs(Job(name="train", recipe=recipe, remedy=TwoPhases(), **window))
    told = [(leg.first, leg.done, leg.end, leg.last, leg.optimizer.lr) for leg in found]
    assert [each[:4] for each in told] == [each[:4] for each in expected]
    assert [each[4] for each in told] == pytest.approx([each[4] for each in expected])


def test_a_teacher_is_left_bit_identical_and_out_of_the_student(tmp_path, digits):
    teacher = tiny(3).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distillation = Distillation(terms={"kd": KD(weight=0.9)}, label_weight=0.1, teacher=teacher)
    fitted = train(tmp_path / "a", digits, distillation=distillation)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not teacher.training
    assert set(fitted.net.state_dict()) == set(before)


def test_a_distillation_of_weight_zero_changes_nothing(tmp_path, digits):
    plain = train(tmp_path / "a", digits).net
    distillation = Distillation(terms={"kd": KD(weight=0.0)}, teacher=tiny(3).eval())
    distilled = train(tmp_path / "b", digits, distillation=distillation).net
    for name, value in plain.state_dict().items():
        assert torch.equal(value, distilled.state_dict()[name]), name


class Ink(doubles.Segmentation):
    """Predict for every pixel whether it is ink."""

    def loss_inputs(self, batch):
        images, _, index = batch
        return images, (images[:, 0] > 0).long(), index


def test_a_segmentation_task_trains_through_the_same_module(tmp_path, digits):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    notes = train(tmp_path / "a", digits, net=net, task=Ink(), epochs=3).metrics
    rows = history(tmp_path / "a")
    usual = ["epoch", "train_loss", "train_mean_iou", "val_loss", "val_mean_iou", "lr", "seconds"]
    assert list(rows[-1]) == usual
    assert notes["picked_val_mean_iou"] == max(float(row["val_mean_iou"]) for row in rows) > 0.8


class Hits(Classification):
    """A task that has no accuracy."""

    figures = MappingProxyType({"hits": "max", "loss": "min"})

    def metrics(self, num_classes):
        return MetricCollection({"hits": Accuracy(), "loss": CrossEntropyMetric()})


def test_another_tasks_headline_stands_in_the_place_of_its_accuracy(tmp_path, digits):
    fitted = train(
        tmp_path / "a", digits, task=Hits(), select="best", select_by="accuracy", patience=2
    )
    rows = history(tmp_path / "a")
    best = max(float(row["val_hits"]) for row in rows)
    assert fitted.metrics["picked_val_hits"] == best
    fitted = train(tmp_path / "b", digits, task=Hits(), select="best", select_by="loss")
    assert {"picked_val_hits", "picked_val_loss"} <= fitted.metrics.keys()


def test_a_diverging_training_says_what_to_change(tmp_path, digits):
    with pytest.raises(RunError, match="lower lr"):
        train(tmp_path / "a", digits, net=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=1e38)


@pytest.mark.slow
def test_two_processes_train_to_one_set_of_weights(tmp_path, digits):
    fitted = train(tmp_path / "a", digits, devices=2)
    assert len(history(tmp_path / "a")) == 2
    assert fitted.metrics["last_val_accuracy"] > 0.2


# -- a training that was killed and went on ends with the numbers of an unbroken one --------------


class Killed(Exception):
    pass


def killed(monkeypatch, folder, data, after, **more):
    """Train, and die right after the checkpoint of epoch `after`; a successor moves the folder."""
    write = Resume.on_train_epoch_end

    def dies(self, trainer, module):
        write(self, trainer, module)
        if self.first + trainer.current_epoch + 1 == after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Resume, "on_train_epoch_end", dies)
        train(folder, data, **more)
    return folder.rename(folder.with_name(f"{folder.name}-taken-over"))


def figures(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history(folder)]


CASES = {
    "the best epoch is an early one": dict(select="best", lr=0.5, schedule="constant"),
    "adamw": dict(optimizer="adamw", lr=0.01, weight_decay=0.05, schedule="onecycle"),
    "warm-up and steps": dict(schedule="step", milestones=(0.5,), warmup_epochs=1.0),
}


@pytest.mark.parametrize("after", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_to_the_same_numbers(tmp_path, digits, monkeypatch, case, after):
    more = dict(epochs=4, **CASES[case])
    whole = train(tmp_path / "a", digits, **more)
    folder = killed(monkeypatch, tmp_path / "b", digits, after, **more)
    resumed = train(folder, digits, **more)
    assert figures(folder) == figures(tmp_path / "a")
    assert resumed.metrics.pop("earlier_seconds") > 0
    assert resumed.metrics == whole.metrics
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_training_of_two_phases_goes_on_in_the_phase_that_was_killed(
    tmp_path, digits, monkeypatch, after
):
    whole = train(tmp_path / "a", digits, robust=TwoPhases(), epochs=3)
    folder = killed(monkeypatch, tmp_path / "b", digits, after, robust=TwoPhases(), epochs=3)
    robust = TwoPhases()
    resumed = train(folder, digits, robust=robust, epochs=3)
    assert figures(folder) == figures(tmp_path / "a")
    assert torch.equal(whole.net[0].weight, resumed.net[0].weight)
    assert robust.indices == []  # the first phase was not trained again


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "progress"])
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, digits, monkeypatch, damage):
    whole = train(tmp_path / "a", digits, epochs=3)
    folder = killed(monkeypatch, tmp_path / "b", digits, 2, epochs=3)
    victim = folder / RESUME / ("progress.json" if damage == "progress" else "epoch-2.ckpt")
    content = bytearray(victim.read_bytes())
    if damage == "delete":
        victim.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.write_bytes(content[: len(content) // 2])
    again = train(folder, digits, epochs=3)
    assert "earlier_seconds" not in again.metrics
    assert figures(folder) == figures(tmp_path / "a")
    assert torch.equal(whole.net[0].weight, again.net[0].weight)


# -- wrong labels ---------------------------------------------------------------------------------


def noisy(data, count=None):
    """A training set with a quarter of its labels wrong; count: on the first so many images."""
    clean = data.labels("train")
    given = torch.where(torch.arange(len(clean)) % 4 == 0, (clean + 1) % 10, clean)
    index = None if count is None else torch.arange(count)
    return TrainingSet(targets=given, clean=clean, index=index)


def pencil(training, epochs, **options):
    robust = Pencil(**options)
    robust.begin(Samples(targets=training.targets, num_classes=10, batch_size=128, epochs=epochs))
    return robust


def test_history_tells_accuracy_on_given_and_on_true_labels(tmp_path, digits):
    train(tmp_path / "a", digits, epochs=3, training=noisy(digits))
    last = history(tmp_path / "a")[-1]
    given, clean = float(last["train_accuracy"]), float(last["train_clean_accuracy"])
    assert 0.2 < given < clean
    assert "train_clean_accuracy" not in history_of_clean(tmp_path, digits)


def history_of_clean(tmp_path, digits):
    train(tmp_path / "clean", digits, epochs=1)
    return history(tmp_path / "clean")[-1]


def test_the_epoch_of_most_accuracy_on_true_labels_can_be_picked(tmp_path, digits):
    more = dict(epochs=4, lr=0.5, schedule="constant", training=noisy(digits))
    fitted = train(tmp_path / "a", digits, select="clean_peak", **more)
    accuracy = [float(row["train_clean_accuracy"]) for row in history(tmp_path / "a")]
    assert fitted.metrics["picked_epoch"] == 1 + max(range(4), key=lambda e: (accuracy[e], e))


def test_a_training_ends_when_nothing_gets_better(tmp_path, digits):
    fitted = train(tmp_path / "a", digits, net=Frozen(), epochs=9, lr=1e-9, patience=2)
    assert fitted.metrics["epochs"] == 3


def test_a_training_that_had_ended_before_the_kill_is_not_gone_on_with(
    tmp_path, digits, monkeypatch
):
    more = dict(epochs=9, lr=1e-9, patience=2)
    folder = killed(monkeypatch, tmp_path / "b", digits, 3, net=Frozen(), **more)
    assert train(folder, digits, net=Frozen(), **more).metrics["epochs"] == 3


def test_pencil_corrects_labels_and_says_so_every_epoch(tmp_path, digits):
    training = noisy(digits)
    robust = pencil(training, 12, warmup=0.4, correct=0.4)
    train(
        tmp_path / "a", digits, net=plain_net(), robust=robust, epochs=12, lr=0.05,
        training=training, batch_size=32,
    )  # fmt: skip
    rows = history(tmp_path / "a")
    assert [float(row["labels_changed"]) for row in rows[:5]] == [0] * 5
    assert float(rows[0]["labels_right"]) == pytest.approx(0.75)
    assert float(rows[-1]["labels_right"]) > 0.85
    assert rows[-1]["labels_right"] == rows[-3]["labels_right"]  # they rest in the last phase
    assert float(rows[0]["lr"]) == float(rows[8]["lr"]) > float(rows[-1]["lr"]) * 50


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_pencil_goes_on_to_the_same_labels_after_a_kill(tmp_path, digits, monkeypatch, after):
    training = noisy(digits)
    more = dict(epochs=6, training=training)

    def robust():
        return pencil(training, 6, warmup=0.34, correct=0.34)

    one = robust()
    whole = train(tmp_path / "a", digits, robust=one, **more)
    one.corrected(tmp_path / "a.npy")
    folder = killed(monkeypatch, tmp_path / "b", digits, after, robust=robust(), **more)
    assert len(list((folder / RESUME).glob("rows-*"))) == 1  # beside the working file
    checkpoint = next((folder / RESUME).glob("epoch-*.ckpt"))
    assert checkpoint.stat().st_size < digits.size("train") * 10 * 4  # the labels are not in it
    other = robust()
    resumed = train(folder, digits, robust=other, **more)
    other.corrected(tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert figures(folder) == figures(tmp_path / "a")
    assert torch.equal(whole.net[0].weight, resumed.net[0].weight)


def test_damaged_rows_are_not_gone_on_from(tmp_path, digits, monkeypatch):
    training = noisy(digits)
    more = dict(epochs=3, training=training)
    folder = killed(monkeypatch, tmp_path / "b", digits, 2, robust=pencil(training, 3), **more)
    victim = next((folder / RESUME).glob("rows-*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    again = train(folder, digits, robust=pencil(training, 3), **more)
    assert "earlier_seconds" not in again.metrics


def plain_net():
    """Without batch norm and dropout: what two processes compute is what one does."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.slow
@pytest.mark.parametrize("count, epochs", [(1000, 3), (999, 1)])
def test_two_processes_learn_the_labels_that_one_does(tmp_path, count, epochs):
    """999 samples: one is repeated for the other process, and its labels must not move twice."""
    data = Digits(image_size=8, channels=1, augment={"crop": 0, "flip": False})
    data.prepare()
    training = noisy(data, count)
    found = []
    for devices, batch in ((1, 100), (2, 50)):
        robust = pencil(training, epochs, warmup=0, correct=1, label_lr=1000.0)
        train(
            tmp_path / str(devices), data, net=plain_net(), robust=robust, training=training,
            epochs=epochs, batch_size=batch, devices=devices, momentum=0.0,
        )  # fmt: skip
        robust.corrected(tmp_path / "y.npy")
        found.append(robust.store.read(torch.arange(1212)))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    start = torch.nn.functional.one_hot(training.targets, 10) * 10.0
    moved = (found[0] != start).any(dim=1)
    assert moved[:count].all() and not moved[count:].any()


class Twice(Remedy):
    """Two phases of cross-entropy."""

    def phases(self, epochs):
        return (Phase(epochs // 2, CrossEntropy()), Phase(epochs - epochs // 2, CrossEntropy()))


def test_patience_is_of_the_last_phase_and_warm_up_of_the_first(tmp_path, digits):
    train(tmp_path / "a", digits, epochs=8, lr=1e-12, patience=1, robust=Twice())
    assert [row["epoch"] for row in history(tmp_path / "a")] == ["1", "2", "3", "4", "5", "6"]
    made = [
        _phase_options(options(warmup_epochs=1.0, gamma=0.5), phase, number == 0)
        for number, phase in enumerate((Phase(2, None), Phase(2, None, gamma=0.1)))
    ]
    assert [(one.warmup_epochs, one.gamma) for one in made] == [(1.0, 0.5), (0, 0.1)]


# -- unequal classes ------------------------------------------------------------------------------


def uneven(data, **more):
    """All images of the even digits and three of each odd one."""
    labels = data.labels("train")
    few = [torch.nonzero(labels == digit).flatten()[:3] for digit in range(1, 10, 2)]
    index = torch.cat([torch.nonzero(labels % 2 == 0).flatten(), *few]).sort().values
    return TrainingSet(targets=labels, index=index, **more)


@pytest.mark.parametrize("by", ["balanced_accuracy", "macro_f1", "loss"])
def test_another_figure_of_the_validation_part_can_pick_the_epoch(tmp_path, digits, by):
    more = dict(epochs=4, lr=0.5, schedule="constant", training=uneven(digits))
    fitted = train(tmp_path / "a", digits, select="best", select_by=by, **more)
    values = [float(row[f"val_{by}"]) for row in history(tmp_path / "a")]
    best = min if by == "loss" else max
    picked = max(epoch for epoch, value in enumerate(values, 1) if value == best(values))
    assert fitted.metrics["picked_epoch"] == picked
    assert fitted.metrics[f"picked_val_{by}"] == best(values)
    assert "picked_val_accuracy" in fitted.metrics


class Seen(CrossEntropy):
    """Notes whose losses were asked for."""

    def __init__(self):
        super().__init__()
        self.index, self.asked = [], 0

    def loss(self, outputs, targets, index):
        self.index.append(index)
        return super().loss(outputs, targets, index)

    def losses(self, outputs, targets, index):
        self.asked += 1
        return super().losses(outputs, targets, index)


def test_a_balanced_training_visits_rare_classes_as_often_as_the_others(tmp_path, digits):
    robust, training = Seen(), uneven(digits, balanced=True)
    train(tmp_path / "a", digits, robust=robust, epochs=1, training=training)
    visited = digits.labels("train")[torch.cat(robust.index)]
    assert len(visited) == len(training.index) and robust.asked == 0
    counts = torch.bincount(visited, minlength=10)
    assert counts.max() - counts.min() <= 1


def test_a_weighted_training_asks_the_remedy_for_every_samples_loss(tmp_path, digits):
    robust = Seen()
    train(tmp_path / "a", digits, robust=robust, epochs=1, training=uneven(digits, weighted=True))
    assert robust.asked and not robust.index


@pytest.mark.parametrize("way", ["weighted", "balanced"])
def test_an_uneven_training_goes_on_to_the_same_numbers_after_a_kill(
    tmp_path, digits, monkeypatch, way
):
    more = dict(epochs=3, training=uneven(digits, **{way: True}), select="best")
    more["select_by"] = "macro_f1"
    whole = train(tmp_path / "a", digits, **more)
    folder = killed(monkeypatch, tmp_path / "b", digits, 2, **more)
    resumed = train(folder, digits, **more)
    assert figures(folder) == figures(tmp_path / "a")
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
