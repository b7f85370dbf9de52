"""How an image file becomes what a network takes: in plain values, and as a transform.

The values are those of the test part's images, so that a shipped network is fed as it was measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.data import _decode
from compressor.data._pixels import grey, resize
from compressor.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchvision.transforms.v2 import Compose

MODES = ("RGB", "L")
RESIZES = ("shorter_side", "both_sides", "none")
# What becomes of a 16-bit file's values, 0 to 255: Pillow reads the high bytes of colours itself.
SIXTEEN_BITS = "grey, and PPM: (value + 128) // 257; other colours: value // 256"
GREYS = (None, "before_resize", "after_crop")
LARGEST = 16_384  # pixels a side: no data set is read at more, and a file may say anything
_FINITE = 1e30  # of numbers that float32 holds, and their inverse


@dataclass(frozen=True)
class Preprocess:
    """Call it with a PIL image or uint8 pixels; what it gives is what the network takes.

    input_size: (C, H, W) of the network's input.
    mean, std: C numbers each, of pixels that were divided by 255; equal ones of repeated grey.
    mode: what the file is decoded to, in Pillow's names: "RGB" or "L" (grey). A file of 16 bits is
    scaled from 0..65535 to 0..255.
    resize: "shorter_side" to `resize_to` pixels, the other one in proportion; "both_sides" to
    `resize_to`; "none": the data set reads no files, an image must have the input's size.
    Bilinear and antialiased, to whole bytes.
    crop: the centre of the input's size is cut out after that.
    grey: when colour images become grey: "before_resize" (0.299, 0.587, 0.114, rounded),
    "after_crop" (0.2989, 0.587, 0.114, rounded down) or None.
    exif: whether the orientation that EXIF data tell is applied.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str
    resize: str
    resize_to: int | None = None
    crop: bool = False
    grey: str | None = None
    exif: bool = False

    def __call__(self, image: "Image | Tensor") -> Tensor:
        """(C, H, W) float32, normalised; of (N, 3 or 1, h, w) pixels (N, C, H, W).

        image: a PIL image of 8 or 16 bits a channel, or uint8 pixels, (3 or 1, h, w) or a batch
        of them. Raises UsageError for anything else.
        """
        return self.transform(image)

    @cached_property
    def transform(self) -> "Compose":
        """The same as a transform of torchvision's; that package is imported here."""
        from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Resize

        steps: list[Callable] = [Decode(self.mode, self.exif)]
        if self.grey == "before_resize":
            steps.append(Luma())
        if self.resize == "shorter_side":
            steps += [_decode.not_too_long, Resize(self.resize_to, antialias=True)]
        elif self.resize == "both_sides":
            steps.append(Stretch(self.resize_to))
        else:
            steps.append(Sized(self.input_size[1:]))
        if self.crop:
            steps.append(CenterCrop(self.input_size[1:]))
        if self.grey == "after_crop":
            steps.append(Grayscale(1))
        return Compose([*steps, self.normalisation()])

    def normalisation(self) -> "Normalise":
        """The last step: uint8 (..., C or 1, H, W) to normalised float32 (..., C, H, W)."""
        return Normalise(self.mean, self.std)

    @property
    def channels(self) -> str:
        """What the input's channels are, in their order: "RGB", "L", or "LLL" (L three times)."""
        if self.mode == "L" or self.grey:
            return "L" * self.input_size[0]
        return "RGB"

    def to_json(self) -> dict[str, Any]:
        resizes = self.resize != "none"
        return {
            "input_size": list(self.input_size),
            "mode": self.mode,
            "sixteen_bits": SIXTEEN_BITS,
            "exif_orientation": self.exif,
            "resize": self.resize,
            "resize_to": self.resize_to,
            "interpolation": "bilinear" if resizes else None,
            "antialias": resizes,
            "crop": "center" if self.crop else "none",
            "crop_fraction": self.input_size[-1] / self.resize_to if self.crop else None,
            "grey": self.grey,
            "channels": self.channels,
            "value_range": [0.0, 1.0],  # of the pixels that mean and std are of
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Preprocess":
        """Raises UsageError for values that no data set has, or that this version does not know."""
        try:
            made = cls(
                input_size=tuple(data["input_size"]),
                mean=tuple(data["mean"]),
                std=tuple(data["std"]),
                mode=data["mode"],
                resize=data["resize"],
                resize_to=data["resize_to"],
                crop=data["crop"] == "center",
                grey=data["grey"],
                exif=data["exif_orientation"],
            )
            made._check()
            meant = made.to_json()
            for key in ("interpolation", "antialias", "crop", "channels", "value_range"):
                if data[key] != meant[key]:
                    raise ValueError(f"{key} is {str(data[key])[:80]}, known is {meant[key]}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise UsageError(
                f"{where}: its 'preprocess' cannot be used ({reason}): restore the folder, or use "
                "the version of compressor that wrote it"
            ) from None
        return made

    def _check(self) -> None:
        channels, height, width = self.input_size
        sides = [height, width] if self.resize_to is None else [height, width, self.resize_to]
        if not all(type(n) is int and 0 < n <= LARGEST for n in sides) or channels not in (1, 3):
            raise ValueError(f"input_size={self.input_size}, resize_to={self.resize_to}")
        numbers = (*self.mean, *self.std)
        if not all(isinstance(n, int | float) and abs(n) < _FINITE for n in numbers):
            raise ValueError("mean and std are numbers")
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 1 / _FINITE:
            raise ValueError(f"mean={self.mean}, std={self.std} for {channels} channels")
        if self.channels == "LLL" and len({*self.mean}) + len({*self.std}) > 2:
            raise ValueError(f"mean={self.mean}, std={self.std} of one grey channel")
        if self.mode not in MODES or self.resize not in RESIZES or self.grey not in GREYS:
            raise ValueError(f"mode={self.mode}, resize={self.resize}, grey={self.grey}")
        if type(self.exif) is not bool or (self.resize == "none") != (self.resize_to is None):
            raise ValueError(f"exif_orientation={self.exif}, resize_to={self.resize_to}")
        if self.crop != (self.resize == "shorter_side"):
            raise ValueError(f"crop={self.crop} with resize={self.resize}")
        if self.crop and self.resize_to < max(height, width):
            raise ValueError(f"resize_to={self.resize_to} is less than what is cropped")


class Decode(nn.Module):
    """A PIL image or uint8 pixels to uint8 pixels, (..., 3 or 1, H, W)."""

    def __init__(self, mode: str, exif: bool) -> None:
        super().__init__()
        self.mode = mode
        self.exif = exif

    def forward(self, image: "Image | Tensor") -> Tensor:
        from PIL.Image import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        if isinstance(image, Image):
            try:
                rgb = _decode.as_rgb(image, exif=self.exif)
            except _decode.Refused as error:
                raise UsageError(f"preprocess cannot take the image: {error}") from None
            return pil_to_tensor(rgb.convert(self.mode))
        known = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (3, 4)
        if not known or image.shape[-3] not in (1, 3):
            what = (
                f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
            )
            raise UsageError(
                f"preprocess takes a PIL image or uint8 pixels of 3 or 1 channels, (C, H, W) or "
                f"(N, C, H, W), not {what}"
            )
        pixels = image.as_subclass(Tensor)
        if self.mode == "RGB":
            return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
        if pixels.shape[-3] == 1:
            return pixels
        # Pillow's own arithmetic, so that a file and its pixels are answered alike
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32)[:, None, None]
        total = (pixels.int() * weights).sum(-3, keepdim=True, dtype=torch.int32)
        return ((total + 0x8000) >> 16).to(torch.uint8)

    def extra_repr(self) -> str:
        return f"mode={self.mode}, exif={self.exif}"


class Luma(nn.Module):
    """Colour to grey as for images that are held in memory: (..., 3, H, W) to (..., 1, H, W)."""

    def forward(self, pixels: Tensor) -> Tensor:
        return grey(pixels)


class Stretch(nn.Module):
    """Both sides to one size, as for images that are held in memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] == (self.size, self.size):
            return pixels
        # Pillow's pixels lie channels last, which other kernels than the data set's would read
        batch = (pixels if pixels.ndim == 4 else pixels[None]).contiguous()
        return resize(batch, self.size).view(*pixels.shape[:-2], self.size, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


class Sized(nn.Module):
    """Images of one size alone: those of the data set were made, no rule makes them of files."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[-2:]) != self.size:
            height, width = self.size
            raise UsageError(
                f"the network was trained on made-up images of {height} x {width} pixels, which "
                f"has no rule for others: give such an image, not {tuple(pixels.shape[-2:])}"
            )
        return pixels

    def extra_repr(self) -> str:
        return f"size={self.size}"


class Normalise(nn.Module):
    """uint8 (..., C or 1, H, W) to float32 (..., C, H, W): bytes / 255, less mean, over std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        return normalise(pixels, self.mean, self.std)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What every image goes through before the network.

    pixels: (..., C or 1, H, W) uint8; mean, std: (C,). Returns (..., C, H, W) float32; grey images
    are repeated after the arithmetic.
    """
    c = pixels.shape[-3]
    image = pixels.to(torch.float32).div_(255)
    image = image.sub_(mean[:c, None, None]).div_(std[:c, None, None])
    if c != len(mean):
        image = image.repeat(*[1] * (image.ndim - 3), len(mean), 1, 1)
    return image


class Unrecorded:
    """Stands for the preprocess of a folder that does not tell it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, image: Any) -> Tensor:
        raise UsageError(self._reason())

    @property
    def transform(self) -> "Compose":
        raise UsageError(self._reason())

    def _reason(self) -> str:
        return (
            f"{self.where} does not say how its network is fed: it is of before spec.json told "
            "'preprocess', or an entry of the cache; run its command again and load the run's "
            "model/ folder, or prepare the images yourself"
        )
