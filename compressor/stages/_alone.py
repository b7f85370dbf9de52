"""What is done to the readers of one group when it alone is cut, as prune.reconstruct says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.stages._options import RepairOptions
from compressor.stages._refit import Refit, layers
from compressor.stages._rescale import apply_rescale, columns_left
from compressor.stages._statistics import MEMORY_LIMIT, gather, judging
from compressor.surgery import Group, Structure

Repair = Callable[[nn.Module, Tensor], None]
"""(network without the group's other classes, kept classes): repairs it in place."""


def rescaling(group: Group, statistics: Mapping[str, Tensor]) -> Repair:
    """statistics: `collect`'s of the dense network, with reconstruct="rescale"."""

    def repair(small: nn.Module, kept: Tensor) -> None:
        apply_rescale(small, [group], {group.name: kept}, statistics)

    return repair


def refitting(
    net: nn.Module,
    group: Group,
    batches: Sequence[Any],
    options: RepairOptions,
    seed: int,
    memory_limit: int = MEMORY_LIMIT,
) -> Repair:
    """The readers alone are refitted, not the layers behind them, which the cut refits as well.

    What they read of the kept channels is what the dense network gives them, so that one pass
    serves every number of channels.
    """
    slots = {path: slot for slot in group.consumers for path in slot.callers}
    with judging(net):
        images, calls, _ = gather(net, batches, memory_limit)
        names = [name for name in layers(net, [group], calls) if name in slots]
        work = Refit(net, net, names, calls, images, {}, options, seed)
        sums = {name: work.observed(name) for name in names}
    work.targets.clear()

    def repair(small: nn.Module, kept: Tensor) -> None:
        work.net = small
        for name, slot in ((name, slots[name]) for name in names):
            work.solve(name, sums[name], columns_left(slot, kept, sums[name]["gram"]))

    return repair


def alone(
    net: nn.Module, structure: Structure, group: Group, kept: Tensor, repair: Repair | None
) -> nn.Module:
    """A copy of the network without the group's other classes, repaired."""
    small = surgery.replay(surgery.duplicate(net), surgery.plan_cut(structure, {group.name: kept}))
    if repair and len(kept) < group.size:
        with torch.no_grad():
            repair(small, kept)
    return small
