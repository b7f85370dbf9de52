"""No noise: the labels as they are.

Run: compress-run noise=none
"""

import torch
from torch import Tensor


class NoNoise:
    """Given labels equal the clean ones; the transition matrix is the identity.

    Takes the group's shared options and ignores them: the clean control of a sweep over rates.
    """

    def __init__(self, **shared: object) -> None:
        pass

    def corrupt(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        return labels.clone(), torch.eye(num_classes, dtype=torch.float64)
