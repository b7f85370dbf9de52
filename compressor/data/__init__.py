"""Image sources: one file each, named by the data set.

Run: compress-run dataset=digits
A batch is (image, target, index): float32 (B, C, H, W) normalised, int64 (B,), int64 (B,), where
`index` is the position within the part. Order and augmentation are functions of (seed, epoch,
index), so the number of workers, the batch size and a resume change no image.
"""

from compressor.data._base import Damage, ImageData, stratified_split
from compressor.data._order import EpochSampler, spread_over_classes
from compressor.data._preprocess import Preprocess, Unrecorded

__all__ = [
    "Damage",
    "EpochSampler", "ImageData", "Preprocess", "Unrecorded", "spread_over_classes",
    "stratified_split",
]  # fmt: skip
