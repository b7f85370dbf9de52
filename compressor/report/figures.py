"""The figures of a run. Every function takes plain numbers and writes one PNG."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.report.drawing import BLUE, ORANGE, PALE, drawing, no_tick_above_one, png, scale
from compressor.report.files import publish
from compressor.report.headline import Headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAR, _FAR_MOST = 20, 300  # times the median loss: a log axis from here on, and its end
MOST_LABELS = 60  # layer names under a figure; beyond that every second, third ... is named


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


def points(
    headlines: Mapping[str, float], macs: Mapping[str, float], headline: Headline, path: Path
) -> None:
    """The headline on the test part and MACs at each point of a run, in order.

    headlines, macs: {point: value}.
    """
    crowded = max(len(headlines), len(macs)) > 5
    width = max(8.2, 1.6 + 1.1 * (len(headlines) + len(macs)))
    with _drawing(path, min(16.0, width), 4.2 if crowded else 3.5) as figure:
        left, right = figure.subplots(1, 2)
        values = list(headlines.values())
        left.plot(range(len(values)), values, color=BLUE, marker="o", markersize=6)
        low, high = min(values), max(values)
        room = max(high - low, 0.01)
        left.set_ylim(low - 0.18 * room, high + 0.18 * room)
        for place, value in enumerate(values):
            # the label of a valley stands below it, clear of the lines
            neighbours = values[max(place - 1, 0) : place] + values[place + 1 : place + 2]
            valley = bool(neighbours) and all(value < other for other in neighbours)
            _note(left, f"{value:.4f}", place, value, below=valley)
        if high <= 1:
            no_tick_above_one(left)
        left.set_xlim(-0.4, len(values) - 0.6)
        left.set_title(f"Test {headline.words}")
        left.set_ylabel(headline.axis)
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
        for axes, series in ((left, headlines), (right, macs)):
            axes.set_xticks(
                range(len(series)),
                list(series),
                rotation=35 if crowded else 0,
                ha="right" if crowded else "center",
            )


def training(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    headline: Headline = Headline(),  # noqa: B008 (immutable)
) -> None:
    """Loss and headline by epoch, a column for each training.

    A loss that jumps does not flatten the others: the axis is then logarithmic and ends at
    `_FAR_MOST` times the median; what lies above is marked at its upper edge.

    histories: {training: {"epoch": (E,), "train_loss": (E,), "val_loss": (E,), ...}}.
    """
    count = len(histories)
    with _drawing(path, min(16.0, max(5.2, 4.1 * count)), 5.2) as figure:
        grid = figure.subplots(2, count, sharex="col", squeeze=False)
        for column, (name, history) in enumerate(histories.items()):
            for row, figure_name in enumerate(("loss", headline.name)):
                axes = grid[row][column]
                highest = 0.0
                for part, drawn, colour, line, label in _curves(figure_name):
                    values = history.get(f"{part}_{drawn}", ())
                    if not any(math.isfinite(value) for value in values):
                        continue
                    highest = max(highest, *(v for v in values if math.isfinite(v)))
                    # few epochs: a marker shows each, and a single epoch at all
                    marker = "o" if len(values) <= 30 else None
                    axes.plot(
                        history["epoch"],
                        values,
                        line,
                        color=colour,
                        marker=marker,
                        markersize=3.5,
                        label=label,
                    )
                own = bool(row and history.get("made_agreement"))
                if column == 0 or own:
                    words = figure_name.replace("_", " ")
                    axes.set_ylabel("agreement with the teacher" if own else words)
                if row == 0:
                    _tame(axes)
                elif highest <= 1:
                    no_tick_above_one(axes)
            grid[0][column].set_title(name)
            grid[1][column].set_xlabel("epoch")
            grid[1][column].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if len(history["epoch"]) == 1:
                grid[1][column].set_xticks(history["epoch"])
        named: dict[str, Any] = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                named.setdefault(label, handle)
        if named:
            figure.legend(
                list(named.values()), list(named), loc="outside lower center",
                ncols=min(2 * count, len(named)),
            )  # fmt: skip


def _curves(figure: str) -> tuple[tuple[str, str, str, str, str], ...]:
    """(part, name in its column, colour, line, label) of what may be drawn of a figure."""
    made = figure if figure == "loss" else "agreement"
    return (
        ("train", figure, ORANGE, "-", "training part"),
        ("val", figure, BLUE, "--", "validation part"),
        ("made", made, ORANGE, "-.", "made images"),
        ("fresh_made", made, BLUE, ":", "fresh made images"),
    )


def _tame(axes: "Axes") -> None:
    """Keep the usual losses readable beside a few that are far above them."""
    drawn = [
        (line, x, y)
        for line in axes.get_lines()
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if math.isfinite(y)
    ]
    values = sorted(y for _, _, y in drawn)
    usual = values[len(values) // 2] if values else 0.0
    if not usual > 0 or values[-1] <= _FAR * usual:
        return
    end = _FAR_MOST * usual
    if values[0] > 0:
        axes.set_yscale("log")
    else:
        end = _FAR * usual  # no logarithm of a loss of nothing
    if values[-1] <= end:
        return
    low = min(values[0] / 1.2 if values[0] > 0 else values[0], usual)
    axes.set_ylim(low, end)
    for line, x, y in drawn:
        if y > end:
            axes.plot(
                [x], [end], "^", color=line.get_color(), markersize=6, clip_on=False, zorder=3
            )
    above = sum(value > end for value in values)
    axes.set_title(f"{above} above, up to {values[-1]:.2g}", fontsize=8, loc="right")


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure that is saved at the end."""
    with drawing(width, height) as figure:
        yield figure
        publish(path, png(figure))


def _note(axes: "Axes", text: str, x: float, y: float, below: bool = False) -> None:
    axes.annotate(
        text, (x, y), xytext=(0, -7 if below else 5), textcoords="offset points",
        ha="center", va="top" if below else "bottom", fontsize=8,
    )  # fmt: skip


def _short(name: str, most: int = 32) -> str:
    """The last parts of a module path that fit into `most` letters."""
    if len(name) <= most:
        return name
    parts = name.split(".")
    while len(parts) > 1 and len(".".join(parts)) > most:
        parts = parts[1:]
    return "..." + ".".join(parts)[-most:]
