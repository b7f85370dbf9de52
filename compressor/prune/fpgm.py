"""FPGM: remove the filters nearest the geometric median, which the others can best replace.

He, Liu, Wang, Hu, Yang. CVPR 2019, arXiv:1811.00250, eq. (6) to (8).
Run: compress-run prune=fpgm prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.prune import Ranking, Selector, by_score
from compressor.prune._filters import judged, vectors
from compressor.surgery import Group


def fpgm(filters: Tensor) -> Tensor:
    """Sum of the Euclidean distances of every filter to all others, g(x) in eq. (7).

    filters: (C, D). Returns (C,) float64; low means near the geometric median and prunable.
    """
    # Products of matrices lose near-equal distances in float32, not in float64.
    x = filters.detach().double()
    return torch.cdist(x, x).sum(1)


class FPGM(Selector):
    """Scores on the weights alone. A class of a grouped conv is one vector of all its filters.

    The authors' code can leave a part to the norm of the filters; here the distances decide alone.
    """

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        slots = judged(group, weights, "fpgm")
        scores = [fpgm(vectors(slot, weights, group.size)) for slot in slots]
        return by_score(torch.stack(scores).mean(0))
