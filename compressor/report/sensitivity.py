"""The sensitivity of layers in a run's report: a table by layer and ratio, and a figure of it."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.report.drawing import drawing, png
from compressor.report.files import publish

MOST_NUMBERS = 40  # layers whose figures still fit into their cells


def read(run_dir: Path, report: Mapping[str, Any]) -> dict[str, dict[float, float]]:
    """{layer: {ratio: figure}} of a run folder; empty where there is no table."""
    told = report.get("sensitivity") or {}
    path = run_dir / told.get("file", "")
    if not told or not path.is_file():
        return {}
    layers: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            layers.setdefault(row["layer"], {})[float(row["ratio"])] = float(row["value"])
    return layers


def rows(layers: Mapping[str, Mapping[float, float]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table, a row for every layer. layers: as `read` gives them."""
    ratios = list(next(iter(layers.values())))
    heads = ["layer", *(f"{ratio:g}" for ratio in ratios)]
    return heads, [
        [f"`{n}`", *(f"{values[r]:.4f}" for r in ratios)] for n, values in layers.items()
    ]


def words(report: Mapping[str, Any]) -> str:
    """What stands in the table."""
    told = report["sensitivity"]
    return (
        f"Validation {told['metric']} ({told['images']} images) when so much of one layer alone is "
        f"removed, without fine-tuning. The dense network has {told['dense']:.4f}; one standard "
        f"error is {told['noise']:.4f}. The same as a table of its own: `{told['file']}`."
    )


def draw(run_dir: Path, report: Mapping[str, Any], path: Path) -> bool:
    """A row for every layer, a column for every ratio. Whether there was anything to draw."""
    layers = read(run_dir, report)
    if not layers:
        return False
    names, ratios = list(layers), list(next(iter(layers.values())))
    values = [[layers[name][ratio] for ratio in ratios] for name in names]
    told = report["sensitivity"]
    height = min(16.0, 1.5 + 0.24 * len(names))
    width = 3.0 + 0.06 * max(map(len, names)) + 0.55 * len(ratios)
    with drawing(min(16.0, width), height) as figure:
        axes = figure.add_subplot()
        top = max(told["dense"], *(v for row in values for v in row))
        low = min(min(row) for row in values)
        image = axes.imshow(values, aspect="auto", cmap="Blues_r", vmin=low, vmax=top)
        axes.grid(False)
        axes.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        step = math.ceil(len(names) / 60)
        axes.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
        axes.set_xlabel("fraction of the layer's channels removed")
        if len(names) <= MOST_NUMBERS:
            for y, row in enumerate(values):
                for x, value in enumerate(row):
                    dark = value < (low + top) / 2
                    axes.text(
                        x, y, f"{value:.3f}", ha="center", va="center", fontsize=6,
                        color="white" if dark else "black",
                    )  # fmt: skip
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(f"validation {told['metric']}; dense {told['dense']:.4f}")
        axes.set_title("One layer cut, no fine-tuning")
        publish(path, png(figure))
    return True
