"""Images as tensors of bytes: to another size, and to grey."""

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear, antialiased when shrinking.

    images: (n, C, H, W) uint8. Returns (n, C, size, size) uint8.
    """
    out = F.interpolate(
        images.to(torch.float32),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=size < max(images.shape[-2:]),
    )
    return out.round_().clamp_(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Luma. images: (..., 3, H, W) uint8. Returns (..., 1, H, W) uint8."""
    weights = torch.tensor(LUMA)[:, None, None]
    return (images * weights).sum(-3, keepdim=True).round_().clamp_(0, 255).to(torch.uint8)
