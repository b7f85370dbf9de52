"""How often a run compresses: once, in rounds, or a layer at a time, each time towards the target.

A round is everything that the list of stages has from compress on. It has widths of its own to
reach, so that it is a stage with a key of its own; ratios and budgets in them refer to the DENSE
network, as everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressor.errors import UsageError
from compressor.options import hold
from compressor.schema import PruningKeys
from compressor.stages._options import WidthOptions, among, inside

Layers = Sequence[tuple[str, int, int]]
"""(group, its channels in the dense network, those that it keeps), from the front."""


@dataclass(frozen=True)
class Schedule:
    """The keys of configs/prune/_base.yaml that say when what is cut."""

    rounds: int = 1
    spacing: str = "geometric"
    keep_rates: Sequence[float] | None = None
    round_epochs: int | None = None
    round_finetune: Mapping[str, Any] | None = None
    finetune_per_layer_epochs: int = 0
    layer_finetune: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        hold(PruningKeys, "prune", vars(self))
        asked = {
            "rounds": self.rounds > 1,
            "keep_rates": self.keep_rates is not None,
            "finetune_per_layer_epochs": self.finetune_per_layer_epochs > 0,
        }
        named = [f"prune.{name}={getattr(self, name)}" for name, is_so in asked.items() if is_so]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} are two schedules: give one of them")
        if "epochs" in (self.round_finetune or {}):
            raise UsageError(
                f"prune.round_finetune.epochs={self.round_finetune['epochs']}: these epochs are "
                "prune.round_epochs, or prune.finetune_per_layer_epochs"
            )
        if self.layer_finetune and not self.layerwise:
            raise UsageError(
                f"prune.layer_finetune names {', '.join(self.layer_finetune)}, and no layer has a "
                "fine-tuning of its own without prune.finetune_per_layer_epochs"
            )

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Schedule":
        """tree: the `prune` sub-tree, whose other keys are left alone."""
        return cls(**among(tree, cls))

    def final(self, widths: WidthOptions) -> WidthOptions:
        """What the last round reaches: `keep_rates` say it in place of `ratio`."""
        if self.keep_rates is None:
            return widths
        asked = ""
        if widths.ratio != WidthOptions.ratio:
            asked = f"prune.ratio={widths.ratio}"
        elif widths.budget:
            asked = "prune.budget.{}={}".format(*widths.budget)
        if asked:
            raise UsageError(
                f"prune.keep_rates={list(self.keep_rates)} and {asked} both say how much goes: "
                "give one of them, or prune.rounds with it"
            )
        return replace(widths, ratio=_tidy(1 - self.keep_rates[-1]))

    @property
    def one_shot(self) -> bool:
        return self.turns == 1 and not self.layerwise

    @property
    def layerwise(self) -> bool:
        return self.finetune_per_layer_epochs > 0

    @property
    def between(self) -> dict[str, Mapping[str, Any]]:
        """What is otherwise in the fine-tuning of rounds before the last, by the key that says so.

        Empty: they end as the last one does.
        """
        found: dict[str, Mapping[str, Any]] = {}
        if self.layerwise:
            found["prune.finetune_per_layer_epochs"] = {"epochs": self.finetune_per_layer_epochs}
        elif self.round_epochs is not None:
            found["prune.round_epochs"] = {"epochs": self.round_epochs}
        if self.round_finetune:
            found["prune.round_finetune"] = self.round_finetune
        for name, own in (self.layer_finetune or {}).items():
            found[f"prune.layer_finetune.{name}"] = own
        return found

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

    def unroll(
        self, final: WidthOptions, layers: Callable[[], Layers]
    ) -> list[tuple[WidthOptions, dict[str, Any]]]:
        """Of every round the widths to reach, and what of `finetune` is otherwise after its cut.

        layers: those of `final`, asked for only where needed.
        """
        if self.layerwise:
            found = layers()
            turns = [name for name, size, kept in found if kept < size]
            targets = _layer_by_layer(final, found, turns)
        else:
            turns = [""] * self.turns
            targets = [*(self._part(final, turn) for turn in range(1, self.turns)), final]
        self._check_named(turns)
        tunings = [*(self._tuning(name) for name in turns[:-1]), {}]
        return list(zip(targets, tunings, strict=True))

    def _tuning(self, layer: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own = self.layer_finetune or {}
        fitting = [name for name in own if inside(layer, name)]
        for key, values in self.between.items():
            if not key.startswith("prune.layer_finetune."):
                found.update(values)
        return {**found, **(own[max(fitting, key=len)] if fitting else {})}

    def _check_named(self, turns: Sequence[str]) -> None:
        for name in self.layer_finetune or {}:
            if not any(inside(turn, name) for turn in turns[:-1]):
                raise UsageError(
                    f"prune.layer_finetune names '{name}', after which no other is cut (after the "
                    f"last comes finetune itself); choose among {', '.join(turns[:-1])}"
                )

    def _part(self, final: WidthOptions, turn: int) -> WidthOptions:
        """The target of a round before the last."""

        def removed(ratio: float) -> float:
            return _tidy(1 - self.left(1 - ratio, turn))

        ratios = {name: removed(ratio) for name, ratio in final.ratios.items()}
        if final.budget is None:
            return replace(final, ratios=ratios, ratio=removed(final.ratio))
        name, share = final.budget
        return replace(final, ratios=ratios, budget=(name, _tidy(self.left(share, turn))))


def _layer_by_layer(
    final: WidthOptions, layers: Layers, turns: Sequence[str]
) -> list[WidthOptions]:
    """Every layer's ratio is said, 0 as long as its turn has not come.

    With a budget the last target has it beside them: what is left is held to it.
    """
    if not turns:
        raise UsageError("no layer would lose a channel: raise prune.ratio or lower prune.budget")
    ratios = {name: 1 - kept / size for name, size, kept in layers}
    targets = []
    for i in range(len(turns)):
        now = {name: ratio if name in turns[: i + 1] else 0.0 for name, ratio in ratios.items()}
        targets.append(replace(final, budget=None, ratios=now))
    return [*targets[:-1], replace(targets[-1], budget=final.budget)]


def _tidy(fraction: float) -> float:
    """Without the last digits of binary fractions: 1 - 0.7 is the 0.3 that another run may type."""
    return round(fraction, 12)
