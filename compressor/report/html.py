"""report.html: a sweep's report on one page that opens from a file, with no server and no request.

Styles and figures stand inside the page, there is no script, and its policy forbids any fetch.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compressor.durations import duration
from compressor.report import drawing, setting, tables
from compressor.report.comparisons import caution
from compressor.report.configurations import describe

# Colours of the figures that follow the page's light or dark scheme, by their name in the style
_COLOURS = {
    drawing.INK: "ink", drawing.GREY: "grey", "#E5E7EB": "line", "#FFFFFF": "card",
    drawing.BLUE: "blue", drawing.RED: "red", drawing.GREEN: "green", drawing.ORANGE: "orange",
    drawing.PURPLE: "purple", drawing.SKY: "sky",
}  # fmt: skip

_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#ffffff;--ink:#1f2933;--grey:#5b6472;
--line:#e5e7eb;--blue:#0072b2;--red:#c14a00;--green:#00805d;--orange:#b87900;--purple:#b0588c;
--sky:#2f8fc4;--soft:#eef4f9}
@media (prefers-color-scheme:dark){:root{--page:#14181d;--card:#1c2229;--ink:#e6eaef;
--grey:#a3adba;--line:#343d48;--blue:#5db3ea;--red:#ff8a4c;--green:#3fcf9f;--orange:#f0b63f;
--purple:#e59cc6;--sky:#8fd0f5;--soft:#222c36}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 56px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 2px;overflow-wrap:anywhere}
h2{font-size:1.08rem;margin:0 0 10px}
p{margin:0 0 10px}
header>.about{color:var(--grey);overflow-wrap:anywhere}
.setting{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:12px 0 0;
font-size:.9rem}
.setting dt{color:var(--grey)}
.setting dd{margin:0;overflow-wrap:anywhere}
.found{font-size:1.12rem;line-height:1.5;background:var(--soft);border-left:4px solid var(--blue);
border-radius:0 8px 8px 0;padding:14px 18px;margin:18px 0}
.found p:last-child{margin:0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
margin:0 0 18px;padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.facts dt{color:var(--grey);font-size:.82rem}
.facts dd{margin:0;font-size:1.12rem;font-weight:600}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;
margin:0 0 18px}
.wide{overflow-x:auto;margin:0 -4px 10px;padding:0 4px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem;width:100%}
th,td{padding:5px 12px 5px 0;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--line)}
th{color:var(--grey);font-weight:600;vertical-align:bottom;white-space:normal}
th.word,td.word{text-align:left}
td.long{white-space:normal;min-width:16rem;overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
td.front{font-weight:650}
.mark{color:var(--blue);margin-left:.25em}
.better{color:var(--green);font-weight:600}
.worse{color:var(--red);font-weight:600}
.failed{color:var(--red)}
.running,.missing,.interrupted{color:var(--orange)}
.note{color:var(--grey);font-size:.87rem}
figure{margin:0}
figure+figure{margin-top:22px;padding-top:18px;border-top:1px solid var(--line)}
figure svg{display:block;width:100%;min-width:560px;height:auto;margin:0 auto}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",
sans-serif}
details summary{cursor:pointer;font-weight:600}
details[open] summary{margin-bottom:10px}
ul{margin:0;padding-left:1.2em}
li{margin:2px 0}
ul.note{columns:18rem}
code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em;
overflow-wrap:anywhere}
@media (max-width:600px){main{padding:18px 12px 40px}section{padding:14px 14px}
.found{font-size:1.02rem;padding:12px 14px}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
# nothing may be fetched, whatever a member's file says
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(summary: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page. figures: {file name: {"svg", "caption"}}, in the order to be shown."""
    # not the whole path: the page travels, the names of its owner's folders need not
    name = "/".join(Path(summary["folder"]).resolve().parts[-2:])
    alone = len(summary["rows"]) == 1 and not summary["not_started"]
    title = f"Run {name}" if alone else f"Sweep over {tables.subject(summary)}"
    about = f"{name}: {tables.state_line(summary)}"
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="about">{escape(about)}</p></header>',
        _setting(summary),
        _found(summary["headline"]),
        _facts(summary),
    ]
    if summary["members"]:
        parts.append(
            _section(
                "Configurations",
                _table(tables.configurations(summary))
                + _note(tables.legend(summary).replace(tables.FRONT, "★")),
            )
        )
    if figures:
        shown = [_figure(place, figure) for place, figure in enumerate(figures.values())]
        parts.append(_section("Figures", "".join(shown)))
    if summary["comparisons"]:
        parts.append(_section(f"Against {summary['baseline'].name}", _comparisons(summary)))
    fronts = _fronts(summary)
    if fronts:
        parts.append(_section("Pareto front", fronts))
    if summary["dense"]:
        parts.append(_section("Dense networks", _table(tables.dense(summary))))
    for kind, title in (("failed", "Failed members"), ("unfinished", "Unfinished members")):
        if summary[kind]:
            parts.append(_section(title, _table(tables.failed(summary[kind]), long=True)))
    lines = tables.time_lines(summary)
    if lines:
        text = f"<p>{escape(' '.join(lines))}</p>"
        parts.append(_section("Time spent and saved", text + _table(tables.times(summary))))
    parts.append(_members(summary))
    facts = tables.provenance(summary)
    if facts:
        items = "".join(f"<li>{escape(line)}</li>" for line in facts)
        parts.append(_section("Measured on", f'<ul class="note">{items}</ul>'))
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _setting(summary: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
        for name, text in setting.facts(summary).items()
    )
    return f'<dl class="setting">{items}</dl>' if items else ""


def _found(sentences: Sequence[str]) -> str:
    return '<div class="found">' + "".join(f"<p>{escape(s)}</p>" for s in sentences) + "</div>"


def _facts(summary: Mapping[str, Any]) -> str:
    """The few figures that a reader asks for first."""
    found = summary["times"]
    total = len(summary["rows"]) + summary["not_started"]
    facts = {"Members done": f"{len(summary['members'])} of {total}"}
    seeds = max((entry["n"] for entry in summary["configurations"]), default=0)
    facts["Seeds a configuration"] = str(seeds)
    train = found["stages"].get("train")
    if train:
        facts["Dense trainings"] = (
            f"{train['computed']} for {train['computed'] + train['reused']} members"
        )
    if found["timed"]:
        facts["Time spent"] = duration(found["seconds"])
        reused = sum(stage["reused"] for stage in found["stages"].values())
        least = "at least " if found["unknown"] and found["saved"] else ""
        unknown = found["unknown"] and not found["saved"]
        facts["Saved by reuse"] = "unknown" if unknown else least + duration(found["saved"])
        if not reused:
            facts["Saved by reuse"] = "nothing was reused"
    items = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()]
    return f'<dl class="facts">{"".join(items)}</dl>'


def _comparisons(summary: Mapping[str, Any]) -> str:
    table = tables.comparisons(summary)
    sentences = "".join(
        f'<li><span class="{each["kind"]}">{escape(each["text"])}</span></li>'
        for each in summary["comparisons"]
    )
    text = f"<details><summary>The same in sentences</summary><ul>{sentences}</ul></details>"
    how = (
        "Each seed's difference is taken first, then the mean and its 95 % t-interval: what makes "
        "a seed good or bad for both cancels. Better or worse is said where the interval excludes "
        "0, and never of one seed."
    )
    return _table(table) + _note(f"{how} {caution(summary['comparisons'])}".strip()) + text


def _fronts(summary: Mapping[str, Any]) -> str:
    lines = []
    places = {"macs": lambda entry: entry["macs"]["mean"]}
    places["latency_ms"] = lambda entry: entry["latency_cost"]
    for cost, words in (("macs", "MACs"), ("latency_ms", "measured latency")):
        known = [
            (describe(entry["fields"]), entry)
            for entry in summary["configurations"]
            if cost in entry["front"]
        ]
        known += [
            (f"dense ({name})" if len(summary["dense"]) > 1 else "dense", entry)
            for name, entry in summary["dense"].items()
            if cost in entry["front"]
        ]
        known.sort(key=lambda pair: (pair[1]["problem"], places[cost](pair[1])))
        if known:
            names = ", ".join(name for name, _ in known)
            lines.append(f"<li>against {words}, cheapest first: {escape(names)}</li>")
    unsteady = [
        describe(entry["fields"])
        for entry in summary["configurations"]
        if entry["latency_ms"]
        and not (entry["steady"] and (entry["steady_ms"] or entry["latency_cost"] is not None))
    ]
    if unsteady and lines:
        text = f"unsteady latency, no part in its front: {', '.join(unsteady)}"
        lines.append(f"<li>{escape(text)}</li>")
    if not lines:
        return ""
    note = (
        f"On the front: {tables.front_words(summary)}. It is a front of means: where "
        "intervals overlap, who is on it may be chance."
    )
    return f"<ul>{''.join(lines)}</ul>" + _note(note)


def _members(summary: Mapping[str, Any]) -> str:
    table = tables.members(summary)
    states = [row[1 + len(summary["fields"])] for row in table.rows]
    table.kinds = ["" if state == "done" else state for state in states]
    title = f"All {len(table.rows)} members"
    return (
        f"<section><details><summary>{title}</summary>{_table(table)}"
        f"{_note('Every figure of every member is in summary.csv.')}</details></section>"
    )


def _figure(place: int, figure: Mapping[str, Any]) -> str:
    """A figure inside the page: its colours follow the scheme, its ids are its own."""
    text = figure["svg"]
    head, rest = text.split(">", 1)
    # as wide as the page allows, in its own proportions, its 9 points at most 14 pixels
    width = re.search(r' width="([\d.]+)pt"', head)
    most = 1.57 * float(width[1]) if width else 860
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    label = escape(figure["caption"], quote=True)
    text = f'{head} role="img" aria-label="{label}" style="max-width:{most:.0f}px">{rest}'
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{place}-", text)
    for colour, name in _COLOURS.items():
        text = re.sub(colour, f"var(--{name})", text, flags=re.I)
    return f'<figure><div class="wide">{text}</div></figure>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _table(table: tables.Table, long: bool = False) -> str:
    heads = "".join(
        f"<th{_word(place, table)}>{escape(head)}</th>" for place, head in enumerate(table.heads)
    )
    rows = []
    for i, row in enumerate(table.rows):
        kind = table.kinds[i] if table.kinds else ""
        cells = []
        for place, cell in enumerate(row):
            classes = ["word"] if _is_word(place, table) else []
            classes += ["long"] if long and place == len(row) - 1 else []
            # the verdict or the state carries the row's colour, beside its word
            classes += (
                [kind] if kind and cell.split(",")[0] in (kind, tables.WORDS.get(kind)) else []
            )
            text = escape(cell)
            if table.left <= place and cell.endswith(tables.FRONT):
                classes.append("front")
                text = f'{escape(cell[:-1])}<span class="mark" title="Pareto front">&#9733;</span>'
            named = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{named}>{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _is_word(place: int, table: tables.Table) -> bool:
    return place < table.left or table.heads[place] == "verdict"


def _word(place: int, table: tables.Table) -> str:
    return ' class="word"' if _is_word(place, table) else ""
