"""CIFAR-10: 50,000 + 10,000 colour photographs, 32x32, 10 classes.

Krizhevsky. Learning Multiple Layers of Features from Tiny Images, 2009.
Run: compress-run dataset=cifar10 dataset.download=true
"""

from types import MappingProxyType

import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages, read_torchvision
from compressor.data._source import Source
from compressor.options import Seed

# of the training images
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class CIFAR10(ImageData):
    """Colour images; `channels=1` keeps their luma."""

    name = "cifar10"
    class_names = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

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
        augment: Transforms = MappingProxyType({"crop": 4, "flip": True}),
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
        from torchvision.datasets import CIFAR10 as Reader

        read = read_torchvision(
            self.name,
            self.root,
            self.download,
            lambda root, download: Reader(root, train=train, download=download),
        )
        pixels = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        return MemoryImages(pixels, torch.tensor(read.targets))
