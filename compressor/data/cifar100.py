"""CIFAR-100: 50,000 + 10,000 colour photographs, 32x32, 100 classes.

Krizhevsky. Learning Multiple Layers of Features from Tiny Images, 2009.
Run: compress-run dataset=cifar100 dataset.download=true
"""

from types import MappingProxyType

import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages, read_torchvision
from compressor.data._source import Source
from compressor.options import Seed

# of the training images
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


# The superclass of each class, in the order of the raw file's coarse_label_names: torchvision's
# reader leaves its coarse_labels out.
_SUPERCLASSES = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


class CIFAR100(ImageData):
    """Colour images; `channels=1` keeps their luma."""

    name = "cifar100"
    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
        "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
        "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
        "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
        "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
        "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
        "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
        "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
        "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    superclasses = _SUPERCLASSES

    def __init__(
        self,
        root: str,
        *,
        download: bool = False,
        image_size: Side = 32,
        num_classes: Classes | None = 100,
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
        return 100, {"train": self._torchvision(True), "test": self._torchvision(False)}

    def _torchvision(self, train: bool) -> MemoryImages:
        from torchvision.datasets import CIFAR100 as Reader

        read = read_torchvision(
            self.name,
            self.root,
            self.download,
            lambda root, download: Reader(root, train=train, download=download),
        )
        pixels = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        return MemoryImages(pixels, torch.tensor(read.targets))
