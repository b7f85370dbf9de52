"""No noise: the labels as they are.

Run: compress-run noise=none
"""

import torch
from torch import Tensor


class NoNoise:
    """Given labels equal the clean ones; the transition matrix is the identity."""

    def corrupt(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        return labels.clone(), torch.eye(num_classes, dtype=torch.float64)
