"""Plans: the typed operations that were done to a network. JSON in, JSON out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import UsageError, foreign
from compressor.surgery._operations import (
    Cut,
    Mask,
    Operation,
    Place,
    is_count,
    make_cut,
    may_produce,
)
from compressor.surgery._structure import Structure

VERSION = 2
# A new kind of operation is its class and its name here.
KINDS: dict[str, type[Operation]] = {kind.op: kind for kind in (Cut, Mask)}
_KNOWN_TO = {1: ("cut",)}  # what earlier versions of the file may hold


@dataclass(frozen=True)
class Plan:
    """What was done to a network: its cuts in original indices, then everything else in order.

    No slot stands in two cuts. The other operations are in indices of the cut network.
    """

    operations: tuple[Operation, ...] = ()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return tuple(each for each in self.operations if isinstance(each, Cut))

    @property
    def uncut(self) -> tuple[Operation, ...]:
        """The operations that are no cuts."""
        return tuple(each for each in self.operations if not isinstance(each, Cut))

    @property
    def kept(self) -> dict[str, list[int]]:
        """Module path of every producer -> original indices of its outputs that are kept."""
        return {path: list(cut.kept) for cut in self.cuts for path in cut.producers}

    @property
    def by_slot(self) -> dict[Place, tuple[int, ...]]:
        return {slot: cut.kept for cut in self.cuts for slot in cut.slots}

    def since(self, earlier: Plan) -> dict[Place, tuple[int, ...]]:
        """(parameter, dim) -> the indices that are kept of those that `earlier` had kept.

        Slots that have lost nothing since are left out.
        """
        before, found = earlier.by_slot, {}
        for slot, kept in self.by_slot.items():
            places = {index: place for place, index in enumerate(before.get(slot, ()))}
            now = tuple(places[index] for index in kept) if slot in before else kept
            if slot not in before or len(now) < len(places):
                found[slot] = now
        return found

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "operations": [each.to_json() for each in self.operations]}

    def tensors(self) -> dict[str, Tensor]:
        """What of the plan is no text, for the file beside it; empty for cuts alone."""
        return {name: t for each in self.operations for name, t in each.tensors().items()}

    def broken(self, net: nn.Module) -> str:
        """How the values of a finished network deny the plan, for a message; "" if not."""
        return next((reason for each in self.operations if (reason := each.broken(net))), "")

    @classmethod
    def from_json(cls, data: Any, tensors: Mapping[str, Tensor] = MappingProxyType({})) -> Plan:
        """Read and check a plan; a UsageError says which operation is wrong and how.

        tensors: of the file beside it.
        """
        if not isinstance(data, dict) or set(data) != {"version", "operations"}:
            raise UsageError("a plan is an object with exactly 'version' and 'operations'")
        version = data["version"]
        if not is_count(version) or not 1 <= version <= VERSION:
            raise UsageError(
                f"plan version {foreign(version)} is not known; this program reads 1 to {VERSION}"
            )
        if not isinstance(data["operations"], list):
            raise UsageError("a plan's 'operations' is a list")
        # the file may be anybody's: a kind is looked up by name, and never imported
        known = _KNOWN_TO.get(version, tuple(KINDS))
        found: list[Operation] = []
        for number, entry in enumerate(data["operations"]):
            where = f"plan operation {number}"
            if not isinstance(entry, dict):
                raise UsageError(f"{where} is no object")
            op = entry.get("op")
            if not isinstance(op, str) or op not in known:
                raise UsageError(
                    f"{where} has op '{foreign(op)}'; this program knows {', '.join(known)}"
                )
            found.append(KINDS[op].from_json(entry, where, tensors))
        plan = cls(tuple(found))
        _check_order(plan, tensors)
        return plan

    def then(self, later: Plan) -> Plan:
        """Compose with a plan made on the network that this one leaves."""
        done = list(self.operations)
        for operation in later.operations:
            left: Operation | None = operation
            stand: list[tuple[Operation, ...]] = []
            # From the last one back, as it would be undone: a later cut passes the masks, which
            # become smaller, and then meets the cuts, which take it in.
            while done and left is not None:
                made, left = done.pop().compose(left)
                stand.append(made)
            done += [each for made in reversed(stand) for each in made]
            if left is not None:
                done.append(left)
        # Two cuts that met in part are three now; those of one group and the same indices are one
        # again. The order is that of the slots, not of what happened to them.
        whole = Plan(tuple(done))
        cut_of = {slot: cut for cut in whole.cuts for slot in cut.slots}
        order = [slot for plan in (self, later) for cut in plan.cuts for slot in cut.slots]
        kept = {slot: cut_of[slot].kept for slot in order}
        groups = {slot: cut.group for slot, cut in cut_of.items()}
        produced = {slot for cut in whole.cuts for slot in cut.produced}
        return Plan((*_bundle(kept, groups, produced), *whole.uncut))


EMPTY_PLAN = Plan(())


def _check_order(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what `then` never leaves: it could be read in more than one way."""
    seen: set[Place | str] = set()
    behind = False
    for number, operation in enumerate(plan.operations):
        behind |= not isinstance(operation, Cut)
        if behind and isinstance(operation, Cut):
            raise UsageError(f"plan operation {number} is a cut behind another kind; cuts go first")
        for name, dim in operation.slots if isinstance(operation, Cut) else ():
            if (name, dim) in seen:
                raise UsageError(
                    f"plan operation {number} cuts dimension {foreign(dim)} of '{foreign(name)}' a "
                    "second time; successive cuts must be composed into one"
                )
            seen.add((name, dim))
        for name in operation.tensors():
            if name in seen:
                raise UsageError(
                    f"plan operation {number} uses '{foreign(name)}' a second time; compose both "
                    "into one"
                )
            seen.add(name)
    if unused := [name for name in tensors if name not in seen]:
        raise UsageError(
            f"the file beside the plan holds '{foreign(unused[0])}', which no operation uses"
        )


def _bundle(
    kept: Mapping[Place, tuple[int, ...]], groups: Mapping[Place, str], produced: set[Place]
) -> tuple[Cut, ...]:
    """One cut per group and index list, in the order of `kept`. produced: slots of producers."""
    bundles: dict[tuple[str, tuple[int, ...]], list[Place]] = {}
    for slot, indices in kept.items():
        bundles.setdefault((groups[slot], indices), []).append(slot)
    return tuple(
        make_cut(group, slots, indices, produced) for (group, indices), slots in bundles.items()
    )


def plan_cut(structure: Structure, keep: Mapping[str, Tensor]) -> Plan:
    """A plan that keeps these class ids of each named group, and everything of the others."""
    lost: dict[Place, Tensor] = {}
    groups: dict[Place, str] = {}
    produced: set[Place] = set()
    # a slot of several groups (behind a concatenation) loses what each of them loses
    for name, classes in keep.items():
        group = structure.group(name)
        mask = kept_mask(group.size, classes, name)
        if bool(mask.all()):
            continue
        drop = torch.cat([~mask, torch.tensor([False])])  # class -1 finds the last entry
        # slots share their tensors of classes: each is looked up once
        gone: dict[int, Tensor] = {}
        for slot in group.slots:
            key = (slot.parameter, slot.dim)
            here = gone.get(id(slot.classes))
            if here is None:
                here = gone[id(slot.classes)] = drop[slot.classes]
            lost[key] = lost[key] | here if key in lost else here
            groups.setdefault(key, name)
        produced |= {
            (s.parameter, s.dim) for s in group.producers if may_produce((s.parameter, s.dim))
        }
    kept = {key: tuple((~gone).nonzero().flatten().tolist()) for key, gone in lost.items()}
    return Plan(_bundle(kept, groups, produced))


def kept_mask(size: int, classes: Tensor, name: str) -> Tensor:
    """(size,) bool from class ids; refuses none, repeated ones and ones out of range."""
    classes = torch.as_tensor(classes, dtype=torch.int64).cpu().flatten()
    if classes.numel() == 0:
        raise UsageError(f"keeping 0 of {size} channels in '{name}' is impossible; keep one")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= size:
        wrong = low if low < 0 else high
        raise UsageError(f"channel {wrong} of '{name}' does not exist; it has {size} (0-based)")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[classes] = True
    if int(mask.sum()) != classes.numel():
        raise UsageError(f"the channels to keep in '{name}' are listed more than once")
    return mask


def keep_count(
    channels: int,
    ratio: float,
    round_to: int | None = None,
    min_channels: int = 1,
    groups: int = 1,
) -> int:
    """How many of `channels` stay when the fraction `ratio` is removed.

    channels counts positions (channels per group of a grouped layer); round_to then acts as
    round_to / gcd(round_to, groups). Rounded to the nearest multiple, ties up, that is no less than
    min_channels, at most channels. All of them may stay whatever their number.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"prune.ratio={ratio} must lie in [0, 1): the fraction removed")
    if round_to is not None and round_to < 1:
        raise UsageError(f"prune.round_to={round_to} must be a positive integer or null")
    # the small term keeps 100 * (1 - 0.9) at 10, which floating point makes 9.999...
    count = max(min_channels, math.floor(channels * (1 - ratio) + 1e-6))
    if round_to is not None and count < channels:
        # positions are counted, of which a layer has `groups` times as many channels
        step = round_to // math.gcd(round_to, groups)
        least = -(-max(1, min_channels) // step) * step
        count = max(least, (2 * count + step) // (2 * step) * step)
    return min(count, channels)
