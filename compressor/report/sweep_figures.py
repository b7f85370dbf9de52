"""The figures of a sweep: accuracy against costs and against a swept number, and differences.

Every function takes plain numbers and returns {"png": bytes, "svg": text for a page}. A spot is
{"label", "x", "y": estimates, "front": bool}; estimates as in statistics.py. That of a latency has
"span", the interval of its x, and "steady": an unsteady one is drawn open, and joined to no other.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.report.drawing import GREY, INK, MARKERS, PALETTE, drawing, no_tick_above_one
from compressor.report.drawing import png as _png
from compressor.report.drawing import scale as unit_of
from compressor.report.drawing import svg as _svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DENSE = "dense"  # the label of the dense networks: black stars
_KINDS = {"better": PALETTE[2], "worse": PALETTE[1]}


def tradeoff(
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    x_title: str,
    y_title: str,
    title: str,
    join: bool,
) -> dict[str, Any]:
    """A metric against a cost, a panel a problem, one colour and marker a label.

    panels: {name: spots}; join: connect the spots of a label; the Pareto front is ringed.
    """
    labels = list(dict.fromkeys(spot["label"] for spots in panels.values() for spot in spots))
    labels.sort(key=lambda label: label == DENSE)
    every = [spot for spots in panels.values() for spot in spots]
    factor, unit = unit_of(max(spot["x"]["mean"] for spot in every))
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    with drawing(7.6 if columns == 1 else 10.4, 4.4 + 3.6 * (lines - 1)) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        moved = False
        for axes, (name, spots) in zip(grid.flat, panels.items(), strict=False):
            logarithmic = _spread(spots) > 30
            places, apart = _side_by_side(spots, labels, logarithmic)
            moved |= apart
            _front(axes, spots, places, factor)
            for place, label in enumerate(labels):
                chosen = [i for i, spot in enumerate(spots) if spot["label"] == label]
                chosen.sort(key=lambda i: spots[i]["x"]["mean"])
                _points(
                    axes,
                    [spots[i] for i in chosen],
                    [places[i] / factor for i in chosen],
                    factor,
                    place,
                    label,
                    join,
                )
            axes.grid(True, axis="both")
            axes.margins(x=0.08, y=0.1)
            if logarithmic:
                axes.set_xscale("log")
            axes.set_xlim(left=max(axes.get_xlim()[0], 0))  # no cost is below nothing
            costs = [spot["x"]["mean"] / factor for spot in spots]
            if max(costs) < 1.1 * min(costs):  # nearly equal: do not magnify what is no difference
                axes.set_xlim(0.8 * min(costs), 1.2 * max(costs))
            _bounded(axes, [spot["y"]["mean"] for spot in spots])
            axes.set_xlabel(f"{x_title} ({unit})" if unit else x_title)
            axes.set_ylabel(y_title)
            if len(panels) > 1:
                axes.set_title(name)
        notes = _interval_notes(every)
        if any(spot.get("span") for spot in every):
            notes.append("bars along the cost: 95 % interval of the paired ratio")
        if any(not spot.get("steady", True) for spot in every):
            notes.append("open: unsteady latency")
        if any(spot["front"] for spot in every):
            notes.append("rings: Pareto front")
        if moved:
            notes.append("equal costs are drawn side by side")
        _titles(figure, title, notes)
        _legend(figure, labels)
        return {"png": _png(figure), "svg": _svg(figure)}


def along(
    series: Mapping[str, Sequence[Mapping[str, Any]]], *, x_title: str, y_title: str, title: str
) -> dict[str, Any]:
    """A metric against a swept number, a line each series. series: {label: spots}."""
    every = [spot for spots in series.values() for spot in spots]
    with drawing(7.6, 4.4) as figure:
        axes = figure.add_subplot()
        for place, (label, spots) in enumerate(series.items()):
            spots = sorted(spots, key=lambda spot: spot["x"]["mean"])
            values = sorted({spot["x"]["mean"] for spot in every})
            # bars at equal places would hide each other
            step = (values[-1] - values[0]) * 0.006
            shift = (place - (len(series) - 1) / 2) * step
            x = [spot["x"]["mean"] + shift for spot in spots]
            _points(axes, spots, x, 1.0, place, label, join=True)
        axes.grid(True, axis="both")
        axes.margins(x=0.06, y=0.1)
        if len(values) <= 8:
            axes.set_xticks(values, [f"{value:g}" for value in values])
        _bounded(axes, [spot["y"]["mean"] for spot in every])
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        _titles(figure, title, _interval_notes(every))
        _legend(figure, list(series))
        return {"png": _png(figure), "svg": _svg(figure)}


def differences(
    rows: Sequence[Mapping[str, Any]], *, x_title: str, title: str, note: str
) -> dict[str, Any]:
    """Each comparison's difference with its interval. rows: {"label", "change", "kind"}."""
    with drawing(7.6, 1.5 + 0.24 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, linewidth=1)
        for place, row in enumerate(rows):
            change, color = row["change"], _KINDS.get(row["kind"], GREY)
            shown = row["kind"] in _KINDS
            axes.errorbar(
                change["mean"],
                place,
                xerr=change["interval"],
                fmt="o" if change["interval"] is not None else "x",
                color=color,
                markerfacecolor=color if shown else "white",
                elinewidth=1.4,
                capsize=3,
            )
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_title)
        _titles(figure, title, [note])
        return {"png": _png(figure), "svg": _svg(figure)}


# -- parts --------------------------------------------------------------------------------------


def _points(
    axes: "Axes",
    spots: Sequence[Mapping[str, Any]],
    x: Sequence[float],
    factor: float,
    place: int,
    label: str,
    join: bool,
) -> None:
    if not spots:
        return
    is_dense = label == DENSE
    color = INK if is_dense else PALETTE[place % len(PALETTE)]
    y = [spot["y"]["mean"] for spot in spots]
    for name in ("x", "y"):
        bars = [spot[name]["interval"] for spot in spots]
        if any(bars):
            scaled = [(bar or 0.0) / (factor if name == "x" else 1.0) for bar in bars]
            axes.errorbar(
                x,
                y,
                fmt="none",
                ecolor=color,
                elinewidth=1.1,
                capsize=3,
                **{f"{name}err": scaled},
            )
    _spans(axes, spots, x, factor, color)
    unsteady = [i for i, spot in enumerate(spots) if not spot.get("steady", True)]
    joined = join and not is_dense and len({spot["x"]["mean"] for spot in spots}) == len(spots)
    joined = joined and not unsteady
    axes.plot(
        x,
        y,
        color=color,
        label=label,
        marker="*" if is_dense else MARKERS[place % len(MARKERS)],
        markersize=12 if is_dense else 6.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="-" if joined else "none",
        linewidth=1.2,
        zorder=3,
    )
    if unsteady:
        axes.plot(
            [x[i] for i in unsteady],
            [y[i] for i in unsteady],
            linestyle="none",
            marker="o",
            markersize=4,
            color="white",
            zorder=4,
        )


def _spans(
    axes: "Axes", spots: Sequence[Mapping[str, Any]], x: Sequence[float], factor: float, color: str
) -> None:
    """The intervals of latencies, from the place where each spot is drawn."""
    for spot, place in zip(spots, x, strict=True):
        if spot.get("span"):
            own = spot["x"]["mean"] / factor
            low, high = (place + end / factor - own for end in spot["span"])
            steady = spot["steady"]
            axes.plot(
                [low, high],
                [spot["y"]["mean"]] * 2,
                color=color,
                linewidth=1.1,
                linestyle="-" if steady else (0, (2, 2)),
                marker="|",
                markersize=6,
            )


def _front(
    axes: "Axes", spots: Sequence[Mapping[str, Any]], places: Sequence[float], factor: float
) -> None:
    chosen = sorted(
        (places[i] / factor, spot["y"]["mean"]) for i, spot in enumerate(spots) if spot["front"]
    )
    if chosen:
        x, y = zip(*chosen, strict=True)
        axes.plot(x, y, color=GREY, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        axes.plot(
            x,
            y,
            linestyle="none",
            marker="o",
            markersize=15,
            markerfacecolor="none",
            markeredgecolor=GREY,
            markeredgewidth=1.1,
            zorder=2,
        )


def _side_by_side(
    spots: Sequence[Mapping[str, Any]], labels: Sequence[str], logarithmic: bool
) -> tuple[list[float], bool]:
    """Where to draw each spot along x, so that spots of equal cost do not hide each other.

    Returns the places and whether any differs from its spot's own.
    """
    costs = [spot["x"]["mean"] for spot in spots]
    counts = {cost: costs.count(cost) for cost in costs}
    low, high = min(costs), max(costs)
    step = min(0.014, 0.08 / max(counts.values()))
    used = dict.fromkeys(costs, 0)
    places = list(costs)
    for i in sorted(range(len(spots)), key=lambda i: labels.index(spots[i]["label"])):
        cost = costs[i]
        slot = (used[cost] - (counts[cost] - 1) / 2) * step
        used[cost] += 1
        if logarithmic:
            places[i] = cost * (high / low) ** slot
        else:
            places[i] = cost + slot * ((high - low) or high)
    return places, len(counts) < len(costs)


def _spread(spots: Sequence[Mapping[str, Any]]) -> float:
    costs = [spot["x"]["mean"] for spot in spots]
    return max(costs) / min(costs) if min(costs) > 0 else 1.0


def _bounded(axes: "Axes", values: Sequence[float]) -> None:
    """A fraction ends at 0 and 1: an error bar may pass them, the scale does not."""
    if all(0 <= value <= 1 for value in values):
        bottom, top = axes.get_ylim()
        bottom = max(bottom, -0.03 * min(top, 1))
        axes.set_ylim(bottom, min(top, 1 + 0.03 * (1 - bottom)))
        no_tick_above_one(axes)


def _interval_notes(spots: Sequence[Mapping[str, Any]]) -> list[str]:
    barred = any(spot[name]["interval"] for spot in spots for name in ("x", "y"))
    return ["bars: 95 % interval of the mean over seeds"] if barred else []


def _titles(figure: "Figure", title: str, notes: Sequence[str]) -> None:
    """The figure's title, and in grey below it how to read it."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    axes = figure.axes[0]
    # a line wider than the figure would leave no room for the axes
    lines = textwrap.wrap(
        "; ".join(note for note in notes if note), int(14 * figure.get_figwidth())
    )
    axes.annotate(
        "\n".join(lines), (0.01, 1),
        xytext=(0, 28 if axes.get_title(loc="left") else 6),
        xycoords=("figure fraction", "axes fraction"),
        textcoords="offset points", fontsize=8, color=GREY, va="bottom",
    )  # fmt: skip


def _legend(figure: "Figure", labels: Sequence[str]) -> None:
    handles = {}
    for each in figure.axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    named = [label for label in labels if label in handles]
    if named:
        # below: a narrow window shows the left part of a figure first, and all of its height
        figure.legend(
            [handles[name] for name in named],
            named,
            loc="outside lower left",
            ncols=min(6, len(named), max(1, 100 // (6 + max(map(len, named))))),
        )
