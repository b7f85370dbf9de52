"""MNIST: 60,000 + 10,000 handwritten digits, 28x28.

LeCun, Bottou, Bengio, Haffner. Proceedings of the IEEE 1998.
Run: compress-run dataset=mnist dataset.download=true
"""

from types import MappingProxyType

import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages, read_torchvision
from compressor.data._source import Source
from compressor.options import Seed

# of the training images
MEAN, STD = (0.1307,), (0.3081,)


class MNIST(ImageData):
    """Grey images; `channels=3` repeats the one channel."""

    name = "mnist"

    def __init__(
        self,
        root: str,
        *,
        download: bool = False,
        image_size: Side = 28,
        num_classes: Classes | None = 10,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        augment: Transforms = MappingProxyType({"crop": 2, "flip": False}),
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
        from torchvision.datasets import MNIST as Reader

        read = read_torchvision(
            self.name,
            self.root,
            self.download,
            lambda root, download: Reader(root, train=train, download=download),
        )
        return MemoryImages(read.data[:, None], torch.as_tensor(read.targets).long())
