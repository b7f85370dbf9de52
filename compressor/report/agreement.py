"""Do criteria pick other channels in a network that was trained on wrong labels?

Of a sweep's members that differ in noise and remedy alone, each is compared with the one of clean
labels and plain cross-entropy: same criterion, same seed, so the same initial weights. Agreement is
Cohen's kappa of the kept sets: 1 = the same channels, 0 = as many common ones as by chance.
Two trainings drift apart from equal weights for any reason: read it beside the random criterion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.members import is_seed
from compressor.report.statistics import estimate

_DAMAGE = ("noise", "robust")


def kappa(one: Mapping[str, Sequence[int]], other: Mapping[str, Sequence[int]], sizes: Mapping):
    """Agreement of two kept sets, all layers together. sizes: {layer: [before, after]}.

    None where they have no layer in common that was cut, or keep different counts.
    """
    common = expected = kept = 0.0
    for layer, (before, after) in sizes.items():
        a, b = one.get(layer), other.get(layer)
        if a is None or b is None or after == before or len(a) != len(b):
            continue
        common += len(set(a) & set(b))
        expected += len(a) * len(b) / before
        kept += len(a)
    return (common - expected) / (kept - expected) if kept > expected else None


def agreements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each configuration: {"fields", "agreement": estimate over the seeds}.

    rows: the finished members of a sweep.
    """
    clean: dict[tuple, Mapping[str, Any]] = {}
    for row in rows:
        if _damage_free(row["report"]):
            clean.setdefault(_rest(row), row)
    found: dict[tuple, list[float]] = {}
    for row in rows:
        reference = clean.get(_rest(row))
        if reference is None or reference is row or _damage_free(row["report"]):
            continue
        report = row["report"]
        value = kappa(report["kept"], reference["report"]["kept"], report.get("widths") or {})
        if value is not None:
            fields = tuple((f, v) for f, v in row["swept"].items() if not is_seed(f))
            found.setdefault(fields, []).append(value)
    return [
        {"fields": dict(fields), "agreement": estimate(values)} for fields, values in found.items()
    ]


def _damage_free(report: Mapping[str, Any]) -> bool:
    target = str((report["config"].get("robust") or {}).get("_target_", ""))
    labels = report.get("labels") or {}
    return labels.get("flip_rate") == 0 and target.endswith(".none.CrossEntropy")


def _rest(row: Mapping[str, Any]) -> tuple:
    """The swept fields that are neither damage nor remedy: the seed is among them."""
    return tuple(
        (field, value)
        for field, value in row["swept"].items()
        if field.split(".")[0] not in _DAMAGE
    )
