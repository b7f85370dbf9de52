"""The report of one run: report.md and figures/*.png from report.json, and the closing table."""

import csv
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.automatic import told
from compressor.errors import RunError
from compressor.report import feeding, figures, label_figures, latencies, sensitivity, sentences
from compressor.report.drawing import scale
from compressor.report.files import publish
from compressor.report.headline import damage, headline_of, tells_classes

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA_VERSION = 1

_CLASSES = 20  # rows of the table of classes
_CAPTIONS = {
    "points.png": "Test {} and MACs at each point of the run",
    "channels.png": "Channels of each layer before and after",
    "training.png": "Loss and {} of each training by epoch",
    "labels.png": "Which labels were changed, and how the training met them",
    "changed.png": "Images whose labels were changed",
    "damaged.png": "Images with and without the noise that the training saw on them",
    "sensitivity.png": "{} when one layer alone is cut, without fine-tuning",
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
    return damage(report)


def table(report: Mapping[str, Any], folder: Path | None = None) -> "RenderableType":
    """The points of a run as a rich table, and below it what was kept, the times, the folder."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # narrow enough for 80 columns with the numbers of an ImageNet ResNet-50
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    shown.add_column("point", no_wrap=True)
    words = headline_of(report).words
    for name in (words, "loss", "MACs", "params", "size", "latency ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in _rows(report, short=True):
        shown.add_row(*map(Text, row))
    lines = [
        say(report)
        for say in (
            sentences.start, sentences.conclusion, sentences.balance, sentences.kept,
            sentences.budget, sentences.latency, sentences.labels, sentences.baselines,
            sentences.taught, sentences.picked, sentences.times,
        )
    ]  # fmt: skip
    if folder is not None:
        lines.append(f"Folder: {folder}")
    return Group(shown, Text(""), *(Text(line) for line in lines if line))


def line(report: Mapping[str, Any]) -> str:
    """What a run came to, in one line."""
    return f"{sentences.conclusion(report)} {sentences.times(report)}"


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
    headline = headline_of(report)
    headlines, macs = _series(report, headline.name), _series(report, "macs")
    if headlines and macs:
        figures.points(headlines, macs, headline, folder / "points.png")
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
        figures.training(curves, folder / "training.png", headline)
        drawn.append("training.png")
    if sensitivity.draw(run_dir, report, folder / "sensitivity.png"):
        drawn.append("sensitivity.png")
    drawn += label_figures.draw(run_dir, curves.get("train", {}), headline, folder)
    return drawn


def _series(report: Mapping[str, Any], figure: str) -> dict[str, float]:
    found = {name: point.get(figure) for name, point in report["points"].items()}
    return {
        name: value for name, value in found.items() if value is not None and math.isfinite(value)
    }


# -- text ---------------------------------------------------------------------------------------


def _rows(report: Mapping[str, Any], short: bool) -> list[list[str]]:
    """The cells of the points' table: point, headline, loss, MACs, params, size, latency.

    short: the latency's ratio stands beside its milliseconds, else in a cell of its own.
    """
    dense, headline = next(iter(report["points"].values())), headline_of(report)
    rows = []
    for name, point in report["points"].items():
        cells = [name, _digits(point.get(headline.name)), _digits(point.get("loss"))]
        for figure in ("macs", "params"):
            value, first = point.get(figure), dense.get(figure)
            exact = si(value, 3) if short or value is None else f"{value:,}"
            cells.append(exact + _ratio(value, first, point is dense))
        cells.append(_bytes(point.get("size_bytes"), 3 if short else 4))
        cells += _latency(point, short)
        if short:
            # every blank inside a cell is one of the 80 columns
            cells[3:6] = [re.sub(r"(?<=\d) (?=[a-zA-Z])", "", cell) for cell in cells[3:6]]
        rows.append(cells)
    return rows


def _bytes(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{si(value, digits)}B" if value >= 1000 else f"{value} B"


def _latency(point: Mapping[str, Any], short: bool) -> list[str]:
    spread, ratio = point.get("latency_ms"), point.get("latency_ratio")
    median, span = (ratio["median"], (ratio["low"], ratio["high"])) if ratio else (None, None)
    steady, steady_ms = latencies.is_steady(point), latencies.is_steady(point, "latency_ms")
    if not spread:
        text = "-"
    elif short:
        text = significant(spread["median"], 3)
    else:
        text, low, high = (significant(spread[name]) for name in ("median", "low", "high"))
        text = f"{text} ({low}-{high})"
    if short:
        return [latencies.short_cell(text, median, span, steady, steady_ms)]
    return [
        latencies.millisecond_cell(text, steady_ms), latencies.ratio_cell(median, span, steady)
    ]  # fmt: skip


def _ratio(value: float | None, first: float | None, is_first: bool) -> str:
    return "" if is_first or value is None or not first else f" {value / first:.2f}x"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _markdown(run_dir: Path, report: Mapping[str, Any], drawn: Sequence[str]) -> str:
    parts = ["# Run report", f"```\n{report.get('command', '')}\n```", sentences.conclusion(report)]
    if begun := sentences.start(report):
        parts.append(begun)
    words = headline_of(report).words
    heads = ["point", words, "loss", "MACs", "parameters", "size"]
    heads += ["latency ms (10th-90th percentile)", "latency ratio"]
    parts.append(markdown_table(heads, _rows(report, short=False)))
    notes = [
        f"{words.capitalize()} and loss are those of the test part, measured on the reloaded saved "
        "networks; 1.00x is the first row."
    ]
    notes += [sentences.skipped(report), sentences.balance(report), sentences.latency(report)]
    notes += [sentences.labels(report), sentences.baselines(report)]
    notes += [sentences.taught(report), sentences.picked(report), sentences.kept(report)]
    notes.append(sentences.budget(report))
    parts.append(" ".join(note for note in notes if note))
    for sheet in sorted(run_dir.glob("extras/*/generated.png")):
        parts.append(f"![Images that the generator made]({sheet.relative_to(run_dir)})")
    for name, found in (report.get("explain") or {}).items():
        parts += [f"![{name}]({place})" for place in found["pictures"]]
    for name in drawn:
        caption = _CAPTIONS[name].format(words)
        parts.append(f"![{caption[0].upper()}{caption[1:]}](figures/{name})")
    parts += _load_section(run_dir, report)
    parts += _resolved_section(report)
    parts += _class_section(report)
    parts += _channel_section(report)
    parts += _sensitivity_section(run_dir, report)
    parts += _stage_section(report)
    parts += _environment_section(report)
    return "\n\n".join(parts) + "\n"


def _load_section(run_dir: Path, report: Mapping[str, Any]) -> list[str]:
    if not (run_dir / "model").is_dir():
        return []
    where = json.dumps(os.path.abspath(run_dir / "model"), ensure_ascii=False)
    code = f"import compressor\n\nnet = compressor.load({where})  # torch.nn.Module, eval mode"
    preprocess = report.get("preprocess")  # reports of before it was told lack it
    if preprocess is not None:
        code = code.replace("compressor\n", "compressor\nfrom PIL import Image\n", 1)
        asked = 'net(net.preprocess(Image.open("photo.png"))[None])'
        code += (
            f"\nlogits = {asked}\nprint(net.classes[logits.argmax()])"
            if tells_classes(report)
            else f"\nanswer = {asked}"
        )
    parts = ["## How to load the network", f"```python\n{code}\n```"]
    if preprocess is not None:
        parts.append(feeding.words(preprocess))
    if not (run_dir / "model.onnx").is_file():
        return parts
    words = "`model.onnx` is the same network for ONNX runtimes, with a free batch size."
    if preprocess is None:
        return [*parts, words]
    normalized = bool(report["config"]["export"].get("normalize"))
    if normalized:
        words += " It takes bytes (uint8, 0 to 255) and normalises them itself."
    words += " Its metadata hold `preprocess`, `classes` and `input`."
    if not tells_classes(report):
        return [*parts, words]
    words += " It runs without compressor"
    if preprocess["resize"] == "shorter_side":
        words += (
            ", whose own resizing may round a pixel one or two steps of 255 otherwise than Pillow"
        )
    words += ":"
    code = feeding.example(preprocess, os.path.abspath(run_dir / "model.onnx"), normalized)
    return [*parts, words, f"```python\n{code}\n```"]


def _resolved_section(report: Mapping[str, Any]) -> list[str]:
    stages = {stage["name"] for stage in report.get("stages", ()) if not stage.get("skipped")}
    found = told(report.get("resolved") or {}, stages)
    if not found:
        return []
    rows = [[f"`{key}`", str(each["value"]), each["reason"]] for key, each in found.items()]
    return [
        "## Options that followed from the data",
        markdown_table(["option that was auto", "value", "by"], rows),
    ]


def _class_section(report: Mapping[str, Any]) -> list[str]:
    """The figures that look at every class alike, and the recall of each class."""
    points, found = report["points"], report.get("classes_read") or {}
    dense, final = next(iter(points.values())), list(points.values())[-1]
    if not found or not final.get("class_recall"):
        return []
    heads = ["point", "accuracy", "balanced accuracy", "macro-F1"]
    rows = [
        [name, *(_digits(point.get(f)) for f in ("accuracy", "balanced_accuracy", "macro_f1"))]
        for name, point in points.items()
    ]
    parts = ["## Classes", markdown_table(heads, rows)]
    recall = list(
        zip(
            found["names"], found["train"], found["test"], dense.get("class_recall") or (),
            final["class_recall"], strict=False,
        )
    )  # fmt: skip
    shown = recall
    if len(recall) > _CLASSES:
        known = [row for row in recall if row[-1] is not None]
        shown = sorted(known, key=lambda row: row[-1])[:_CLASSES]
        parts.append(
            f"The {_CLASSES} classes of the lowest recall; those of all {len(recall):,} are in "
            "`report.json` under `class_recall`."
        )
    heads = ["class", "train images", "test images", "recall, dense", "recall, final"]
    cells = [
        [name, f"{train:,}", f"{test:,}", _digits(before), _digits(after)]
        for name, train, test, before, after in shown
    ]
    return [*parts, markdown_table(heads, cells)]


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
    headline = headline_of(report)
    checks = {name: value for name, value in (report.get("parity") or {}).items()}
    names = {
        "surgery": "relative error of the small network against the masked dense one",
        "onnx": "relative error of model.onnx against the network",
        f"onnx_{headline.name}": f"test {headline.words} of model.onnx",
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
