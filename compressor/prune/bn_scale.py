"""BN scale: remove the channels whose batch norm multiplies them by the smallest factor.

Liu, Li, Shen, Huang, Yan, Zhang. Network Slimming, ICCV 2017, arXiv:1708.06519, section 3.
Train with its sparsity penalty, or the scales say little:
Run: compress-run prune=bn_scale regularize=slimming prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.errors import UsageError
from compressor.prune import Observer, Ranking, Selector, by_score
from compressor.prune._filters import mean
from compressor.surgery import Group


def bn_scale(gammas: list[Tensor]) -> Tensor:
    """Mean of |gamma| over the batch norms that a channel passes; low means prunable.

    gammas: per batch norm, (C,) absolute scales by class. Returns (C,).
    """
    return torch.stack(gammas).mean(0)


class BNScale(Selector):
    """The paper has one batch norm per channel; a depthwise conv or a stream brings several.

    Where a squeeze-and-excitation or a concatenation follows, the channel's own batch norms count.
    """

    trained_with = "slimming"

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer, ...]:
        """None, but a group without a batch norm is refused here, before any training."""
        norms = [net.get_submodule(slot.module) for slot in group.followers]
        if not any(_has_scale(norm) for norm in norms):
            raise UsageError(
                f"prune=bn_scale finds no batch norm with a scale behind '{group.name}'; leave it "
                f"out with prune.skip=[{group.name}] or type prune=weight_sum"
            )
        return ()

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        gammas = [
            mean(weights[slot.parameter].detach().abs(), slot, group.size)
            for slot in group.followers
            # running statistics tell a batch norm from layer norms and layer scales
            if slot.parameter.endswith(".weight") and f"{slot.module}.running_var" in weights
        ]
        return by_score(bn_scale(gammas))


def _has_scale(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.affine and module.track_running_stats
