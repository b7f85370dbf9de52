"""Group L2: the norm of everything that goes with a channel, in all layers that are coupled to it.

Fang, Ma, Song, Mi, Wang. DepGraph, CVPR 2023, arXiv:2301.12900, section 3.3, without its sparse
training. Run: compress-run prune=group_l2 prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.prune import Ranking, Selector, by_score
from compressor.prune._filters import rows, total
from compressor.surgery import Group

# What is no weight: the statistics of a batch norm, and biases, which the paper's code leaves out.
_OTHER = ("running_mean", "running_var", "bias")


def group_l2(squares: list[Tensor]) -> Tensor:
    """Norm over all coupled slices; low means prunable.

    squares: per parameter, (C,) sums of each class's squared weights. Returns (C,).
    """
    return torch.stack(squares).sum(0).sqrt()


class GroupL2(Selector):
    """Filters, norm scales, depthwise kernels and the next layers' input slices, all in one norm.

    All producers of a stream enter, and every one of its consumers: nothing decides for the others.
    """

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        squares = []
        for slot in group.slots:
            if not slot.parameter.endswith(_OTHER):
                norm = torch.linalg.vector_norm(rows(slot, weights), dim=1, dtype=torch.float64)
                squares.append(total(norm.square(), slot, group.size))
        return by_score(group_l2(squares))
