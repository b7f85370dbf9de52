"""Which figures a sweep has numbers for, and the numbers that each is drawn from."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report import sweep_figures
from compressor.report.configurations import INERT, configured, describe, is_cost, one_form
from compressor.report.members import number

# What is drawn, in the order of the page
NAMES = {
    "summary.png": "{metric} against multiply-accumulates",
    "summary_latency.png": "{metric} against measured latency",
    "summary_axis.png": "{metric} along the swept number",
    "summary_differences.png": "Differences from the baseline, paired by seed",
}
_MOST_LINES, _MOST_ROWS, _MOST_PANELS = 12, 60, 6


def draw(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{file name: {"png", "svg", "caption"}} of the figures that there are numbers for."""
    metric = summary["metric"]
    if metric is None:
        return {}
    drawn: dict[str, dict[str, Any] | None] = {
        "summary.png": _tradeoff(summary, "macs", "MACs of one image", "MACs"),
        "summary_latency.png": _tradeoff(
            summary, "latency_ms", _latency_title(summary), "measured latency"
        ),
        "summary_axis.png": _axis(summary),
        "summary_differences.png": _differences(summary),
    }
    found = {}
    for name, figure in drawn.items():
        if figure is not None:
            caption = NAMES[name].format(metric=metric.title.capitalize())
            found[name] = {**figure, "caption": caption}
    return found


def _tradeoff(
    summary: Mapping[str, Any], cost: str, x_title: str, words: str
) -> dict[str, Any] | None:
    """The metric against a cost; None where the cost is the metric, or no member has both."""
    metric = summary["metric"]
    if is_cost(metric, cost):
        return None
    panels: dict[str, list[dict[str, Any]]] = {}
    named = [(entry["series"], entry) for entry in summary["configurations"]]
    named += [(sweep_figures.DENSE, entry) for entry in summary["dense"].values()]
    by_ratio = _by_ratio(summary)
    for label, entry in named:
        if entry["value"] and entry[cost]:
            spot = {"label": label, "x": entry[cost], "y": entry["value"]}
            spot["front"] = cost in entry["front"]
            if cost == "latency_ms":
                spot |= _latency_spot(entry, by_ratio)
            panels.setdefault(entry["problem"], []).append(spot)
    if not panels:
        return None
    panels = dict(list(panels.items())[:_MOST_PANELS])
    return sweep_figures.tradeoff(
        panels,
        x_title=x_title,
        y_title=_y_title(metric),
        title=f"{metric.title.capitalize()} against {words}",
        # along one numeric axis a method's points are a curve; along two they are not
        join=len(_numeric(summary)) == 1,
    )


def _by_ratio(summary: Mapping[str, Any]) -> bool:
    """Whether latencies are drawn as ratios: all have one, and to one dense network."""
    every = [*summary["configurations"], *summary["dense"].values()]
    timed = [entry for entry in every if entry["latency_ms"]]
    return one_form(every) and all(entry["latency_ratio"] for entry in timed)


def _latency_title(summary: Mapping[str, Any]) -> str:
    by_ratio = _by_ratio(summary)
    return "latency, share of the dense network's" if by_ratio else "latency of a batch, ms"


def _latency_spot(entry: Mapping[str, Any], by_ratio: bool) -> dict[str, Any]:
    """Where a latency is drawn: its ratio where all have one dense network, its interval along."""
    ratio, median = entry["latency_ratio"], entry["latency_ms"]["mean"]
    steady = entry["steady"] and (by_ratio or entry["steady_ms"])
    if ratio is None or entry["latency_span"] is None:  # of a release that had no ratio
        x = {"mean": median, "interval": None}
        return {"x": x, "span": None, "steady": False}
    scale = 1.0 if by_ratio else median / ratio["mean"]
    low, high = entry["latency_span"]
    x = {"mean": scale * ratio["mean"], "interval": None}
    return {"x": x, "span": (scale * low, scale * high), "steady": steady}


def _numeric(summary: Mapping[str, Any]) -> list[str]:
    """Swept fields that have numbers for values, and at least two of them."""
    found = []
    for field in configured(summary["fields"]):
        values = {entry["fields"][field] for entry in summary["configurations"]} - {INERT}
        if len(values) > 1 and all(number(value) is not None for value in values):
            found.append(field)
    return found


def _axis(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metric along the first swept number, a line for each setting of the other fields."""
    fields = _numeric(summary)
    if not fields:
        return None
    # the number with most values is the axis
    count = {f: len({e["fields"][f] for e in summary["configurations"]}) for f in fields}
    axis = max(fields, key=count.__getitem__)
    series: dict[str, list[dict[str, Any]]] = {}
    for entry in summary["configurations"]:
        value = number(entry["fields"][axis])
        if value is None or entry["value"] is None:
            continue
        others = {name: text for name, text in entry["fields"].items() if name != axis}
        spot = {"x": {"mean": value, "interval": None}, "y": entry["value"]}
        series.setdefault(describe(others, nothing="final"), []).append(spot)
    if not series or len(series) > _MOST_LINES or max(map(len, series.values())) < 2:
        return None
    metric = summary["metric"]
    return sweep_figures.along(
        series,
        x_title=axis,
        y_title=_y_title(metric),
        title=f"{metric.title.capitalize()} along {axis}",
    )


def _differences(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = [each for each in summary["comparisons"] if each["change"]]
    if not rows or len(rows) > _MOST_ROWS:
        return None
    metric, name = summary["metric"], summary["baseline"].name
    shown: Sequence[Mapping[str, Any]] = [
        {
            "label": each["subject"] + (f"  {each['where']}" if each["where"] else ""),
            "change": {
                "mean": each["change"]["mean"] * metric.factor,
                "interval": None
                if each["change"]["interval"] is None
                else each["change"]["interval"] * metric.factor,
            },
            "kind": each["kind"],
        }
        for each in rows
    ]
    unit = f", {metric.unit}" if metric.unit else ""
    better = "more" if metric.higher else "less"
    return sweep_figures.differences(
        shown,
        x_title=f"difference in {metric.title}{unit}",
        title=f"{metric.title.capitalize()} minus that of {name}, paired by seed",
        note=f"bars: 95 % interval; green better, red worse, open: cannot tell; {better} is better",
    )


def _y_title(metric: Any) -> str:
    return f"test {metric.title}" if metric.point == "final" else metric.name
