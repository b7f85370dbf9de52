"""MNIST: 60,000 + 10,000 handwritten digits, 28x28.

LeCun, Bottou, Bengio, Haffner. Proceedings of the IEEE 1998.
Run: compress-run dataset=mnist dataset.download=true
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from compressor.data._base import ImageData
from compressor.data._memory import MemoryImages, read_torchvision
from compressor.data._source import Source

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
        image_size: int = 28,
        num_classes: int = 10,
        channels: int = 3,
        validation: float = 0.1,
        split_seed: int = 0,
        augment: Mapping = MappingProxyType({"crop": 2, "flip": False}),
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
