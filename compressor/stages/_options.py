"""What every option of the config group `prune` shares (configs/prune/_base.yaml), checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from compressor.errors import UsageError
from compressor.instantiation import parameters
from compressor.options import hold
from compressor.schema import Pruning, Sensitivity
from compressor.surgery import Group


@dataclass(frozen=True)
class SensitivityOptions:
    """prune.sensitivity: how every layer alone is tried out, without fine-tuning."""

    table: bool = False
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    images: int = 512

    def __post_init__(self) -> None:
        hold(Sensitivity, "prune.sensitivity", vars(self))
        object.__setattr__(self, "ratios", tuple(self.ratios))


@dataclass(frozen=True)
class SelectOptions:
    """What every option of the config group `prune` shares (configs/prune/_base.yaml)."""

    ratio: float = 0.5
    scope: str = "interior"
    round_to: int | None = None
    min_channels: int | None = None
    reconstruct: str = "none"
    ridge: float = 0.01
    positions: int = 20
    statistics: str = "dense"
    images: int = 1024
    skip: tuple[str, ...] = ()
    ratios: Mapping[str, float] | None = None
    budget: tuple[str, float] | None = None
    """What of the dense network is kept, and which share: ("macs", 0.5)."""
    allocation: str = "uniform"
    normalize: str = "mean"
    sensitivity: SensitivityOptions = field(default_factory=SensitivityOptions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        own = ("budget", "sensitivity")  # each is held where it is read
        hold(Pruning, "prune", {k: v for k, v in vars(self).items() if k not in own})
        object.__setattr__(self, "ratios", dict(self.ratios or {}))

    @property
    def least(self) -> int:
        """Channels that every layer keeps."""
        return self.min_channels or 1

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

    @classmethod
    def split(cls, tree: Mapping[str, Any]) -> tuple["SelectOptions", dict[str, Any]]:
        """The shared options of a `prune` sub-tree, and what the selector is made of.

        That is the rest, and of the shared ones those that its constructor takes.
        """
        names = {f.name for f in fields(cls)}
        shared = {k: v for k, v in tree.items() if k in names}
        if "sensitivity" in shared:
            shared["sensitivity"] = SensitivityOptions(**shared["sensitivity"])
        shared["budget"] = _budget(shared.get("budget") or {}, shared.get("ratio", cls.ratio))
        return cls(**shared), cls.own(tree)

    @classmethod
    def own(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        """What the method of a `prune` sub-tree is made of; the shared options are not checked."""
        names = {f.name for f in fields(cls)}
        strange = not names.intersection(tree) or "_target_" not in tree
        taken = set() if strange else parameters(tree["_target_"])
        return {k: v for k, v in tree.items() if k not in names or k in taken}


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
    hold(Pruning, "prune", {"budget": given})
    asked = {name: share for name, share in given.items() if share is not None}
    if not asked:
        return None
    ((name, share),) = asked.items()
    if ratio != SelectOptions.ratio:
        raise UsageError(
            f"prune.ratio={ratio} and prune.budget.{name}={share} both say how much goes: "
            "give one of them"
        )
    return name, share
