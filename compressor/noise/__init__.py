"""Label noise: what is wrong with the given labels. One file each, named by the kind.

Run: compress-run noise=symmetric noise.rate=0.4
Callers corrupt the train part only, once, before training; validation and test stay clean.
"""

from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Chosen by the config group `noise`."""

    def corrupt(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """labels: (n,) int64, clean. Returns the given labels (n,) and `transition` of the two."""


def transition(clean: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """Realised transition matrix: entry [i, j] is the share of class i that was given label j.

    clean, given: (n,) int64. Returns (K, K) float64, whose rows sum to 1; the row of a class
    without samples is that of the identity.
    """
    pairs = torch.bincount(clean * num_classes + given, minlength=num_classes**2)
    counts = pairs.view(num_classes, num_classes).to(torch.float64)
    of_class = counts.sum(dim=1, keepdim=True)
    identity = torch.eye(num_classes, dtype=torch.float64)
    return torch.where(of_class > 0, counts / of_class.clamp(min=1), identity)
