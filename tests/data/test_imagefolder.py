import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import _auto, spread_over_classes
from compressor.data.digits import Digits
from compressor.data.imagefolder import ImageFolder
from compressor.errors import RunError, UsageError

# Python 3.12 warns of every fork in a process with threads, which is how torch starts its workers
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def pictures(tmp_path):
    """root/train and root/test with classes "cat" and "ant": 10 and 3 pictures each."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 3)):
        for name in ("cat", "ant"):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "set"


def data(root, **options):
    return ImageFolder(str(root), image_size=32, **options)


def epoch_images(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    images, _, index = (torch.cat(column) for column in zip(*loader, strict=True))
    return images[index.argsort()]


def test_classes_are_numbered_by_sorted_name(pictures):
    d = data(pictures)
    assert d.num_classes == 2 and d.class_names == ("ant", "cat")
    assert [d.size(part) for part in ("train", "val", "test")] == [18, 2, 6]
    assert d.labels("test").tolist() == [0, 0, 0, 1, 1, 1]
    assert d.labels("val").tolist() == [0, 1]


def test_val_is_the_test_part_when_there_is_no_test(pictures):
    (pictures / "test").rename(pictures / "val")
    assert data(pictures).size("test") == 6


def test_test_images_are_resized_by_their_shorter_side_and_cropped_in_the_centre(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        (tmp_path / part / "b").mkdir()
        stripes = np.zeros((64, 128, 3), dtype=np.uint8)
        stripes[:, 32:96] = 255  # the middle square is white
        for name in ("a", "b"):
            Image.fromarray(stripes).save(tmp_path / part / name / "x.png")
    d = ImageFolder(str(tmp_path), image_size=28, crop_fraction=0.875)
    image = next(iter(d.loader("test", 1)))[0]
    white = (1 - torch.tensor(d.mean)) / torch.tensor(d.std)
    assert image.shape == (1, 3, 28, 28)
    assert torch.allclose(image, white[None, :, None, None].expand_as(image))


def test_training_images_depend_on_seed_epoch_and_index_alone(pictures):
    d = data(pictures)
    first = epoch_images(d.loader("train", 4, augment=True), 1)
    again = d.loader("train", 7, augment=True, shuffle=True, workers=2)
    assert torch.equal(epoch_images(again, 1), first)
    assert not torch.equal(epoch_images(again, 2), first)
    assert not torch.equal(epoch_images(d.loader("train", 4, augment=True, seed=5), 1), first)


def test_decoding_leaves_the_global_generator_alone(pictures):
    before = torch.get_rng_state()
    epoch_images(data(pictures).loader("train", 4, augment=True, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_transforms_training_images_are_the_plain_ones(pictures):
    d = data(pictures, augment={"crop": 0, "flip": False, "scale": 1.0})
    plain = epoch_images(d.loader("train", 5))
    assert torch.equal(epoch_images(d.loader("train", 5, augment=True), 3), plain)


def test_grey_images_and_one_channel_are_read(pictures):
    Image.fromarray(np.full((40, 40), 9, dtype=np.uint8)).save(pictures / "test/ant/0.png")
    assert next(iter(data(pictures).loader("test", 1)))[0].shape == (1, 3, 32, 32)
    assert next(iter(data(pictures, channels=1).loader("test", 1)))[0].shape == (1, 1, 32, 32)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_in_one_line_when_it_is_decoded(pictures, workers):
    path = pictures / "test" / "cat" / "1.png"
    d = data(pictures)
    d.prepare()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError) as caught:
        list(d.loader("test", 2, workers=workers))
    line = str(caught.value)
    assert line.startswith(f"the image '{path}' cannot be decoded (") and "\n" not in line


def test_a_file_that_is_no_image_is_named(pictures):
    (pictures / "test" / "ant" / "0.png").write_text("hello")
    with pytest.raises(RunError, match="0.png' cannot be decoded"):
        list(data(pictures).loader("test", 2))


@pytest.mark.parametrize("missing", ["", "train", "test"])
def test_a_missing_folder_is_named(pictures, missing):
    path = pictures / missing
    path.rename(pictures.parent / "gone")
    with pytest.raises(UsageError) as caught:
        data(pictures).prepare()
    named = pictures / "val" if missing == "test" else path
    assert f"'{named}'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_folder_without_images_is_named(pictures):
    (pictures / "train" / "dog").mkdir()
    with pytest.raises(UsageError, match="train/dog' holds no image"):
        data(pictures).prepare()


def test_a_class_that_only_the_test_part_has_is_named(pictures):
    (pictures / "test" / "cat").rename(pictures / "test" / "dog")
    with pytest.raises(UsageError, match="test/dog' is a class that the train part has not"):
        data(pictures).prepare()


def test_another_number_of_classes_is_refused(pictures):
    with pytest.raises(UsageError, match="dataset.num_classes=3 but imagefolder has 2"):
        data(pictures, num_classes=3).prepare()


@pytest.mark.parametrize(
    "change",
    [
        {"crop_fraction": 1.0},
        {"split_seed": 1},
        {"augment": {"crop": 0, "flip": True, "scale": 0.5}},
    ],
)
def test_fingerprint_changes_with_the_options(pictures, change):
    assert data(pictures, **change).fingerprint() != data(pictures).fingerprint()


def test_fingerprint_changes_with_the_size_and_not_with_the_root(pictures):
    before = data(pictures).fingerprint()
    assert data(pictures).resized(40).fingerprint() != before
    moved = pictures.rename(pictures.parent / "moved")
    assert data(moved).fingerprint() == before


def test_a_mended_test_image_leaves_the_training_part_what_it_was(pictures):
    train, test = (data(pictures).fingerprint(source) for source in ("train", "test"))
    (pictures / "test" / "cat" / "1.png").unlink()
    assert data(pictures).fingerprint("train") == train
    assert data(pictures).fingerprint("test") != test


def test_fingerprint_notices_other_content_of_the_same_length(pictures, tmp_path):
    before = data(pictures, fingerprint_cache=str(tmp_path / "c")).fingerprint()
    path = pictures / "train" / "ant" / "3.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert data(pictures, fingerprint_cache=str(tmp_path / "c")).fingerprint() != before


def test_fingerprint_notices_an_archive_that_gives_its_files_one_time(pictures, tmp_path):
    path = pictures / "train" / "ant" / "3.png"
    os.utime(path, ns=(1, 1))
    before = data(pictures, fingerprint_cache=str(tmp_path / "c")).fingerprint()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert data(pictures, fingerprint_cache=str(tmp_path / "c")).fingerprint() != before


def test_fingerprint_is_remembered_by_path_size_and_time(pictures, tmp_path):
    cache = tmp_path / "cache"
    before = data(pictures, fingerprint_cache=str(cache)).fingerprint()
    stores = sorted((cache / ".fingerprints").iterdir())
    assert len(stores) == 2
    known = json.loads(stores[0].read_text())
    first = sorted(known["files"])[0]
    known["files"][first][3] = "0" * 64
    stores[0].write_text(json.dumps(known))
    # the planted hash is believed, so the file was not read again
    assert data(pictures, fingerprint_cache=str(cache)).fingerprint() != before
    stores[0].write_text("{damaged")
    assert data(pictures, fingerprint_cache=str(cache)).fingerprint() == before
    assert data(pictures).fingerprint() == before


def test_a_cache_that_cannot_be_written_does_no_harm(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = data(pictures, fingerprint_cache=str(tmp_path / "file"))
    assert blocked.fingerprint() == data(pictures).fingerprint()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"crop_fraction": 0}, "dataset.crop_fraction=0"),
        ({"augment": {"scale": 0.0}}, "dataset.augment.scale=0.0"),
    ],
)
def test_options_out_of_range_are_named(options, text):
    with pytest.raises(UsageError, match=text):
        ImageFolder("data", **options)


def squares(root, side, train=10):
    for part, n in (("train", train), ("test", 2)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                # no image of one class is one of another too
                Image.new("L", (side, side + i), ord(name)).save(root / part / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "side, size", [(8, 32), (47, 32), (48, 64), (64, 64), (100, 96), (500, 224)]
)
def test_the_image_size_follows_from_the_shorter_sides(tmp_path, side, size):
    d = ImageFolder(str(squares(tmp_path, side)))
    assert d.input_size == (3, size, size)  # asked before anything was read
    value, why = d.resolved["dataset.image_size"]
    assert value == size and f"{side} pixels in the median" in why


def test_few_images_are_cropped_gently_and_typed_numbers_win(tmp_path):
    root = str(squares(tmp_path, 64))
    d = ImageFolder(root)
    assert d.augment.scale == 0.64
    assert d.resolved["dataset.augment.scale"] == (0.64, "20 train images at 64 pixels")
    typed = ImageFolder(root, image_size=40, augment={"scale": 0.2})
    typed.prepare()
    assert (typed.image_size, typed.augment.scale, dict(typed.resolved)) == (40, 0.2, {})
    # what follows from the data is no other data than the same numbers typed
    same = ImageFolder(root, image_size=64, augment={"crop": 0, "flip": True, "scale": 0.64})
    assert d.fingerprint() == same.fingerprint()


@pytest.mark.parametrize(
    "images, size, scale",
    [(100_000, 224, 0.08), (99_999, 224, 0.35), (2_000_000, 64, 0.64), (9_999, 224, 0.64)],
)
def test_the_crop_asks_more_of_many_and_large_images(images, size, scale):
    assert _auto.least_area(images, size)[0] == scale


def test_a_file_that_is_no_image_is_passed_over_for_the_size(tmp_path):
    root = squares(tmp_path, 64)
    (root / "train" / "a" / "0.png").write_bytes(b"no image")
    assert ImageFolder(str(root), unreadable="skip").image_size == 64
    with pytest.raises(RunError, match="cannot be decoded"):
        _ = ImageFolder(str(root)).image_size


def test_a_crop_beyond_the_size_that_the_images_have_is_refused(tmp_path):
    d = ImageFolder(str(squares(tmp_path, 64)), augment={"crop": 65, "scale": 1.0})
    with pytest.raises(UsageError, match="crop=65 is more than the image"):
        d.prepare()


def test_a_set_of_one_size_has_nothing_to_decide():
    with pytest.raises(UsageError, match="of digits cannot be auto"):
        Digits(image_size="auto")


# -- unequal classes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    root = tmp_path_factory.mktemp("unequal")
    for part, counts in (("train", (90, 9, 1)), ("test", (2, 2, 2))):
        for name, n in zip("abc", counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                grey = 100 * "abc".index(name) + i
                Image.new("L", (8, 8), grey).save(root / part / name / f"{i}.png")
    return ImageFolder(str(root), image_size=8, validation=0.0)


def visited(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return torch.cat([index for _, _, index in loader])


def test_a_balanced_sampler_visits_every_class_equally_often(unequal):
    labels = unequal.labels("train")
    loader = unequal.loader("train", 16, seed=3, shuffle=True, classes=labels)
    for epoch in (0, 1):
        index = visited(loader, epoch)
        counts = torch.bincount(labels[index])
        assert len(index) == 100 and sorted(counts.tolist()) == [33, 33, 34]
        own = index[labels[index] == 0]
        assert len(own.unique()) == len(own)  # a large class gives no image twice
        assert len(index[labels[index] == 1].unique()) == 9
    assert torch.equal(visited(loader, 1), index)
    assert not torch.equal(visited(loader, 0), index)
    assert not torch.equal(visited(unequal.loader("train", 16, seed=4, classes=labels), 1), index)


def test_the_processes_share_a_balanced_epoch(unequal):
    labels = unequal.labels("train")
    whole = visited(unequal.loader("train", 16, seed=3, classes=labels), 2)
    parts = [
        visited(unequal.loader("train", 16, seed=3, classes=labels, rank=r, world=3), 2)
        for r in range(3)
    ]
    assert [len(part) for part in parts] == [34, 34, 34]
    for rank, part in enumerate(parts):
        places = torch.arange(rank, 102, 3) % 100
        assert torch.equal(part, whole[places])


def test_a_balanced_epoch_keeps_to_the_positions_that_may_be_visited(unequal):
    labels, some = unequal.labels("train"), torch.tensor([0, 1, 2, 3, 90, 99])
    index = visited(unequal.loader("train", 4, classes=labels, indices=some), 0)
    assert torch.bincount(labels[index]).tolist() == [2, 2, 2]
    assert set(index.tolist()) <= set(some.tolist())


def test_any_beginning_of_a_spread_order_holds_the_classes_equally():
    classes = torch.tensor([0] * 90 + [1] * 9 + [2])
    order = spread_over_classes(classes, torch.Generator().manual_seed(0))
    assert order.sort().values.tolist() == list(range(100))
    count = [torch.bincount(classes[order[:m]], minlength=3).tolist() for m in (3, 9, 19, 50)]
    assert count == [[1, 1, 1], [4, 4, 1], [9, 9, 1], [40, 9, 1]]
    again = spread_over_classes(classes, torch.Generator().manual_seed(0))
    assert torch.equal(order, again)


def test_the_crop_goes_by_the_size_that_scaled_images_are_fetched_at(pictures, monkeypatch):
    monkeypatch.setattr(_auto, "_SCALES", ((0, 32, 0.1), (0, 0, 0.64)))
    automatic = ImageFolder(str(pictures))
    automatic.prepare()
    assert (automatic.image_size, automatic.augment.scale) == (32, 0.1)
    small = automatic.resized(16)
    typed = ImageFolder(str(pictures), image_size=32).resized(16)
    assert small.augment == typed.augment and small.fingerprint() == typed.fingerprint()
    assert small.resolved["dataset.augment.scale"] == (0.64, "20 train images at 16 pixels")
    assert small.resolved["dataset.image_size"] == automatic.resolved["dataset.image_size"]
    assert automatic.augment.scale == 0.1
