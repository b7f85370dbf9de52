"""What a report's latencies may be used for, and the cells that show them.

A point holds latency_ms (median, 10th and 90th percentile) and latency_ratio (to the dense network
that took turns with it, and its 95 % interval), each with "steady": whether that interval is
narrow enough for a conclusion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.metrics import Metric

UNSTEADY = "unsteady"
AGAIN = "compress-report FOLDER --measure times it again"
ROUGH = "~"  # before milliseconds that are unsteady, where a word has no room


def is_steady(point: Mapping[str, Any], figure: str = "latency_ratio") -> bool:
    """Whether something may be concluded from a point's latency; a report that had none says no."""
    found = point.get(figure)
    return isinstance(found, Mapping) and found.get("steady") is True


def is_unsteady(point: Mapping[str, Any], metric: Metric | None) -> bool:
    """Whether the metric is a latency of this point that no verdict may rest on."""
    figure = metric.figure.split(".")[0] if metric else ""
    if figure not in ("latency_ms", "latency_ratio") or not point.get(figure):
        return False
    return not (is_steady(point, figure) and is_steady(point))


def millisecond_cell(text: str, steady: bool | None) -> str:
    """text: a number of milliseconds, or "-"."""
    return text if steady or text == "-" else f"{text} {UNSTEADY}"


def ratio_cell(median: float | None, span: tuple[float, float] | None, steady: bool) -> str:
    """ "0.718 [0.701, 0.733]"; an unsteady one says so."""
    if median is None or span is None:
        return "-"
    text = f"{median:.3f} [{span[0]:.3f}, {span[1]:.3f}]"
    return text if steady else f"{text} {UNSTEADY}"


def asked_cell(asked: float, share: float, interval: Sequence[float] | None) -> str:
    """ "asked 0.7 of the dense network's, measured 0.720 [0.700, 0.740]"."""
    span = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"asked {asked:g} of the dense network's, measured {share:.3f}{span}"


def short_cell(
    text: str,
    median: float | None,
    span: tuple[float, float] | None,
    steady: bool,
    steady_ms: bool,
) -> str:
    """ "17 0.72x±3%" where there is little room. text: the milliseconds, or "-"."""
    if text == "-" or median is None or span is None:
        return text
    if not steady:
        return f"{text} {UNSTEADY}"
    half = max(median - span[0], span[1] - median) / median
    return f"{'' if steady_ms else ROUGH}{text} {median:.2f}x±{100 * half:.0f}%"
