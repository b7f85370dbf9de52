"""The figures in a report.json, whatever they are, and the one that a sweep is judged by."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError
from compressor.report.headline import Headline

# Parts of a report that hold no figures, or figures that have a place of their own in the tables.
_NOT_FIGURES = ("schema_version", "command", "config", "stages", "kept", "widths", "history")
_NOT_FIGURES += ("environment", "seed", "resolved", "classes_read", "preprocess")
# Figures of which less is better; of any other more is.
_COSTS = ("loss", "macs", "params", "size_bytes", "seconds", "latency_ms", "error", "flip_rate")
_COSTS += ("parity", "latency_ratio")
# Figures that describe how something was measured
_SETTINGS = ("batch_size", "threads", "picked_epoch", "last_epoch", "images")
_CLASSES = 100  # more of them would bury a sweep's other columns; every report.json has them
_UNITS = {"latency_ms": "ms", "seconds": "s", "size_bytes": "bytes", "macs": "MACs"}


@dataclass(frozen=True)
class Metric:
    """A figure by its place in a report, such as final.accuracy or final.latency_ms.median."""

    name: str
    fraction: bool = True  # its differences are told in points (hundredths)
    headline: Headline = Headline()

    @classmethod
    def default(cls, headline: Headline = Headline()) -> "Metric":  # noqa: B008 (immutable)
        """The headline of the final network."""
        return cls(f"final.{headline.name}", headline=headline)

    @property
    def point(self) -> str | None:
        """The point of the run that it belongs to, None for a figure of the whole run."""
        return self.name.split(".", 1)[0] if "." in self.name else None

    @property
    def figure(self) -> str:
        """Its name without the point: accuracy, latency_ms.median."""
        return self.name.split(".", 1)[-1]

    @property
    def title(self) -> str:
        """What a table's column is called: the final network needs no name."""
        return self.figure if self.point == "final" else self.name

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        if self.figure == self.headline.name:
            return self.headline.higher
        return not set(self.name.split(".")) & set(_COSTS)

    @property
    def factor(self) -> float:
        return 100.0 if self.fraction else 1.0

    @property
    def unit(self) -> str:
        if self.fraction:
            return "points"
        return next((unit for part, unit in _UNITS.items() if part in self.name.split(".")), "")


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a report by its dotted place; a point's without the word "points".

    Of figures of each class the final network's alone.
    """
    found: dict[str, float] = {}
    for name, value in report.items():
        if name == "points":
            for point, content in value.items():
                _collect(point, content, found)
        elif name not in _NOT_FIGURES:
            _collect(name, value, found)
    recall = (report.get("points") or {}).get("final", {}).get("class_recall") or ()
    for number, value in enumerate(recall if len(recall) <= _CLASSES else ()):
        _collect(f"final.class_recall.{number}", value, found)
    return found


def _collect(place: str, value: Any, found: dict[str, float]) -> None:
    if isinstance(value, Mapping):
        for name, content in value.items():
            _collect(f"{place}.{name}", content, found)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found[place] = value


def choose(
    wish: str | None,
    members: Iterable[Mapping[str, float]],
    headline: Headline = Headline(),  # noqa: B008 (immutable)
) -> Metric | None:
    """The metric asked for, or the headline of the final network, or what stands in its place.

    members: the figures of each finished member. None where no member has finished.
    """
    values: dict[str, list[float]] = {}
    for found in members:
        for name, value in found.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    if not values:
        return None
    name = wish
    if name is None:
        # where the headline was not measured: the first figure that is no cost
        finals = [n for n in values if n.startswith("final.") and Metric(n).higher]
        name = Metric.default(headline).name
        name = name if name in values else next(iter(finals), next(iter(values)))
    if name not in values:
        raise UsageError(_unknown(name, list(values)))
    metric = Metric(name, headline=headline)
    fraction = metric.higher and all(0 <= value <= 1 for value in values[name])
    return Metric(name, fraction, headline)


def _unknown(wish: str, names: Sequence[str]) -> str:
    names = [name for name in names if name.rsplit(".", 1)[-1] not in _SETTINGS]
    near = difflib.get_close_matches(wish, names, 1, 0.85)
    near = [name for name in names if name == f"final.{wish}"] or near
    guess = f"did you mean {near[0]}? " if near else ""
    return f"no member has the metric {wish}: {guess}There are {', '.join(names)}"
