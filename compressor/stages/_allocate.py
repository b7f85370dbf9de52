"""Who gives how much, when ratio or budget say how much is given in all.

An allocation is a family of widths, one for every number between 0 (nothing goes) and 1 (all that
may); no layer is wider at a larger number. `_budget` looks for the number that meets the target.

uniform      the same fraction of every layer (by_ratio)
global       the lowest scores of the whole network (by_threshold)
sensitivity  as much of every layer as costs the same accuracy when it alone is cut (by_drop)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.prune import Ranking
from compressor.stages._counts import count, uniform
from compressor.stages._options import SelectOptions
from compressor.surgery import Group, Structure

Family = Callable[[float], dict[str, int]]


def by_ratio(groups: Sequence[Group], options: SelectOptions) -> Family:
    """Every layer loses the same fraction."""
    return lambda share: uniform(groups, options, min(share, 1 - 1e-9))


def by_threshold(
    groups: Sequence[Group],
    options: SelectOptions,
    rankings: Mapping[str, Ranking],
    structure: Structure,
) -> Family:
    """The channels with the lowest normalised costs go, wherever they are.

    The number is the fraction of the channels of all layers. Costs of a greedy removal need not
    rise: `slopes` makes them, so that one threshold cuts every layer where its error per channel
    begins to exceed the others'.
    """
    loose = free(groups, options)
    fixed = uniform([g for g in groups if g not in loose], options, 0.0)
    if not loose:
        return lambda share: fixed
    costs, owners = [], []
    for place, group in enumerate(loose):
        cost = rankings[group.name].cost
        if cost is None:
            raise UsageError(
                f"prune.allocation=global compares scores, and this criterion gives none for "
                f"'{group.name}'; take another prune=, or prune.allocation=uniform"
            )
        removable = max(0, group.size - options.least)
        rising = normalized(slopes(cost.flip(0)), group, options, structure)
        costs.append(rising[:removable])
        owners.append(torch.full((removable,), place))
    order = torch.cat(owners)[torch.argsort(torch.cat(costs), stable=True)]
    total = sum(group.size for group in loose)

    def family(share: float) -> dict[str, int]:
        gone = torch.bincount(order[: round(share * total)], minlength=len(loose)).tolist()
        counts = dict(fixed)
        for group, lost in zip(loose, gone, strict=True):
            counts[group.name] = count(group, options, lost / group.size)
        return counts

    return family


def by_drop(groups: Sequence[Group], options: SelectOptions, table: Mapping[str, Any]) -> Family:
    """The same loss of accuracy in every layer, each alone and without fine-tuning.

    The rule is ours; looking at such curves and choosing by hand is section 3.2 of Li et al.
    (arXiv:1608.08710). table: as `_sensitivity` makes it. Between the measured ratios the drop is
    interpolated, at ratio 1 everything is lost. A drop within one standard error of the accuracy
    is no drop: such layers are told apart by how much they lose, each the same fraction.
    """
    noise = table["noise"]
    lost = max([table["dense"], *(row["drop"] for row in table["rows"])])
    curves = {}
    for group in free(groups, options):
        rows = [row for row in table["rows"] if row["layer"] == group.name]
        ratios = np.array([0.0, *(1 - row["kept"] / row["channels"] for row in rows), 1.0])
        drops = np.maximum.accumulate(np.array([0.0, *(row["drop"] for row in rows), lost]))
        curves[group.name] = drops + noise * ratios, ratios
    fixed = uniform([g for g in groups if g.name not in curves], options, 0.0)

    def family(share: float) -> dict[str, int]:
        drop = share * (lost + noise)
        counts = dict(fixed)
        for group in groups:
            if group.name in curves:
                ratio = float(np.interp(drop, *curves[group.name]))
                counts[group.name] = count(group, options, ratio)
        return counts

    return family


def free(groups: Sequence[Group], options: SelectOptions) -> list[Group]:
    """The groups that have no ratio of their own."""
    return [group for group in groups if options.ratio_of(group) is None]


def slopes(costs: Tensor) -> Tensor:
    """Slopes of the largest convex function below the running sum of `costs`; they rise.

    costs: (C,) float64, of each removal in turn. Returns (C,). Pool adjacent violators: a cheap
    removal that stands behind a dear one is worth their mean.
    """
    pools: list[tuple[float, int]] = []
    for cost in costs.tolist():
        total, size = cost, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / size:
            before, length = pools.pop()
            total, size = total + before, size + length
        pools.append((total, size))
    return torch.cat([torch.full((n,), total / n, dtype=torch.float64) for total, n in pools])


def normalized(costs: Tensor, group: Group, options: SelectOptions, structure: Structure) -> Tensor:
    """A layer's costs in units that other layers share, as prune.normalize says."""
    if options.normalize == "mean":
        mean = float(costs.mean())
        return costs / mean if mean > 0 else costs
    if options.normalize == "cost":
        name = "params" if options.budget and options.budget[0] == "params" else "macs"
        figure = getattr(structure, name)
        return costs / max(1, figure({}) - figure({group.name: group.size - 1}))
    if options.normalize == "lamp":
        return lamp(costs)
    return costs


def lamp(rising: Tensor) -> Tensor:
    """s_i^2 over the sum of s_j^2 of all that are not smaller: how much of what is left would go.

    rising: (C,) scores, the lowest first. Returns (C,) in [0, 1]; the last channel's is 1, so that
    no layer is emptied. Lee et al. 2021, arXiv:2010.07611, eq. (4), over channels for weights.
    """
    square = rising.double().square()
    rest = square.flip(0).cumsum(0).flip(0)
    return square / rest.clamp(min=torch.finfo(rest.dtype).tiny)
