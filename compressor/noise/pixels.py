"""Pixel noise: Gaussian noise on the training images; the labels stay.

The notes' "train with noise-added data, then fine-tune on the original data", read for inputs:
Bishop. Training with noise is equivalent to Tikhonov regularization. Neural Computation 1995.
Run: compress-run noise=pixels noise.sigma=0.5
"""

import math

import torch
from torch import Tensor

from compressor.noise import Noise
from compressor.options import NotNegative, Seed, checked
from compressor.seeding import derive, uniforms


def normals(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """`count` normal numbers for each sample, a function of the arguments alone (Box, Muller 1958).

    index: (B,) int64. Returns (B, count) float32.
    """
    u = uniforms(seed, epoch, index, 2 * ((count + 1) // 2))
    first, second = u.chunk(2, dim=1)
    radius = (-2 * torch.log1p(-first)).sqrt()
    angle = 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


class Pixels(Noise):
    """Adds N(0, sigma^2) to every normalised pixel of a training image."""

    damages = True

    @checked("noise")
    def __init__(
        self, sigma: NotNegative = 0.5, fresh: bool = False, seed: Seed = 0, **shared: object
    ) -> None:
        self.sigma = float(sigma)
        self.fresh = fresh
        self.seed = derive(int(seed), "pixels")

    def damage(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        noise = normals(self.seed, epoch if self.fresh else 0, index, images[0].numel())
        return images + self.sigma * noise.view_as(images)
