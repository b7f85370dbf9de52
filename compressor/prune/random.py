"""Random channels: the control that every criterion has to beat at equal MACs.

Used as baseline by Li et al. ICLR 2017, arXiv:1608.08710, and in ThiNet, arXiv:1707.06342.
Run: compress-run prune=random prune.ratio=0.5 seed=0,1,2 -m
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.prune import Ranking, Selector
from compressor.surgery import Group


class Random(Selector):
    """A uniformly random order per group, from the generator that belongs to the group's name."""

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        return Ranking(order=torch.randperm(group.size, generator=generator))
