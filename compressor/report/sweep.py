"""The report of a multirun: summary.csv, summary.md and summary.png from its members' folders.

Members are compared by the overrides in which they differ, whatever those are; members that
differ in seeds alone make one configuration, with a mean and a 95 % interval.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import RunError, UsageError
from compressor.report import figures
from compressor.report.run import markdown_table, read, si, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARKS = ("status.json", "report.json", ".hydra/overrides.yaml")
_FIGURES = ("accuracy", "loss", "macs", "params", "size_bytes")
_DEFAULT = "(default)"  # a swept field that this member's command does not name


def summarise(sweep_dir: Path) -> dict[str, Any]:
    """Read every member of a multirun's folder and write its summary.csv, .md and .png.

    Returns {"folder", "fields": swept fields, "members": rows of the done ones, "failed": rows of
    the others with their "error", "configurations": one entry for members that differ in seeds
    alone, "files": what was written}. Raises UsageError for a folder without members.
    """
    sweep_dir = Path(sweep_dir)
    folders = _folders(sweep_dir)
    if not folders:
        raise UsageError(
            f"{sweep_dir} holds no member of a multirun (no folder with a report.json or a "
            "status.json): name the folder that `compress-run -m ...` printed"
        )
    rows = [_row(folder, sweep_dir) for folder in folders]
    fields = _swept(rows)
    for row in rows:
        row["swept"] = {field: row["overrides"].get(field, _DEFAULT) for field in fields}
    rows.sort(key=lambda row: [natural(row["swept"][f]) for f in fields] + [natural(row["member"])])
    done = [row for row in rows if row["status"] == "done"]
    summary = {
        "folder": str(sweep_dir),
        "fields": fields,
        "members": done,
        "failed": [row for row in rows if row["status"] != "done"],
        "configurations": _configurations(rows, fields),
        "files": ["summary.csv", "summary.md"],
    }
    _write_csv(sweep_dir / "summary.csv", rows, fields)
    if _draw(sweep_dir / "summary.png", summary):
        summary["files"].append("summary.png")
    (sweep_dir / "summary.md").write_text(_markdown(summary), encoding="utf-8")
    return summary


def table(summary: Mapping[str, Any]) -> "RenderableType":
    """The configurations of a multirun as a rich table, failed members, and the files' folder."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    heads, rows = _cells(summary, short=True)
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    names = len(_configured(summary["fields"]))
    for place, head in enumerate(heads):
        shown.add_column(head, justify="left" if place < names else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    lines = [_legend(summary)] + [
        f"Failed: member {row['member']} ({_sentence(row)}): {row['error']}"
        for row in summary["failed"]
    ]
    lines.append(f"{', '.join(summary['files'])} in {summary['folder']}")
    return Group(shown, Text(""), *(Text(line) for line in lines if line))


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit  # the t quantile without the weight of scipy.stats

    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)


def natural(value: Any) -> tuple[Any, ...]:
    """A key that sorts numbers by value and before words, and the numbers inside words too."""
    text = str(value)
    number = _number(text)
    if number is not None:
        return (0, number, ())
    pieces = re.split(r"(\d+)", text)
    return (1, 0.0, tuple((p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces))


# -- reading ------------------------------------------------------------------------------------


def _folders(sweep_dir: Path) -> list[Path]:
    if not sweep_dir.is_dir():
        return []
    found = set()
    for mark in _MARKS:
        for path in sweep_dir.rglob(mark):
            folder = path.parent.parent if mark.startswith(".hydra") else path.parent
            if folder != sweep_dir:
                found.add(folder)
    return sorted(found)


def _row(folder: Path, sweep_dir: Path) -> dict[str, Any]:
    """What one member's files say; a member without a sound report is a failed one."""
    row: dict[str, Any] = {
        "member": folder.relative_to(sweep_dir).as_posix(),
        "status": "failed",
        "error": "",
        "overrides": _overrides(folder / ".hydra" / "overrides.yaml"),
        "report": None,
    }
    status = _status(folder / "status.json")
    if status.get("state") == "failed":
        row["error"] = _one_line(status.get("error")) or "no reason was recorded"
        return row
    if not (folder / "report.json").is_file():
        row["error"] = (
            "no report.json: only the plan was asked for"
            if row["overrides"].get("plan_only", "").lower() == "true"
            else "no report.json: the member was stopped before its end"
        )
        return row
    try:
        row["report"] = read(folder / "report.json")
    except RunError as error:
        row["error"] = _one_line(error)
        return row
    row["status"] = "done"
    return row


def _status(path: Path) -> dict[str, Any]:
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _overrides(path: Path) -> dict[str, str]:
    """{field: value as typed} of a member's command."""
    import yaml

    try:
        lines = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError):
        return {}
    found = {}
    for line in lines:
        field, _, value = str(line).partition("=")
        found[field.lstrip("+~")] = value.strip().strip("'\"")
    return found


def _swept(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Fields whose value differs between members, in the order in which they were typed."""
    values: dict[str, set[str]] = {}
    overrides = [row["overrides"] for row in rows]
    for field in dict.fromkeys(name for each in overrides for name in each):
        values[field] = {each.get(field, _DEFAULT) for each in overrides if each}
    return [field for field, seen in values.items() if len(seen) > 1]


# -- configurations -----------------------------------------------------------------------------


def _is_seed(field: str) -> bool:
    return field.rsplit(".", 1)[-1] in ("seed", "split_seed")


def _configured(fields: Iterable[str]) -> list[str]:
    return [field for field in fields if not _is_seed(field)]


def _configurations(
    rows: Iterable[Mapping[str, Any]], fields: Sequence[str]
) -> list[dict[str, Any]]:
    """Members that differ in seeds alone, together: {"fields", "n", "failed", figure: {...}}."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row["swept"][field] for field in _configured(fields))
        groups.setdefault(key, []).append(row)
    return [
        _configuration(dict(zip(_configured(fields), key, strict=True)), members)
        for key, members in groups.items()
    ]


def _configuration(fields: dict[str, str], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reports = [member["report"] for member in members if member["report"]]
    found: dict[str, Any] = {
        "fields": fields,
        "members": [member["member"] for member in members],
        "n": len(reports),
        "failed": len(members) - len(reports),
        "method": _method(fields, reports),
        "dense_networks": {_dense_key(report): _point(report, 0) for report in reports},
    }
    dense, final = ([_point(report, place) for report in reports] for place in (0, -1))
    for figure in _FIGURES:
        found[figure] = _mean([point.get(figure) for point in final])
    found["latency_ms"] = _mean([(point.get("latency_ms") or {}).get("median") for point in final])
    found["dense_accuracy"] = _mean([point.get("accuracy") for point in dense])
    pairs = list(zip(final, dense, strict=True))
    # paired by member: seeds that make both networks good or bad cancel
    found["change"] = _mean([_difference(f.get("accuracy"), d.get("accuracy")) for f, d in pairs])
    for figure in ("macs", "params"):
        found[f"{figure}_ratio"] = _mean(
            [_quotient(f.get(figure), d.get(figure)) for f, d in pairs]
        )
    return found


def _point(report: Mapping[str, Any], place: int) -> Mapping[str, Any]:
    return list(report["points"].values())[place]


def _mean(values: Iterable[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return {"mean": math.fsum(known) / len(known), "interval": interval(known), "n": len(known)}


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _method(fields: Mapping[str, str], reports: Sequence[Mapping[str, Any]]) -> str:
    """What a configuration's colour stands for: its swept words, else its pruning method."""
    words = [value for value in fields.values() if _number(value) is None]
    if words:
        return ", ".join(words)
    for report in reports:
        target = ((report.get("config") or {}).get("prune") or {}).get("_target_")
        if target:  # compressor.prune.thinet.ThiNet: methods are named by their file
            return str(target).split(".")[-2:][0]
    return "final"


def _dense_key(report: Mapping[str, Any]) -> str:
    """The same for members that share one dense network."""
    for stage in report.get("stages", ()):
        if stage["name"] == "train":
            return str(stage["key"])
    point = _point(report, 0)
    return f"{point.get('macs')}/{point.get('accuracy')}/{report.get('seed')}"


# -- writing ------------------------------------------------------------------------------------


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """A row a member: swept fields, status, every figure, reused stages, seconds."""
    flat = [_flat(row) for row in rows]
    named = list(dict.fromkeys(name for row in flat for name in row))
    heads = ["member", *fields, "status", *named, "error"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, heads, restval="", lineterminator="\n")
        writer.writeheader()
        for row, figures_ in zip(rows, flat, strict=True):
            own = {name: row[name] for name in ("member", "status", "error")}
            writer.writerow({**figures_, **row["swept"], **own})


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    report = row["report"]
    if report is None:
        return {}
    flat = {} if "seed" in row["swept"] else {"seed": report.get("seed")}
    for name, point in report["points"].items():
        for figure in _FIGURES:
            flat[f"{name}.{figure}"] = point.get(figure)
        for figure, value in (point.get("latency_ms") or {}).items():
            flat[f"{name}.latency_ms.{figure}"] = value
    for group in ("ratio", "parity", "labels"):
        for name, value in (report.get(group) or {}).items():
            if isinstance(value, (int, float)):
                flat[f"{group}.{name}"] = value
    for stage in report.get("stages", ()):
        # a stage of a further round has the name of the first one: its point tells them apart
        name = stage["name"] if f"{stage['name']}.reused" not in flat else stage.get("point", "")
        flat[f"{name}.reused"] = str(bool(stage["reused"])).lower()
        flat[f"{name}.seconds"] = stage["seconds"]
    flat["seconds"] = report.get("seconds")
    return flat


def _cells(summary: Mapping[str, Any], short: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the configurations' table; short: what 80 columns hold."""
    heads = [*_configured(summary["fields"]), "n", "accuracy", "change", "loss", "MACs", "params"]
    heads.append("latency ms")
    rows = []
    for each in summary["configurations"]:
        cells = {**each["fields"], "n": str(each["n"])}
        if each["failed"]:
            of = each["n"] + each["failed"]
            cells["n"] += f"/{of}" if short else f" ({each['failed']} failed)"
        cells["accuracy"] = _plus_minus(each["accuracy"])
        cells["change"] = _plus_minus(each["change"], signed=True)
        cells["loss"] = _plus_minus(each["loss"])
        for head, figure in (("MACs", "macs"), ("params", "params")):
            cells[head] = _with_ratio(each[figure], each[f"{figure}_ratio"], short)
        cells["latency ms"] = "-"
        if each["latency_ms"]:
            cells["latency ms"] = significant(each["latency_ms"]["mean"], 3 if short else 4)
        rows.append(cells)
    if short:
        heads = [head for head in heads if head not in ("loss", "params")]
    shown = [[cells[head] for head in heads] for cells in rows]
    return [head.replace("latency ms", "ms") if short else head for head in heads], shown


def _with_ratio(
    value: Mapping[str, Any] | None, ratio: Mapping[str, Any] | None, short: bool
) -> str:
    if value is None:
        return "-"
    text = si(value["mean"], 3).replace(" ", "") if short else si(value["mean"])
    return f"{text} {ratio['mean']:.{2 if short else 3}f}x" if ratio else text


def _plus_minus(value: Mapping[str, Any] | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    text = f"{value['mean']:+.4f}" if signed else f"{value['mean']:.4f}"
    return text if value["interval"] is None else f"{text} ± {value['interval']:.4f}"


def _legend(summary: Mapping[str, Any]) -> str:
    done, failed = len(summary["members"]), len(summary["failed"])
    text = f"{done} of {done + failed} members done."
    if not done:
        return text
    text += " change: accuracy of the final network minus that of its own dense network."
    if any(each["n"] > 1 for each in summary["configurations"]):
        text += " ±: 95 % t-interval of the mean over the n seeds."
    if any(each["n"] == 1 for each in summary["configurations"]):
        text += " n = 1 has no interval: one seed shows no difference."
    return text


def _markdown(summary: Mapping[str, Any]) -> str:
    parts = ["# Sweep summary"]
    if summary["members"]:
        heads, rows = _cells(summary)
        swept = len(_configured(summary["fields"]))
        if not swept:  # a sweep over seeds alone is one configuration
            heads, rows = ["configuration", *heads], [["all members", *row] for row in rows]
        parts.append(markdown_table(heads, rows))
    parts.append(_legend(summary))
    if "summary.png" in summary["files"]:
        parts.append("![Test accuracy against MACs](summary.png)")
    dense = _distinct_dense(summary)
    if dense:
        heads = ["dense networks", "n", "accuracy", "MACs"]
        rows = [
            [
                name,
                str(each["accuracy"]["n"]),
                _plus_minus(each["accuracy"]),
                f"{each['macs']:,.0f}",
            ]
            for name, each in dense.items()
        ]
        parts += ["## Dense networks", markdown_table(heads, rows)]
    if summary["failed"]:
        rows = [[row["member"], _sentence(row), row["error"]] for row in summary["failed"]]
        lines = markdown_table(["member", "overrides", "reason"], rows).replace("---:", "---")
        parts += ["## Failed members", lines]
    parts.append("Every figure of every member is in `summary.csv`.")
    return "\n\n".join(parts) + "\n"


def _sentence(row: Mapping[str, Any]) -> str:
    named = [f"{field}={value}" for field, value in row["swept"].items() if value != _DEFAULT]
    return " ".join(named) or "defaults"


def _distinct_dense(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dense networks of the sweep, each seed's once: {configurations: {"accuracy", "macs"}}."""
    groups: list[tuple[list[str], dict[str, Mapping[str, Any]]]] = []
    ordered = sorted(summary["configurations"], key=lambda each: -len(each["dense_networks"]))
    for each in ordered:
        networks = each["dense_networks"]
        if not networks:
            continue
        name = " ".join(f"{f}={v}" for f, v in each["fields"].items()) or "all members"
        # a configuration with failed seeds shares the dense networks of its siblings
        home = next((group for group in groups if networks.keys() <= group[1].keys()), None)
        if home is None:
            groups.append(([name], dict(networks)))
        else:
            home[0].append(name)
    found = {}
    for names, networks in groups:
        accuracy = _mean([point.get("accuracy") for point in networks.values()])
        macs = _mean([point.get("macs") for point in networks.values()])
        if accuracy and macs:
            label = "all configurations" if len(groups) == 1 else _briefly(names)
            found[label] = {"accuracy": accuracy, "macs": macs["mean"]}
    return found


def _briefly(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _draw(path: Path, summary: Mapping[str, Any]) -> bool:
    """Draw accuracy against MACs; False where no member has both."""
    series: dict[str, list[dict[str, Any]]] = {}
    for each in summary["configurations"]:
        if each["accuracy"] and each["macs"]:
            series.setdefault(each["method"], []).append(
                _spot(each["accuracy"], each["macs"]["mean"])
            )
    if not series:
        path.unlink(missing_ok=True)  # one of an earlier multirun into the same folder
        return False
    dense = [_spot(each["accuracy"], each["macs"]) for each in _distinct_dense(summary).values()]
    numeric = [
        field
        for field in _configured(summary["fields"])
        if any(_number(each["fields"][field]) is not None for each in summary["configurations"])
    ]
    # along one numeric axis a method's points are a curve; along two they are not
    figures.tradeoff(series, dense, path, connect=len(numeric) == 1)
    return True


def _spot(accuracy: Mapping[str, Any], macs: float) -> dict[str, Any]:
    return {"macs": macs, "accuracy": accuracy["mean"], "interval": accuracy["interval"]}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _one_line(text: Any) -> str:
    return " ".join(str(text or "").split())
