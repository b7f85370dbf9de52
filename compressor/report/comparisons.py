"""What a sweep shows: each configuration against a baseline, paired by seed, and the headline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError
from compressor.report.configurations import INERT, describe
from compressor.report.latencies import AGAIN
from compressor.report.metrics import Metric
from compressor.report.statistics import (
    LEVEL,
    amounts,
    estimate,
    interval,
    kind,
    more_seeds,
    paired,
    verdict,
    worth_showing,
)
from compressor.report.tables import estimate_text

DENSE = "dense"


@dataclass(frozen=True)
class Baseline:
    """What is compared with: configurations in which `field` is `value`, or the dense networks."""

    field: str | None = None
    value: str = DENSE

    @property
    def name(self) -> str:
        if self.field is None:
            return "its dense network"
        return describe({self.field: self.value})


def choose(wish: str | None, configurations: Sequence[Mapping[str, Any]]) -> Baseline:
    """The baseline asked for, else prune=random, else an option `none`, else the dense networks."""
    there = list(
        dict.fromkeys(
            (field, value)
            for entry in configurations
            for field, value in entry["fields"].items()
            if value != INERT
        )
    )
    if wish is None:
        nones = [pair for pair in there if pair[1] == "none"]
        ready = [("prune", "random"), ("prune", "none"), *nones]
        return next((Baseline(*pair) for pair in ready if pair in there), Baseline())
    if wish == DENSE:
        return Baseline()
    pairs = [pair for pair in there if wish in (pair[1], "=".join(pair))]
    if len(pairs) == 1:
        return Baseline(*pairs[0])
    if pairs:
        choices = " or ".join(f"{field}={value}" for field, value in pairs)
        raise UsageError(f"the baseline {wish} is not clear: say {choices}")
    names = ", ".join([DENSE, *("=".join(pair) for pair in there)])
    raise UsageError(f"no member has the baseline {wish}: choose one of {names}")


def compare(
    configurations: Sequence[Mapping[str, Any]], baseline: Baseline, metric: Metric
) -> list[dict[str, Any]]:
    """Every configuration against the baseline, other fields equal, paired by seed.

    A comparison: {"subject", "where": the fields held equal, "fields", "change": ours minus the
    baseline's, "kind" ("unsteady": the metric is a latency that is), "text": the verdict,
    "strict": whether it also stands when the level is shared among all comparisons (Bonferroni)}.
    """
    found = []
    for subject, against, where, entry, partner in _pairs(configurations, baseline):
        theirs = entry["dense_values"] if partner is None else partner["values"]
        differences = paired(entry["values"], theirs)
        change = estimate(differences)
        unsteady = change is None and (
            entry["unsteady"] or (partner is not None and partner["unsteady"])
        )
        found.append(
            {
                "subject": subject,
                "where": where,
                "fields": entry["fields"],
                "differences": differences,
                "change": change,
                "kind": "unsteady" if unsteady else kind(change, metric.higher),
                "text": f"{subject} against {against}: the latency is unsteady, no verdict"
                if unsteady
                else verdict(
                    subject,
                    against,
                    change,
                    higher=metric.higher,
                    factor=metric.factor,
                    unit=metric.unit,
                ),
            }
        )
    made = sum(each["kind"] in ("better", "worse", "none") for each in found)
    for each in found:
        each["strict"] = False
        if each["kind"] in ("better", "worse"):
            wide = interval(each["differences"], 1 - (1 - LEVEL) / made)
            each["strict"] = wide is not None and abs(each["change"]["mean"]) > wide
    return found


def _pairs(
    configurations: Sequence[Mapping[str, Any]], baseline: Baseline
) -> Iterator[tuple[str, str, str, Mapping[str, Any], Mapping[str, Any] | None]]:
    """(subject, against, where, configuration, its partner or None for its dense network)."""
    field = baseline.field
    if field is None:
        for entry in configurations:
            yield describe(entry["fields"]), baseline.name, "", entry, None
        return
    for entry in configurations:
        if entry["fields"][field] == baseline.value:
            continue
        subject = describe({field: entry["fields"][field]})
        for partner in configurations:
            others = [name for name in partner["fields"] if name != field]
            pairs = {name: (entry["fields"][name], partner["fields"][name]) for name in others}
            if partner["fields"][field] != baseline.value or not all(
                ours == theirs or INERT in (ours, theirs) for ours, theirs in pairs.values()
            ):
                continue
            # an option that does nothing on one side is that of the other
            held = {n: theirs if ours == INERT else ours for n, (ours, theirs) in pairs.items()}
            where = describe(held, nothing="")
            link = " at " if "=" in where.split(" ")[0] else " with "
            against = f"{baseline.name}{link}{where}" if where else baseline.name
            yield subject, against, where, entry, partner


# -- sentences ----------------------------------------------------------------------------------


def headline(summary: Mapping[str, Any]) -> list[str]:
    """What the sweep shows in one to three plain sentences."""
    done, total = len(summary["members"]), len(summary["members"]) + len(summary["unfinished"])
    total += len(summary["failed"]) + summary["not_started"]
    if not done or summary["metric"] is None:
        return [f"No member has finished: {done} of {total} are done."]
    sentences = [*_found(summary), shared_level(summary["comparisons"]), _best(summary)]
    return [sentence for sentence in sentences if sentence]


def _found(summary: Mapping[str, Any]) -> list[str]:
    comparisons = summary["comparisons"]
    kinds = {each["kind"] for each in comparisons}
    if "unsteady" in kinds and kinds <= {"absent", "unsteady"}:
        return [f"The latencies are unsteady: nothing is concluded from them; {AGAIN}."]
    if not comparisons or all(each["kind"] == "absent" for each in comparisons):
        return ["Nothing can be compared yet: no finished member has a finished partner."]
    if len(comparisons) <= 2:
        return [f"{each['text']}." for each in comparisons]
    if all(each["kind"] in ("single", "absent", "unsteady") for each in comparisons):
        return [
            "One seed has no interval: repeat the sweep over several seeds, as in seed=0,1,2, "
            "before preferring one configuration to another."
        ]
    baseline = summary["baseline"]
    if baseline.field is None:
        better, worse, none = (
            [each["subject"] for each in comparisons if each["kind"] in kinds]
            for kinds in (("better",), ("worse",), ("none", "even", "single"))
        )
        parts = []
        if better:
            parts.append(f"{_count(better)} beat their dense network")
        if worse:
            parts.append(f"{_count(worse)} lose to it")
        if none:
            parts.append(f"{_count(none)} cannot be told from it by so few seeds")
        unsteady = [each["subject"] for each in comparisons if each["kind"] == "unsteady"]
        if unsteady:
            parts.append(f"{_count(unsteady)} have an unsteady latency")
        text = ", ".join(parts)
        if not better:
            text = text.replace(" it", " their dense network", 1)
        return [f"Of {len(comparisons)} configurations {text}."]
    subjects: dict[str, list[Mapping[str, Any]]] = {}
    for each in comparisons:
        subjects.setdefault(each["subject"], []).append(each)
    sign = 1 if summary["metric"].higher else -1

    def gain(rows: Sequence[Mapping[str, Any]]) -> float:
        known = [sign * each["change"]["mean"] for each in rows if each["change"]]
        return sum(known) / len(known) if known else float("-inf")

    ordered = sorted(subjects.items(), key=lambda item: -gain(item[1]))
    parts = [_subject(subject, rows, summary["metric"]) for subject, rows in ordered]
    return [f"Against {baseline.name}, paired by seed: {'; '.join(parts)}."]


def _subject(subject: str, rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """ "thinet wins in 2 of 3 settings (by 0.6 to 2.1 points) and ..." """
    parts = []
    for what, verb in (("better", "wins"), ("worse", "loses")):
        found = [each for each in rows if each["kind"] == what]
        if found:
            sizes = sorted(abs(each["change"]["mean"]) for each in found)
            low, high = (
                amounts({"mean": size, "interval": None}, metric.factor).lstrip("+-")
                for size in (sizes[0], sizes[-1])
            )
            by = low if low == high else f"{low} to {high}"
            by += f" {metric.unit}" if metric.unit else ""
            parts.append(f"{verb} in {len(found)} of {len(rows)} settings (by {by})")
    told = ("better", "worse", "absent", "unsteady")
    rest = [each for each in rows if each["kind"] not in told]
    if rest:
        of = f"any of {len(rows)} settings" if len(rest) == len(rows) else str(len(rest))
        parts.append(f"cannot be told from it in {of}{_widest(rest, metric)}")
    if unsteady := sum(each["kind"] == "unsteady" for each in rows):
        parts.append(f"has an unsteady latency in {unsteady}")
    return f"{subject} {' and '.join(parts) or 'has no finished partner'}"


def _widest(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """How little the least certain of some comparisons says, and what it would take."""
    known = [
        each["change"] for each in rows if each["kind"] == "none" and each["change"]["interval"]
    ]
    if not known:
        return ""
    widest = max(known, key=lambda change: change["interval"])
    half = amounts({"mean": widest["interval"], "interval": None}, metric.factor).lstrip("+")
    text = f"{half} {metric.unit}".rstrip()
    target = worth_showing(widest, metric.factor)
    if not target or widest["interval"] <= target:
        return f" (±{text} at the widest)"
    size = amounts({"mean": target, "interval": None}, metric.factor).lstrip("+")
    return (
        f" (±{text} at the widest: about {more_seeds(widest, target):,} more seeds would show "
        f"{size} {metric.unit}".rstrip()
        + ")"
    )


def _best(summary: Mapping[str, Any]) -> str:
    """The configuration with the best mean, among those that cost less than dense if there are."""
    metric = summary["metric"]
    # the best of several single seeds is the luckiest
    known = [e for e in summary["configurations"] if e["value"] and e["value"]["n"] > 1]
    if len(known) < 2 or len({entry["problem"] for entry in known}) > 1:
        return ""
    smaller = [e for e in known if e["macs_ratio"] and e["macs_ratio"]["mean"] < 1 - 1e-9]
    sign = 1 if metric.higher else -1
    best = max(smaller or known, key=lambda entry: sign * entry["value"]["mean"])
    among = "of the smaller networks " if smaller and len(smaller) < len(known) else ""
    text = (
        f"The best mean {metric.title} {among}is that of {describe(best['fields'])}: "
        f"{estimate_text(best['value'], metric)}"
    )
    if best["macs_ratio"]:
        text += f" at {best['macs_ratio']['mean']:.2f} of the dense MACs"
    if best["unscaled_ratio"]:
        text += f" and {best['unscaled_ratio']['mean']:.2f} of the unscaled network's"
    if best["change"]:
        against = amounts(best["change"], metric.factor)
        text += f", {against} {metric.unit}".rstrip() + " against its dense network"
    return text + "."


def caution(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What a reader of many comparisons must know; empty for one."""
    made = [each for each in comparisons if each["kind"] in ("better", "worse", "none")]
    if len(made) < 2:
        return ""
    return (
        f"{len(made)} comparisons were made: at 95 % each, about {len(made) * (1 - LEVEL):.1f} of "
        f"them would exclude 0 by chance alone. {shared_level(comparisons)}"
    ).strip() + " Those are marked strict." * any(each["strict"] for each in made)


def shared_level(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """How many of the differences shown stand when all comparisons share one level."""
    made = [each for each in comparisons if each["kind"] in ("better", "worse", "none")]
    shown = [each for each in made if each["kind"] != "none"]
    if len(made) < 2 or not shown:
        return ""
    strict = sum(each["strict"] for each in shown)
    return (
        f"With the level shared among all {len(made)} comparisons (Bonferroni), {strict} of the "
        f"{len(shown)} difference{'' if len(shown) == 1 else 's'} still stand"
        f"{'s' if strict == 1 else ''}."
    )


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if len(names) <= 3 else str(len(names))
