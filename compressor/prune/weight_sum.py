"""Weight sum: keep the filters with the largest sum of absolute weights.

Li, Kadav, Durdanovic, Samet, Graf. ICLR 2017, arXiv:1608.08710, section 3.1.
Run: compress-run prune=weight_sum prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.prune import Ranking, Selector, by_score
from compressor.prune._filters import judged, mean, rows
from compressor.surgery import Group


def weight_sum(weight: Tensor) -> Tensor:
    """Sum of absolute kernel weights of every filter, s_j in section 3.1; low means prunable.

    weight: (out, ...). Returns (out,) float64. No bias and no batch norm enter.
    """
    return weight.detach().abs().flatten(1).sum(1, dtype=torch.float64)


class WeightSum(Selector):
    """Scores on the full weights ("independent" in the paper), layer by layer."""

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        slots = judged(group, weights, "weight_sum")
        scores = [mean(weight_sum(rows(slot, weights)), slot, group.size) for slot in slots]
        return by_score(torch.stack(scores).mean(0))
