"""Fake: made-up images with a learnable signal, for measuring sizes and speed at any shape.

Run: compress-run dataset=fake dataset.image_size=224 dataset.num_classes=1000
An image is a function of (seed, its number): half the pattern of its class, half noise, both on a
coarse grid enlarged to `image_size`. Images are made when a batch asks for them, so that a
thousand classes at 224 pixels cost no memory.
"""

import hashlib
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._preprocess import Preprocess
from compressor.data._source import Augment, Draw, Source, crop_and_flip
from compressor.options import Range, Seed, checked
from compressor.seeding import derive, uniforms

_PATTERN = 4  # cells a side of a class's pattern
_NOISE = 16  # cells a side of an image's noise
# of the mean of two independent uniform numbers: 1/2 and sqrt(1/24), before enlarging smooths it
MEAN, STD = (0.5,), (0.2041,)


class FakeImages(Source):
    """Images first .. first + n; labels run through the classes in turn."""

    def __init__(
        self,
        first: int,
        n: int,
        num_classes: int,
        seed: int,
        image_size: int = _NOISE,
        channels: int = 3,
        augment: Augment | None = None,
    ) -> None:
        self.first = first
        self.labels = torch.arange(first, first + n) % num_classes
        self.num_classes = num_classes
        self.seed = seed
        self.image_size = image_size
        self.channels = channels
        self.augment = augment or Augment()

    def digest(self) -> str:
        facts = ("fake", self.first, len(self.labels), self.num_classes, self.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def sized(self, image_size: int, channels: int, augment: Augment) -> "FakeImages":
        n = len(self.labels)
        return FakeImages(self.first, n, self.num_classes, self.seed, image_size, channels, augment)

    def preprocess(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Preprocess:
        mode = "RGB" if input_size[0] == 3 else "L"
        return Preprocess(input_size, mean, std, mode=mode, resize="none")

    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        pattern = self._grid("pattern", self.labels[rows], _PATTERN)
        noise = self._grid("noise", rows + self.first, _NOISE)
        pixels = ((pattern + noise) * 127.5).round_().to(torch.uint8)
        return pixels if draw is None else crop_and_flip(pixels, self.augment, draw)

    def _grid(self, kind: str, index: Tensor, side: int) -> Tensor:
        """Uniform numbers on side x side cells, enlarged: (B, C, image_size, image_size)."""
        values = uniforms(derive(self.seed, kind), 0, index, self.channels * side**2)
        return F.interpolate(
            values.view(-1, self.channels, side, side),
            size=(self.image_size, self.image_size),
            mode="bilinear",
            align_corners=False,
        )


class Fake(ImageData):
    """`samples` images for train and val together; a quarter as many more for test."""

    name = "fake"

    @checked("dataset")
    def __init__(
        self,
        *,
        samples: Annotated[int, Range(4)] = 256,
        seed: Seed = 0,
        image_size: Side = 32,
        num_classes: Classes = 10,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        augment: Transforms = MappingProxyType({"crop": 0, "flip": False}),
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_classes=num_classes,
            channels=channels,
            validation=validation,
            split_seed=split_seed,
            augment=augment,
            mean=MEAN,
            std=STD,
        )
        self.samples, self.seed = int(samples), int(seed)

    def _read(self) -> tuple[int, dict[str, Source]]:
        k = self.num_classes
        return k, {
            "train": FakeImages(0, self.samples, k, self.seed),
            "test": FakeImages(self.samples, self.samples // 4, k, self.seed),
        }
