"""The labels of a run, and which of them each stage reads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressor import instantiation
from compressor.cache import Cache, key_of
from compressor.data.digits import Digits
from compressor.errors import UsageError
from compressor.instantiation import Chosen, make
from compressor.noise import transition
from compressor.robust.confident import Confident
from compressor.robust.none import CrossEntropy
from compressor.robust.pencil import Pencil
from compressor.stages import _crossfit, _labels, noise
from compressor.stages._crossfit import stratified_folds
from compressor.stages._recipe import Recipe, Recovery
from compressor.tasks.optimization import OptimizerOptions

SYMMETRIC = {"_target_": "compressor.noise.symmetric.Symmetric", "rate": 0.4, "seed": 3}


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=8, channels=1)
    data.prepare()
    return data


def drawn(tmp_path, data, tree=SYMMETRIC, **more):
    chosen = Chosen(make(tree), tree)
    return noise.labels(chosen, data, "d", Cache(tmp_path / "cache"), **more)


def test_exactly_the_asked_share_of_the_train_part_changes_and_the_rest_stays(tmp_path, digits):
    before = {part: digits.labels(part).clone() for part in ("train", "val", "test")}
    labels = drawn(tmp_path, digits)
    assert labels.flip_rate == round(0.4 * 1212) / 1212 and labels.injected and labels.noisy
    assert torch.equal(labels.transition, transition(labels.clean, labels.given, 10))
    for part, clean in before.items():
        assert torch.equal(digits.labels(part), clean)


def test_one_noise_seed_gives_the_same_bytes_whatever_the_batches_and_workers(tmp_path, digits):
    one = drawn(tmp_path, digits)
    other = Digits(image_size=12, channels=3)
    other.prepare()
    assert one.given.numpy().tobytes() == drawn(tmp_path, other).given.numpy().tobytes()
    seen = torch.full((1212,), -1)
    loader = digits.loader(
        "train", 100, seed=5, shuffle=True, augment=True, targets=one.given, workers=2
    )
    for _, targets, index in loader:
        seen[index] = targets
    assert torch.equal(seen, one.given)


def test_ways_to_the_same_labels_are_one_artefact(tmp_path, digits):
    assert drawn(tmp_path, digits, {**SYMMETRIC, "rate": 0.0}).key == noise.CLEAN
    labels = drawn(tmp_path, digits)
    np.savez(tmp_path / "l.npz", index=digits.rows("train"), label=labels.given)
    tree = {"_target_": "compressor.noise.file.File", "file": str(tmp_path / "l.npz")}
    known = drawn(tmp_path, digits, {**tree, "known": True})
    assert known.key == labels.key and torch.equal(known.transition, labels.transition)
    unknown = drawn(tmp_path, digits, tree)
    assert unknown.flip_rate is None and not unknown.known and not unknown.injected
    assert torch.equal(unknown.clean, unknown.given)


def test_noise_that_looks_at_images_is_drawn_once(tmp_path, digits, monkeypatch):
    tree = {"_target_": "compressor.noise.instance.Instance", "rate": 0.3, "seed": 0}
    first = drawn(tmp_path, digits, tree)
    assert abs(first.flip_rate - 0.3) < 3 * 0.0132
    monkeypatch.setattr(noise, "_images", lambda *_: pytest.fail("read the images again"))
    assert torch.equal(drawn(tmp_path, digits, tree).given, first.given)


def test_pixel_noise_acts_on_the_images_of_the_training_alone(tmp_path, digits):
    tree = {"_target_": "compressor.noise.pixels.Pixels", "sigma": 0.5, "seed": 0}
    labels = drawn(tmp_path, digits, tree)
    assert torch.equal(labels.given, labels.clean) and labels.key != noise.CLEAN
    plain, damaged = (
        torch.cat([x for x, _, _ in digits.loader("train", 300, damage=d)])
        for d in (None, labels.damage)
    )
    assert abs((damaged - plain).std().item() - 0.5) < 0.01


def test_a_share_of_the_labels_is_drawn_within_every_class(tmp_path, digits):
    labels = drawn(tmp_path, digits, labelled=(0.1, 0))
    counts = torch.bincount(labels.clean[labels.labelled])
    assert len(labels.labelled) == 121 and counts.min() >= 11 and counts.max() <= 13
    assert labels.clean_key != noise.CLEAN
    for fraction in (0, 1.5, True, 1e-4):
        with pytest.raises(UsageError, match="dataset.labelled_fraction"):
            drawn(tmp_path, digits, labelled=(fraction, 0))


FITTING = OptimizerOptions(
    epochs=1, batch_size=8, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0,
    decay_norm_and_bias=True, schedule="constant", warmup_epochs=0.0, milestones=(), gamma=0.1,
    clip_norm=None,
)  # fmt: skip


def test_folds_know_the_code_of_the_network_its_libraries_and_a_frozen_trunk(monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def remember(kind, parts, make):
        seen.append(key_of(stage=kind, **parts))
        raise Stop

    spec = SimpleNamespace(to_json=dict, factory="a.B")
    context = facts(
        remember=remember, seed=0, labels_key="", data_key="", precision="",
        machine=SimpleNamespace(devices=1), data=SimpleNamespace(num_classes=4),
    )  # fmt: skip
    for code, frozen in (("one", False), ("two", False), ("two", True)):
        monkeypatch.setattr(_crossfit, "sources", lambda _, code=code: {"B": code})
        with pytest.raises(Stop):
            given = SimpleNamespace(spec=spec, parent=None)
            _crossfit.probabilities(given, FITTING, context, folds=2, frozen=frozen)
    monkeypatch.setattr(instantiation, "_release", lambda name: "99.0")
    with pytest.raises(Stop):
        _crossfit.probabilities(given, FITTING, context, folds=2, frozen=frozen)
    assert len(set(seen)) == 4


# -- which labels the fine-tuning reads -----------------------------------------------------------

CLEAN = torch.arange(40) % 4
GIVEN = CLEAN.roll(1)


def facts(**more):
    return SimpleNamespace(
        **{
            "targets": GIVEN, "clean_targets": CLEAN, "labelled": None, "damage": None,
            "truth_known": True, "roles": {}, **more,
        }
    )  # fmt: skip


def asked(labels, fraction=1.0, robust="none", seed=0, mode="finetune", epoch=0):
    return Recovery(
        recipe=Recipe(optimizer=FITTING), labels=labels, clean_fraction=fraction, clean_seed=seed,
        robust=robust, mode=mode, rewind_epoch=epoch,
    )  # fmt: skip


def test_clean_labels_come_with_original_images_and_given_ones_with_damaged_ones():
    damage = object()
    clean = _labels.training_set(asked("clean"), facts(damage=damage))
    assert torch.equal(clean.targets, CLEAN) and clean.index is None and clean.damage is None
    given = _labels.training_set(asked("given"), facts(damage=damage))
    assert torch.equal(given.targets, GIVEN) and given.damage is damage
    assert torch.equal(given.clean, CLEAN)


def test_the_trusted_share_is_drawn_within_classes_by_its_own_seed():
    few = _labels.training_set(asked("clean", 0.5), facts())
    assert torch.bincount(CLEAN[few.index]).tolist() == [5, 5, 5, 5] and few.norms_rest
    assert torch.equal(_labels.training_set(asked("clean", 0.5), facts()).index, few.index)
    other = _labels.training_set(asked("clean", 0.5, seed=1), facts()).index
    assert not torch.equal(other, few.index)
    labelled = torch.arange(20)
    within = _labels.training_set(asked("clean", 0.5), facts(labelled=labelled)).index
    assert set(within.tolist()) <= set(range(20)) and len(within) == 10
    with pytest.raises(UsageError, match="leaves none"):
        _labels.training_set(asked("clean", 1e-3), facts())


def test_batch_norms_of_new_weights_learn_however_few_labels_there_are():
    for mode, epoch, rest in (("scratch_e", 0, False), ("rewind", 0, False), ("rewind", 1, True)):
        few = _labels.training_set(asked("clean", 0.5, mode=mode, epoch=epoch), facts())
        assert few.norms_rest == rest


def test_corrected_labels_are_read_from_the_training(tmp_path):
    soft = torch.eye(4)[CLEAN] * 0.7 + 0.075
    np.save(tmp_path / "corrected.npy", soft.numpy())
    roles = {"corrected": SimpleNamespace(folder=tmp_path)}
    found = _labels.training_set(asked("corrected_soft"), facts(roles=roles))
    assert torch.equal(found.targets, soft)
    found = _labels.training_set(asked("corrected_hard"), facts(roles=roles))
    assert torch.equal(found.targets, CLEAN)


@pytest.mark.parametrize(
    "known, injected, corrects, labels",
    [
        (True, False, (), "clean"), (True, True, ("soft", "hard"), "clean"),
        (True, False, ("soft", "hard"), "corrected_soft"), (False, False, (), "given"),
        (False, False, ("hard",), "corrected_hard"),
    ],
)  # fmt: skip
def test_auto_is_clean_where_the_truth_is_known(known, injected, corrects, labels):
    assert _labels.resolve("auto", known, injected, corrects) == labels
    assert _labels.resolve("given", known, injected, corrects) == "given"


@pytest.mark.parametrize(
    "options, robust, known, text",
    [
        (asked("clean"), CrossEntropy(), False, "finetune.labels=clean needs clean labels"),
        (asked("given", 0.5), CrossEntropy(), False, "clean_fraction=0.5 needs clean labels"),
        (asked("given", 0.5), CrossEntropy(), True, "is a share of the clean labels"),
        (asked("corrected_soft"), CrossEntropy(), True, "type robust=pencil"),
        (asked("corrected_soft"), Confident(), True, "type robust=pencil"),
        (asked("corrected_soft", robust="same"), Pencil(), True, "finetune.robust=none"),
        (asked("clean", robust="same"), Pencil(), True, "alone; type finetune.robust=none"),
    ],
)
def test_labels_that_are_not_there_are_refused_in_one_line(options, robust, known, text):
    with pytest.raises(UsageError, match=text) as caught:
        _labels.check_labels(options, robust, known)
    assert "\n" not in str(caught.value)


def test_folds_share_out_every_class():
    labels = torch.arange(103) % 7
    fold = stratified_folds(labels, 4, seed=9)
    sizes = torch.bincount(fold)
    assert sizes.tolist() == [26, 26, 26, 25]
    table = torch.bincount(labels * 4 + fold, minlength=28).view(7, 4)
    assert table.max() - table.min() <= 1
    assert torch.equal(fold, stratified_folds(labels, 4, seed=9))
