"""The figures of a run with noise: which labels changed, how training met them, a sheet of images.

Reads labels.npz, changed.npz and damaged.npz of the run folder and the history of its training.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, RED, drawing, png
from compressor.report.files import publish
from compressor.report.headline import Headline

_SHEET = 5.0  # inches that a sheet is wide at least: its title must fit
_MOST_CLASSES = 20  # beyond that cells hold no numbers


def draw(
    run_dir: Path, history: Mapping[str, Sequence[float]], headline: Headline, folder: Path
) -> list[str]:
    """Draw what there are files for. history: the training's columns. Returns the files' names."""
    import numpy as np

    drawn = []
    if (run_dir / "labels.npz").is_file():
        with np.load(run_dir / "labels.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        # without noise and without a remedy it says only which images had a label
        if "corrected" in arrays or (arrays.get("clean", -1) != arrays["given"]).any():
            labels(arrays, history, headline, folder / "labels.png")
            drawn.append("labels.png")
    if (run_dir / "changed.npz").is_file():
        with np.load(run_dir / "changed.npz", allow_pickle=False) as file:
            changed({name: file[name] for name in file.files}, folder / "changed.png")
        drawn.append("changed.png")
    if (run_dir / "damaged.npz").is_file():
        with np.load(run_dir / "damaged.npz", allow_pickle=False) as file:
            damaged(file["before"], file["after"], folder / "damaged.png")
        drawn.append("damaged.png")
    return drawn


def confusion(rows, columns):
    """(K, K) counts: how often `rows` says i where `columns` says j. Both: (n,) int64."""
    import numpy as np

    k = int(max(rows.max(), columns.max())) + 1
    return np.bincount(rows * k + columns, minlength=k * k).reshape(k, k)


def labels(
    arrays: Mapping, history: Mapping[str, Sequence[float]], headline: Headline, path: Path
) -> None:
    """Confusion of true, given and corrected labels, and the curves of the training by epoch."""
    names = [name for name in ("clean", "given", "corrected", "kept") if name in arrays]
    read = {name: arrays[name][arrays.get("labelled", slice(None))] for name in names}
    kept = read.pop("kept", slice(None))
    now = {name: values[kept] for name, values in read.items()}
    tables = []
    if "clean" in read:
        tables.append(("true label", "given label", read["clean"], read["given"]))
    if "corrected" in now:
        tables.append(("given label", "corrected label", now["given"], now["corrected"]))
    if "clean" in now and "corrected" in now:
        tables.append(("true label", "corrected label", now["clean"], now["corrected"]))
    # the figure of a training is that on the images it sees
    part = "labelled images" if "labelled" in arrays else "training part"
    part = "images kept, labels left" if "kept" in arrays else f"{part}, given labels"
    curves = [
        (f"train_{headline.name}", part, ORANGE, "-"),
        (f"train_clean_{headline.name}", f"{part.split(',')[0]}, true labels", GREEN, "-"),
        (f"val_{headline.name}", "validation part", BLUE, "--"),
        ("labels_right", "labels that are right now", PURPLE, "-."),
        ("labels_changed", "labels changed so far", RED, ":"),
    ]
    known = [c for c in curves if any(math.isfinite(v) for v in history.get(c[0], ()))]
    panels = len(tables) + bool(known)
    if not panels:
        return
    with drawing(4.2 * panels + 0.6, 4.4) as figure:
        grid = figure.subplots(1, panels, squeeze=False)[0]
        for axes, (down, across, rows, columns) in zip(grid, tables, strict=False):
            counts = confusion(rows, columns)
            shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.grid(False)
            axes.set_xlabel(across)
            axes.set_ylabel(down)
            same = counts.trace() / max(1, counts.sum())
            axes.set_title(f"{across.split()[0].capitalize()} as {down.split()[0]}: {same:.1%}")
            if len(counts) > _MOST_CLASSES:
                continue
            axes.set_xticks(range(len(counts)))
            axes.set_yticks(range(len(counts)))
            for i, row in enumerate(shares):
                for j, share in enumerate(row):
                    if share >= 0.005:
                        colour = "white" if share > 0.5 else INK
                        text = f"{100 * share:.0f}"
                        axes.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
        if known:
            axes = grid[-1]
            for name, label, colour, line in known:
                marker = "o" if len(history["epoch"]) <= 30 else None
                axes.plot(
                    history["epoch"], history[name], line, color=colour, label=label,
                    marker=marker, markersize=3,
                )  # fmt: skip
            axes.set_ylim(0, 1.02)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("epoch")
            axes.set_ylabel("fraction")
            axes.set_title("Memorised or learned")
            axes.legend(loc="lower right", fontsize=7)
        publish(path, png(figure))


def changed(arrays: Mapping, path: Path) -> None:
    """A sheet of images, each with its label before and after; green where that made it right."""
    images, names = arrays["images"], [str(name) for name in arrays["names"]]
    across = min(8, len(images))
    down = math.ceil(len(images) / across)
    if arrays["corrected"]:
        title = "Labels that were corrected: before > after"
        title += "\n(green: now right, orange: wrong)" if (arrays["clean"] >= 0).any() else ""
    else:
        title = "Labels that were changed:\ntrue > given"
    with drawing(max(_SHEET, 1.25 * across), 1.5 * down + 0.7) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        # few images stay small, beside room that is left
        grid = figure.subplots(down, max(across, round(_SHEET / 1.25)), squeeze=False)
        for place, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if place >= len(images):
                continue
            _show(axes, images[place])
            before, after = int(arrays["before"][place]), int(arrays["after"][place])
            truth = int(arrays["clean"][place])
            judged = arrays["corrected"] and truth >= 0
            colour = INK if not judged else GREEN if after == truth else RED
            text = f"{names[before][:9]} > {names[after][:9]}"
            axes.set_title(text, fontsize=6.5, fontweight="normal", color=colour, pad=2, loc="left")
        publish(path, png(figure))


def damaged(before, after, path: Path) -> None:
    """Images as they are, above the same as the training saw them. Both: (n, H, W, C) uint8."""
    across = max(len(before), round(_SHEET / 1.25))
    with drawing(1.25 * across, 3.2) as figure:
        figure.suptitle("As they are, and as the training saw them", x=0.01, ha="left", fontsize=10)
        grid = figure.subplots(2, across, squeeze=False)
        for row, images in zip(grid, (before, after), strict=True):
            for place, axes in enumerate(row):
                axes.set_axis_off()
                if place < len(images):
                    _show(axes, images[place])
        publish(path, png(figure))


def _show(axes, image) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
