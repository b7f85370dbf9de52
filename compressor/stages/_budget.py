"""How many channels stay so that a stated share of the MACs or parameters does, solved on plans.

No network is cut here: the figures of a plan follow from its widths, thousands a second. What is
solved for is one number, from which an allocation (`_allocate`) makes the widths of all layers.
"""

from collections.abc import Callable, Mapping, Sequence

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.stages._allocate import Family, by_ratio, free
from compressor.stages._counts import copies, uniform
from compressor.stages._options import SelectOptions
from compressor.surgery import Group, Structure

TOLERANCE, ROUNDED = 0.01, 0.02  # of the dense figure; with prune.round_to
TIMED = 0.1  # of the latency that is asked for


def solve(
    structure: Structure,
    groups: Sequence[Group],
    options: SelectOptions,
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
    return at_share(structure, groups, options, family or by_ratio(groups, options), name, share)


def at_share(
    structure: Structure,
    groups: Sequence[Group],
    options: SelectOptions,
    family: Family,
    name: str,
    share: float,
) -> dict[str, int]:
    """The widths whose MACs or parameters (name) are this share of the dense network's."""
    figure = getattr(structure, name)
    return _meet(groups, options, family, figure, share * figure({}))


def reach(
    structure: Structure, groups: Sequence[Group], options: SelectOptions
) -> dict[str, tuple[float, float]]:
    """The shares of the dense MACs and parameters that these layers leave at least and at most."""
    family = by_ratio(groups, options)
    least, most = family(1.0), family(0.0)
    figures = {"macs": structure.macs, "params": structure.params}
    return {n: (f(least) / f({}), f(most) / f({})) for n, f in figures.items()}


def unreachable(options: SelectOptions, low: float, high: float, where: str = "") -> str:
    """The line that refuses a budget outside [low, high] of the dense figure."""
    name, share = options.budget
    return (
        f"prune.budget.{name}={share} cannot be reached: with prune.scope={options.scope} this "
        f"network keeps {low:.3f} to {high:.3f} of its {name}{where}; choose "
        "a budget in that range, or cut more layers"
    )


def tolerance(options: SelectOptions) -> float:
    """By how much of the dense figure the result may miss the budget."""
    if options.budget and options.budget[0] == "latency":
        return TIMED * options.budget[1]
    return TOLERANCE if options.round_to is None else ROUNDED


def check(options: SelectOptions, dense: Mapping[str, float], small: Mapping[str, float]) -> None:
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
    options: SelectOptions,
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
    least = family(1.0)
    loose = free(groups, options)
    return _between(
        family(above), family(below), figure, goal,
        {group.name: _step(group, options) for group in loose},
        {group.name: (least[group.name], group.size) for group in loose},
    )  # fmt: skip


def _step(group: Group, options: SelectOptions) -> int:
    """By how many channels the width of a group can move."""
    if options.round_to is None:
        return 1
    return surgery.keep_count(group.size, 1 - 1e-9, options.round_to, groups=copies(group))


def _between(
    wide: dict[str, int],
    thin: Mapping[str, int],
    figure: Callable[[Mapping[str, int]], int],
    goal: float,
    steps: Mapping[str, int],
    limits: Mapping[str, tuple[int, int]],
) -> dict[str, int]:
    """From `wide` towards `thin` a layer at a time, then single steps as long as they help."""
    best = dict(wide)
    for name in wide:
        trial = {**best, name: thin[name]}
        if abs(figure(trial) - goal) <= abs(figure(best) - goal):
            best = trial
    for _ in range(4 * len(limits)):
        distance = abs(figure(best) - goal)
        down = figure(best) > goal
        trials = []
        for name, (least, most) in limits.items():
            count = best[name] - steps[name] if down else best[name] + steps[name]
            if least <= count <= most:
                trials.append({**best, name: count})
        nearest = min(trials, key=lambda trial: abs(figure(trial) - goal), default=best)
        if abs(figure(nearest) - goal) >= distance:
            break
        best = nearest
    return best
