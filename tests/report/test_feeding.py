import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision.transforms.v2  # noqa: F401  looks for onnxruntime, the real one
from PIL import Image

from compressor.data import Preprocess
from compressor.report import feeding

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ONE, THREE = (1, 12, 12), (3, 12, 12)
KINDS = {
    "folder": Preprocess(THREE, MEAN, STD, "RGB", "shorter_side", 14, crop=True),
    "upright folder": Preprocess(
        THREE, MEAN, STD, "RGB", "shorter_side", 14, crop=True, exif=True
    ),
    "folder to grey": Preprocess(
        ONE, MEAN[:1], STD[:1], "RGB", "shorter_side", 14, crop=True, grey="after_crop"
    ),
    "grey": Preprocess(ONE, MEAN[:1], STD[:1], "L", "both_sides", 12),
    "grey thrice": Preprocess(THREE, MEAN[:1] * 3, STD[:1] * 3, "L", "both_sides", 12),
    "colour": Preprocess(THREE, MEAN, STD, "RGB", "both_sides", 12),
    "colour to grey": Preprocess(
        ONE, MEAN[:1], STD[:1], "RGB", "both_sides", 12, grey="before_resize"
    ),
    "made-up": Preprocess(THREE, MEAN, STD, "RGB", "none"),
    "made-up grey": Preprocess(ONE, MEAN[:1], STD[:1], "L", "none"),
}  # fmt: skip


class Session:
    """Stands where ONNX Runtime would: answers with the file's own input."""

    def __init__(self, path):
        self.path = path

    def get_inputs(self):
        return [SimpleNamespace(name="images")]

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={"classes": json.dumps(["cat", "dog"])})

    def run(self, names, given):
        self.taken = given["images"]
        return [np.array([[0.0, 1.0]])]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_example_prepares_an_image_as_the_network_does(
    kind, normalized, tmp_path, monkeypatch, capsys
):
    made = KINDS[kind]
    drawn = np.random.default_rng(0)
    size = (12, 12) if made.resize == "none" else (33, 21)
    # some structure, so that shrinking leaves more than one grey
    pixels = drawn.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6 if made.exif else 1
    Image.fromarray(pixels).resize(size).save(tmp_path / "photo.png", exif=exif)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    code = feeding.example(made.to_json(), 'a "quoted" mödel.onnx', normalized)
    assert len(code.splitlines()) <= 10
    scope = {}
    exec(code, scope)
    assert capsys.readouterr().out == "dog\n"
    assert scope["session"].path == 'a "quoted" mödel.onnx'
    taken = scope["session"].taken
    expected = made(Image.open(tmp_path / "photo.png"))[None].numpy()
    assert taken.shape == expected.shape
    assert taken.dtype == (np.uint8 if normalized else np.float32)
    check_levels(made, taken, normalized, expected)


def check_levels(made, taken, normalized, expected):
    mean, std = (np.array(values)[:, None, None] for values in (made.mean, made.std))
    levels = taken if normalized else (taken * std + mean) * 255
    # the resizing of Pillow and of torch each round, and so does the grey after it
    assert np.abs(levels - (expected * std + mean) * 255).max() <= 2.01
    if made.resize == "none":
        assert np.abs(levels - (expected * std + mean) * 255).max() < 0.01


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_example_scales_files_of_16_bits_as_the_network_does(
    kind, normalized, tmp_path, monkeypatch
):
    made = KINDS[kind]
    size = (12, 12) if made.resize == "none" else (33, 21)
    ramp = np.linspace(0, 65535, size[0] * size[1]).round().astype(np.uint16)
    image = Image.fromarray(ramp.reshape(size[::-1]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    code = feeding.example(made.to_json(), "model.onnx", normalized)
    # of these Pillow opens the second as 32 bits wide
    for ending in ("png", "ppm", "tiff"):
        image.save("photo.png", ending)
        exec(code, scope := {})
        expected = made(Image.open("photo.png"))[None].numpy()
        check_levels(made, scope["session"].taken, normalized, expected)
        assert np.unique(expected).size > 30
    image.convert("F").save("photo.png", "tiff")
    with pytest.raises(IndexError):
        exec(code, {})


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_say_what_is_done(kind):
    made = KINDS[kind]
    text = feeding.words(made.to_json())
    assert f"float32 (N, {made.input_size[0]}, 12, 12)" in text
    assert str(list(made.mean)) in text and str(list(made.std)) in text
    assert ("shorter side resized to 14 pixels" in text) == (made.resize == "shorter_side")
    assert ("resized to 12 x 12 pixels" in text) == (made.resize == "both_sides")
    assert ("centre of 12 x 12" in text) == made.crop
    assert ("there is no rule for others" in text) == (made.resize == "none")
    assert ("made grey" in text) == (made.grey is not None)
    assert ("repeated as three channels" in text) == (kind == "grey thrice")
    assert ("EXIF" in text) == made.exif
    assert "a 16-bit file's values scaled from 0..65535 to 0..255" in text
