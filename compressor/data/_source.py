"""A list of labelled images, as a data set's class answers it, and their training transforms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.seeding import uniforms

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"


@dataclass(frozen=True)
class Augment:
    """Training transforms. `scale` acts on folder sets only: in-memory images have one size."""

    crop: int = 0  # pixels of zero padding before a random crop back to the image size
    flip: bool = False  # horizontal flip of half of the images
    # smallest share of the area kept by a random resized crop; 1 = off; "auto" until data are read
    scale: float | str = 1.0


class Draw(NamedTuple):
    """What the random transforms of one batch may depend on."""

    seed: int
    epoch: int
    index: Tensor  # (B,) int64, positions within the part


class Source(ABC):
    """A list of labelled images, fetched as uint8 batches."""

    labels: Tensor  # (n,) int64

    @abstractmethod
    def digest(self) -> str:
        """Digest of the content, whatever the size it is fetched at."""

    @abstractmethod
    def sized(self, image_size: int, channels: int, augment: Augment) -> "Source":
        """The same images, fetched at `image_size` with `channels` channels or with one."""

    @abstractmethod
    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        """rows: (B,) int64. Returns (B, C, H, W) uint8, augmented when `draw` is given."""


def crop_and_flip(images: Tensor, augment: Augment, draw: Draw) -> Tensor:
    """Random crop after zero padding, then random horizontal flip, the whole batch at once.

    images: (B, C, H, W) uint8. Returns the same shape; a function of (seed, epoch, index) alone.
    """
    if not augment.crop and not augment.flip:
        return images
    b, c, h, w = images.shape
    u = uniforms(draw.seed, draw.epoch, draw.index, 3)
    rows = torch.arange(h).expand(b, h)
    columns = torch.arange(w).expand(b, w)
    if augment.flip:
        columns = torch.where(u[:, 2:] < 0.5, columns.flip(1), columns)
    pad = augment.crop
    if pad:
        # the clamp: a float32 product just under 2 * pad + 1 may round up to it
        offset = (u[:, :2] * (2 * pad + 1)).long().clamp_(max=2 * pad)
        rows, columns = rows + offset[:, :1], columns + offset[:, 1:]
        images = F.pad(images, [pad] * 4)
    wide = images.shape[-1]
    place = (rows[:, :, None] * wide + columns[:, None, :]).view(b, 1, h * w)
    return images.flatten(2).gather(2, place.expand(b, c, h * w)).view(b, c, h, w)
