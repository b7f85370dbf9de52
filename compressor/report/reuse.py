"""The time that a sweep's members spent, and what they saved by reusing each other's stages."""

from collections.abc import Iterable, Mapping
from typing import Any


def times(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds spent and saved, over the members and stage by stage.

    A stage that was reused saved what its computation took: `made_seconds` of its record, else what
    the member that computed the same key recorded, else the saving is unknown. A skipped stage
    (the identity) neither ran nor was reused. Returns {"seconds": of all members, "timed": members
    that have recorded theirs, "stages": {name: {"computed", "seconds", "reused", "saved",
    "unknown", "repeated": computations of a key beyond its first}}, "saved", "unknown"}.
    """
    reports = [row["report"] for row in rows if row["report"]]
    records = [s for report in reports for s in report.get("stages", ()) if not s.get("skipped")]
    cost: dict[str, list[float]] = {}
    for record in records:
        if not record["reused"]:
            cost.setdefault(record["key"], []).append(record["seconds"])
    stages: dict[str, dict[str, Any]] = {}
    first: set[str] = set()
    for record in records:
        none = dict.fromkeys(("computed", "reused", "unknown", "repeated"), 0)
        found = stages.setdefault(record["name"], {**none, "seconds": 0.0, "saved": 0.0})
        key = record["key"]
        if not record["reused"]:
            found["computed"] += 1
            found["seconds"] += record["seconds"]
            found["repeated"] += key in first
            first.add(key)
            continue
        found["reused"] += 1
        if record.get("made_seconds"):
            found["saved"] += record["made_seconds"]
        elif key in cost:
            found["saved"] += sum(cost[key]) / len(cost[key])
        else:
            found["unknown"] += 1
    spent = [report["seconds"] for report in reports if report.get("seconds") is not None]
    return {
        "seconds": sum(spent),
        "timed": len(spent),
        "stages": stages,
        "saved": sum(stage["saved"] for stage in stages.values()),
        "unknown": sum(stage["unknown"] for stage in stages.values()),
    }
