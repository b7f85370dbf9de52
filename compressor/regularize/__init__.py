"""Regularisers: what dense training pays for beside its loss. One file each, named by the method.

Run: compress-run regularize=slimming prune=bn_scale
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Regularizer(Protocol):
    """Chosen by the config group `regularize`; acts in the train stage."""

    def penalties(self, net: nn.Module) -> Mapping[str, Tensor]:
        """Scalars that are added to the loss of a step, and logged, by name."""
