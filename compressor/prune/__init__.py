"""Pruning criteria: which channels stay. One file each, named by the method.

A selector declares the statistics it needs and ranks the channels of one group; the compress
stage collects the statistics, cuts, and repairs. A compressor owns the whole stage instead.
Run: compress-run prune=thinet prune.ratio=0.5
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.prune._rows import Rows
from compressor.surgery import Group
from compressor.taps import Tap


@dataclass(frozen=True, eq=False)
class Ranking:
    """The channels of one group, best first: keeping n of them means `order[:n]`."""

    order: Tensor
    """(C,) int64 class ids in keep order."""
    cost: Tensor | None = None
    """(C,) float64: what the objective grows by when order[i] goes after order[i+1:] have gone; of
    a criterion that looks at channels one by one, the score. What the allocation compares."""

    def keep(self, count: int) -> Tensor:
        """(count,) sorted class ids."""
        return self.order[:count].cpu().sort().values


@dataclass(frozen=True, eq=False)
class Target:
    """What the dense network gives out at sampled positions of one call of one layer."""

    rows: Rows
    outputs: Tensor
    """(R, F) float32."""


@dataclass(frozen=True)
class Observer:
    """One statistic of one group: what to compute where, in sums that add up over batches."""

    key: str
    tap: Tap
    measure: Callable[..., dict[str, Tensor]]
    """(tapped module, tensor, private generator) -> named float64 sums; the compress stage adds
    them up and hands `rank` the totals under "<key>/<name>"."""
    paired: bool = False
    """Whether `measure` takes a fourth argument: the dense network's `Target` for this call of the
    module, or None where the network that is read is the dense one."""


@dataclass(frozen=True)
class Gate:
    """One statistic of the loss's derivative with respect to a factor on every channel of a group.

    The factors are 1 and stand at the inputs of all the group's consumers; the compress stage runs
    the network backwards, an image's own loss at a time, on the labels that fine-tuning reads.
    """

    key: str
    measure: Callable[[Tensor], dict[str, Tensor]]
    """(N, group.size) derivatives of N images -> named float64 sums, as an observer's."""


class Selector(Protocol):
    """A criterion, chosen by the config group `prune`.

    It may have `trained_with`: the option of `regularize` that its paper trains the network with.
    """

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer | Gate, ...]:
        """The statistics that ranking this group needs; () for a criterion without data.

        net: asked for its layers only; a plan's has no storage.
        """

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        """The group's channels in keep order. weights: the network's tensors by name."""


class Compressor(Protocol):
    """A method that owns the compress stage, as those that train inside it do."""

    def run(self, artefact: Any, context: Any) -> Any:
        """The compressed artefact."""


def by_score(score: Tensor) -> Ranking:
    """Ranking by a score per channel, high means keep; of equals the lowest index goes first.

    score: (C,).
    """
    if not bool(torch.isfinite(score).all()):
        raise RunError(
            f"channel {int((~torch.isfinite(score)).nonzero()[0])} scores "
            "something that is no number; look for NaN in the network's weights and activations"
        )
    order = torch.argsort(score, stable=True).flip(0)
    return Ranking(order, score.double()[order])


def part(statistics: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The statistics whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in statistics.items() if k.startswith(prefix)}
