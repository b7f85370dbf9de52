"""How the shipped network is fed: in words, and as a program for ONNX Runtime."""

import json
from collections.abc import Mapping
from typing import Any


def words(preprocess: Mapping[str, Any]) -> str:
    """report.json's `preprocess` as sentences."""
    channels, height, width = preprocess["input_size"]
    steps = ["decoded to RGB" if preprocess["mode"] == "RGB" else "decoded to grey"]
    steps[0] += " (a 16-bit file's values scaled from 0..65535 to 0..255)"
    if preprocess["exif_orientation"]:
        steps.append("turned upright as its EXIF data say")
    if preprocess["grey"] == "before_resize":
        steps.append("made grey (0.299 R + 0.587 G + 0.114 B, rounded)")
    if preprocess["resize"] == "shorter_side":
        steps.append(
            f"its shorter side resized to {preprocess['resize_to']} pixels, the other one in "
            "proportion (bilinear, antialiased)"
        )
    elif preprocess["resize"] == "both_sides":
        size = preprocess["resize_to"]
        steps.append(f"resized to {size} x {size} pixels (bilinear, antialiased)")
    if preprocess["crop"] == "center":
        steps.append(f"its centre of {height} x {width} pixels cut out")
    if preprocess["grey"] == "after_crop":
        steps.append("made grey (0.2989 R + 0.587 G + 0.114 B, rounded down)")
    if channels == 3 and preprocess["channels"] == "LLL":
        steps.append("repeated as three channels")
    steps.append("divided by 255")
    text = (
        f"The network takes float32 (N, {channels}, {height}, {width}). An image is "
        f"{', '.join(steps)}; per channel, {preprocess['mean']} is subtracted, and what is left "
        f"divided by {preprocess['std']}."
    )
    if preprocess["resize"] == "none":
        text += (
            f" The data set's images are made-up ones of {height} x {width} pixels: there is no "
            "rule for others."
        )
    return text


def example(preprocess: Mapping[str, Any], model: str, normalized: bool) -> str:
    """A program of ten lines: an image file to the name of its class.

    model: path of the ONNX file. normalized: whether that file takes bytes.
    """
    _, height, width = preprocess["input_size"]
    upright = preprocess["exif_orientation"]
    opened = 'ImageOps.exif_transpose(Image.open("photo.png"))' if upright else (
        'Image.open("photo.png")'
    )  # fmt: skip
    pillow = f"PIL.Image as Image{', PIL.ImageOps as ImageOps' if upright else ''}"
    lines = [
        f"import json, numpy, onnxruntime, {pillow}",
        f"session = onnxruntime.InferenceSession({json.dumps(model, ensure_ascii=False)})",
        f"image = {opened}",
        _SIXTEEN_BITS,
        *_RESIZING[preprocess["resize"]](preprocess),
    ]
    if normalized:
        values = f'{_pixels(preprocess)}.astype("uint8")'
    else:
        scaled = f"{_pixels(preprocess)} / 255"
        mean, std = preprocess["mean"], preprocess["std"]
        values = f'(({scaled} - {mean}) / {std}).astype("float32")'
    lines += [
        f"x = {values}.transpose(2, 0, 1)[None]",
        "logits = session.run(None, {session.get_inputs()[0].name: x})[0]",
        'print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[logits.argmax()])',
    ]
    return "\n".join(lines)


# Pillow's own conversion clips at 255. Looked up, so that what is wider than 16 bits, which has no
# rule, ends in an IndexError.
_SIXTEEN_BITS = (
    'if image.mode[0] in "IF": image = Image.fromarray('
    "numpy.uint8(numpy.arange(128, 65664) // 257)[numpy.asarray(image)])"
)


def _converted(preprocess: Mapping[str, Any]) -> str:
    return f'image.convert("{preprocess["mode"]}")'


def _pixels(preprocess: Mapping[str, Any]) -> str:
    """`image` as an array (height, width, channels) of 0 to 255."""
    channels = preprocess["input_size"][0]
    if preprocess["grey"] == "after_crop":
        return "numpy.floor(numpy.asarray(image) @ [0.2989, 0.587, 0.114])[..., None]"
    if preprocess["channels"] == "RGB":
        return "numpy.asarray(image)" if preprocess["resize"] != "both_sides" else "image"
    return f"numpy.asarray(image)[..., None].repeat({channels}, 2)"


def _shorter_side(preprocess: Mapping[str, Any]) -> list[str]:
    size, (_, height, width) = preprocess["resize_to"], preprocess["input_size"]
    return [
        f"w, h = ({size} * side // min(image.size) for side in image.size)",
        f"left, top = round((w - {width}) / 2), round((h - {height}) / 2)",
        f"image = {_converted(preprocess)}.resize((w, h), Image.Resampling.BILINEAR)"
        f".crop((left, top, left + {width}, top + {height}))",
    ]


def _both_sides(preprocess: Mapping[str, Any]) -> list[str]:
    size = preprocess["resize_to"]
    resized = f"resize(({size}, {size}), Image.Resampling.BILINEAR)"
    if preprocess["grey"] == "before_resize":
        return [
            f"grey = numpy.rint(numpy.asarray({_converted(preprocess)}) @ [0.299, 0.587, 0.114])",
            f'image = numpy.rint(Image.fromarray(grey.astype("float32")).{resized})',
        ]
    if preprocess["mode"] == "L":
        return [f'image = numpy.rint({_converted(preprocess)}.convert("F").{resized})']
    return [
        f"image = {_converted(preprocess)}",
        f'planes = [plane.convert("F").{resized} for plane in image.split()]',
        "image = numpy.rint(numpy.stack(planes, axis=2))",
    ]


def _as_it_is(preprocess: Mapping[str, Any]) -> list[str]:
    _, height, width = preprocess["input_size"]
    return [
        f"image = {_converted(preprocess)}",
        f"assert image.size == ({width}, {height})  # the data set's images are made-up ones",
    ]


_RESIZING = {"shorter_side": _shorter_side, "both_sides": _both_sides, "none": _as_it_is}
