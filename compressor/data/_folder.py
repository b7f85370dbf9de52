"""Images in folders, decoded one by one."""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from compressor.data import _decode
from compressor.data._decode import MOST_PIXELS, Refused, shown
from compressor.data._headers import Facts
from compressor.data._preprocess import LARGEST, Preprocess
from compressor.data._source import Augment, Draw, Source
from compressor.errors import RunError, UsageError
from compressor.options import Range
from compressor.seeding import derive

_DECODING = 2  # part of every digest: raise it when the same files give other pixels


class ImageError(RunError):
    """A file that cannot be decoded.

    A loader's worker re-raises by calling the class with its whole traceback as the message; the
    last line is ours, so that the user reads one line whatever the number of workers.
    """

    def __init__(self, message: str) -> None:
        line = message.strip().splitlines()[-1]
        super().__init__(line.removeprefix(f"{__name__}.ImageError: "))


MaxPixels = Annotated[int, Range(1, MOST_PIXELS, remedy="give width x height")]
Unreadable = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Rules:
    """How files are read; the options of the same names.

    single: an image in several class folders is a mistake of the data set, told and not refused.
    """

    crop_fraction: float
    max_pixels: int
    unreadable: str
    cache: str | None
    single: bool = False


class FolderImages(Source):
    """paths: relative to `root`, in canonical order (class, then path); labels: (n,) int64.

    places, listed: as in `Source`; a file that is left out keeps its place.
    """

    def __init__(
        self,
        root: Path,
        paths: tuple[str, ...],
        labels: Tensor,
        facts: tuple[Facts, ...],
        places: Tensor,
        listed: int,
        rules: Rules,
    ) -> None:
        self.root = root
        self.paths = paths
        self.labels = labels
        self.contents = tuple(fact.digest for fact in facts)
        self.places = places
        self.listed = listed
        self.short_sides = tuple(min(fact.width, fact.height) for fact in facts)
        self.crop_fraction = rules.crop_fraction
        self.max_pixels = rules.max_pixels
        self._sizes = [fact.size for fact in facts]
        self._digest: str | None = None
        self._training = self._plain = None

    def digest(self) -> str:
        if self._digest is None:
            files = list(zip(self.paths, self._sizes, self.contents, strict=True))
            facts = [_DECODING, files, self.labels.tolist(), self.crop_fraction]
            self._digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return self._digest

    def sized(self, image_size: int, channels: int, augment: Augment) -> "FolderImages":
        from torchvision.transforms import v2

        new = copy.copy(self)
        whole_image = [
            _decode.not_too_long,
            v2.Resize(self._resized(image_size), antialias=True),
            v2.CenterCrop(image_size),
        ]
        training = whole_image
        if augment.scale < 1:
            scale = (augment.scale, 1.0)
            training = [v2.RandomResizedCrop(image_size, scale=scale, antialias=True)]
        if augment.crop:
            training = [*training, v2.RandomCrop(image_size, padding=augment.crop)]
        if augment.flip:
            training = [*training, v2.RandomHorizontalFlip()]
        mode = v2.Grayscale(channels) if channels == 1 else v2.Identity()
        new._training = v2.Compose([*training, mode])
        new._plain = v2.Compose([*whole_image, mode])
        return new

    def preprocess(
        self, input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Preprocess:
        return Preprocess(
            input_size,
            mean,
            std,
            mode="RGB",
            resize="shorter_side",
            resize_to=self._resized(input_size[-1]),
            crop=True,
            grey="after_crop" if input_size[0] == 1 else None,
            exif=True,
        )

    def _resized(self, image_size: int) -> int:
        """Pixels of the shorter side before the centre crop."""
        side = round(image_size / self.crop_fraction)
        if side > LARGEST:
            raise UsageError(
                f"dataset.crop_fraction={self.crop_fraction} resizes the shorter side of images to "
                f"{side:,} pixels before {image_size} of them are cut out: raise it, so that these "
                f"are {LARGEST:,} at most"
            )
        return side

    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        if draw is None:
            return torch.stack([self._plain(self._pixels(row)) for row in rows.tolist()])
        out = []
        with torch.random.fork_rng(devices=[]):
            for row, index in zip(rows.tolist(), draw.index.tolist(), strict=True):
                # the CPU generator alone: torch.manual_seed would reseed the GPU's as well
                torch.default_generator.manual_seed(derive(draw.seed, "augment", draw.epoch, index))
                out.append(self._training(self._pixels(row)))
        return torch.stack(out)

    def _pixels(self, row: int) -> Tensor:
        path = self.root / self.paths[row]
        try:
            return _decode.pixels(path, self.max_pixels)
        except Exception as error:  # PIL's decoders raise what their format's parser raises
            why = str(error) if isinstance(error, Refused) else _decode.reason(error)
            raise ImageError(
                f"the image '{shown(path)}' cannot be decoded ({why}): repair or delete that file"
            ) from error
