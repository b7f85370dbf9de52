"""What every option of the config group `prune` shares (configs/prune/_base.yaml), checked.

`_pruning.Pruning` reads them once a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compressor.errors import UsageError
from compressor.options import hold
from compressor.schema import PruningKeys, SensitivityKeys
from compressor.surgery import Group

BUDGETS = ("macs", "params", "latency")


@dataclass(frozen=True)
class SensitivityOptions:
    """prune.sensitivity: how every layer alone is tried out, without fine-tuning."""

    table: bool = False
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    images: int = 512

    def __post_init__(self) -> None:
        hold(SensitivityKeys, "prune.sensitivity", vars(self))
        object.__setattr__(self, "ratios", tuple(self.ratios))

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
        # the budget is held where it is read
        hold(PruningKeys, "prune", {k: v for k, v in vars(self).items() if k != "budget"})
        object.__setattr__(self, "ratios", dict(self.ratios or {}))

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
        hold(PruningKeys, "prune", vars(self))

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
    hold(PruningKeys, "prune", {"budget": given})
    asked = {name: share for name, share in given.items() if share is not None}
    if not asked:
        return None
    ((name, share),) = asked.items()
    if ratio != WidthOptions.ratio:
        raise UsageError(
            f"prune.ratio={ratio} and prune.budget.{name}={share} both say how much goes: "
            "give one of them"
        )
    return name, share
