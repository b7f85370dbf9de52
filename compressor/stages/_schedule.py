"""How often a run compresses: once, in rounds, or a layer at a time, each time towards the target.

A round is everything that the list of stages has from compress on. Its target is a `prune` sub-tree
like any other, so that it is a stage with a key of its own; ratios and budgets in it refer to the
DENSE network, as everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from compressor.errors import UsageError
from compressor.stages._options import SelectOptions

Layers = Sequence[tuple[str, int, int]]
"""(group, its channels in the dense network, those that it keeps), from the front."""


@dataclass(frozen=True)
class Schedule:
    """The keys of configs/prune/_base.yaml that say when what is cut."""

    rounds: int = 1
    spacing: str = "geometric"
    keep_rates: Sequence[float] | None = None
    round_epochs: int | None = None
    finetune_per_layer_epochs: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("round_epochs", 0), ("finetune_per_layer_epochs", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise UsageError(f"prune.{name}={value} must be a whole number, {least} or more")
        if self.spacing not in ("geometric", "linear"):
            raise UsageError(f"prune.spacing='{self.spacing}' is unknown; type geometric or linear")
        if self.keep_rates is not None:
            _check_falling(self.keep_rates)
        asked = {
            "rounds": self.rounds > 1,
            "keep_rates": self.keep_rates is not None,
            "finetune_per_layer_epochs": self.finetune_per_layer_epochs > 0,
        }
        named = [f"prune.{name}={getattr(self, name)}" for name, is_so in asked.items() if is_so]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} are two schedules: give one of them")

    @classmethod
    def split(cls, tree: Mapping[str, Any]) -> tuple["Schedule", dict[str, Any]]:
        """The schedule of a `prune` sub-tree, and the rest of it with the final target."""
        names = {f.name for f in fields(cls)}
        schedule = cls(**{name: value for name, value in tree.items() if name in names})
        rest = cls.rest(tree)
        if schedule.keep_rates is not None:
            asked = [f"prune.budget.{n}={share}" for n, share in _budget(rest).items()]
            if rest["ratio"] != SelectOptions.ratio:
                asked = [f"prune.ratio={rest['ratio']}", *asked]
            if asked:
                raise UsageError(
                    f"prune.keep_rates={list(schedule.keep_rates)} and {asked[0]} both say how "
                    "much goes: give one of them, or prune.rounds with it"
                )
            rest["ratio"] = _tidy(1 - schedule.keep_rates[-1])
        return schedule, rest

    @classmethod
    def rest(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        """A `prune` sub-tree without the schedule, which is not looked at."""
        names = {f.name for f in fields(cls)}
        return {name: value for name, value in tree.items() if name not in names}

    @property
    def one_shot(self) -> bool:
        return self.turns == 1 and not self.layerwise

    @property
    def layerwise(self) -> bool:
        return self.finetune_per_layer_epochs > 0

    @property
    def epochs(self) -> int | None:
        """Fine-tuning after every round but the last; None: as after the last."""
        return self.finetune_per_layer_epochs if self.layerwise else self.round_epochs

    @property
    def turns(self) -> int:
        """Rounds that are not a layer each."""
        return self.rounds if self.keep_rates is None else len(self.keep_rates)

    def left(self, kept: float, turn: int) -> float:
        """The fraction that round `turn`, from 1 on, leaves of what ends at the fraction `kept`.

        geometric: kept ** (turn / rounds), the same share of what the round before left goes every
        time, so that no late round is the hard one. linear: as much of the dense figure every time.
        keep_rates: they are what is left where `kept` is the last of them; other figures have gone
        as far on their way.
        """
        if turn == self.turns:
            return kept
        if self.keep_rates is not None:
            gone = (1 - self.keep_rates[turn - 1]) / (1 - self.keep_rates[-1])
        elif self.spacing == "geometric":
            return kept ** (turn / self.rounds)
        else:
            gone = turn / self.rounds
        return 1 - (1 - kept) * gone

    def targets(
        self, final: Mapping[str, Any], layers: Callable[[], Layers]
    ) -> list[dict[str, Any]]:
        """The `prune` sub-tree of every round. layers: of `final`, asked for only where needed."""
        if self.layerwise:
            return _layer_by_layer(final, layers())
        return [*(self._part(final, turn) for turn in range(1, self.turns)), dict(final)]

    def _part(self, final: Mapping[str, Any], turn: int) -> dict[str, Any]:
        """The target of a round before the last."""

        def kept(share: float) -> float:
            return _tidy(self.left(share, turn))

        def removed(ratio: float) -> float:
            return _tidy(1 - self.left(1 - ratio, turn))

        budget = _budget(final)
        if budget:
            shares = {name: kept(share) for name, share in budget.items()}
            target = {"budget": {**final["budget"], **shares}}
        else:
            target = {"ratio": removed(final["ratio"])}
        if final["ratios"]:
            target["ratios"] = {name: removed(ratio) for name, ratio in final["ratios"].items()}
        return {**final, **target}


def _layer_by_layer(final: Mapping[str, Any], layers: Layers) -> list[dict[str, Any]]:
    """Every layer's ratio is said, 0 as long as its turn has not come.

    With a budget the last target has it beside them: what is left is held to it.
    """
    ratios = {name: 1 - kept / size for name, size, kept in layers}
    turns = [name for name, size, kept in layers if kept < size]
    nothing = {name: None for name in final["budget"] or {}}
    targets = []
    for i in range(len(turns)):
        now = {name: ratio if name in turns[: i + 1] else 0.0 for name, ratio in ratios.items()}
        targets.append({**final, "budget": nothing, "ratios": now})
    if not targets:
        raise UsageError("no layer would lose a channel: raise prune.ratio or lower prune.budget")
    targets[-1]["budget"] = final["budget"]
    return targets


def _budget(tree: Mapping[str, Any]) -> dict[str, float]:
    given = tree.get("budget") or {}
    return {name: share for name, share in given.items() if share is not None}


def _tidy(fraction: float) -> float:
    """Without the last digits of binary fractions: 1 - 0.7 is the 0.3 that another run may type."""
    return round(fraction, 12)


def _check_falling(rates: Any) -> None:
    if isinstance(rates, int | float | str):
        raise UsageError(
            f"prune.keep_rates={rates} is one value where a list is expected, a fraction for every "
            "round, such as prune.keep_rates=[0.75,0.5]; for one cut type prune.ratio"
        )
    numbers = isinstance(rates, list | tuple) and all(
        isinstance(rate, int | float) and not isinstance(rate, bool) for rate in rates
    )
    good = numbers and len(rates) > 0 and all(0 < rate < 1 for rate in rates)
    if not good or any(a <= b for a, b in zip(rates, rates[1:], strict=False)):
        raise UsageError(
            f"prune.keep_rates={rates} must be fractions of the dense widths, above 0 and below 1, "
            "each smaller than the one before, such as [0.75,0.5]"
        )
