"""summary.md: the report of a sweep for a terminal, a code review or a paper's notes."""

from collections.abc import Mapping
from typing import Any

from compressor.report import tables
from compressor.report.comparisons import caution
from compressor.report.run import markdown_table


def markdown(summary: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    parts = ["# Sweep summary", " ".join(summary["headline"])]
    if summary["members"]:
        parts.append(_table(tables.configurations(summary)))
    parts.append(f"{tables.state_line(summary)} {tables.legend(summary)}".strip())
    parts += [f"![{figure['caption']}]({name})" for name, figure in figures.items()]
    if summary["comparisons"]:
        parts += ["## Comparisons", f"Against {summary['baseline'].name}, paired by seed."]
        parts.append("\n".join(f"- {each['text']}" for each in summary["comparisons"]))
        parts += [text for text in [caution(summary["comparisons"])] if text]
    if summary["dense"]:
        parts += ["## Dense networks", _table(tables.dense(summary))]
    for name, title in (("failed", "Failed members"), ("unfinished", "Unfinished members")):
        if summary[name]:
            parts += [f"## {title}", _table(tables.failed(summary[name]))]
    lines = tables.time_lines(summary)
    if lines:
        parts += ["## Time", " ".join(lines), _table(tables.times(summary))]
    facts = tables.provenance(summary)
    if facts:
        parts += ["## Measured on", "\n".join(f"- {line}" for line in facts)]
    parts.append("Every figure of every member is in `summary.csv`.")
    return "\n\n".join(parts) + "\n"


def _table(table: tables.Table) -> str:
    text = markdown_table(table.heads, table.rows)
    return text.replace("---:", "---", table.left - 1)
