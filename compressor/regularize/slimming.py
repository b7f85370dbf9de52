"""Slimming: an L1 penalty on the scales of all batch norms, so that channels can be told apart.

Liu, Li, Shen, Huang, Yan, Zhang. Network Slimming, ICCV 2017, arXiv:1708.06519, eq. (1).
Run: compress-run regularize=slimming regularize.weight=1e-4 prune=bn_scale
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.errors import UsageError
from compressor.options import Range, checked
from compressor.regularize import Regularizer


def l1_of_scales(net: nn.Module) -> Tensor:
    """Sum of |gamma| over all batch norms; the subgradient at 0 is 0, as in the authors' code."""
    gammas = [m.weight for m in net.modules() if isinstance(m, _BatchNorm) and m.affine]
    if not gammas:
        raise UsageError(
            "regularize=slimming finds no batch norm with a scale in this network; type "
            "regularize=none"
        )
    return torch.cat(gammas).abs().sum()


class Slimming(Regularizer):
    """The paper also starts training at gamma = 0.5; here gamma starts where the network has it.

    The optimizer decays no norm's scale unless train.decay_norm_and_bias is set, as the authors do.
    """

    @checked("regularize")
    def __init__(
        self,
        weight: Annotated[
            float, Range(0, above=True, remedy="regularize=none leaves it out")
        ] = 1e-4,
    ) -> None:
        self.weight = weight

    def penalties(self, net: nn.Module) -> Mapping[str, Tensor]:
        return {"slimming": self.weight * l1_of_scales(net)}
