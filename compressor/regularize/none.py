"""No regulariser beside the optimizer's weight decay.

Run: compress-run regularize=none
"""

from collections.abc import Mapping

from torch import Tensor, nn


class NoRegularizer:
    """Adds nothing to the loss."""

    def penalties(self, net: nn.Module) -> Mapping[str, Tensor]:
        return {}
