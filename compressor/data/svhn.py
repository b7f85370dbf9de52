"""SVHN: 73,257 + 26,032 colour photographs of house numbers, 32x32, 10 classes.

Netzer et al. Reading Digits in Natural Images, NIPS workshop 2011; cropped form, without "extra".
Run: compress-run dataset=svhn dataset.download=true
"""

from types import MappingProxyType

import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages, read_torchvision
from compressor.data._source import Source
from compressor.options import Seed

# of the training images
MEAN, STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


class SVHN(ImageData):
    """Colour images; `channels=1` keeps their luma."""

    name = "svhn"

    def __init__(
        self,
        root: str,
        *,
        download: bool = False,
        image_size: Side = 32,
        num_classes: Classes | None = 10,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        augment: Transforms = MappingProxyType({"crop": 4, "flip": False}),
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
        self.download = download

    def _read(self) -> tuple[int, dict[str, Source]]:
        return 10, {"train": self._torchvision(True), "test": self._torchvision(False)}

    def _torchvision(self, train: bool) -> MemoryImages:
        from torchvision.datasets import SVHN as Reader

        split = "train" if train else "test"
        read = read_torchvision(
            self.name,
            self.root,
            self.download,
            lambda root, download: Reader(root, split=split, download=download),
        )
        return MemoryImages(torch.from_numpy(read.data), torch.as_tensor(read.labels).long())
