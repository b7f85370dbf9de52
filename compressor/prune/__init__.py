"""Pruning criteria: which channels stay. One file each, named by the method.

A selector declares the statistics it needs and ranks the channels of one group; the compress
stage collects the statistics, cuts, and repairs. A compressor owns the whole stage instead.
Run: compress-run prune=thinet prune.ratio=0.5
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.prune._rows import Rows
from compressor.surgery import Group, Structure
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


class Method:
    """What the config group `prune` makes. This one cuts nothing, and its stage is skipped.

    A criterion inherits from `Selector`, a method that does the whole stage from `Compressor`.
    Whatever is stated here and there may be overridden.
    """

    cuts = False
    """Whether the stage does anything."""
    owns_stage = False
    """Whether the method does the stage itself, as a `Compressor`."""
    trained_with: str | None = None
    """The option of `regularize` that the paper trains the network with."""

    @property
    def name(self) -> str:
        """As a message calls it: the file's name."""
        return type(self).__module__.rpartition(".")[2]


class Selector(Method, ABC):
    """A criterion: it says which statistics it needs, and ranks the channels of one group."""

    cuts = True

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer | Gate, ...]:
        """The statistics that ranking this group needs; () for a criterion without data.

        net: asked for its layers only; a plan's has no storage. UsageError: the criterion can say
        nothing about this group.
        """
        return ()

    @abstractmethod
    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        """The group's channels in keep order.

        statistics: totals of what `observers` named, as "KEY/NAME". weights: the network's tensors
        by name. generator: the group's own. RunError: the values leave no order.
        """


class DenseNetwork(Protocol):
    """A network before any training: its weights say nothing, and it may have no storage."""

    @property
    def net(self) -> nn.Module: ...

    @property
    def structure(self) -> Structure:
        """Its groups of channels, and what it costs with fewer of them."""

    @property
    def figures(self) -> Mapping[str, int]:
        """Its "macs" (multiply-adds of one image) and "params"."""


@dataclass(frozen=True)
class Preview:
    """What a method is going to make of a network, as far as the plan can tell."""

    rows: tuple[tuple[str, int, int], ...] = ()
    """(layer, its channels, those that it keeps); () for a method that cuts no channels."""
    macs: int | None = None
    """Multiply-adds of one image that are left; None: known when the stage has run."""
    params: int | None = None
    """Parameters that are left, likewise."""
    epochs: float = 0
    """Epochs that the stage trains, in passes over the train part."""


class Compressor(Method, ABC):
    """A method that does the compress stage itself, as those that train inside it do.

    Its options are its constructor's; of the shared ones it gets those that the constructor takes.
    """

    cuts = owns_stage = True

    @abstractmethod
    def run(self, given: Any, context: Any) -> Any:
        """The stage. given: `stages.Given`, the network and what earlier cuts have left of it.
        context: `stages.Context`, what a stage may use.

        Returns a `stages.Outcome`, whose plan begins with `given.plan`. RunError: it failed.
        """

    def preview(self, dense: DenseNetwork) -> Preview:
        """What `run` is going to make of this network. Nothing is known by default.

        UsageError: the method can do nothing with it.
        """
        return Preview()


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
