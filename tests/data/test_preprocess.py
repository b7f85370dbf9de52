import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import ImageData, Preprocess
from compressor.data._memory import MemoryImages
from compressor.data.digits import Digits
from compressor.data.fake import Fake
from compressor.data.imagefolder import ImageFolder
from compressor.errors import UsageError

RGB = Preprocess((3, 16, 16), (0.5,) * 3, (0.25,) * 3, "RGB", "shorter_side", 18, crop=True)


class Photos(ImageData):
    """Colour images of 10 x 10 pixels held in memory."""

    name = "photos"

    def __init__(self, image_size, channels):
        super().__init__(
            image_size=image_size,
            num_classes=None,
            channels=channels,
            validation=0.25,
            split_seed=0,
            augment={},
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.25, 0.3),
        )

    def _read(self):
        drawn = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (8, 3, 10, 10), dtype=torch.uint8, generator=drawn)
        images = MemoryImages(pixels, torch.arange(8) % 2)
        return 2, {"train": images, "test": images}


def as_file(pixels):
    """(C, H, W) uint8 as an image that was opened."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def prepared(data):
    return next(iter(data.loader("test", 32)))[0]


def same(made, images, expected, exact=False):
    """Equal to the bit, but for bytes that another order of a resize's sums rounds to the next."""
    if exact:
        return torch.equal(images, expected)
    levels = (images - expected).abs() * torch.tensor(made.std)[:, None, None] * 255
    return levels.max() < 1.01 and (levels > 0.01).float().mean() < 0.1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [6, 8, 12])
def test_a_stored_digit_is_prepared_as_the_test_part_was(size, channels):
    data = Digits(image_size=size, channels=channels)
    expected = prepared(data)
    for index in range(8):
        image = as_file(data._raw["test"].pixels[index])
        made = data.preprocess(image)
        assert same(data.preprocess, made, expected[index], exact=size == 8)
        assert torch.equal(data.preprocess(image.convert("RGB")), made)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [7, 10, 13])
def test_a_colour_image_in_memory_is_prepared_as_the_test_part_was(size, channels):
    data = Photos(size, channels)
    expected = prepared(data)
    pixels = data._raw["test"].pixels
    for index in range(8):
        made = data.preprocess(as_file(pixels[index]))
        assert same(data.preprocess, made, expected[index], exact=size == 10)
    assert same(data.preprocess, data.preprocess(pixels), expected, exact=size == 10)


@pytest.fixture
def folder(tmp_path):
    drawn = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", "cat"):
            (tmp_path / part / name).mkdir(parents=True)
            for i, mode in enumerate(("RGB", "L", "RGBA", "P")):
                pixels = drawn.integers(0, 256, (40 + 9 * i, 50, 3), dtype=np.uint8)
                path = tmp_path / part / name / f"{i}.png"
                Image.fromarray(pixels).resize((64, 30 + 30 * i)).convert(mode).save(path)
            # of those that a data set treats in a way of its own
            Image.fromarray(pixels.astype(np.uint16)[..., 0] * 257).save(path.with_stem("16 bits"))
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(pixels).save(path.with_stem("turned"), exif=exif)
            Image.fromarray(pixels[:2]).resize((201, 3)).save(path.with_stem("a line"))
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_a_folder_is_prepared_to_the_bit(folder, channels):
    data = ImageFolder(str(folder), image_size=16, channels=channels)
    expected = prepared(data)
    paths = data._raw["test"].paths
    assert len(paths) == 14 and data.preprocess.resize_to == 18
    for index, path in enumerate(paths):
        assert torch.equal(data.preprocess(Image.open(folder / "test" / path)), expected[index])
    assert data.classes == ("ant", "cat")


def test_scaling_the_images_scales_their_preparation():
    data = Digits(image_size=8).resized(10)
    made = data.preprocess
    assert made.input_size == (3, 10, 10) and made.resize_to == 10
    assert made(Image.new("L", (8, 8))).shape == (3, 10, 10)


def test_made_up_images_have_no_rule_for_files():
    data = Fake(image_size=16)
    made = data.preprocess
    assert made.to_json()["resize"] == "none" and made.to_json()["interpolation"] is None
    pixels = data.pixels("test", torch.arange(8))
    assert torch.equal(made(pixels), prepared(data)[:8])
    with pytest.raises(UsageError, match="made-up images of 16 x 16"):
        made(Image.new("RGB", (20, 16)))
    assert data.classes == tuple(map(str, range(10)))


@pytest.mark.parametrize(
    "made",
    [
        RGB,
        Digits(image_size=12).preprocess,
        Photos(7, 1).preprocess,
        Fake(channels=1).preprocess,
    ],
)
def test_plain_values_say_all_of_it(made):
    told = json.loads(json.dumps(made.to_json()))
    assert Preprocess.from_json(told, "x") == made


def test_what_json_tells_can_be_read_by_a_person():
    assert RGB.to_json() == {
        "input_size": [3, 16, 16],
        "mode": "RGB",
        "sixteen_bits": "grey, and PPM: (value + 128) // 257; other colours: value // 256",
        "exif_orientation": False,
        "resize": "shorter_side",
        "resize_to": 18,
        "interpolation": "bilinear",
        "antialias": True,
        "crop": "center",
        "crop_fraction": 16 / 18,
        "grey": None,
        "channels": "RGB",
        "value_range": [0.0, 1.0],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert Photos(7, 1).preprocess.to_json()["channels"] == "L"
    assert Digits(image_size=8).preprocess.to_json()["channels"] == "LLL"


@pytest.mark.parametrize(
    "change",
    [
        {"resize_to": 10**9},
        {"resize_to": 15},
        {"resize_to": None},
        {"input_size": [3, 16, 10**6]},
        {"input_size": [4, 16, 16]},
        {"input_size": "3"},
        {"mean": [0.5]},
        {"mean": [float("nan")] * 3},
        {"std": [0.0] * 3},
        {"std": [10**400] * 3},
        {"std": []},
        {"mode": "CMYK"},
        {"mode": ["RGB"]},
        {"resize": "pad"},
        {"grey": "always"},
        {"interpolation": "bicubic"},
        {"antialias": False},
        {"crop": "random"},
        {"channels": "BGR"},
        {"value_range": [-1.0, 1.0]},
        {"channels": "LLL", "mode": "L", "mean": [0.5, 0.4, 0.3]},
        {"exif_orientation": 1},
        {"exif_orientation": "x" * 10_000},
    ],
)
def test_values_that_no_data_set_has_are_one_line(change):
    with pytest.raises(UsageError, match="'preprocess' cannot be used") as caught:
        Preprocess.from_json({**RGB.to_json(), **change}, "x/spec.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("data", [None, [], "RGB", {}, {"mode": "RGB"}])
def test_a_description_that_lacks_something_is_one_line(data):
    with pytest.raises(UsageError, match="x/spec.json"):
        Preprocess.from_json(data, "x/spec.json")


@pytest.mark.parametrize(
    "image",
    [
        "photo.png",
        np.zeros((20, 20, 3), np.uint8),
        torch.zeros(3, 20, 20),
        torch.zeros(4, 20, 20, dtype=torch.uint8),
        torch.zeros(20, 20, dtype=torch.uint8),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(image):
    with pytest.raises(UsageError, match="takes a PIL image or uint8 pixels"):
        RGB(image)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_an_image_of_32_bits_is_refused_as_in_a_folder(kind, tmp_path):
    image = Image.fromarray(np.ones((20, 20), dtype=kind))
    image.save(tmp_path / "x.tiff")
    with Image.open(tmp_path / "x.tiff") as opened:
        for given in (image, opened):
            with pytest.raises(UsageError, match="of 32 bits, whose range nothing tells: save it"):
                RGB(given)


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_16_bits_that_pillow_opens_as_32_are_taken(kind):
    narrow = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    wide = Image.fromarray(np.asarray(narrow).astype(np.int32) * 257)
    assert wide.mode == "I"
    wide.format = kind  # as older versions of Pillow open a PNG, and all of them a PPM
    assert torch.equal(RGB(wide), RGB(narrow))


def test_a_description_of_before_16_bits_were_told_is_read():
    told = RGB.to_json()
    del told["sixteen_bits"]
    assert Preprocess.from_json(told, "x") == RGB


def test_pixels_and_batches_are_prepared_as_their_images():
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 20, 30), dtype=torch.uint8, generator=drawn)
    before = pixels.clone()
    for made in (RGB, Digits(image_size=12).preprocess):
        each = torch.stack([made(as_file(image)) for image in pixels])
        assert same(made, made(pixels), each)
        assert same(made, torch.stack([made(image) for image in pixels]), each)
        grey = made(pixels[:, :1])
        assert same(made, grey, torch.stack([made(as_file(image[:1])) for image in pixels]))
    assert torch.equal(pixels, before)


def test_the_orientation_of_exif_data_is_applied_where_the_data_apply_it(tmp_path):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "photo.png", exif=exif)
    values = {**RGB.to_json(), "resize_to": 16, "exif_orientation": True}
    upright = Preprocess.from_json(values, "x")
    stored = Preprocess.from_json({**values, "exif_orientation": False}, "x")
    opened = Image.open(tmp_path / "photo.png")
    assert torch.equal(stored(opened), stored(image))
    assert torch.equal(upright(opened), stored(image.transpose(Image.Transpose.ROTATE_270)))


def test_the_transform_is_torchvisions_and_is_made_once():
    from torchvision.transforms import v2

    made = Digits(image_size=12).preprocess
    assert "transform" not in vars(made)
    assert isinstance(made.transform, v2.Compose) and made.transform is made.transform
    assert copy.deepcopy(made) == made
    both = v2.Compose([made, v2.RandomHorizontalFlip(p=1.0)])
    image = as_file(torch.arange(64, dtype=torch.uint8).view(1, 8, 8))
    assert torch.equal(both(image), made(image).flip(-1))


def test_a_class_without_a_name_is_refused():
    data = Photos(10, 3)
    data.class_names = ("ant",)
    with pytest.raises(UsageError, match="2 classes and 1 class_names"):
        data.classes  # noqa: B018


def test_the_hundred_classes_have_their_names():
    from compressor.data.cifar100 import CIFAR100

    names = CIFAR100.class_names
    assert len(set(names)) == 100 and list(names) == sorted(names)
    groups = [[n for n, g in zip(names, CIFAR100.superclasses, strict=True) if g == s]
              for s in range(20)]  # fmt: skip
    assert groups[17] == ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"]
    assert groups[14] == ["baby", "boy", "girl", "man", "woman"]
    assert groups[2] == ["orchid", "poppy", "rose", "sunflower", "tulip"]
    assert groups[19] == ["lawn_mower", "rocket", "streetcar", "tank", "tractor"]
    assert all(len(group) == 5 for group in groups)
