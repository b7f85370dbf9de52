"""The members of a sweep, read from their folders: what each was asked and how it ended."""

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.errors import RunError, UsageError
from compressor.report import metrics
from compressor.report.run import read

PLANNED = "no report.json: only the plan was asked for"
DEFAULT = "(default)"  # a swept field that neither this member's command nor its config names
_MOST = 20_000  # files and folders in a row without a member: this is somebody's home or data set
_ADVICE = "name the folder that `compress-run -m ...` printed"
STATES = ("done", "running", "missing", "interrupted", "failed")


def members(sweep_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all members and the fields in which they differ, both in natural order.

    A row: {"member": folder, "status": one of STATES, "error": why it is not done, "overrides",
    "swept": {field: value as text}, "report": its report.json, "figures": every number of it}.
    """
    folders = _folders(sweep_dir)
    if not folders:
        raise UsageError(_nothing(sweep_dir))
    rows = [_row(folder, sweep_dir) for folder in folders]
    if all(row["error"] == PLANNED for row in rows):
        raise UsageError(
            f"{sweep_dir} holds a plan and no result: plan_only=true ended it before the first "
            "epoch; run the same command without it"
        )
    fields = _swept(rows)
    for row in rows:
        row["swept"] = {field: _value(row, field) for field in fields}
    rows.sort(key=lambda row: [natural(row["swept"][f]) for f in fields] + [natural(row["member"])])
    return rows, fields


def not_started(sweep_dir: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many members of the sweep have no folder yet; 0 where their number was not noted."""
    total = _status(sweep_dir / "sweep.json").get("members")
    return max(0, total - len(rows)) if isinstance(total, int) else 0


def is_seed(field: str) -> bool:
    """Whether members that differ in this field alone are repetitions of one configuration."""
    return field.rsplit(".", 1)[-1] in ("seed", "split_seed", "clean_seed", "labelled_seed")


def number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def natural(value: Any) -> tuple[Any, ...]:
    """A key that sorts numbers by value and before words, and the numbers inside words too."""
    text = str(value)
    as_number = number(text)
    if as_number is not None:
        return (0, as_number, ())
    pieces = re.split(r"(\d+)", text)
    return (1, 0.0, tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in pieces))


# -- folders ------------------------------------------------------------------------------------


def _folders(sweep_dir: Path) -> list[Path]:
    """Folders of members below `sweep_dir`; without any, the folder itself if it is a run's."""
    found, seen = [], 0
    marked = any((sweep_dir / name).is_file() for name in ("multirun.yaml", "sweep.json"))
    for place, below, files in os.walk(sweep_dir):
        folder = Path(place)
        below[:] = sorted(name for name in below if not name.startswith("."))
        seen += 1 + len(files)
        if folder != sweep_dir and _is_member(folder, files):
            found.append(folder)
            below.clear()  # what a member keeps inside is its own
            seen = 0
        if seen > _MOST and not marked:
            raise UsageError(
                f"{sweep_dir} is no folder of a multirun: no member among the {_MOST:,} files and "
                f"folders up to {folder}: {_ADVICE}"
            )
    if not found and sweep_dir.is_dir() and _is_member(sweep_dir, os.listdir(sweep_dir)):
        return [sweep_dir]
    return sorted(found)


def _is_member(folder: Path, files: Iterable[str]) -> bool:
    if {"report.json", "status.json"} & set(files):
        return True
    return (folder / ".hydra" / "overrides.yaml").is_file()


def _nothing(sweep_dir: Path) -> str:
    advice = _ADVICE
    if not sweep_dir.is_dir():
        what = "is a file" if sweep_dir.exists() else "does not exist"
        return f"{sweep_dir} {what}, so it holds no member of a multirun: {advice}"
    if not os.access(sweep_dir, os.R_OK | os.X_OK):
        return f"{sweep_dir} cannot be read, so it holds no member of a multirun: change its rights"
    if (sweep_dir / "multirun.yaml").is_file():
        return f"{sweep_dir} holds no member yet: its multirun was stopped or has only begun"
    return (
        f"{sweep_dir} holds no member of a multirun (no folder with a report.json or a "
        f"status.json): {advice}"
    )


# -- one member ---------------------------------------------------------------------------------


def _row(folder: Path, sweep_dir: Path) -> dict[str, Any]:
    """What one member's files say."""
    row: dict[str, Any] = {
        "member": folder.relative_to(sweep_dir).as_posix(),
        "status": "failed",
        "error": "",
        "overrides": _overrides(folder / ".hydra" / "overrides.yaml"),
        "report": None,
        "figures": {},
    }
    status = _status(folder / "status.json")
    state = status.get("state")
    if state == "failed":
        row["error"] = _one_line(status.get("error")) or "no reason was recorded"
    elif state == "interrupted":
        place = "" if folder == sweep_dir else " with hydra.sweep.dir= this folder"
        error = f"interrupted: the same command{place} goes on"
        row |= {"status": "interrupted", "error": error}
    elif state == "running":
        # a killed member cannot take this word back: the time lets the reader judge
        row |= {"status": "running", "error": f"running, as of {_written(folder / 'status.json')}"}
    elif (folder / "report.json").is_file():
        try:
            row["report"] = read(folder / "report.json")
            row["figures"] = metrics.figures(row["report"])
            row["status"] = "done"
        except RunError as error:
            row["error"] = _one_line(error)
    elif state == "planned" or row["overrides"].get("plan_only", "").lower() == "true":
        row |= {"status": "missing", "error": PLANNED}
    elif state == "done":
        row["error"] = "its status.json says done and its report.json is gone: run it again"
    else:
        row |= {"status": "missing", "error": "no report.json: not finished, or stopped before"}
    return row


def _status(path: Path) -> dict[str, Any]:
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _written(path: Path) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
    except OSError:
        return "an unknown time"


def _overrides(path: Path) -> dict[str, str]:
    """{field: value as typed} of a member's command."""
    import yaml

    try:
        lines = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found = {}
    for line in lines if isinstance(lines, list) else ():
        field, _, value = str(line).partition("=")
        found[field.lstrip("+~")] = value.strip().strip("'\"")
    return found


def _one_line(text: Any) -> str:
    return " ".join(str(text or "").split())


# -- swept fields -------------------------------------------------------------------------------


def _swept(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Fields whose value differs between members, in the order in which they were typed."""
    rows = [row for row in rows if row["overrides"] or row["report"]]
    typed = dict.fromkeys(name for row in rows for name in row["overrides"])
    return [field for field in typed if len({_value(row, field) for row in rows}) > 1]


def _value(row: Mapping[str, Any], field: str) -> str:
    """The field's value as typed, else as composed: a default equals its own value typed out."""
    if field in row["overrides"]:
        return row["overrides"][field]
    report = row["report"] or {}
    if field == "seed" and "seed" in report:
        return str(report["seed"])
    value: Any = report.get("config")
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    # a group is a mapping: the config does not say which option it came from
    return DEFAULT if value is None or isinstance(value, Mapping) else _typed(value)


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(_typed, value)) + "]"
    return str(value)
