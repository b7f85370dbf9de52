"""The config group `prune`, read once a run: when, how much, by which method, how it is repaired.

Nothing below the experiment reads the sub-tree again or makes the method again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from compressor.errors import UsageError
from compressor.instantiation import make, parameters
from compressor.options import hold
from compressor.prune import Method
from compressor.schema import PruningKeys
from compressor.stages._blank import Blank
from compressor.stages._counts import choose, running
from compressor.stages._options import (
    RepairOptions,
    SensitivityOptions,
    WidthOptions,
    names,
)
from compressor.stages._schedule import Layers, Schedule
from compressor.stages._statistics import gates_of, watched
from compressor.surgery import Group

_HERE = ("statistics", "images", "sensitivity")  # shared options that `Pruning` itself holds
WITHOUT_IMAGES = "prune=weight_sum (or bn_scale, fpgm, group_l2, random)"


@dataclass(frozen=True)
class Pruning:
    """The options of the compress stage. Of a method that cuts nothing all others are defaults."""

    method: Method
    arguments: Mapping[str, Any]
    """What the method is made of, as the config has it: its key."""
    schedule: Schedule = Schedule()
    widths: WidthOptions = WidthOptions()
    repair: RepairOptions = RepairOptions()
    statistics: str = "dense"
    images: int = 1024
    sensitivity: SensitivityOptions = SensitivityOptions()

    def __post_init__(self) -> None:
        hold(PruningKeys, "prune", {"statistics": self.statistics, "images": self.images})
        if self.method.owns_stage and not self.schedule.one_shot:
            raise UsageError(
                f"prune._target_={self.arguments['_target_']} owns its stage and cuts once: leave "
                "prune.rounds, prune.keep_rates and prune.finetune_per_layer_epochs as they are"
            )
        late = self.widths.decided_late
        if self.schedule.layerwise and late:
            raise UsageError(
                "prune.finetune_per_layer_epochs needs every layer's width before the first epoch, "
                f"which prune.{late} finds out later; take prune.rounds, or prune.budget.macs"
            )

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Pruning":
        """The whole `prune` sub-tree. UsageError: it says what no run can do.

        A method that cuts nothing reads no other option: a sweep's `none` goes with whatever the
        others are given.
        """
        arguments = _arguments(tree)
        method = make(arguments)
        if not isinstance(method, Method):
            raise UsageError(
                f"prune._target_={tree.get('_target_')} is no pruning method: let the class "
                "inherit from compressor.prune.Selector (it ranks channels) or "
                "compressor.prune.Compressor (it does the whole stage)"
            )
        if not method.cuts:
            return cls(method, arguments)
        schedule = Schedule.read(tree)
        own = {name: tree[name] for name in ("statistics", "images") if name in tree}
        return cls(
            method,
            arguments,
            schedule=schedule,
            widths=schedule.final(WidthOptions.read(tree)),
            repair=RepairOptions.read(tree),
            sensitivity=SensitivityOptions(**tree.get("sensitivity", {})),
            **own,
        )

    def in_key(self) -> dict[str, Any]:
        """What the stage depends on, as the config spells it; the schedule is in the rounds."""
        found = {
            **self.arguments,
            **self.widths.in_key(),
            **self.repair.in_key(),
            "statistics": self.statistics,
            "images": self.images,
        }
        if self.widths.allocation == "sensitivity":
            found["sensitivity"] = self.sensitivity.in_key()
        return found

    @property
    def cuts(self) -> bool:
        """Whether the stage does anything; otherwise it hands on what it was given."""
        return self.method.cuts

    @property
    def one_shot(self) -> bool:
        """Whether the network is compressed once."""
        return self.schedule.one_shot

    @property
    def between(self) -> dict[str, Mapping[str, Any]]:
        """What is otherwise in the fine-tuning of rounds before the last, by the key that says so.

        Empty: they end as the last one does, or there are none.
        """
        return {} if self.one_shot else self.schedule.between

    @property
    def wants_reference(self) -> bool:
        """Whether a later round wants outputs of the network that was trained last."""
        return self.cuts and self.repair.reconstruct == "refit"

    @property
    def wants_table(self) -> bool:
        """Whether the run shows the sensitivity of its layers."""
        asked = self.sensitivity.table or self.widths.allocation == "sensitivity"
        return self.cuts and asked and not self.method.owns_stage

    @property
    def trains(self) -> bool:
        """Whether the stage may train inside: a method that owns it may do all that a stage may."""
        return self.method.owns_stage

    def reads_labels(self, dense: Blank) -> bool:
        """Whether the method looks at the loss of labels."""
        if self.method.owns_stage:
            return True  # it may read whatever a stage may
        if not self.cuts:
            return False
        groups = self.groups(dense)
        watch = watched(dense.net, groups, self.method, self.repair.reconstruct)
        return bool(gates_of(watch, groups))

    def reads_images(self, dense: Blank) -> list[str]:
        """What to type so that the stage looks at no image of the data; empty if it looks at none.

        Of a stage that cuts.
        """
        wishes = []
        if self.method.owns_stage:
            wishes.append(WITHOUT_IMAGES)  # it may read whatever a stage may
        elif any(watched(dense.net, self.groups(dense), self.method, "none").values()):
            wishes.append(WITHOUT_IMAGES)
        if self.repair.reconstruct != "none":
            wishes.append("prune.reconstruct=none")
        if self.statistics != "dense":
            wishes.append("prune.statistics=dense")
        if self.widths.allocation == "sensitivity":
            wishes.append("prune.allocation=uniform")
        if self.sensitivity.table:
            wishes.append("prune.sensitivity.table=false")
        return wishes

    def groups(self, dense: Blank) -> tuple[Group, ...]:
        """Those of the network that are in scope, and run in eval mode."""
        return running(choose(dense.structure, self.widths), dense.calls)

    def rounds(self, layers: Callable[[], Layers]) -> list[tuple["Pruning", dict[str, Any]]]:
        """Every compress stage of the run, and what of `finetune` is otherwise behind it.

        layers: (group, its channels, those that the last round keeps), from the front, asked for
        only where needed.
        """
        if not self.cuts:  # which has nothing to do in rounds
            return [(self, {})]
        found = self.schedule.unroll(self.widths, layers)
        return [(self._towards(widths), finetune) for widths, finetune in found]

    def _towards(self, widths: WidthOptions) -> "Pruning":
        """One cut, to these widths."""
        targets = widths.in_key()
        own = {name: targets.get(name, value) for name, value in self.arguments.items()}
        # a method that takes the target itself is another one for another target
        method = self.method if own == self.arguments else make(own)
        return replace(self, method=method, arguments=own, schedule=Schedule(), widths=widths)


def _arguments(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the method of a `prune` sub-tree is made of.

    That is all that is not shared, and of what is shared what its constructor takes; when a run
    cuts is never a method's business.
    """
    when = names(Schedule)
    shared = {*names(WidthOptions), *names(RepairOptions), *_HERE}
    # without shared keys, or a class, there is nothing to ask its constructor about
    mixed = shared.intersection(tree) and "_target_" in tree
    taken = parameters(tree["_target_"]) if mixed else set()
    own = {name: value for name, value in tree.items() if name not in when}
    return {name: value for name, value in own.items() if name not in shared or name in taken}
