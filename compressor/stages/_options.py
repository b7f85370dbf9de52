"""What every option of the config group `prune` shares (configs/prune/_base.yaml), checked.

`_pruning.Pruning` reads them once a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compressor.errors import UsageError
from compressor.surgery import Group

BUDGETS = ("macs", "params", "latency")


@dataclass(frozen=True)
class SensitivityOptions:
    """prune.sensitivity: how every layer alone is tried out, without fine-tuning."""

    table: bool = False
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    images: int = 512

    def __post_init__(self) -> None:
        ratios = tuple(self.ratios)
        object.__setattr__(self, "ratios", ratios)
        numbers = all(isinstance(ratio, int | float) and 0 < ratio < 1 for ratio in ratios)
        if not ratios or not numbers or list(ratios) != sorted(set(ratios)):
            raise UsageError(
                f"prune.sensitivity.ratios={list(ratios)} must rise, each above 0 and below 1"
            )
        if self.images < 1:
            raise UsageError(f"prune.sensitivity.images={self.images} must be 1 or more")

    def in_key(self) -> dict[str, Any]:
        """What a table's figures depend on, whether it is shown or not."""
        return {"ratios": list(self.ratios), "images": self.images}


@dataclass(frozen=True)
class WidthOptions:
    """How many channels each layer keeps."""

    ratio: float = 0.5
    ratios: Mapping[str, float] | None = None
    budget: tuple[str, float] | None = None
    """What of the dense network is kept, and which share: ("macs", 0.5)."""
    allocation: str = "uniform"
    normalize: str = "mean"
    scope: str = "interior"
    round_to: int | None = None
    min_channels: int | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        for name in self.skip:
            if not isinstance(name, str):
                raise UsageError(f"prune.skip names '{name}': give paths of modules, as [layer1]")
        if not isinstance(self.ratios, Mapping | None):
            raise UsageError(
                f"prune.ratios={self.ratios} says not which layers: type prune.ratios='"
                "{layer1: 0.3}', or prune.ratio for all of them"
            )
        object.__setattr__(self, "ratios", dict(self.ratios or {}))
        for name, ratio in self.ratios.items():
            number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
            if not number or not 0 <= ratio < 1:
                raise UsageError(
                    f"prune.ratios gives '{name}' the ratio {ratio}: it must be at least 0 and "
                    "below 1"
                )
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"prune.ratio={self.ratio} is the fraction of channels removed: it must be above "
                "0 and below 1; to remove nothing type prune=none"
            )
        one_of("scope", self.scope, ("interior", "all", "mixing"))
        one_of("allocation", self.allocation, ("uniform", "global", "sensitivity"))
        one_of("normalize", self.normalize, ("none", "mean", "cost", "lamp"))
        check_count("round_to", self.round_to)
        check_count("min_channels", self.min_channels)

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "WidthOptions":
        """tree: the `prune` sub-tree, whose other keys are left alone."""
        own = among(tree, cls)
        own["budget"] = _budget(own.get("budget") or {}, own.get("ratio", cls.ratio))
        return cls(**own)

    def in_key(self) -> dict[str, Any]:
        """As the config spells it; `normalize` is read under one allocation alone."""
        found: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.allocation != "global":
            del found["normalize"]
        budget = {**dict.fromkeys(BUDGETS), **dict([self.budget] if self.budget else [])}
        ratios = dict(self.ratios) or None
        return {**found, "skip": list(self.skip), "ratios": ratios, "budget": budget}

    @property
    def least(self) -> int:
        """Channels that every layer keeps."""
        return self.min_channels or 1

    @property
    def timed(self) -> bool:
        """Whether widths are found by measuring latency."""
        return self.budget is not None and self.budget[0] == "latency"

    @property
    def decided_late(self) -> str:
        """The option by which widths are known only once the network is trained or timed."""
        if self.allocation != "uniform":
            return f"allocation={self.allocation}"
        return f"budget.latency={self.budget[1]}" if self.timed else ""

    def ratio_of(self, group: Group) -> float | None:
        """The ratio that `ratios` gives this group.

        By its own name, else the smallest of what the longest name says that it lies in as a whole,
        and of what all names say that it lies in only in part: none of them is cut more than told.
        """
        if group.name in self.ratios:
            return self.ratios[group.name]
        fitting = [name for name in self.ratios if named(group, name)]
        whole = [name for name in fitting if not only_in_part(group, name)]
        counting = [name for name in fitting if name not in whole]
        counting += [max(whole, key=len)] if whole else []
        return min((self.ratios[name] for name in counting), default=None)


@dataclass(frozen=True)
class RepairOptions:
    """What becomes of the weights that stay. ridge and positions are the refit's."""

    reconstruct: str = "none"
    ridge: float = 0.01
    positions: int = 20

    def __post_init__(self) -> None:
        one_of("reconstruct", self.reconstruct, ("none", "rescale", "refit"))
        check_count("positions", self.positions)
        if not 0 < self.ridge < float("inf"):
            raise UsageError(
                f"prune.ridge={self.ridge} must be above 0: the pull towards the present weights"
            )

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "RepairOptions":
        """tree: the `prune` sub-tree, whose other keys are left alone."""
        return cls(**among(tree, cls))

    def in_key(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def names(options: type) -> set[str]:
    """The keys of the YAML that this dataclass holds."""
    return {field.name for field in fields(options)}


def among(tree: Mapping[str, Any], options: type) -> dict[str, Any]:
    """The entries of a sub-tree that this dataclass holds."""
    return {name: value for name, value in tree.items() if name in names(options)}


def named(group: Group, name: str) -> bool:
    """Whether `name` is the group's, or one of its producers or followers is or lies in `name`."""
    places = {path for s in (*group.producers, *group.followers) for path in (s.module, *s.callers)}
    return name == group.name or any(inside(path, name) for path in places)


def only_in_part(group: Group, name: str) -> bool:
    """Whether some producers of a group that is `named` so lie elsewhere."""
    return name != group.name and not all(
        any(inside(path, name) for path in (slot.module, *slot.callers)) for slot in group.producers
    )


def inside(path: str, name: str) -> bool:
    """Whether `name` is the module at this path, or one that contains it."""
    return path == name or path.startswith(f"{name}.")


def _budget(given: Mapping[str, float | None], ratio: float) -> tuple[str, float] | None:
    asked = {name: share for name, share in given.items() if share is not None}
    if not asked:
        return None
    if len(asked) > 1:
        raise UsageError(f"prune.budget has {' and '.join(asked)}: give one of them")
    ((name, share),) = asked.items()
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not (number and 0 < share < 1):
        raise UsageError(
            f"prune.budget.{name}={share} is the fraction of the dense figure KEPT: it must be "
            "above 0 and below 1; to keep everything type prune=none"
        )
    if ratio != WidthOptions.ratio:
        raise UsageError(
            f"prune.ratio={ratio} and prune.budget.{name}={share} both say how much goes: "
            "give one of them"
        )
    return name, share


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"prune.{name}='{value}' is unknown; type {' or '.join(allowed)}")


def check_count(name: str, value: int | None) -> None:
    """Refuse what is neither null nor a whole number from 1 on."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= 1):
        raise UsageError(f"prune.{name}={value} must be a whole number, 1 or more")
