"""Digits: 1,797 handwritten digits of 8x8, inside scikit-learn, so that nothing is downloaded.

Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI 1998 (its test part).
Run: compress-run dataset=digits
Parts: test is a stratified quarter, fixed (450 images); of the other 1,347 the default validation
of 0.1 takes 135 and leaves 1,212 for training.
"""

from types import MappingProxyType

import numpy as np
import torch

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._memory import MemoryImages
from compressor.data._source import Source
from compressor.options import Seed

# of the 1,347 train and validation images at 8x8, grey values 0..16 mapped to 0..1
MEAN, STD = (0.3053,), (0.3758,)


class Digits(ImageData):
    """Grey images, enlarged to `image_size`; `channels=3` repeats the one channel."""

    name = "digits"

    def __init__(
        self,
        *,
        image_size: Side = 12,
        num_classes: Classes | None = 10,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        augment: Transforms = MappingProxyType({"crop": 1, "flip": False}),
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

    def _read(self) -> tuple[int, dict[str, Source]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        values, labels = load_digits(return_X_y=True)
        # values are whole numbers 0..16; 16 becomes 255
        pixels = np.rint(values.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0
        )
        parts = {}
        for part, rows in (("train", np.sort(train)), ("test", np.sort(test))):
            parts[part] = MemoryImages(
                torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows]).long()
            )
        return 10, parts
