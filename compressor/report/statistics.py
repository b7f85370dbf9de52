"""The statistics of a sweep: t-intervals, differences paired by seed, verdicts, Pareto fronts.

Pure functions of plain numbers. An estimate is {"mean", "interval", "n"}: the mean of n values,
half the width of its 95 % interval by Student's t, None where one value alone leaves no spread.
"""

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

LEVEL = 0.95
POINT = 0.01  # the difference of a fraction that a reader may be expected to care about
_MOST_SEEDS = 1 << 20


def interval(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Half the width of the t-interval of the mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit  # the t quantile without the weight of scipy.stats

    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)


def estimate(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Mean and interval of the values that are there and finite; None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return {"mean": math.fsum(known) / len(known), "interval": interval(known), "n": len(known)}


def paired(
    ours: Mapping[Hashable, float | None], theirs: Mapping[Hashable, float | None]
) -> list[float]:
    """ours - theirs for every seed that both have.

    A seed that is good or bad for both cancels, so the spread is that of the difference alone.
    """
    differences = []
    for seed, value in ours.items():
        other = theirs.get(seed)
        if value is not None and other is not None:
            # twelve digits: 0.95 - 0.96 and 0.97 - 0.98 are one difference, not two
            differences.append(round(value - other, 12))
    return [value for value in differences if math.isfinite(value)]


def kind(change: Mapping[str, Any] | None, higher: bool = True) -> str:
    """What an estimated difference shows.

    "better" or "worse": the interval excludes 0. "none": it includes 0. "single": one seed.
    "even": the same difference in every seed, which leaves no spread to judge by (two seeds of
    a small test part often differ by the same count of images). "absent": no pair of members.
    """
    if change is None:
        return "absent"
    if change["interval"] is None:
        return "single"
    if change["interval"] == 0:
        return "even" if change["mean"] else "none"
    if abs(change["mean"]) <= change["interval"]:
        return "none"
    return "better" if (change["mean"] > 0) == higher else "worse"


def verdict(
    name: str,
    against: str,
    change: Mapping[str, Any] | None,
    *,
    higher: bool = True,
    factor: float = 100.0,
    unit: str = "points",
) -> str:
    """The plain sentence: "thinet beats random by 1.3 ± 0.4 points over 3 seeds".

    change: an estimated difference, name's minus against's; factor and unit turn it into words.
    """
    what = kind(change, higher)
    if change is None:
        return f"{name} against {against}: no pair of finished members with equal seeds"
    amount = amounts(change, factor)
    unit = f" {unit}" if unit else ""
    if what == "single":
        return f"{name} against {against}: one seed, no interval ({amount}{unit} in that seed)"
    seeds = f"over {change['n']} seeds"
    if what == "even":
        return (
            f"{name} against {against}: {amount}{unit} in each of {change['n']} seeds, "
            "which leaves no spread to judge by"
        )
    if what == "none" and not change["interval"]:
        return f"{name} against {against}: no difference in any of {change['n']} seeds"
    if what == "none":
        return (
            f"{name} against {against}: {change['n']} seeds cannot tell ({amount}{unit})"
            f"{_what_would(change, factor, unit)}"
        )
    verb = "beats" if what == "better" else "loses to"
    return f"{name} {verb} {against} by {amount.lstrip('+-')}{unit} {seeds}"


def _what_would(change: Mapping[str, Any], factor: float, unit: str) -> str:
    """How large a difference may yet be, where that is small, or how many seeds would show one."""
    if factor == 100 and change["interval"] <= POINT:
        most = {"mean": abs(change["mean"]) + change["interval"], "interval": None}
        return f", and leave room for {amounts(most, factor).lstrip('+')}{unit} at most"
    target = worth_showing(change, factor)
    if not target:
        return ""
    size = amounts({"mean": target, "interval": None}, factor).lstrip("+")
    return f"; about {more_seeds(change, target):,} more would show a difference of {size}{unit}"


def worth_showing(change: Mapping[str, Any], factor: float = 100.0) -> float:
    """The difference that is asked for: the one that was seen, of fractions one point at least."""
    return max(abs(change["mean"]), POINT if factor == 100 else 0.0)


def more_seeds(change: Mapping[str, Any], target: float) -> int:
    """How many further seeds bring half the interval below `target`, should the spread stay.

    change: an estimate of two values or more whose interval is not 0; target: above 0.
    """
    from scipy.special import stdtrit

    n, level = change["n"], (1 + LEVEL) / 2
    deviation = change["interval"] * math.sqrt(n) / float(stdtrit(n - 1, level))
    low, high = n, n + 1

    def enough(count: int) -> bool:
        return float(stdtrit(count - 1, level)) * deviation < target * math.sqrt(count)

    while not enough(high) and high < _MOST_SEEDS:
        low, high = high, 2 * high
    while high - low > 1:  # the interval falls with every seed
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high - n


def amounts(change: Mapping[str, Any], factor: float = 100.0) -> str:
    """A signed difference with its interval: "+1.3 ± 0.4"; the latter only where there is spread.

    Points have one decimal, other figures two digits, and more where the figures need them to
    keep their order: 0.44 ± 0.43 is not "0.4 ± 0.4".
    """
    mean, half = change["mean"] * factor, (change["interval"] or 0.0) * factor
    least = 1 if factor == 100 else decimals(max(abs(mean), half), 2)
    for places in range(least, least + 7):
        shown, shown_half = round(abs(mean), places), round(half, places)
        visible = (shown or not mean or half) and (shown_half or not half)
        if visible and (shown > shown_half) == (abs(mean) > half):
            break
    text = f"{mean:+,.{places}f}"
    if not re.search("[1-9]", text):
        text = text.replace("-", "+")  # no "-0.0"
    return text if not half else f"{text} ± {half:,.{places}f}"


def decimals(value: float, digits: int) -> int:
    """Decimals that show at least `digits` significant digits: (0.0123, 2) -> 3, (616, 2) -> 0."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def front(
    points: Sequence[tuple[float | None, float | None]],
    spans: Sequence[tuple[float, float] | None] = (),
) -> list[bool]:
    """Which (cost, gain) points are on the Pareto front: low cost, high gain.

    A point is off it where another one costs no more, gains no less, and is better in one of them.
    A point that lacks one of the two is never on it. spans: (low, high) within which each cost was
    measured; two costs of which one lies in the other's span count as equal.
    """
    spans = spans or [None] * len(points)
    known = [
        (c, g, s)
        for (c, g), s in zip(points, spans, strict=True)
        if c is not None and g is not None
    ]

    def dominated(cost: float, gain: float, span: tuple[float, float] | None) -> bool:
        for c, g, s in known:
            equal = _within(c, span) or _within(cost, s) or c == cost
            if (equal or c < cost) and g >= gain and (g > gain or not equal):
                return True
        return False

    return [
        c is not None and g is not None and not dominated(c, g, s)
        for (c, g), s in zip(points, spans, strict=True)
    ]


def _within(value: float, span: tuple[float, float] | None) -> bool:
    return span is not None and span[0] <= value <= span[1]
