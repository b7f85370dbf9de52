"""Images held as one uint8 tensor, and their readers."""

import gzip
import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressor.data._pixels import grey, resize
from compressor.data._preprocess import Preprocess
from compressor.data._source import Augment, Draw, Source, absolute, crop_and_flip
from compressor.errors import RunError, UsageError

_CHUNK = 4096  # images converted at a time, so that the float copies stay small


class MemoryImages(Source):
    """images: (n, C, H, H) uint8; labels: (n,) int64."""

    def __init__(self, images: Tensor, labels: Tensor, augment: Augment | None = None) -> None:
        self.pixels = images
        self.labels = labels
        self.augment = augment or Augment()
        self._digest: str | None = None

    def digest(self) -> str:
        if self._digest is None:
            content = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
            content.update(self.pixels.contiguous().numpy())
            content.update(self.labels.contiguous().numpy())
            self._digest = content.hexdigest()
        return self._digest

    def sized(self, image_size: int, channels: int, augment: Augment) -> "MemoryImages":
        pixels = self.pixels
        if pixels.shape[1] == 3 and channels == 1:
            pixels = torch.cat([grey(chunk) for chunk in pixels.split(_CHUNK)])
        if pixels.shape[-1] != image_size:
            pixels = torch.cat([resize(chunk, image_size) for chunk in pixels.split(_CHUNK)])
        return MemoryImages(pixels, self.labels, augment)

    def preprocess(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Preprocess:
        colour, channels = self.pixels.shape[1] == 3, input_size[0]
        if not colour:  # the first one's serve the one channel that is stored
            mean, std = mean[:1] * channels, std[:1] * channels
        return Preprocess(
            input_size,
            mean,
            std,
            mode="RGB" if colour else "L",
            resize="both_sides",
            resize_to=input_size[-1],
            grey="before_resize" if colour and channels == 1 else None,
        )

    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        pixels = self.pixels[rows]
        return pixels if draw is None else crop_and_flip(pixels, self.augment, draw)


def read_idx(path: Path) -> Tensor:
    """One gzipped IDX file of bytes (the format of MNIST's own page): (n,) or (n, H, W) uint8."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    # two zero bytes, the type (8 = unsigned byte), the number of dimensions, then their sizes
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise _damaged(path, "it does not start as an IDX file of bytes does")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise _damaged(path, "its header is cut short")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise _damaged(path, f"its header asks for shape {shape}, its body has another size")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(f"'{path}' is damaged ({reason}): delete it and install or download it again")


def read_torchvision(
    name: str, root: str, download: bool, make: Callable[[str, bool], object], otherwise: str = ""
) -> object:
    """One torchvision data set, with its failures turned into one line each.

    make: (root, download) -> torchvision data set. otherwise: another remedy for missing files.
    """
    folder = absolute(root)
    try:
        with warnings.catch_warnings():
            # CIFAR's files, written under Python 2, make newer numpy warn of their dtype header
            warnings.simplefilter("ignore")
            return make(str(folder), download)
    except (RuntimeError, OSError) as error:
        if download:
            raise RunError(
                f"downloading {name} to '{folder}' failed ({_first_line(error)}): check the "
                f"network and the space on the disk, or put the files of {name} there yourself"
            ) from error
        raise UsageError(
            f"no complete {name} in dataset.root='{folder}': type dataset.download=true, or "
            f"dataset.root=<folder that holds it>{otherwise}"
        ) from error
    except Exception as error:  # whatever torchvision's readers trip over in a damaged file
        raise RunError(
            f"the files of {name} in '{folder}' are damaged ({_first_line(error)}): delete them "
            "and type dataset.download=true"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
