"""summary.md: the report of a sweep for a terminal, a code review or a paper's notes."""

from collections.abc import Mapping
from typing import Any

from compressor.report import setting, tables
from compressor.report.agreement import agreements
from compressor.report.comparisons import caution
from compressor.report.run import markdown_table


def markdown(summary: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    parts = ["# Sweep summary"]
    facts = [f"- {name}: {_code(name, text)}" for name, text in setting.facts(summary).items()]
    parts += ["\n".join(facts)] if facts else []
    parts.append(" ".join(summary["headline"]))
    if summary["members"]:
        parts.append(_table(tables.configurations(summary)))
    parts.append(f"{tables.state_line(summary)} {tables.legend(summary)}".strip())
    parts += [f"![{figure['caption']}]({name})" for name, figure in figures.items()]
    if summary["comparisons"]:
        parts += ["## Comparisons", f"Against {summary['baseline'].name}, paired by seed."]
        parts.append("\n".join(f"- {each['text']}" for each in summary["comparisons"]))
        parts += [text for text in [caution(summary["comparisons"])] if text]
    parts += agreement_section(summary["members"])
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


def agreement_section(members: list[Mapping[str, Any]]) -> list[str]:
    """Whether channels that are kept follow the labels, where a sweep has noise in it."""
    found = agreements(members)
    if not found:
        return []
    fields = list(found[0]["fields"])
    rows = [
        [
            *(each["fields"].get(f, "") for f in fields),
            tables.estimate_text(each["agreement"], None),
        ]
        for each in found
    ]
    return [
        "## Channels kept, against clean labels",
        "Agreement with the network of clean labels and plain cross-entropy, same criterion and "
        "seed: 1 = the same channels, 0 = as many common ones as by chance.",
        markdown_table([*fields, "agreement"], rows),
    ]


def _code(name: str, text: str) -> str:
    return text if name in ("Compared with", "Model", "Data") else f"`{text}`"


def _table(table: tables.Table) -> str:
    text = markdown_table(table.heads, table.rows)
    return text.replace("---:", "---", table.left - 1)
