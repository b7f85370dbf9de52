"""The figures of a run and of a sweep: one style, colours that colour-blind readers tell apart.

Every function takes plain numbers and writes one PNG; matplotlib is imported when one is drawn.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), without its yellow, which is too pale for lines on white
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
PALETTE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
MARKERS = "osD^vPX<>h"
PALE, GREY, INK = "#C9CED6", "#6B7280", "#1F2933"

STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

MOST_LABELS = 60  # layer names under a figure; beyond that every second, third ... is named


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure in our style, saved at the end; neither pyplot's state nor its back end is used."""
    loggers = [logging.getLogger(name) for name in ("matplotlib", "matplotlib.font_manager")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # the first import on a machine announces its font cache
            logger.setLevel(logging.ERROR)
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}):
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(figure)
            yield figure
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Software": None})
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def channels(widths: Mapping[str, Sequence[int]], path: Path) -> None:
    """Channels of every layer before (pale) and after (blue). widths: {layer: [before, after]}."""
    names = list(widths)
    before = [int(widths[name][0]) for name in names]
    after = [int(widths[name][1]) for name in names]
    place = list(range(len(names)))
    step = math.ceil(len(names) / MOST_LABELS)
    labels = [_short(name) for name in names[::step]]
    upright = max(map(len, labels)) * len(labels) > 70
    height = 3.4 + (0.06 * max(map(len, labels)) if upright else 0.2)
    with _drawing(path, min(16.0, max(6.4, 1.6 + 0.2 * len(names))), height) as figure:
        axes = figure.add_subplot()
        axes.bar(place, before, width=0.86, color=PALE, label="before")
        axes.bar(place, after, width=0.86, color=BLUE, label="after")
        axes.set_xticks(
            place[::step], labels, rotation=90 if upright else 0, fontsize=7 if upright else 8
        )
        axes.tick_params(axis="x", length=0)
        room = max(0.8, (8 - len(names)) / 2)  # a few layers are no reason for wide bars
        axes.set_xlim(-room, len(names) - 1 + room)
        axes.set_ylim(0, max(before) * 1.04)
        axes.set_ylabel("channels")
        share = sum(after) / sum(before)
        axes.set_title(f"Channels per layer: {sum(after):,} of {sum(before):,} kept ({share:.1%})")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)


def points(accuracy: Mapping[str, float], macs: Mapping[str, float], path: Path) -> None:
    """Test accuracy and MACs at each point of a run, in order. Both: {point: value}."""
    crowded = max(len(accuracy), len(macs)) > 5
    width = max(8.2, 1.6 + 1.1 * (len(accuracy) + len(macs)))
    with _drawing(path, min(16.0, width), 4.2 if crowded else 3.5) as figure:
        left, right = figure.subplots(1, 2)
        values = list(accuracy.values())
        left.plot(range(len(values)), values, color=BLUE, marker="o", markersize=6)
        low, high = min(values), max(values)
        room = max(high - low, 0.01)
        left.set_ylim(low - 0.18 * room, high + 0.18 * room)
        for place, value in enumerate(values):
            # the label of a valley stands below it, clear of the lines
            neighbours = values[max(place - 1, 0) : place] + values[place + 1 : place + 2]
            valley = bool(neighbours) and all(value < other for other in neighbours)
            _note(left, f"{value:.4f}", place, value, below=valley)
        _no_tick_above_one(left)
        left.set_xlim(-0.4, len(values) - 0.6)
        left.set_title("Test accuracy")
        left.set_ylabel("accuracy (fraction correct)")
        first = next(iter(macs.values()))
        factor, unit = scale(max(macs.values()))
        heights = [value / factor for value in macs.values()]
        colours = [PALE, *[BLUE] * (len(heights) - 1)]
        right.bar(range(len(heights)), heights, width=0.62, color=colours)
        for place, (height, value) in enumerate(zip(heights, macs.values(), strict=True)):
            label = f"{height:.4g} {unit}".strip()
            _note(right, label if place == 0 else f"{label}\n{value / first:.3f}x", place, height)
        right.set_ylim(0, max(heights) * 1.2)
        right.set_xlim(-0.6, len(heights) - 0.4)
        right.set_title("Multiply-accumulates of one image")
        right.set_ylabel(f"MACs ({unit})" if unit else "MACs")
        for axes, series in ((left, accuracy), (right, macs)):
            axes.set_xticks(
                range(len(series)),
                list(series),
                rotation=35 if crowded else 0,
                ha="right" if crowded else "center",
            )


def training(histories: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Loss and accuracy by epoch, a column for each training.

    histories: {training: {"epoch": (E,), "train_loss": (E,), "val_loss": (E,), ...}}.
    """
    count = len(histories)
    with _drawing(path, min(16.0, max(5.2, 4.1 * count)), 5.2) as figure:
        grid = figure.subplots(2, count, sharex="col", squeeze=False)
        for column, (name, history) in enumerate(histories.items()):
            for row, figure_name in enumerate(("loss", "accuracy")):
                axes = grid[row][column]
                for part, colour, line in (("train", ORANGE, "-"), ("val", BLUE, "--")):
                    values = history.get(f"{part}_{figure_name}", ())
                    if not any(math.isfinite(value) for value in values):
                        continue
                    # few epochs: a marker shows each, and a single epoch at all
                    marker = "o" if len(values) <= 30 else None
                    axes.plot(
                        history["epoch"],
                        values,
                        line,
                        color=colour,
                        marker=marker,
                        markersize=3.5,
                        label={"train": "training part", "val": "validation part"}[part],
                    )
                if column == 0:
                    axes.set_ylabel(figure_name)
                if figure_name == "accuracy":
                    _no_tick_above_one(axes)
            grid[0][column].set_title(name)
            grid[1][column].set_xlabel("epoch")
            grid[1][column].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if len(history["epoch"]) == 1:
                grid[1][column].set_xticks(history["epoch"])
        labelled = next((a for a in grid.flat if a.get_legend_handles_labels()[0]), None)
        if labelled is not None:
            handles, labels = labelled.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=2)


def tradeoff(
    series: Mapping[str, Sequence[Mapping[str, float | None]]],
    dense: Sequence[Mapping[str, float | None]],
    path: Path,
    *,
    connect: bool,
) -> None:
    """Accuracy against MACs, one colour and marker a method; dense networks as black stars.

    series: {method: [{"macs", "accuracy", "interval"}, ...]}, dense: the same of dense networks;
    interval: half the width of the error bar, None for none. connect: join a method's points.
    """
    groups = [sorted(group, key=lambda p: p["macs"]) for group in (*series.values(), dense)]
    every = [p for group in groups for p in group]
    factor, unit = scale(max(p["macs"] for p in every))
    logarithmic = max(p["macs"] for p in every) > 30 * min(p["macs"] for p in every) > 0
    places, moved = _side_by_side(groups, logarithmic)
    with _drawing(path, 7.6, 4.4) as figure:
        axes = figure.add_subplot()
        axes.grid(True, axis="both")
        for place, (label, group) in enumerate(zip([*series, "dense"], groups, strict=True)):
            if not group:
                continue
            x = [macs / factor for macs in places[place]]
            y = [p["accuracy"] for p in group]
            is_dense = place == len(series)
            color = INK if is_dense else PALETTE[place % len(PALETTE)]
            if any(p["interval"] is not None for p in group):
                axes.errorbar(
                    x,
                    y,
                    yerr=[p["interval"] or 0.0 for p in group],
                    fmt="none",
                    ecolor=color,
                    elinewidth=1.1,
                    capsize=3,
                )
            joined = connect and not is_dense and len({p["macs"] for p in group}) == len(group)
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
        axes.margins(x=0.08, y=0.1)
        if logarithmic:
            axes.set_xscale("log")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, min(top, 1 + 0.03 * (1 - bottom)))
        _no_tick_above_one(axes)
        axes.set_xlabel(f"MACs of one image ({unit})" if unit else "MACs of one image")
        axes.set_ylabel("test accuracy")
        notes = []
        if any(p["interval"] is not None for p in every):
            notes.append("bars: 95 % interval of the mean over seeds")
        if moved:
            notes.append("equal MACs are drawn side by side")
        axes.set_title("Accuracy against MACs", pad=22 if notes else 9)
        axes.annotate(
            "; ".join(notes), (0, 1), xytext=(0, 8), xycoords="axes fraction",
            textcoords="offset points", fontsize=8, color=GREY,
        )  # fmt: skip
        figure.legend(loc="outside right upper")


def scale(largest: float) -> tuple[float, str]:
    """Divisor and unit that bring `largest` between 1 and 1000: 4_089_284_608 -> (1e9, "G")."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= factor:
            return factor, unit
    return 1.0, ""


def _side_by_side(
    groups: Sequence[Sequence[Mapping[str, float | None]]], logarithmic: bool
) -> tuple[list[list[float]], bool]:
    """Where to draw each point along MACs, so that points of equal MACs do not hide each other.

    Returns the places, shaped like `groups`, and whether any differs from its point's MACs.
    """
    every = [p["macs"] for group in groups for p in group]
    counts = {macs: every.count(macs) for macs in every}
    low, high = min(every), max(every)
    step = min(0.014, 0.08 / max(counts.values()))
    used = dict.fromkeys(every, 0)
    places = []
    for group in groups:
        row = []
        for macs in (p["macs"] for p in group):
            slot = (used[macs] - (counts[macs] - 1) / 2) * step
            used[macs] += 1
            if logarithmic:
                row.append(macs * (high / low) ** slot)
            else:
                row.append(macs + slot * ((high - low) or high))
        places.append(row)
    return places, len(counts) < len(every)


def _note(axes: "Axes", text: str, x: float, y: float, below: bool = False) -> None:
    axes.annotate(
        text, (x, y), xytext=(0, -7 if below else 5), textcoords="offset points",
        ha="center", va="top" if below else "bottom", fontsize=8,
    )  # fmt: skip


def _no_tick_above_one(axes: "Axes") -> None:
    """Accuracy ends at 1: room above it for labels and bars gets no number."""
    bottom, top = axes.get_ylim()
    if top > 1:
        ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= 1 + 1e-9]
        axes.set_yticks(ticks)
        axes.set_ylim(bottom, top)


def _short(name: str, most: int = 32) -> str:
    """The last parts of a module path that fit into `most` letters."""
    if len(name) <= most:
        return name
    parts = name.split(".")
    while len(parts) > 1 and len(".".join(parts)) > most:
        parts = parts[1:]
    return "..." + ".".join(parts)[-most:]
