"""The embedded default, and with it everything that all sources share."""

import numpy as np
import pytest
import torch

from compressor.data import EpochSampler, stratified_split
from compressor.data._pixels import resize
from compressor.data._source import Augment, Draw, crop_and_flip
from compressor.data.digits import MEAN, STD, Digits
from compressor.errors import UsageError

# Python 3.12 warns of every fork in a process with threads, which is how torch starts its workers
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

PLAIN = {"crop": 0, "flip": False}


@pytest.fixture(scope="module")
def digits():
    data = Digits(augment={"crop": 2, "flip": True})
    data.prepare()
    return data


def by_index(loader, epoch=0):
    """All images of one epoch in the order of their index."""
    loader.sampler.set_epoch(epoch)
    images, _, index = (torch.cat(column) for column in zip(*loader, strict=True))
    return images[index.argsort()]


def visited(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [i for batch in loader for i in batch[2].tolist()]


def test_parts_have_the_documented_sizes(digits):
    assert [digits.size(part) for part in ("train", "val", "test")] == [1212, 135, 450]
    assert digits.input_size == (3, 12, 12)
    assert digits.num_classes == 10


def test_parts_are_disjoint_and_cover_all_1797_images():
    from sklearn.datasets import load_digits

    data = Digits(image_size=8, channels=1, augment=PLAIN)
    seen = []
    for part in ("train", "val", "test"):
        image = torch.cat([batch[0] for batch in data.loader(part, 200)])
        pixels = (image * STD[0] + MEAN[0]).mul(16).round().int()
        seen += [
            (*row, label)
            for row, label in zip(
                pixels.flatten(1).tolist(), data.labels(part).tolist(), strict=True
            )
        ]
    values, labels = load_digits(return_X_y=True)
    truth = [(*map(int, row), int(label)) for row, label in zip(values, labels, strict=True)]
    assert sorted(seen) == sorted(truth)


def test_every_class_has_its_share_in_every_part(digits):
    counts = {p: torch.bincount(digits.labels(p), minlength=10) for p in ("train", "val", "test")}
    whole = sum(counts.values())
    for part, fraction in (("train", 1212 / 1797), ("val", 135 / 1797), ("test", 450 / 1797)):
        assert (counts[part] - whole * fraction).abs().max() < 1.5, part


def test_test_part_does_not_move_with_the_split_seed_but_val_does(digits):
    other = Digits(split_seed=1)
    assert torch.equal(other.labels("test"), digits.labels("test"))
    assert not torch.equal(other.labels("val"), digits.labels("val"))


def test_batch_is_normalised_image_target_and_index(digits):
    image, target, index = next(iter(digits.loader("train", 32)))
    assert image.shape == (32, 3, 12, 12) and image.dtype == torch.float32
    assert target.dtype == index.dtype == torch.int64
    assert torch.equal(index, torch.arange(32))
    assert torch.equal(target, digits.labels("train")[:32])
    assert torch.equal(image[:, 0], image[:, 2])


def test_stored_mean_and_std_are_those_of_the_training_images():
    data = Digits(image_size=8, channels=1, validation=0.0, augment=PLAIN)
    image = torch.cat([batch[0] for batch in data.loader("train", 500)])
    assert abs(image.mean()) < 1e-3
    assert abs(image.std() - 1) < 1e-3


def test_images_depend_on_seed_epoch_and_index_but_not_on_order_batches_or_workers(digits):
    keep = torch.arange(0, 1212, 10)
    first = by_index(digits.loader("train", 32, augment=True, indices=keep), epoch=3)
    for options in (
        {"batch_size": 7, "shuffle": True},
        {"batch_size": 32, "workers": 2, "shuffle": True},
    ):
        loader = digits.loader("train", seed=0, augment=True, indices=keep, **options)
        assert torch.equal(by_index(loader, epoch=3), first)
    assert not torch.equal(
        by_index(digits.loader("train", 32, augment=True, indices=keep), epoch=4), first
    )
    assert not torch.equal(
        by_index(digits.loader("train", 32, augment=True, indices=keep, seed=1), epoch=3), first
    )


def test_persistent_workers_learn_of_the_next_epoch(digits):
    loader = digits.loader("train", 64, augment=True, workers=2, indices=torch.arange(64))
    assert not torch.equal(by_index(loader, 0), by_index(loader, 1))


def test_order_is_a_function_of_seed_and_epoch(digits):
    loader = digits.loader("train", 100, shuffle=True)
    zero, one = visited(loader, 0), visited(loader, 1)
    assert zero != one
    assert sorted(zero) == sorted(one) == list(range(1212))
    assert visited(digits.loader("train", 13, shuffle=True, workers=2), 1) == one
    assert visited(digits.loader("train", 100, shuffle=True, seed=1), 1) != one


def test_loading_leaves_the_global_generators_alone(digits):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for _ in digits.loader("train", 400, shuffle=True, augment=True, workers=1):
        pass
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_augmentation_moves_an_image_by_at_most_the_crop_and_may_mirror_it():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, [2] * 4)
    allowed = set()
    for dy in range(5):
        for dx in range(5):
            view = padded[..., dy : dy + 8, dx : dx + 8]
            allowed |= {tuple(view.flatten().tolist()), tuple(view.flip(-1).flatten().tolist())}
    batch = image.expand(600, 1, 8, 8)
    out = crop_and_flip(batch, Augment(crop=2, flip=True), Draw(0, 0, torch.arange(600)))
    seen = {tuple(row) for row in out.flatten(1).tolist()}
    assert seen == allowed  # 600 draws leave none of the 50 out


def test_flip_without_crop_mirrors_about_half_and_changes_nothing_else():
    batch = torch.arange(4, dtype=torch.uint8).expand(1000, 3, 4, 4)
    out = crop_and_flip(batch, Augment(flip=True), Draw(1, 0, torch.arange(1000)))
    mirrored = (out == batch.flip(-1)).flatten(1).all(1)
    straight = (out == batch).flatten(1).all(1)
    assert (mirrored ^ straight).all()
    assert 430 < mirrored.sum() < 570


def test_augmentation_is_off_outside_of_training(digits):
    again = [by_index(digits.loader("val", 135), epoch) for epoch in (0, 1)]
    assert torch.equal(*again)


def test_targets_replace_labels_by_position_in_the_part(digits):
    given = (digits.labels("train") + 1) % 10
    keep = torch.tensor([5, 900, 17])
    loader = digits.loader("train", 2, targets=given, indices=keep, shuffle=True)
    for _, target, index in loader:
        assert torch.equal(target, given[index])
    assert sorted(visited(loader)) == [5, 17, 900]


def test_wrong_number_of_targets_is_refused(digits):
    with pytest.raises(UsageError, match="3 targets for the train part of digits: give 1212"):
        digits.loader("train", 2, targets=torch.zeros(3))


def test_an_index_outside_of_the_part_is_refused(digits):
    with pytest.raises(UsageError, match=r"give positions in \[0, 135\)"):
        digits.loader("val", 2, indices=torch.tensor([135]))


@pytest.mark.parametrize("part", ["val", "test"])
def test_ranks_share_evaluation_without_duplicates(digits, part):
    ranks = [visited(digits.loader(part, 32, rank=r, world=2)) for r in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == list(range(digits.size(part)))


def test_ranks_share_training_evenly_and_drop_nothing(digits):
    keep = torch.arange(1211)
    loaders = [
        digits.loader("train", 32, shuffle=True, indices=keep, rank=r, world=4) for r in range(4)
    ]
    ranks = [visited(loader) for loader in loaders]
    assert [len(rank) for rank in ranks] == [303] * 4 == [len(x.sampler) for x in loaders]
    assert set().union(*ranks) == set(range(1211))


def test_more_ranks_than_images_still_get_one_each():
    ranks = [list(EpochSampler(torch.arange(2), pad=True, rank=r, world=5)) for r in range(5)]
    assert ranks == [[(0, 0)], [(0, 1)], [(0, 0)], [(0, 1)], [(0, 0)]]


def test_drop_last_gives_full_batches_only(digits):
    assert {len(batch[1]) for batch in digits.loader("train", 100, drop_last=True)} == {100}


def test_resized_gives_another_size_and_leaves_the_original(digits):
    small = digits.resized(8)
    assert small.input_size == (3, 8, 8) and digits.input_size == (3, 12, 12)
    assert next(iter(small.loader("test", 2)))[0].shape == (2, 3, 8, 8)
    assert torch.equal(small.labels("val"), digits.labels("val"))
    assert (
        small.fingerprint() == Digits(image_size=8, augment={"crop": 2, "flip": True}).fingerprint()
    )


def test_resize_keeps_a_constant_image_and_averages_when_shrinking():
    assert torch.equal(
        resize(torch.full((1, 1, 8, 8), 77, dtype=torch.uint8), 16),
        torch.full((1, 1, 16, 16), 77, dtype=torch.uint8),
    )
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).mul(200).to(torch.uint8)
    # without antialiasing a shrink by 4 samples two neighbours instead of averaging many
    inner = resize(board[None, None], 4)[0, 0, 1:3, 1:3]
    assert (inner.int() - 100).abs().max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 8},
        {"channels": 1},
        {"validation": 0.2},
        {"split_seed": 1},
        {"augment": {"crop": 2, "flip": False}},
        {"augment": {"crop": 1, "flip": True}},
    ],
)
def test_fingerprint_changes_with_what_changes_the_batches(change):
    assert Digits(**change).fingerprint() != Digits().fingerprint()


def test_fingerprint_is_the_same_for_the_same_options():
    assert Digits().fingerprint() == Digits().fingerprint()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"image_size": 0}, "dataset.image_size=0"),
        ({"image_size": 16.5}, "dataset.image_size=16.5"),
        ({"image_size": 1_000_000}, "dataset.image_size=1000000 must be at most 8192: give pixels"),
        ({"channels": 2}, "dataset.channels=2"),
        ({"validation": 1.0}, "dataset.validation=1.0"),
        ({"split_seed": -1}, "dataset.split_seed=-1"),
        ({"augment": {"crop": -1, "flip": False}}, "dataset.augment.crop=-1"),
        ({"augment": {"crop": 17, "flip": False}}, "dataset.augment.crop=17"),
        ({"augment": {"crop": 0, "flip": 1}}, "dataset.augment.flip=1"),
        ({"augment": {"rotate": 3}}, "dataset.augment.rotate is unknown"),
    ],
)
def test_an_option_out_of_range_is_named(options, text):
    with pytest.raises(UsageError) as caught:
        Digits(**options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_another_number_of_classes_is_refused():
    with pytest.raises(UsageError, match="dataset.num_classes=7 but digits has 10"):
        Digits(num_classes=7).prepare()


def test_an_unknown_part_is_refused(digits):
    with pytest.raises(UsageError, match="part 'dev' does not exist: give one of train, val, test"):
        digits.size("dev")


def test_stratified_split_shares_out_by_largest_remainder():
    labels = torch.tensor([0] * 10 + [1] * 15 + [2] * 5)
    stay, off = stratified_split(labels, 0.2, seed=0)
    assert torch.bincount(labels[off]).tolist() == [2, 3, 1]
    assert sorted(stay.tolist() + off.tolist()) == list(range(30))
    assert stay.tolist() == sorted(stay.tolist()) and off.tolist() == sorted(off.tolist())


def test_stratified_split_spares_the_last_image_of_a_class():
    labels = torch.tensor([0] * 19 + [1])
    for seed in range(20):
        assert 1 in labels[stratified_split(labels, 0.1, seed)[0]]


def test_stratified_split_still_fills_its_part_when_every_class_has_one_image():
    assert len(stratified_split(torch.arange(50), 0.1, 0)[1]) == 5


def test_no_validation_part_leaves_all_images_for_training():
    data = Digits(validation=0.0)
    assert (data.size("train"), data.size("val")) == (1347, 0)
    assert list(data.loader("val", 10)) == []
