"""The report of one run: report.md and figures/*.png from report.json, and the closing table."""

import csv
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import RunError
from compressor.report import figures, label_figures, sensitivity
from compressor.report.drawing import scale
from compressor.report.files import publish

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA_VERSION = 1

_CAPTIONS = {
    "points.png": "Test accuracy and MACs at each point of the run",
    "channels.png": "Channels of each layer before and after",
    "training.png": "Loss and accuracy of each training by epoch",
    "labels.png": "Which labels were changed, and how the training met them",
    "changed.png": "Images whose labels were changed",
    "damaged.png": "Images with and without the noise that the training saw on them",
    "sensitivity.png": "Accuracy when one layer alone is cut, without fine-tuning",
}


def write(run_dir: Path, draw: bool = True) -> None:
    """Write report.md, and with `draw` figures/*.png, into a run folder that has a report.json.

    Reads files only: the report and the histories that it names.
    """
    run_dir = Path(run_dir)
    report = read(run_dir / "report.json")
    drawn = _draw(run_dir, report) if draw else []
    publish(run_dir / "report.md", _markdown(run_dir, report, drawn))


def read(path: Path) -> dict[str, Any]:
    """The report at `path`, refused in one line where it is missing, damaged or of a later kind."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run ended before its report was written") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): change its rights") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): run the command again") from None
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {version!r}, this release reads {SCHEMA_VERSION}: read it "
            "with the release that wrote it"
        )
    damage = _damage(report)
    if damage:
        raise RunError(f"{path} is damaged ({damage}): run the command again")
    return report


def _damage(report: Mapping[str, Any]) -> str:
    """What is wrong with the shape of a report that could be parsed; empty for a sound one."""
    points, stages = report.get("points"), report.get("stages", [])
    if not points or not isinstance(points, Mapping):
        return "it has no points"
    for name, point in points.items():
        if not isinstance(point, Mapping):
            return f"its point {name} is no table of figures"
    if not isinstance(stages, list):
        return "its stages are no list"
    for stage in stages:
        if not isinstance(stage, Mapping) or not {"name", "key", "seconds", "reused"} <= set(stage):
            return "a stage lacks its name, key, seconds or reused"
        if not isinstance(stage["seconds"], (int, float)):
            return f"the seconds of its stage {stage['name']} are no number"
    if not isinstance(report.get("seconds") or 0.0, (int, float)):
        return "its seconds are no number"
    return ""


def table(report: Mapping[str, Any], folder: Path | None = None) -> "RenderableType":
    """The points of a run as a rich table, and below it what was kept, the times, the folder."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # narrow enough for 80 columns with the numbers of an ImageNet ResNet-50
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    shown.add_column("point", no_wrap=True)
    for name in ("accuracy", "loss", "MACs", "params", "size", "latency ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in _rows(report, short=True):
        shown.add_row(*map(Text, row))
    lines = [_conclusion(report), _kept_line(report), _latency_line(report), _labels_line(report)]
    lines += [_baselines_line(report), _taught_line(report), _stage_line(report)]
    if folder is not None:
        lines.append(f"Folder: {folder}")
    return Group(shown, Text(""), *(Text(line) for line in lines if line))


def line(report: Mapping[str, Any]) -> str:
    """What a run came to, in one line."""
    return f"{_conclusion(report)} {_stage_line(report)}"


def history(path: Path) -> dict[str, list[float]]:
    """Columns of a history.csv as numbers; an empty or odd cell is NaN."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def si(value: float | None, digits: int = 4) -> str:
    """A few digits and a unit: 4_089_284_608 -> "4.089 G"."""
    if value is None:
        return "-"
    factor, unit = scale(abs(value))
    return f"{significant(value / factor, digits)} {unit}".strip()


def significant(value: float, digits: int = 4) -> str:
    """`digits` significant digits, never an exponent for a large number: 12345.6 -> "12346"."""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


# -- figures ------------------------------------------------------------------------------------


def _draw(run_dir: Path, report: Mapping[str, Any]) -> list[str]:
    """Draw what the report has numbers for. Returns the names of the files."""
    folder = run_dir / "figures"
    drawn = []
    accuracy = _series(report, "accuracy")
    macs = _series(report, "macs")
    if accuracy and macs:
        figures.points(accuracy, macs, folder / "points.png")
        drawn.append("points.png")
    if report.get("widths"):
        figures.channels(report["widths"], folder / "channels.png")
        drawn.append("channels.png")
    curves = {}
    for name, where in (report.get("history") or {}).items():
        path = run_dir / where
        # epochs=0 leaves a header alone, a moved folder no file: there is nothing to draw
        columns = history(path) if path.is_file() else {}
        if columns.get("epoch"):
            curves["train" if name == "dense" else name] = columns
    if curves:
        figures.training(curves, folder / "training.png")
        drawn.append("training.png")
    if sensitivity.draw(run_dir, report, folder / "sensitivity.png"):
        drawn.append("sensitivity.png")
    drawn += label_figures.draw(run_dir, curves.get("train", {}), folder)
    return drawn


def _series(report: Mapping[str, Any], figure: str) -> dict[str, float]:
    found = {name: point.get(figure) for name, point in report["points"].items()}
    return {
        name: value for name, value in found.items() if value is not None and math.isfinite(value)
    }


# -- text ---------------------------------------------------------------------------------------


def _rows(report: Mapping[str, Any], short: bool) -> list[list[str]]:
    """The cells of the points' table: point, accuracy, loss, MACs, params, size, latency."""
    dense = next(iter(report["points"].values()))
    rows = []
    for name, point in report["points"].items():
        cells = [name, _digits(point.get("accuracy")), _digits(point.get("loss"))]
        for figure in ("macs", "params"):
            value, first = point.get(figure), dense.get(figure)
            exact = si(value, 3) if short or value is None else f"{value:,}"
            cells.append(exact + _ratio(value, first, point is dense))
        cells.append(_bytes(point.get("size_bytes"), 3 if short else 4))
        cells.append(_latency(point, dense, short))
        if short:
            # every blank inside a cell is one of the 80 columns
            cells[3:6] = [re.sub(r"(?<=\d) (?=[a-zA-Z])", "", cell) for cell in cells[3:6]]
        rows.append(cells)
    return rows


def _bytes(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{si(value, digits)}B" if value >= 1000 else f"{value} B"


def _latency(point: Mapping[str, Any], dense: Mapping[str, Any], short: bool) -> str:
    spread = point.get("latency_ms")
    if not spread:
        return "-"
    median, low, high = (
        significant(spread[name], 3 if short else 4) for name in ("median", "low", "high")
    )
    first = dense.get("latency_ms")
    ratio = _ratio(spread["median"], first["median"] if first else None, short or point is dense)
    return f"{median} ({low}-{high}){ratio}"


def _ratio(value: float | None, first: float | None, is_first: bool) -> str:
    return "" if is_first or value is None or not first else f" {value / first:.2f}x"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _conclusion(report: Mapping[str, Any]) -> str:
    points = list(report["points"].values())
    dense, final = points[0], points[-1]
    parts = []
    for figure, name in (("macs", "MACs"), ("params", "parameters")):
        if final.get(figure) is not None and dense.get(figure):
            parts.append(f"{final[figure] / dense[figure]:.3f} of the dense {name}")
    text = "Final network: " + " and ".join(parts) if parts else "Final network"
    if final.get("accuracy") is not None and dense.get("accuracy") is not None:
        change = final["accuracy"] - dense["accuracy"]
        text += f", test accuracy {final['accuracy']:.4f} ({change:+.4f} against dense)"
    return text + "."


def _kept_line(report: Mapping[str, Any]) -> str:
    widths = report.get("widths") or {}
    if not widths:
        return "Kept: every channel (no layer was cut)."
    before, after = (sum(pair[i] for pair in widths.values()) for i in (0, 1))
    cut = sum(pair[0] != pair[1] for pair in widths.values())
    text = f"Kept: {after:,} of {before:,} channels; {cut} of {len(widths)} layers listed were cut"
    ratio = report.get("ratio")
    if isinstance(ratio, Mapping) and ratio.get("achieved") is not None:
        asked = ratio.get("asked")
        text += f"; ratio removed {ratio['achieved']:.4g}"
        text += f", asked {asked:.4g}" if isinstance(asked, (int, float)) else ""
    return text + "."


def _latency_line(report: Mapping[str, Any]) -> str:
    spread = next((p["latency_ms"] for p in report["points"].values() if p.get("latency_ms")), None)
    if spread is None:
        return ""
    earlier = "; measured by another run before" if report.get("latency_reused") else ""
    return (
        f"Latency: median (10th-90th percentile) at batch {spread['batch_size']}, "
        f"{spread['threads']} thread{'' if spread['threads'] == 1 else 's'}{earlier}."
    )


def _labels_line(report: Mapping[str, Any]) -> str:
    labels = report.get("labels") or {}
    parts = []
    if labels.get("labelled") is not None:
        parts.append(f"{labels['labelled']:.3g} of the train images had one")
    if labels.get("flip_rate"):
        of = "these" if parts else "the train part's labels"
        parts.append(f"{labels['flip_rate']:.1%} of {of} were flipped")
    if labels.get("pixel_noise"):
        parts.append(
            f"they are right, and noise of standard deviation {labels['pixel_noise']:g} lay on the "
            "training's normalised images"
        )
    if labels.get("known") is False:
        parts.append("they come from a file, and which are right is unknown")
    if labels.get("changed") is not None:
        dropped = labels.get("dropped")
        text = f"the remedy changed {labels['changed']:.1%}"
        text += f" and left {dropped:.1%} out" if dropped else ""
        if labels.get("wrong_corrected") is not None:
            text += f", which puts {labels['wrong_corrected']:.1%} of the wrong ones right"
            text += f", is rid of {labels['wrong_dropped']:.1%} of them" if dropped else ""
            of = "those kept" if dropped else "all"
            text += f" and leaves {labels['right']:.1%} of {of} right"
        parts.append(text)
    if labels.get("finetune") not in (None, "clean"):
        parts.append(f"fine-tuning used the {labels['finetune']} ones")
    elif labels.get("clean_fraction", 1) < 1:
        parts.append(f"fine-tuning used {labels['clean_fraction']:.3g} of the clean ones")
    return f"Labels: {'; '.join(parts)}." if parts else ""


def _baselines_line(report: Mapping[str, Any]) -> str:
    found = {name: each["accuracy"] for name, each in (report.get("baselines") or {}).items()}
    if not found:
        return ""
    shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    best = max(found, key=found.get)
    change = list(report["points"].values())[-1]["accuracy"] - found[best]
    trained = report["config"]["train"]["epochs"]
    return (
        f"Baselines, one training of {trained} epochs each by the recipe of the first stage and "
        f"without a remedy: {shown}; the final network has {change:+.4f} against the best of "
        f"them, {best}."
    )


def _taught_line(report: Mapping[str, Any]) -> str:
    """What distillation has to tell beside accuracies."""
    parts = []
    for notes in (report.get("training") or {}).values():
        for figure, value in (notes.get("teacher_val") or {}).items():
            parts.append(f"the teacher's validation {figure} is {value:.4f}")
        made = notes.get("made_images")
        if made:
            parts.append(
                f"of made images the teacher is {made['teacher_confidence']:.1%} sure, with a "
                f"class entropy of {made['class_entropy']:.3f}, and the student agrees with it on "
                f"{made['agreement']:.1%}"
            )
        heads = notes.get("heads")
        if heads and "val_accuracy" in heads:
            each = ", ".join(f"{value:.4f}" for value in heads["val_accuracy"])
            parts.append(
                f"the heads have validation accuracies {each}, together "
                f"{heads['ensemble_val_accuracy']:.4f}, and the first is kept"
            )
    return f"Distillation: {'; '.join(dict.fromkeys(parts))}." if parts else ""


def _stage_line(report: Mapping[str, Any]) -> str:
    parts = []
    for stage in report.get("stages", ()):
        if stage.get("skipped"):
            continue
        parts.append(f"{stage['name']} {duration(stage['seconds'])}")
        if stage["reused"]:
            parts[-1] = f"{stage['name']} reused"
    total = f", {duration(report['seconds'])} in all" if report.get("seconds") is not None else ""
    return f"Time: {', '.join(parts) or 'no stage ran'}{total}."


def duration(seconds: float) -> str:
    """ "12.3 s", "2 min 5 s", "3 h 7 min"."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _markdown(run_dir: Path, report: Mapping[str, Any], drawn: Sequence[str]) -> str:
    parts = ["# Run report", f"```\n{report.get('command', '')}\n```", _conclusion(report)]
    heads = ["point", "accuracy", "loss", "MACs", "parameters", "size", "latency ms"]
    parts.append(markdown_table(heads, _rows(report, short=False)))
    notes = [
        "Accuracy and loss are those of the test part, measured on the reloaded saved networks; "
        "1.00x is the first row."
    ]
    notes += [_latency_line(report), _labels_line(report), _baselines_line(report)]
    notes += [_taught_line(report), _kept_line(report)]
    parts.append(" ".join(note for note in notes if note))
    for sheet in sorted(run_dir.glob("extras/*/generated.png")):
        parts.append(f"![Images that the generator made]({sheet.relative_to(run_dir)})")
    for name in drawn:
        parts.append(f"![{_CAPTIONS[name]}](figures/{name})")
    parts += _load_section(run_dir)
    parts += _channel_section(report)
    parts += _sensitivity_section(run_dir, report)
    parts += _stage_section(report)
    parts += _environment_section(report)
    return "\n\n".join(parts) + "\n"


def _load_section(run_dir: Path) -> list[str]:
    if not (run_dir / "model").is_dir():
        return []
    where = os.path.abspath(run_dir / "model")
    code = f'import compressor\n\nnet = compressor.load("{where}")  # torch.nn.Module, eval mode'
    parts = ["## How to load the network", f"```python\n{code}\n```"]
    if (run_dir / "model.onnx").is_file():
        parts.append("`model.onnx` is the same network for ONNX runtimes, with a free batch size.")
    return parts


def _channel_section(report: Mapping[str, Any]) -> list[str]:
    widths = report.get("widths") or {}
    if not widths:
        return []
    rows = [
        [f"`{name}`", f"{before:,}", f"{after:,}", f"{after / before:.1%}"]
        for name, (before, after) in widths.items()
    ]
    return [
        "## Kept channels",
        markdown_table(["layer", "before", "after", "kept"], rows),
        "The original indices of the kept channels are in `report.json` under `kept`.",
    ]


def _sensitivity_section(run_dir: Path, report: Mapping[str, Any]) -> list[str]:
    layers = sensitivity.read(run_dir, report)
    if not layers:
        return []
    heads, rows = sensitivity.rows(layers)
    title = "## Sensitivity of the layers"
    return [title, sensitivity.words(report), markdown_table(heads, rows)]


def _stage_section(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for stage in report.get("stages", ()):
        state = "skipped" if stage.get("skipped") else "reused" if stage["reused"] else "computed"
        rows.append([stage["name"], state, f"{stage['seconds']:.1f}", f"`{stage['key'][:12]}`"])
    parts = ["## Stages", markdown_table(["stage", "state", "seconds", "key"], rows)]
    checks = {name: value for name, value in (report.get("parity") or {}).items()}
    names = {
        "surgery": "relative error of the small network against the masked dense one",
        "onnx": "relative error of model.onnx against the network",
        "onnx_accuracy": "test accuracy of model.onnx",
    }
    lines = [
        f"- {names.get(name, name)}: {value:.4g}"
        for name, value in checks.items()
        if isinstance(value, (int, float))
    ]
    return [*parts, "\n".join(lines)] if lines else parts


def _environment_section(report: Mapping[str, Any]) -> list[str]:
    environment = dict(report.get("environment") or {})
    packages = environment.pop("packages", None) or {}
    git = environment.pop("git", None)
    lines = [f"- seed: {report.get('seed')}"]
    lines += [
        f"- {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in environment.items()
        if value not in (None, "", [])
    ]
    if isinstance(git, Mapping):
        dirty = ", with uncommitted changes" if git.get("dirty") else ""
        lines.append(f"- source: commit {git.get('commit')}{dirty}")
    installed = [f"{name} {version}" for name, version in packages.items() if version]
    if installed:
        lines.append(f"- packages: {', '.join(installed)}")
    return ["## Environment", "\n".join(lines)]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is set to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
