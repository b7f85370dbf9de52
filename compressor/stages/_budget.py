"""How many channels stay so that a stated share of the MACs or parameters does, solved on plans.

No network is cut here: the figures of a plan follow from its widths, thousands a second.
"""

from collections.abc import Callable, Mapping, Sequence

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.stages._counts import copies, uniform
from compressor.stages._options import SelectOptions
from compressor.surgery import Group, Structure

TOLERANCE, ROUNDED = 0.01, 0.02  # of the dense figure; with prune.round_to


def solve(structure: Structure, groups: Sequence[Group], options: SelectOptions) -> dict[str, int]:
    """Group -> channels that it keeps: one ratio for all layers, met by single steps at the end.

    Layers with a ratio of their own (prune.ratios) keep it. Without a budget it is `uniform`.
    """
    if options.budget is None:
        return uniform(groups, options)
    name, share = options.budget
    figure = getattr(structure, name)
    goal = share * figure({})
    least = _at(groups, options, 1 - 1e-9)
    low, high = reach(structure, groups, options)[name]
    if not low - tolerance(options) <= share <= high + tolerance(options):
        raise UsageError(
            f"prune.budget.{name}={share} cannot be reached: with prune.scope={options.scope} this "
            f"network keeps {low:.3f} to {high:.3f} of its {name}; choose "
            "a budget in that range, or cut more layers"
        )
    above, below = 0.0, 1 - 1e-9
    for _ in range(40):
        middle = (above + below) / 2
        if figure(_at(groups, options, middle)) > goal:
            above = middle
        else:
            below = middle
    return _between(
        _at(groups, options, above), _at(groups, options, below), figure, goal,
        {group.name: _step(group, options) for group in groups},
        {group.name: (least[group.name], group.size) for group in groups
         if options.ratio_of(group) is None},
    )  # fmt: skip


def reach(
    structure: Structure, groups: Sequence[Group], options: SelectOptions
) -> dict[str, tuple[float, float]]:
    """The shares of the dense MACs and parameters that these layers leave at least and at most."""
    least, most = _at(groups, options, 1 - 1e-9), _at(groups, options, 0.0)
    figures = {"macs": structure.macs, "params": structure.params}
    return {n: (f(least) / f({}), f(most) / f({})) for n, f in figures.items()}


def tolerance(options: SelectOptions) -> float:
    return TOLERANCE if options.round_to is None else ROUNDED


def check(options: SelectOptions, dense: Mapping[str, int], small: Mapping[str, int]) -> None:
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


def _at(groups: Sequence[Group], options: SelectOptions, ratio: float) -> dict[str, int]:
    return uniform(groups, options, ratio)


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
