"""RotNet: tell by how much an image was turned.

Gidaris, Singh, Komodakis. ICLR 2018, arXiv:1803.07728, section 3.
Run: compress-run pretrain=rotnet dataset.labelled_fraction=0.1
"""

import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.pretrain import Pretext


def rotations(images: Tensor) -> Tensor:
    """All four copies of every image, turned by 0, 90, 180 and 270 degrees counter-clockwise.

    images: (B, C, H, H). Returns (4 B, C, H, H), the copies of one angle together. An exact
    permutation of pixels: interpolation or filled corners would give the angle away.
    """
    if images.shape[-1] != images.shape[-2]:
        raise UsageError(f"rotnet turns square images, these are {tuple(images.shape[-2:])}")
    return torch.cat([torch.rot90(images, k, dims=(-2, -1)) for k in range(4)])


class RotNet(Pretext):
    """The four copies of an image are in one batch: batch norm sees every angle equally often."""

    classes = 4

    def batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        targets = torch.arange(4, device=images.device).repeat_interleave(len(images))
        return rotations(images), targets
