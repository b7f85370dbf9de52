"""How many channels stay so that a stated share of the MACs or parameters does, solved on plans.

No network is cut here: the figures of a plan follow from its widths, thousands a second. What is
solved for is one number, from which an allocation (`_allocate`) makes the widths of all layers.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from compressor.errors import RunError, UsageError
from compressor.stages._allocate import Family, by_ratio, free
from compressor.stages._counts import copies, count, uniform
from compressor.stages._options import WidthOptions
from compressor.surgery import Group, Structure

TOLERANCE, ROUNDED = 0.01, 0.02  # of the dense figure; with prune.round_to
TIMED = 0.1  # of the latency that is asked for
TRIED = 10_000  # widths of all layers that a search looks at, a second or two


def solve(
    structure: Structure,
    groups: Sequence[Group],
    options: WidthOptions,
    family: Family | None = None,
) -> dict[str, int]:
    """Group -> channels that it keeps: the family's member that meets the ratio or the budget.

    family: by default one ratio for all layers. Layers with a ratio of their own (prune.ratios)
    keep it. A budget of latency is solved by measuring: `_latency.solve`.
    """
    if options.budget is None:
        if options.allocation == "uniform":
            return uniform(groups, options)
        loose = free(groups, options)
        goal = (1 - options.ratio) * sum(group.size for group in loose)
        channels = lambda counts: sum(counts[group.name] for group in loose)  # noqa: E731
        return _meet(groups, options, family, channels, goal)
    name, share = options.budget
    low, high = reach(structure, groups, options)[name]
    if not low - tolerance(options) <= share <= high + tolerance(options):
        raise UsageError(unreachable(options, low, high))
    family = family or by_ratio(groups, options)
    counts = at_share(structure, groups, options, family, name, share)
    figure = _figures(structure)[name]
    near = (tolerance(options) - 1e-6) * figure({})  # `check` divides, which rounds
    return _search(counts, figure, share * figure({}), near, _grids(groups, options))


def at_share(
    structure: Structure,
    groups: Sequence[Group],
    options: WidthOptions,
    family: Family,
    name: str,
    share: float,
) -> dict[str, int]:
    """The widths whose MACs or parameters (name) are this share of the dense network's."""
    figure = _figures(structure)[name]
    return _meet(groups, options, family, figure, share * figure({}))


def reach(
    structure: Structure, groups: Sequence[Group], options: WidthOptions
) -> dict[str, tuple[float, float]]:
    """The shares of the dense MACs and parameters that these layers leave at least and at most."""
    family = by_ratio(groups, options)
    least, most = family(1.0), family(0.0)
    return {n: (f(least) / f({}), f(most) / f({})) for n, f in _figures(structure).items()}


def _figures(structure: Structure) -> dict[str, Callable[[Mapping[str, int]], int]]:
    return {"macs": structure.macs, "params": structure.params}


def check_widths_known(
    structure: Structure,
    groups: Sequence[Group],
    options: WidthOptions,
    counts: Mapping[str, int],
) -> None:
    """Refuse a budget of MACs or parameters that these widths, `solve`'s, miss.

    Where a trained network decides about the widths they are not the final ones, so that only a
    search that has seen all there are is held against the budget.
    """
    if options.budget is None or options.budget[0] not in ("macs", "params"):
        return
    all_seen = math.prod(len(grid) for grid in _grids(groups, options).values()) <= TRIED
    if options.allocation != "uniform" and not all_seen:
        return
    name, share = options.budget
    figure = _figures(structure)[name]
    got = figure(counts) / figure({})
    if abs(got - share) > tolerance(options):
        raise UsageError(
            f"prune.budget.{name}={share} cannot be met: the nearest widths keep {got:.4f} of the "
            f"{name}, since layers {_move_by(options)}; take another budget, lower "
            "prune.round_to or prune.min_channels, or cut more layers"
        )


def _move_by(options: WidthOptions) -> str:
    return "are narrow" if options.round_to is None else f"move by {options.round_to} channels"


def unreachable(options: WidthOptions, low: float, high: float, where: str = "") -> str:
    """The line that refuses a budget outside [low, high] of the dense figure."""
    name, share = options.budget
    return (
        f"prune.budget.{name}={share} cannot be reached: with prune.scope={options.scope} this "
        f"network keeps {low:.3f} to {high:.3f} of its {name}{where}; choose "
        "a budget in that range, or cut more layers"
    )


def tolerance(options: WidthOptions) -> float:
    """By how much of the dense figure the result may miss the budget."""
    if options.budget and options.budget[0] == "latency":
        return TIMED * options.budget[1]
    return TOLERANCE if options.round_to is None else ROUNDED


def check(options: WidthOptions, dense: Mapping[str, float], small: Mapping[str, float]) -> None:
    """Refuse a result that misses its budget; dense, small: the measured figures by name."""
    if options.budget is None:
        return
    name, share = options.budget
    got = small[name] / dense[name]
    if abs(got - share) > tolerance(options):
        raise RunError(
            f"prune.budget.{name}={share} asks for {share:.3f} of the dense figure and the cut "
            f"network has {got:.4f}: narrow layers move in coarse steps; lower prune.round_to or "
            "prune.min_channels, or take prune.scope=all"
        )


def _meet(
    groups: Sequence[Group],
    options: WidthOptions,
    family: Family,
    figure: Callable[[Mapping[str, int]], int],
    goal: float,
) -> dict[str, int]:
    """The member of the family whose figure is the goal, met by single steps at the end."""
    above, below = 0.0, 1.0
    for _ in range(40):
        middle = (above + below) / 2
        if figure(family(middle)) > goal:
            above = middle
        else:
            below = middle
    return _between(family(above), family(below), figure, goal, _grids(groups, options))


def _grids(groups: Sequence[Group], options: WidthOptions) -> dict[str, list[int]]:
    """Group without a ratio of its own -> the widths that it can have, rising.

    Multiples of round_to, and all of its channels whatever their number.
    """
    grids = {}
    for group in free(groups, options):
        least, step = count(group, options, 1.0), 1
        if options.round_to is not None:
            step = options.round_to // math.gcd(options.round_to, copies(group))
        grids[group.name] = [*range(least, group.size, step), group.size]
    return grids


def _between(
    wide: dict[str, int],
    thin: Mapping[str, int],
    figure: Callable[[Mapping[str, int]], int],
    goal: float,
    grids: Mapping[str, list[int]],
) -> dict[str, int]:
    """From `wide` towards `thin` a layer at a time, then single steps as long as they help."""
    best = dict(wide)
    for name in wide:
        trial = {**best, name: thin[name]}
        if abs(figure(trial) - goal) <= abs(figure(best) - goal):
            best = trial
    for _ in range(4 * len(grids)):
        distance = abs(figure(best) - goal)
        down = figure(best) > goal
        trials = list(_moved(best, grids, (-1,) if down else (1,)))
        nearest = min(trials, key=lambda trial: abs(figure(trial) - goal), default=best)
        if abs(figure(nearest) - goal) >= distance:
            break
        best = nearest
    return best


def _moved(
    counts: Mapping[str, int], grids: Mapping[str, list[int]], ways: Sequence[int]
) -> Iterator[dict[str, int]]:
    """The widths with one layer a step narrower (way -1) or wider (1)."""
    for name, grid in grids.items():
        for way in ways:
            place = bisect_left(grid, counts[name]) + way
            if 0 <= place < len(grid):
                yield {**counts, name: grid[place]}


def _search(
    counts: dict[str, int],
    figure: Callable[[Mapping[str, int]], int],
    goal: float,
    near: float,
    grids: Mapping[str, list[int]],
) -> dict[str, int]:
    """Widths whose figure is within `near` of the goal, by moves of several layers where one is not
    enough; the nearest that were found if there are none.

    Always goes on from the nearest widths so far, those of the fewest moves first.
    """
    best, distance = counts, abs(figure(counts) - goal)
    open_ = [(distance, 0, 0, counts)]
    seen = {tuple(counts.values())}
    while distance > near and open_ and len(seen) < TRIED:
        _, moves, _, at = heapq.heappop(open_)
        for trial in _moved(at, grids, (-1, 1)):
            place = tuple(trial.values())
            if place in seen:
                continue
            seen.add(place)
            away = abs(figure(trial) - goal)
            heapq.heappush(open_, (away, moves + 1, len(seen), trial))
            if away < distance:
                best, distance = trial, away
    return best
