"""Image folders: the user's own pictures, one folder a class.

Run: compress-run dataset=imagefolder dataset.root=pictures
`root` holds train/ and test/ (or val/, which is then the test part), each with one sub-folder per
class; beside test/ val/ is the validation part, else that is split off train. Or `root` holds the
class folders themselves: `test` of every class is then the test part, by the files' contents.
Classes are numbered in the order of their sorted names. Label files (noise=file) count the images
of train/, or of the whole of such a root, by class and then by path.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from compressor.data import _auto
from compressor.data._auto import AUTO
from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._folder import FolderImages, MaxPixels, Rules, Unreadable
from compressor.data._layout import is_flat, read_classes, read_parts
from compressor.data._source import Source
from compressor.options import Inside, Seed, Share, checked

# ImageNet's, which pretrained networks expect
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST = 0.25  # share of a folder without test/ that is its test part


class ImageFolder(ImageData):
    """Colour images, decoded when they are asked for; `channels=1` keeps their luma.

    image_size and augment.scale: numbers, or "auto" for what data/_auto.py makes of the images.
    """

    name = "imagefolder"
    measures = True

    @checked("dataset")
    def __init__(
        self,
        root: str,
        *,
        image_size: Side | Literal["auto"] = AUTO,
        num_classes: Classes | None = None,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        test: Inside = TEST,
        crop_fraction: Share = 0.875,
        augment: Transforms = MappingProxyType({"crop": 0, "flip": True, "scale": AUTO}),
        unreadable: Unreadable = "refuse",
        max_pixels: MaxPixels = 65_000_000,
        fingerprint_cache: str | None = None,
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
        self.root = root
        self.test = float(test)
        self.rules = Rules(crop_fraction, max_pixels, unreadable, fingerprint_cache)
        self._class_names: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted; the position is the label."""
        self.prepare()
        return self._class_names

    def _read(self) -> tuple[int, dict[str, Source]]:
        if is_flat(self.root):
            found = read_classes(self.name, self.root, self.rules, self._note, self.test)
        else:
            found = read_parts(self.name, self.root, self.rules, self._note, ("test", "val"))
            if self.test != TEST:
                idle = f"imagefolder: dataset.test={self.test:g} is not read beside test/ or val/"
                found = replace(found, notices=(*found.notices, idle))
        self._class_names, self.notices, self.skipped = found.classes, found.notices, found.skipped
        self.resolved = self._decided(found.sources["train"])
        return len(found.classes), found.sources

    def resized(self, image_size: int) -> "ImageFolder":
        new = super().resized(image_size)
        if "dataset.augment.scale" in new.resolved:  # it goes by the size that is fetched
            new._augment = replace(new._augment, scale=AUTO)
            new.resolved = {**new.resolved, **new._decided(new._raw["train"])}
        return new

    def _decided(self, train: FolderImages) -> dict[str, tuple[int | float, str]]:
        """Put numbers in the place of `auto`; key -> (value, why) of these."""
        found: dict[str, tuple[int | float, str]] = {}
        if self._image_size == AUTO:
            self._image_size, why = _auto.image_size(train.short_sides)
            found["dataset.image_size"] = self._image_size, why
        if self._augment.scale == AUTO:
            scale, why = _auto.least_area(len(train.labels), self._image_size)
            self._augment = replace(self._augment, scale=scale)
            found["dataset.augment.scale"] = scale, why
        return found
