"""Plans: which original indices each dimension of each tensor keeps. JSON in, JSON out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import UsageError, foreign
from compressor.surgery._structure import Structure

VERSION = 1


@dataclass(frozen=True)
class Cut:
    """Tensors that keep the same indices along one dimension each.

    slots: (state-dict name, dimension) pairs; kept: ascending original indices;
    producers: paths of the modules whose output channels these are.
    """

    group: str
    slots: tuple[tuple[str, int], ...]
    kept: tuple[int, ...]
    producers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A list of cuts in original indices; no slot stands in two of them."""

    operations: tuple[Cut, ...] = ()

    @property
    def kept(self) -> dict[str, list[int]]:
        """Module path of every producer -> original indices of its outputs that are kept."""
        return {path: list(cut.kept) for cut in self.operations for path in cut.producers}

    @property
    def by_slot(self) -> dict[tuple[str, int], tuple[int, ...]]:
        return {slot: cut.kept for cut in self.operations for slot in cut.slots}

    def since(self, earlier: Plan) -> dict[tuple[str, int], tuple[int, ...]]:
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

    def to_json(self) -> dict:
        operations = []
        for cut in self.operations:
            entry = {
                "op": "cut",
                "group": cut.group,
                "slots": [[name, dim] for name, dim in cut.slots],
                "kept": list(cut.kept),
            }
            if cut.producers:
                entry["producers"] = list(cut.producers)
            operations.append(entry)
        return {"version": VERSION, "operations": operations}

    @classmethod
    def from_json(cls, data: dict) -> Plan:
        """Read and check a plan; a UsageError says which operation is wrong and how."""
        if not isinstance(data, dict) or set(data) != {"version", "operations"}:
            raise UsageError("a plan is an object with exactly 'version' and 'operations'")
        if not _is_index(data["version"]) or data["version"] != VERSION:
            raise UsageError(
                f"plan version {foreign(data['version'])} is not known; this program reads "
                f"{VERSION}"
            )
        if not isinstance(data["operations"], list):
            raise UsageError("a plan's 'operations' is a list")
        cuts, seen = [], set()
        for number, entry in enumerate(data["operations"]):
            cut = _read_cut(entry, f"plan operation {number}")
            for name, dim in cut.slots:
                if (name, dim) in seen:
                    raise UsageError(
                        f"plan operation {number} cuts dimension {foreign(dim)} of "
                        f"'{foreign(name)}' a second time; successive cuts must be composed into "
                        "one"
                    )
                seen.add((name, dim))
            cuts.append(cut)
        return cls(tuple(cuts))

    def then(self, later: Plan) -> Plan:
        """Compose with a plan made on the network that this one leaves: original indices."""
        mine, groups, producers = _tables(self)
        theirs, later_groups, later_producers = _tables(later)
        kept = dict(mine)
        for slot, indices in theirs.items():
            if slot not in mine:
                kept[slot] = indices
                continue
            if indices[-1] >= len(mine[slot]):
                raise UsageError(
                    f"the later plan keeps index {indices[-1]} of '{slot[0]}', of which the "
                    f"earlier one leaves {len(mine[slot])}; make it on the cut network"
                )
            kept[slot] = tuple(mine[slot][i] for i in indices)
        return _bundle(kept, {**later_groups, **groups}, producers | later_producers)


EMPTY_PLAN = Plan(())


def _is_index(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_cut(entry, where: str) -> Cut:
    required = {"op", "group", "slots", "kept"}
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no object")
    if entry.get("op") != "cut":
        raise UsageError(f"{where} has op '{foreign(entry.get('op'))}'; this program knows 'cut'")
    if not required <= set(entry) <= required | {"producers"}:
        raise UsageError(
            f"{where} has fields {foreign(sorted(map(str, entry)))}; expected {sorted(required)}"
        )
    group, slots, kept = entry["group"], entry["slots"], entry["kept"]
    producers = entry.get("producers", [])
    if not isinstance(group, str):
        raise UsageError(f"{where}: 'group' is {foreign(group)}; it must be a name")
    where = f"{where} ('{foreign(group)}')"
    if not isinstance(slots, list) or not slots:
        raise UsageError(f"{where}: 'slots' must be a list of [name, dimension]")
    for slot in slots:
        good = isinstance(slot, list | tuple) and len(slot) == 2
        if not good or not isinstance(slot[0], str) or not _is_index(slot[1]):
            raise UsageError(f"{where}: slot {foreign(slot)} must be [name, dimension]")
    if not isinstance(kept, list) or not kept or not all(_is_index(i) for i in kept):
        raise UsageError(f"{where}: 'kept' must be a list of indices, none negative, not empty")
    if any(a >= b for a, b in zip(kept, kept[1:], strict=False)):
        raise UsageError(f"{where}: 'kept' must be ascending without repetition")
    if not isinstance(producers, list) or not all(isinstance(p, str) for p in producers):
        raise UsageError(f"{where}: 'producers' must be a list of module paths")
    return Cut(group, tuple((n, d) for n, d in slots), tuple(kept), tuple(producers))


def _tables(plan: Plan) -> tuple[dict, dict, set]:
    groups = {slot: cut.group for cut in plan.operations for slot in cut.slots}
    producers = {
        slot
        for cut in plan.operations
        for slot in cut.slots
        if slot[0].rpartition(".")[0] in cut.producers and _may_produce(slot)
    }
    return plan.by_slot, groups, producers


def _may_produce(slot: tuple[str, int]) -> bool:
    return not slot[0].endswith("bias")


def _bundle(kept: dict, groups: dict, producers: set) -> Plan:
    """One operation per group and index list, in the order of the slots."""
    bundles: dict[tuple, list] = {}
    for slot, indices in kept.items():
        bundles.setdefault((groups[slot], indices), []).append(slot)
    cuts = []
    for (group, indices), slots in bundles.items():
        paths = dict.fromkeys(s[0].rpartition(".")[0] for s in slots if s in producers)
        cuts.append(Cut(group, tuple(slots), indices, tuple(paths)))
    return Plan(tuple(cuts))


def plan_cut(structure: Structure, keep: Mapping[str, Tensor]) -> Plan:
    """A plan that keeps these class ids of each named group, and everything of the others."""
    lost: dict[tuple[str, int], Tensor] = {}
    groups: dict[tuple[str, int], str] = {}
    producers: set[tuple[str, int]] = set()
    for name, classes in keep.items():
        group = structure.group(name)
        mask = kept_mask(group.size, classes, name)
        if bool(mask.all()):
            continue
        drop = torch.cat([~mask, torch.tensor([False])])  # class -1 finds the last entry
        gone: dict[int, Tensor] = {}
        for slot in group.slots:
            key = (slot.parameter, slot.dim)
            here = gone.get(id(slot.classes))
            if here is None:
                here = gone[id(slot.classes)] = drop[slot.classes]
            lost[key] = lost[key] | here if key in lost else here
            groups.setdefault(key, name)
        producers |= {
            (s.parameter, s.dim) for s in group.producers if _may_produce((s.parameter, s.dim))
        }
    kept = {key: tuple((~gone).nonzero().flatten().tolist()) for key, gone in lost.items()}
    return _bundle(kept, groups, producers)


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
        step = round_to // math.gcd(round_to, groups)
        least = -(-max(1, min_channels) // step) * step
        count = max(least, (2 * count + step) // (2 * step) * step)
    return min(count, channels)
