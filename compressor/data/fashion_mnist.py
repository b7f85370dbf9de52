"""Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28x28, 10 classes.

Xiao, Rasul, Vollgraf. 2017, arXiv:1708.07747.
Run: compress-run dataset=fashion_mnist      (sudo apt install dataset-fashion-mnist)
Read from Debian's package where it is installed, else from torchvision's folder under `root`.
"""

from pathlib import Path
from types import MappingProxyType

import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages, read_idx, read_torchvision
from compressor.data._source import Source
from compressor.errors import RunError
from compressor.options import Seed

# of the 60,000 training images
MEAN, STD = (0.2860,), (0.3530,)
_FILES = {"train": "train", "test": "t10k"}


def _names(stem: str) -> tuple[str, str]:
    return f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"


class FashionMNIST(ImageData):
    """Grey images; `channels=3` repeats the one channel."""

    name = "fashion_mnist"
    class_names = (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "ankle boot",
    )  # fmt: skip

    def __init__(
        self,
        root: str,
        *,
        debian_root: str = "/usr/share/datasets/fashion-mnist",
        download: bool = False,
        image_size: Side = 28,
        num_classes: Classes | None = 10,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        augment: Transforms = MappingProxyType({"crop": 2, "flip": True}),
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
        self.debian_root = debian_root
        self.download = download

    def _read(self) -> tuple[int, dict[str, Source]]:
        folder = Path(self.debian_root)
        if all((folder / name).is_file() for stem in _FILES.values() for name in _names(stem)):
            return 10, {part: self._debian(folder, stem) for part, stem in _FILES.items()}
        return 10, {part: self._torchvision(part == "train") for part in _FILES}

    def _debian(self, folder: Path, stem: str) -> MemoryImages:
        images, labels = (read_idx(folder / name) for name in _names(stem))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise RunError(
                f"the {stem} files in '{folder}' do not belong together (shapes "
                f"{tuple(images.shape)} and {tuple(labels.shape)}): install them again"
            )
        return MemoryImages(images[:, None], labels.long())

    def _torchvision(self, train: bool) -> MemoryImages:
        from torchvision.datasets import FashionMNIST as Reader

        read = read_torchvision(
            self.name,
            self.root,
            self.download,
            lambda root, download: Reader(root, train=train, download=download),
            otherwise=(
                ", or install Debian's package dataset-fashion-mnist (looked for in "
                f"dataset.debian_root='{self.debian_root}')"
            ),
        )
        return MemoryImages(read.data[:, None], torch.as_tensor(read.targets).long())
