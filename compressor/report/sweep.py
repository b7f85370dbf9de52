"""The report of a multirun: summary.csv, .md and .png and report.html from its members' folders.

Members are compared by the fields in which they differ, whatever those are; members that differ
in seeds alone make one configuration. Reads files only, and may do so while members still run.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import UsageError
from compressor.report import comparisons, metrics, plots, reuse, tables
from compressor.report.configurations import configurations, dense_networks, mark_fronts
from compressor.report.files import publish
from compressor.report.headline import Headline, headline_of
from compressor.report.html import page
from compressor.report.latencies import is_steady
from compressor.report.markdown import markdown
from compressor.report.members import members, not_started

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_VERDICTS = 12  # lines of verdicts in the terminal


def summarise(
    sweep_dir: Path, *, baseline: str | None = None, metric: str | None = None
) -> dict[str, Any]:
    """Read every member of a multirun's folder and write its summary and its report.html.

    baseline: "dense", a swept option such as "random", or field=value; None: random, else none,
    else dense. metric: the figure that is judged, such as final.loss; None: the
    headline, such as final.accuracy.
    Returns {"folder", "fields": swept fields, "rows": all members, "members": the done ones,
    "failed", "unfinished", "not_started": their number, "metric", "configurations", "dense",
    "baseline", "comparisons", "times", "headline", "files": what was written}. Raises UsageError
    for a folder without members, a metric that no member has, and a baseline that is not there.
    """
    sweep_dir = Path(sweep_dir)
    rows, fields = members(sweep_dir)
    done = [row for row in rows if row["status"] == "done"]
    headline = headline_of(done[0]["report"]) if done else Headline()
    judged = metrics.choose(metric, (row["figures"] for row in done), headline)
    found = configurations(rows, fields, judged)
    dense = dense_networks(found, judged)
    mark_fronts(found, dense, judged or metrics.Metric.default())
    chosen = comparisons.choose(baseline, found)
    if baseline == comparisons.DENSE and judged and not dense:
        raise UsageError(
            f"the dense networks have no {judged.name} to compare with: choose a metric of a "
            f"point, such as final.{headline.name}, or another baseline"
        )
    compared = comparisons.compare(found, chosen, judged) if judged else []
    summary: dict[str, Any] = {
        "folder": str(sweep_dir),
        "fields": fields,
        "rows": rows,
        "members": done,
        "failed": [row for row in rows if row["status"] == "failed"],
        "unfinished": [row for row in rows if row["status"] not in ("done", "failed")],
        "not_started": not_started(sweep_dir, rows),
        "metric": judged,
        "configurations": found,
        "dense": dense,
        "baseline": chosen,
        "comparisons": compared if chosen.field or dense else [],
        "times": reuse.times(rows),
    }
    summary["headline"] = comparisons.headline(summary)
    figures = plots.draw(summary)
    summary["files"] = ["report.html", "summary.csv", "summary.md", *figures]
    publish(sweep_dir / "summary.csv", _csv(rows, fields))
    for name, figure in figures.items():
        publish(sweep_dir / name, figure["png"])
    publish(sweep_dir / "summary.md", markdown(summary, figures))
    publish(sweep_dir / "report.html", page(summary, figures))
    for name in plots.NAMES:
        if name not in figures:  # one of an earlier report of the same folder
            (sweep_dir / name).unlink(missing_ok=True)
    return summary


def table(summary: Mapping[str, Any]) -> "RenderableType":
    """The configurations of a multirun as a rich table, what they show, and the files' folder."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cells = tables.configurations(summary, short=True)
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for place, head in enumerate(cells.heads):
        words = place < cells.left
        shown.add_column(head, justify="left" if words else "right", overflow="fold")
    for row in cells.rows:
        shown.add_row(*map(Text, row))
    lines = [f"{tables.state_line(summary)} {tables.legend(summary)}".strip()]
    verdicts = [each["text"] for each in summary["comparisons"]]
    if 2 < len(verdicts) <= _MOST_VERDICTS:  # one or two are the headline itself
        lines.append("\n".join(verdicts))
    lines.append(" ".join(summary["headline"]))
    lines += [" ".join(tables.time_lines(summary))]
    lines += [
        f"Failed: member {row['member']} ({tables.sentence(row)}): {row['error']}"
        for row in summary["failed"]
    ]
    lines.append(f"{', '.join(summary['files'])} in {summary['folder']}")
    return Group(shown, Text(""), *(Text(line) for line in lines if line))


def _csv(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """A row a member: swept fields, status, every figure, stages reused and their seconds."""
    flat = [_flat(row) for row in rows]
    named = list(dict.fromkeys(name for row in flat for name in row))
    heads = ["member", *fields, "status", *named, "error"]
    file = io.StringIO()
    writer = csv.DictWriter(file, heads, restval="", lineterminator="\n")
    writer.writeheader()
    for row, figures in zip(rows, flat, strict=True):
        own = {name: row[name] for name in ("member", "status", "error")}
        writer.writerow({**figures, **row["swept"], **own})
    return file.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    report = row["report"]
    if report is None:
        return {}
    flat = {} if "seed" in row["swept"] else {"seed": report.get("seed")}
    flat |= row["figures"]
    for name, point in report["points"].items():
        for figure in ("latency_ms", "latency_ratio"):
            if point.get(figure):
                # whether anything may be concluded from it
                flat[f"{name}.{figure}.steady"] = str(is_steady(point, figure)).lower()
    for stage in report.get("stages", ()):
        # a stage of a further round has the name of the first one: its point tells them apart
        name = stage["name"] if f"{stage['name']}.reused" not in flat else stage.get("point", "")
        skipped = bool(stage.get("skipped"))
        # a skipped stage has nothing to reuse
        flat[f"{name}.reused"] = str(bool(stage["reused"]) and not skipped).lower()
        flat[f"{name}.skipped"] = str(skipped).lower()
        flat[f"{name}.seconds"] = stage["seconds"]
    return flat
