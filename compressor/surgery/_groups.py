"""From a trace to groups: union of ids, classes with the same slots, and the kind of each group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compressor.surgery._ids import components
from compressor.surgery._kinds import Kinds
from compressor.surgery._shortcuts import shortcuts
from compressor.surgery._structure import Activation, Frozen, Group, Slot
from compressor.surgery._trace import Tracer


class Grouping:
    """The classes of one finished trace.

    roots: (ids,) every id -> its class; frozen: (ids,) bool at class roots.
    group_of, class_of: (ids,) at class roots: number of the group and class id in it, or -1.
    """

    def __init__(self, trace: Tracer):
        self.trace = trace
        self.roots = components(trace.count, trace.edges)
        self.frozen = torch.zeros(trace.count, dtype=torch.bool)
        for event in trace.events:
            self.frozen[self.roots[event.id]] = True
        self.slots = {key: self.roots[r.vector] for key, r in trace.records.items()}
        self.cuttable = self._cuttable()
        self.group_of, self.class_of, self.members = self._partition()

    def flag(self, vectors: Iterable[Tensor]) -> Tensor:
        """(ids,) bool at the class roots of these ids."""
        flag = torch.zeros(self.trace.count, dtype=torch.bool)
        for vector in vectors:
            flag[self.roots[vector]] = True
        return flag

    def _cuttable(self) -> Tensor:
        """(ids,) bool: classes that are made by a weight, read by a weight, and not frozen."""
        made, read = torch.zeros_like(self.frozen), torch.zeros_like(self.frozen)
        for key, record in self.trace.records.items():
            if record.role == "producer":
                made[self.slots[key]] = True
            elif record.role == "consumer":
                read[self.slots[key]] = True
        return made & read & ~self.frozen

    def _partition(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Classes with the same slots, each as often, form a group (compared by a random hash)."""
        generator = torch.Generator().manual_seed(0)
        size = self.trace.count
        digest = torch.zeros(size, dtype=torch.int64)
        keys = torch.randint(-(2**62), 2**62, (len(self.slots),), generator=generator)
        for key, roots in zip(keys, self.slots.values(), strict=True):
            digest.index_add_(0, roots, key.expand(roots.numel()))
        group_of = torch.full((size,), -1)
        class_of = torch.full((size,), -1)
        classes = self.cuttable.nonzero().flatten()
        by_digest: dict[int, list[int]] = {}
        for root, value in zip(classes.tolist(), digest[classes].tolist(), strict=True):
            by_digest.setdefault(value, []).append(root)
        members = []
        for roots in by_digest.values():
            # one class is all or nothing: there is nothing to choose
            if len(roots) > 1:
                tensor = torch.tensor(roots)
                group_of[tensor] = len(members)
                class_of[tensor] = torch.arange(len(roots))
                members.append(tensor)
        return group_of, class_of, members

    # --- groups ---------------------------------------------------------------------------------

    def groups(self) -> tuple[Group, ...]:
        count = len(self.members)
        slots: list[dict[str, list[Slot]]] = [
            {"producers": [], "consumers": [], "followers": []} for _ in range(count)
        ]
        roles: list[dict[str, list[str]]] = [{"producer": [], "consumer": []} for _ in range(count)]
        place = {"producer": "producers", "bias": "producers", "consumer": "consumers"}
        shared: dict[int, dict[int, Tensor]] = {}
        kinds, mixing = Kinds(self), self.flag(self.trace.marks.mixing)
        projections = shortcuts(self.trace)
        for (name, dim), record in self.trace.records.items():
            by_group = shared.get(id(record.vector))
            if by_group is None:
                by_group = shared[id(record.vector)] = self._classes(self.slots[name, dim])
            for number, classes in by_group.items():
                module = name.rpartition(".")[0]
                after = record.after if record.role == "consumer" else ""
                slots[number][place.get(record.role, "followers")].append(
                    Slot(
                        name, dim, classes, module, after, tuple(record.callers),
                        name in projections and record.role == "producer",
                    )
                )  # fmt: skip
                if record.role in ("producer", "consumer"):
                    roles[number][record.role].append(name)
        active: dict[int, list[Activation]] = {}
        for place_of, site in enumerate(self.trace.sites):
            for number, classes in self._classes(self.roots[site.vector]).items():
                active.setdefault(number, []).append(
                    Activation(
                        site.op, site.module, site.call, site.leaf, classes, site.dim or 0, place_of
                    )
                )
        taken: dict[str, int] = {}
        found = []
        for number, parts in enumerate(slots):
            # a weight of the network itself stands for it
            module = parts["producers"][0].module or parts["producers"][0].parameter
            taken[module] = taken.get(module, 0) + 1
            kind = kinds.of(self.members[number], roles[number])
            found.append(
                Group(
                    # channels of one layer can end in several groups: the later ones get a number
                    name=module if taken[module] == 1 else f"{module}#{taken[module]}",
                    size=self.members[number].numel(),
                    producers=tuple(parts["producers"]),
                    consumers=tuple(parts["consumers"]),
                    followers=tuple(parts["followers"]),
                    interior=kind == "interior",
                    kind=kind,
                    mixing=bool(mixing[self.members[number]].any()),
                    activations=tuple(active.get(number, ())),
                )
            )
        return tuple(found)

    def _classes(self, roots: Tensor) -> dict[int, Tensor]:
        """Group number -> (positions,) class ids of that group, -1 elsewhere."""
        numbers, classes = self.group_of[roots], self.class_of[roots]
        present = torch.unique(numbers[numbers >= 0]).tolist()
        if len(present) == 1 and int(numbers.min()) >= 0:
            return {present[0]: classes}
        return {n: torch.where(numbers == n, classes, -1) for n in present}

    def report(self) -> tuple[Frozen, ...]:
        """The channels that are frozen, by the first operator that stopped them."""
        first: dict[int, int] = {}
        for number, event in enumerate(self.trace.events):
            first.setdefault(int(self.roots[event.id]), number)
        channels = [event.channels for event in self.trace.events]
        for key, record in self.trace.records.items():
            if record.role == "producer":
                roots = self.slots[key]
                for root in roots[self.frozen[roots]].tolist():
                    channels[first[root]] += 1
        total: dict[tuple[str, str, str], int] = {}
        for event, count in zip(self.trace.events, channels, strict=True):
            if count:
                place = (event.module, event.operator, event.reason)
                total[place] = total.get(place, 0) + count
        return tuple(
            Frozen(module, operator, count, reason)
            for (module, operator, reason), count in total.items()
        )
