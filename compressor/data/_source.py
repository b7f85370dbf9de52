"""A list of labelled images, as a data set's class answers it, and their training transforms."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.data._preprocess import Preprocess
from compressor.errors import UsageError
from compressor.options import Range, Share
from compressor.seeding import uniforms


@dataclass(frozen=True)
class Augment:
    """Training transforms. `scale` acts on folder sets only: in-memory images have one size."""

    # pixels of zero padding before a random crop back to the image size
    crop: Annotated[int, Range(0)] = 0
    flip: bool = False  # horizontal flip of half of the images
    # smallest share of the area kept by a random resized crop; 1 = off; "auto" until data are read
    scale: Share | Literal["auto"] = 1.0


class Draw(NamedTuple):
    """What the random transforms of one batch may depend on."""

    seed: int
    epoch: int
    index: Tensor  # (B,) int64, positions within the part


class Source(ABC):
    """A list of labelled images, fetched as uint8 batches.

    labels: a class an image, by which parts are split evenly; beside targets of another kind any
    number will do, such as 0 for all. places: (n,) int64, where the images stand in the data set's
    own list of `listed` ones, the one that label files count in; None where all of it is here.
    contents: digest of each image, where equal ones have to stay in one part of a split.
    """

    labels: Tensor  # (n,) int64
    places: Tensor | None = None
    listed: int | None = None
    contents: Sequence[str] | None = None

    @abstractmethod
    def digest(self) -> str:
        """Digest of the content, whatever the size it is fetched at."""

    @abstractmethod
    def sized(self, image_size: int, channels: int, augment: Augment) -> "Source":
        """The same images, fetched at `image_size` with `channels` channels or with one."""

    @abstractmethod
    def preprocess(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Preprocess:
        """How a file becomes an input of (C, H, W), as un-augmented images of `sized` do."""

    @abstractmethod
    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        """rows: (B,) int64. Returns (B, C, H, W) uint8, augmented when `draw` is given."""

    def targets(self, rows: Tensor, draw: Draw | None) -> Any:
        """What a network is to answer to these images, (B, ...): by default their labels.

        rows, draw: those of `images`, so that a target may be cropped and flipped with its image.
        """
        return self.labels[rows]


def absolute(root: str) -> Path:
    """dataset.root with `~` as the user's home. Raises UsageError for an empty one."""
    if not str(root).strip():  # else the folder that one happens to be in
        raise UsageError("dataset.root= is empty: name a folder")
    return Path(os.path.expanduser(root)).absolute()


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


def split_by_content(
    labels: Tensor,
    contents: Sequence[str],
    fraction: float,
    seed: int | None = None,
    least: int = 0,
) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows that are split off, both sorted; equal images are on one side.

    labels: (n,) int64; contents: n digests. Of every class about round(fraction * its rows) are
    split off, `least` or more where it has different images, never all. Which ones follows from
    the digests (and the seed, where one is given), not from names or order: a folder that grows
    keeps most of its test images.
    """
    given = labels.tolist()
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(contents):
        rows.setdefault(digest, []).append(row)
    members: dict[int, list[str]] = {}
    for digest, own in rows.items():
        members.setdefault(given[own[0]], []).append(digest)
    off: list[int] = []
    for digests in members.values():
        # hashed again: another split of the same files stands in another order
        digests.sort(key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).digest())
        count = sum(len(rows[digest]) for digest in digests)
        left = goal = min(max(round(fraction * count), least), count - 1)
        for digest in digests:
            if len(rows[digest]) <= left:
                off += rows[digest]
                left -= len(rows[digest])
        if goal and left == goal and len(digests) > 1:  # every image has more copies than that
            off += rows[min(digests, key=lambda digest: len(rows[digest]))]
    chosen = torch.zeros(len(given), dtype=torch.bool)
    chosen[off] = True
    return torch.nonzero(~chosen).flatten(), torch.nonzero(chosen).flatten()
