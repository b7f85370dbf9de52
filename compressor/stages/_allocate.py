"""Who gives how much, when ratio or budget say how much is given in all.

An allocation is a family of widths, one for every number between 0 (nothing goes) and 1 (all that
may); no layer is wider at a larger number. `_budget` looks for the number that meets the target.

uniform      the same fraction of every layer (by_ratio)
global       the lowest scores of the whole network (by_threshold)
sensitivity  what costs the least loss, as told by cutting every layer alone (by_curve)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.prune import Ranking
from compressor.stages._counts import count, uniform
from compressor.stages._options import WidthOptions
from compressor.surgery import Group, Structure

Family = Callable[[float], dict[str, int]]


def by_ratio(groups: Sequence[Group], options: WidthOptions) -> Family:
    """Every layer loses the same fraction."""
    return lambda share: uniform(groups, options, min(share, 1 - 1e-9))


def by_threshold(
    groups: Sequence[Group],
    options: WidthOptions,
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
    costs = []
    for group in loose:
        cost = rankings[group.name].cost
        if cost is None:
            raise UsageError(
                f"prune.allocation=global compares scores, and this criterion gives none for "
                f"'{group.name}'; take another prune=, or prune.allocation=uniform"
            )
        costs.append(normalized(slopes(cost.flip(0)), group, options, structure))
    return _lowest(loose, options, costs, fixed)


def by_curve(
    groups: Sequence[Group],
    options: WidthOptions,
    table: Mapping[str, Any],
    structure: Structure,
) -> Family:
    """The least sum of what each layer, cut alone, adds to the loss, for what is saved in all.

    The rule is ours; looking at such curves and choosing by hand is section 3.2 of Li et al.
    (arXiv:1608.08710). table: as `_sensitivity` makes it. Curves of the loss and not of accuracy,
    which a few hundred images tell in coarse steps; what is saved are the MACs, the parameters or
    the channels that the target speaks of, so that layers that save nothing are not emptied.

    Layers that are cut together lose more than the sum, the more the deeper the cuts. So a layer
    with share s of what can be saved pays s r / (1 - r) times the dense loss beside its curve, for
    the fraction r. That alone gives every layer the same fraction; where the curves say little, no
    layer strays far from it.

    Measured it is no better than uniform: obs with refit, Fashion-MNIST, curves from 100 images,
    one seed, points lost at 30 and 15 % of the MACs: vgg16_bn 0.4 and 1.4 (uniform 0.6 and 1.4),
    resnet20 1.2 and 4.8 (uniform 0.8 and 3.6).
    """
    loose = free(groups, options)
    fixed = uniform([g for g in groups if g not in loose], options, 0.0)
    if not loose:
        return lambda share: fixed
    units = {group.name: _saved(group, options, structure) for group in loose}
    all_of_them = sum(group.size * units[group.name] for group in loose)
    floor = max(table["loss"], 1 / table["images"])
    costs = []
    for group in loose:
        rows = [row for row in table["rows"] if row["layer"] == group.name]
        share = group.size * units[group.name] / all_of_them
        together = floor * share * _odds(np.arange(group.size + 1) / group.size, group.size)
        rise = torch.from_numpy(np.diff(_curve(rows, table["loss"], group.size) + together))
        costs.append(slopes(rise) / units[group.name])
    return _lowest(loose, options, costs, fixed)


def _curve(rows: Sequence[Mapping[str, Any]], dense: float, size: int) -> np.ndarray:
    """(size + 1,) what is added to the loss when so many channels go; it never falls.

    Between the measured ratios it is interpolated; behind them it rises as r / (1 - r).
    """
    points = {0.0: 0.0}
    for row in rows:
        points[1 - row["kept"] / row["channels"]] = max(0.0, row["loss"] - dense)
    ratios = np.array(sorted(points))
    rises = np.maximum.accumulate([points[ratio] for ratio in ratios])
    gone = np.arange(size + 1) / size
    found = np.interp(gone, ratios, rises)
    if ratios[-1] > 0:
        beyond = gone > ratios[-1]
        found[beyond] *= _odds(gone[beyond], size) / _odds(ratios[-1:], size)
    return found


def _odds(ratio: np.ndarray, size: int) -> np.ndarray:
    """r / (1 - r), finite where none of `size` channels stays."""
    ratio = np.minimum(ratio, 1 - 0.5 / size)
    return ratio / (1 - ratio)


def _saved(group: Group, options: WidthOptions, structure: Structure) -> int:
    """How much of what the target speaks of one channel of the group takes."""
    if options.budget is None:
        return 1
    figure = structure.params if options.budget[0] == "params" else structure.macs
    return max(1, figure({}) - figure({group.name: group.size - 1}))


def _lowest(
    loose: Sequence[Group],
    options: WidthOptions,
    costs: Sequence[Tensor],
    fixed: Mapping[str, int],
) -> Family:
    """The channels of lowest cost go. costs: (C,) rising, for every group; fixed: other widths."""
    removable = [
        cost[: max(0, g.size - options.least)] for g, cost in zip(loose, costs, strict=True)
    ]
    owners = [torch.full((len(cost),), place) for place, cost in enumerate(removable)]
    order = torch.cat(owners)[torch.argsort(torch.cat(removable), stable=True)]
    total = sum(group.size for group in loose)

    def family(share: float) -> dict[str, int]:
        gone = torch.bincount(order[: round(share * total)], minlength=len(loose)).tolist()
        counts = dict(fixed)
        for group, lost in zip(loose, gone, strict=True):
            counts[group.name] = count(group, options, lost / group.size)
        return counts

    return family


def free(groups: Sequence[Group], options: WidthOptions) -> list[Group]:
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


def normalized(costs: Tensor, group: Group, options: WidthOptions, structure: Structure) -> Tensor:
    """A layer's costs in units that other layers share, as prune.normalize says."""
    if options.normalize == "mean":
        mean = float(costs.mean())
        return costs / mean if mean > 0 else costs
    if options.normalize == "cost":
        of = options if options.budget else replace(options, budget=("macs", 1.0))
        return costs / _saved(group, of, structure)
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
