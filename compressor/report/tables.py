"""The tables of a sweep's report as text cells, the same for the terminal, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor.durations import duration
from compressor.report import latencies
from compressor.report.configurations import configured
from compressor.report.latencies import AGAIN
from compressor.report.members import DEFAULT, STATES
from compressor.report.metrics import Metric
from compressor.report.run import si, significant
from compressor.report.statistics import decimals

FRONT = "*"  # marks a cost at which nothing in the sweep is better

WORDS = {
    "better": "better",
    "worse": "worse",
    "none": "cannot tell",
    "single": "one seed",
    "even": "no spread",
    "absent": "no partner",
    "unsteady": "unsteady",
}


@dataclass
class Table:
    """heads and rows of text; the first `left` columns are words, the others figures."""

    heads: list[str]
    rows: list[list[str]]
    left: int = 1
    kinds: list[str] = field(default_factory=list)  # of each row, for the page's colours


def configurations(summary: Mapping[str, Any], short: bool = False) -> Table:
    """A row a configuration; short: what 80 columns hold."""
    metric: Metric | None = summary["metric"]
    title = (metric or Metric.default()).title
    fields = configured(summary["fields"])
    change = "change" if short else _change_head("change", metric)
    heads = [*(fields or ["configuration"]), "n", title, change]
    against = {}
    if summary["baseline"].field is not None and not short:
        head = _change_head(f"against {summary['baseline'].name}", metric)
        heads.append(head)
        against = _one_partner(summary["comparisons"])
    heads += ["MACs", "ms"] if short else ["MACs", "params", "latency ms", "latency ratio", "loss"]
    if any(entry["unscaled_ratio"] for entry in summary["configurations"]):
        heads.insert(heads.index("MACs") + 1, "of unscaled")
    balanced = {"balanced accuracy": "balanced_accuracy", "macro-F1": "macro_f1"}
    if not short and any(entry["unequal"] for entry in summary["configurations"]):
        heads += [head for head in balanced if head != title]
    rows = []
    for entry in summary["configurations"]:
        cells = {**(entry["fields"] or {"configuration": "all members"}), "n": _count(entry, short)}
        cells[title] = estimate_text(entry["value"], metric)
        cells[change] = change_text(entry["change"], metric)
        if against:
            cells[head] = change_text(against.get(id(entry["fields"])), metric)
        cells["loss"] = _plain(entry["loss"])
        if entry["unscaled_ratio"]:
            cells["of unscaled"] = f"{entry['unscaled_ratio']['mean']:.3f}x"
        cells |= {head: _plain(entry[figure]) for head, figure in balanced.items()}
        for name in ("macs", "params"):
            cells["MACs" if name == "macs" else name] = _with_ratio(
                entry[name], entry[f"{name}_ratio"], short
            ) + _mark(entry, name)
        if short:
            cells["ms"] = _short_latency(entry) + _mark(entry, "latency_ms")
        else:
            cells["latency ms"], cells["latency ratio"] = _latency(entry)
        rows.append([cells.get(name, "-") for name in heads])
    return Table(heads, rows, len(fields) or 1)


def comparisons(summary: Mapping[str, Any]) -> Table:
    """A row a comparison with the baseline, its verdict last."""
    metric, baseline = summary["metric"], summary["baseline"]
    placed = any(each["where"] for each in summary["comparisons"])
    heads = ["configuration" if baseline.field is None else baseline.field]
    heads += ["at"] * placed + ["seeds", _change_head("difference", metric), "verdict"]
    rows = [
        [
            each["subject"],
            *([each["where"] or "-"] if placed else []),
            str(each["change"]["n"] if each["change"] else 0),
            change_text(each["change"], metric),
            WORDS[each["kind"]] + (", strict" if each["strict"] else ""),
        ]
        for each in summary["comparisons"]
    ]
    kinds = [each["kind"] for each in summary["comparisons"]]
    return Table(heads, rows, 1 + placed, kinds)


def dense(summary: Mapping[str, Any]) -> Table:
    metric = summary["metric"]
    heads = ["dense networks", "n", (metric or Metric.default()).figure, "MACs", "params"]
    rows = []
    for name, entry in summary["dense"].items():
        cells = [name, str(entry["value"]["n"]), estimate_text(entry["value"], metric)]
        for cost in ("macs", "params"):
            cells.append(f"{entry[cost]['mean']:,.0f}" if entry[cost] else "-")
        cells[3] += _mark(entry, "macs")
        cells += _latency(entry)
        rows.append(cells)
    return Table([*heads, "latency ms", "latency ratio"], rows)


def failed(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [[row["member"], sentence(row), row["error"]] for row in rows]
    return Table(["member", "overrides", "reason"], cells, 3)


def times(summary: Mapping[str, Any]) -> Table:
    heads = ["stage", "computed", "time spent", "reused", "time saved"]
    rows = []
    for name, stage in summary["times"]["stages"].items():
        saved = _saved(stage["saved"], stage["unknown"], stage["reused"])
        spent = duration(stage["seconds"]) if stage["computed"] else "-"
        rows.append([name, str(stage["computed"]), spent, str(stage["reused"]), saved])
    return Table(heads, rows)


def members(summary: Mapping[str, Any]) -> Table:
    """A row a member: what it was asked, its figures, how many of its stages were reused."""
    metric, fields = summary["metric"], summary["fields"]
    title = (metric or Metric.default()).title
    costs = {
        "MACs": "final.macs",
        "params": "final.params",
        "latency ms": "final.latency_ms.median",
    }
    heads = ["member", *fields, "status", title, *costs, "reused", "time"]
    rows = []
    for row in summary["rows"]:
        found, report = row["figures"], row["report"] or {}
        cells = [row["member"], *(row["swept"][name] for name in fields), row["status"]]
        value = found.get(metric.name) if metric else None
        known = None if value is None else {"mean": value, "interval": None}
        cells.append(estimate_text(known, metric))
        for name in costs.values():
            value = found.get(name)
            cells.append(_ms(value, report) if "latency" in name else si(value))
        acted = [stage for stage in report.get("stages", ()) if not stage.get("skipped")]
        reused = sum(bool(stage["reused"]) for stage in acted)
        cells.append(f"{reused} of {len(acted)}" if acted else "-")
        seconds = report.get("seconds")
        cells.append(duration(seconds) if seconds is not None else "-")
        rows.append(cells)
    return Table(heads, rows, 2 + len(fields), [row["status"] for row in summary["rows"]])


# -- lines --------------------------------------------------------------------------------------


def state_line(summary: Mapping[str, Any]) -> str:
    """ "33 of 36 members done, 1 running, 1 failed, 1 not started." """
    total = len(summary["rows"]) + summary["not_started"]
    text = f"{len(summary['members'])} of {total} members done"
    for state in STATES[1:]:
        count = sum(row["status"] == state for row in summary["rows"])
        text += f", {count} {state}" if count else ""
    text += f", {summary['not_started']} not started" if summary["not_started"] else ""
    return f"{text}."


def legend(summary: Mapping[str, Any]) -> str:
    """How to read the configurations' table."""
    found = summary["configurations"]
    metric = summary["metric"]
    if metric is None or not summary["members"]:
        return ""
    parts = []
    if any(entry["change"] for entry in found):
        parts.append(
            f"change: {metric.title} minus that of the member's own dense network"
            f"{', in points (hundredths)' if metric.fraction else ''}."
        )
    if any(entry["unscaled_ratio"] for entry in found):
        parts.append(
            "MACs: times the dense network's, which is the scaled one; of unscaled: times those "
            "of the model before `scale`."
        )
    if not metric.higher:
        parts.append(f"Less {metric.title} is better.")
    if any(entry["n"] > 1 for entry in found):
        parts.append("±: 95 % t-interval of the mean over the n seeds.")
    if any(entry["n"] == 1 for entry in found):
        parts.append("n = 1: one seed, no interval.")
    if any(entry["front"] for entry in found):
        parts.append(f"{FRONT}: on the Pareto front: {front_words(summary)}.")
    parts += _latency_legend([*found, *summary["dense"].values()])
    if sum(entry["repeated"] for entry in found):
        parts.append("Members that repeat a seed of their configuration count as one.")
    return " ".join(parts)


def _latency_legend(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """How to read latencies, and what of them is unsteady."""
    timed = [entry for entry in entries if entry["latency_ms"]]
    if not timed:
        return []
    parts = [
        "Latency: the ratio to the dense network that took turns with it, with its 95 % interval; "
        "the milliseconds are that network's median times it."
    ]
    old = [entry for entry in timed if not entry["latency_ratio"]]
    if old:
        parts.append(f"Latencies of a release that took no ratio count for nothing: {AGAIN}.")
    if any(entry["latency_ratio"] and not entry["steady"] for entry in timed):
        parts.append(
            f"Unsteady: the interval is wider than ±15 %, nothing is concluded from it; {AGAIN}."
        )
    if any(entry["steady"] and not entry["steady_ms"] for entry in timed):
        parts.append(
            f"Milliseconds that are unsteady ({latencies.ROUGH}) are those of a busy machine; "
            "their ratios stand."
        )
    return parts


def front_words(summary: Mapping[str, Any]) -> str:
    better = "more" if summary["metric"].higher else "less"
    words = (
        f"no other mean of this sweep on its data and noise, dense networks included, has "
        f"{better} {summary['metric'].title} at no greater cost"
    )
    if any("latency_ms" in entry["front"] for entry in summary["configurations"]):
        words += (
            " (latencies within each other's 95 % interval count as equal, unsteady ones take no "
            "part)"
        )
    return words


def time_lines(summary: Mapping[str, Any]) -> list[str]:
    """Time spent and saved, and what the stages' records say about sharing."""
    found = summary["times"]
    if not found["timed"]:
        return []
    members_ = f"{found['timed']} member{'' if found['timed'] == 1 else 's'}"
    lines = [f"Time spent: {duration(found['seconds'])}, the sum over {members_}."]
    reused = sum(stage["reused"] for stage in found["stages"].values())
    if reused:
        text = f"Time saved by reuse: {_saved(found['saved'], found['unknown'], reused)}"
        if found["unknown"]:
            text += (
                f"; {found['unknown']} of {reused} reused stages were computed outside these "
                "members, their saving is unknown"
            )
        lines.append(f"{text}.")
    train = found["stages"].get("train")
    if train:
        times = {0: "never reused", 1: "reused once", 2: "reused twice"}
        reused = times.get(train["reused"], f"reused {train['reused']} times")
        lines.append(f"Dense trainings: {train['computed']} computed, {reused}.")
    repeated = sum(stage["repeated"] for stage in found["stages"].values())
    if repeated:
        lines.append(f"Computed more than once although equal: {repeated} stages.")
    return lines


def provenance(summary: Mapping[str, Any]) -> list[str]:
    """Where the figures were measured, and in what the members' environments differ."""
    seen: dict[str, dict[str, None]] = {}
    for row in summary["members"]:
        report = row["report"]
        environment = report.get("environment")
        environment = dict(environment) if isinstance(environment, Mapping) else {}
        packages = environment.pop("packages", None)
        environment |= dict(packages) if isinstance(packages, Mapping) else {}
        git = environment.pop("git", None)
        if isinstance(git, Mapping):
            dirty = " with uncommitted changes" if git.get("dirty") else ""
            environment["source"] = f"commit {str(git.get('commit'))[:12]}{dirty}"
        final = list(report["points"].values())[-1]
        latency = final.get("latency_ms")
        if isinstance(latency, Mapping) and "batch_size" in latency:
            threads = f", {latency['threads']} threads" if "threads" in latency else ""
            environment["latency"] = f"median at batch {latency['batch_size']}{threads}"
        for name, value in environment.items():
            if value not in (None, "", []):
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                seen.setdefault(name, {})[text] = None
    lines = [f"{name}: {next(iter(values))}" for name, values in seen.items() if len(values) == 1]
    lines += [
        f"{name} differs between members: {' | '.join(values)}"
        for name, values in seen.items()
        if len(values) > 1
    ]
    return lines


def sentence(row: Mapping[str, Any]) -> str:
    """A member's swept overrides as they were typed."""
    named = [f"{name}={value}" for name, value in row["swept"].items() if value != DEFAULT]
    return " ".join(named) or "defaults"


def subject(summary: Mapping[str, Any]) -> str:
    """The sweep in words, for a title: "prune and prune.ratio, 3 seeds"."""
    fields = configured(summary["fields"])
    seeds = max((entry["n"] for entry in summary["configurations"]), default=0)
    *first, last = fields or ["one configuration"]
    what = f"{', '.join(first)} and {last}" if first else last
    return f"{what}, {seeds} seed{'' if seeds == 1 else 's'}"


# -- cells --------------------------------------------------------------------------------------


def estimate_text(value: Mapping[str, Any] | None, metric: Metric | None) -> str:
    """The metric's mean and interval: 0.9600 ± 0.0071, or 507.1 k."""
    if value is None:
        return "-"
    if metric is None or metric.fraction:
        return _plain(value)
    return _sized(value["mean"], value["interval"])


def change_text(change: Mapping[str, Any] | None, metric: Metric | None) -> str:
    """A difference of the metric, in points where it is a fraction: -1.25 ± 0.31."""
    if change is None or metric is None:
        return "-"
    mean, half = change["mean"], change["interval"]
    if metric.fraction:
        text = f"{100 * mean:+.2f}"
        text = "+0.00" if text == "-0.00" else text
        return text if half is None else f"{text} ± {100 * half:.2f}"
    return f"{'-' if mean < 0 else '+'}{_sized(abs(mean), half)}"


def _change_head(word: str, metric: Metric | None) -> str:
    return f"{word}, points" if metric is None or metric.fraction else word


def _one_partner(found: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The change of each configuration that has one partner; with several no cell can hold it."""
    changes: dict[int, list[Any]] = {}
    for each in found:
        changes.setdefault(id(each["fields"]), []).append(each["change"])
    return {key: each[0] for key, each in changes.items() if len(each) == 1}


def _count(entry: Mapping[str, Any], short: bool) -> str:
    text = str(entry["n"])
    lacking = entry["failed"] + entry["unfinished"]
    if not lacking:
        return text
    if short:
        return f"{text}/{entry['n'] + lacking}"
    words = [f"{entry[name]} {name}" for name in ("failed", "unfinished") if entry[name]]
    return f"{text} ({', '.join(words)})"


def _plain(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    text = f"{value['mean']:.4f}"
    return text if value["interval"] is None else f"{text} ± {value['interval']:.4f}"


def _sized(mean: float, half: float | None) -> str:
    """Four digits of the larger one, the other to the same decimals: 3.438 ± 0.160."""
    large = max(abs(mean), half or 0.0)
    if large >= 1000:
        text, bar = si(mean), si(half)
    else:
        places = decimals(large, 4)
        text, bar = f"{mean:.{places}f}", f"{half or 0.0:.{places}f}"
    return text if half is None else f"{text} ± {bar}"


def _with_ratio(
    value: Mapping[str, Any] | None, ratio: Mapping[str, Any] | None, short: bool
) -> str:
    if value is None:
        return "-"
    text = si(value["mean"], 3).replace(" ", "") if short else si(value["mean"])
    return f"{text} {ratio['mean']:.{2 if short else 3}f}x" if ratio else text


def _mark(entry: Mapping[str, Any], cost: str) -> str:
    return FRONT if cost in entry["front"] else ""


def _ms(value: float | None, report: Mapping[str, Any]) -> str:
    final = report.get("points", {}).get("final", {})
    steady = latencies.is_steady(final) and latencies.is_steady(final, "latency_ms")
    return "-" if value is None else latencies.millisecond_cell(significant(value), steady)


def _latency(entry: Mapping[str, Any]) -> list[str]:
    """Milliseconds, and the ratio to the dense network with its interval."""
    known, ratio = entry["latency_ms"], entry["latency_ratio"]
    text = significant(known["mean"]) if known else "-"
    cell = latencies.ratio_cell(
        ratio["mean"] if ratio else None, entry["latency_span"], entry["steady"]
    )
    return [
        latencies.millisecond_cell(text, entry["steady_ms"]), cell + _mark(entry, "latency_ms")
    ]  # fmt: skip


def _short_latency(entry: Mapping[str, Any]) -> str:
    known, ratio = entry["latency_ms"], entry["latency_ratio"]
    text = significant(known["mean"], 3) if known else "-"
    median = ratio["mean"] if ratio else None
    span = entry["latency_span"]
    return latencies.short_cell(text, median, span, entry["steady"], entry["steady_ms"])


def _saved(seconds: float, unknown: int, reused: int) -> str:
    if not reused:
        return "-"
    if unknown == reused:
        return "unknown"
    return f"at least {duration(seconds)}" if unknown else duration(seconds)
