"""What a search looks at: figures of a member's report, named as `final.accuracy`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.errors import RunError, UsageError

POINTS = ("dense", "compressed", "recalibrated", "final")
# What is measured at every point, and whether more of it is better: costs, and the metrics of a
# classification, without the import of its task.
COSTS = {
    "macs": False,
    "params": False,
    "size_bytes": False,
    "latency_ms.median": False,
    "latency_ms.low": False,
    "latency_ms.high": False,
    "latency_ratio.median": False,
    "latency_ratio.low": False,
    "latency_ratio.high": False,
}
METRICS = {"accuracy": True, "balanced_accuracy": True, "macro_f1": True, "loss": False}
FIGURES = {**METRICS, **COSTS}
CLASSIFICATION = "compressor.tasks.classification.Classification"
SECONDS = "seconds"  # what the whole member took; it has no point
_ROUND = re.compile(r"round\d+/(?:compressed|recalibrated|finetuned)$")


def figures(task: Mapping[str, Any] | None) -> dict[str, bool]:
    """What a run of this task measures at every point, and whether more of it is better.

    task: the config group, None for that of a classification, which is not imported.
    """
    from compressor.instantiation import make

    if task is None or task["_target_"] == CLASSIFICATION:
        return FIGURES
    return {name: way == "max" for name, way in make(task).figures.items()} | COSTS


def names(objective: Any, known: Mapping[str, bool] = FIGURES) -> list[str]:
    """The config's `objective`, one name or several, as a list of known names.

    known: figures that may be named.
    """
    found = [objective] if isinstance(objective, str) else objective
    if not isinstance(found, Sequence) or not found or not all(isinstance(n, str) for n in found):
        raise UsageError(
            f"objective={objective} names no figure: write objective=final.accuracy or "
            "objective='[final.accuracy,final.macs]'"
        )
    for name in found:
        _check(name, known)
    return list(found)


def more_is_better(name: str, known: Mapping[str, bool] = FIGURES) -> bool:
    return known.get(name.partition(".")[2], False)


def is_latency(name: str) -> bool:
    return name.partition(".")[2].startswith("latency_")


def value(report: Mapping[str, Any], objective: Sequence[str]) -> tuple[float, ...]:
    """The figures of a report; RunError for one that the run did not measure."""
    return tuple(_value(report, name) for name in objective)


def _value(report: Mapping[str, Any], name: str) -> float:
    node: Any = report if name == SECONDS else report.get("points")
    # a point has no dot in its name
    for part in name.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, int | float) or math.isnan(node):
        has = ", ".join((report.get("points") or {}).keys()) or "none"
        raise RunError(
            f"objective={name} was not measured in this run (points: {has}); choose another figure"
        )
    if is_latency(name):
        point, figure, _ = name.split(".")
        if not report["points"][point][figure].get("steady"):
            raise RunError(
                f"objective={name} is unsteady: this machine is busy, and a search must not decide "
                "by chance; search when it is idle, or give machine.latency_seconds more"
            )
    return float(node)


def _check(name: str, known: Mapping[str, bool]) -> None:
    if name == SECONDS:
        return
    point, _, figure = name.partition(".")
    usual = next(iter(known))
    if point not in POINTS and not _ROUND.match(point):
        near = difflib.get_close_matches(point, POINTS, n=1)
        hint = f"; did you mean {near[0]}.{figure or usual}?" if near else ""
        raise UsageError(
            f"objective={name}: there is no point '{point}'; it is one of {', '.join(POINTS)} or "
            f"roundK/compressed, with a figure behind a dot, such as final.{usual}{hint}"
        )
    if figure not in known:
        near = difflib.get_close_matches(figure, known, n=1)
        hint = f"; did you mean {point}.{near[0]}?" if near else ""
        raise UsageError(
            f"objective={name}: there is no figure '{figure}'; it is one of "
            f"{', '.join(known)}{hint}"
        )
