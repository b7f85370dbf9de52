"""The figure by which the networks of a run are compared: its name and direction, as reported."""

from collections.abc import Mapping
from typing import Any, NamedTuple

DIRECTIONS = ("max", "min")


class Headline(NamedTuple):
    """A metric of the run's task. Reports of 0.1 and 0.2 name none: theirs is the accuracy."""

    name: str = "accuracy"
    direction: str = "max"

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.direction == "max"

    @property
    def axis(self) -> str:
        """What the axis of a figure is called."""
        return "accuracy (fraction correct)" if self.name == "accuracy" else self.words


def headline_of(report: Mapping[str, Any]) -> Headline:
    found = report.get("headline")
    return Headline(found["name"], found["direction"]) if found else Headline()


def damage(report: Mapping[str, Any]) -> str:
    """What is wrong with a report's headline; empty for a sound one, and for none."""
    found = report.get("headline")
    if found is None:
        return ""
    sound = isinstance(found, Mapping) and isinstance(found.get("name"), str) and found["name"]
    return "" if sound and found.get("direction") in DIRECTIONS else "its headline is no metric"


def tells_classes(report: Mapping[str, Any]) -> bool:
    """Whether the network answers one class an image: other tasks leave no record of labels."""
    return report.get("labels") != {}
