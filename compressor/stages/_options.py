"""What every option of the config group `prune` shares (configs/prune/_base.yaml), checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compressor.errors import UsageError
from compressor.instantiation import parameters


@dataclass(frozen=True)
class SelectOptions:
    """What every option of the config group `prune` shares (configs/prune/_base.yaml)."""

    ratio: float = 0.5
    scope: str = "interior"
    round_to: int | None = None
    min_channels: int = 1
    reconstruct: str = "none"
    ridge: float = 0.01
    positions: int = 10
    statistics: str = "dense"
    images: int = 1024
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"prune.ratio={self.ratio} is the fraction of channels removed: it must be above "
                "0 and below 1; to remove nothing type prune=none"
            )
        _one_of("scope", self.scope, ("interior", "all", "mixing"))
        _one_of("reconstruct", self.reconstruct, ("none", "rescale", "refit"))
        _one_of("statistics", self.statistics, ("dense", "sequential"))
        for name in ("round_to", "min_channels", "images", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"prune.{name}={value} must be 1 or more")
        if not 0 < self.ridge < float("inf"):
            raise UsageError(
                f"prune.ridge={self.ridge} must be above 0: the pull towards the present weights"
            )

    @classmethod
    def split(cls, tree: Mapping[str, Any]) -> tuple["SelectOptions", dict[str, Any]]:
        """The shared options of a `prune` sub-tree, and what the selector is made of.

        That is the rest, and of the shared ones those that its constructor takes.
        """
        names = {f.name for f in fields(cls)}
        shared = {k: v for k, v in tree.items() if k in names}
        strange = not names.intersection(tree) or "_target_" not in tree
        taken = set() if strange else parameters(tree["_target_"])
        return cls(**shared), {k: v for k, v in tree.items() if k not in names or k in taken}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"prune.{name}='{value}' is unknown; type {' or '.join(allowed)}")
