"""Classes of channels: ids that were united, and which classes fill the same slots."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compressor.surgery._ids import components
from compressor.surgery._ledger import Ledger


class Grouping:
    """The classes of one finished trace.

    roots: (ids,) every id -> its class; frozen: (ids,) bool at class roots.
    group_of, class_of: (ids,) at class roots: number of the group and class id in it, or -1.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.roots = components(ledger.count, ledger.edges)
        # an event's id froze all that it was united with
        self.frozen = torch.zeros(ledger.count, dtype=torch.bool)
        for event in ledger.events:
            self.frozen[self.roots[event.id]] = True
        # slot (parameter, dimension) -> (size of the dimension,) classes
        self.slots = {key: self.roots[r.vector] for key, r in ledger.records.items()}
        self.cuttable = self._cuttable()
        self.group_of, self.class_of, self.members = self._partition()

    def flag(self, vectors: Iterable[Tensor]) -> Tensor:
        """(ids,) bool at the class roots of these ids."""
        flag = torch.zeros(self.ledger.count, dtype=torch.bool)
        for vector in vectors:
            flag[self.roots[vector]] = True
        return flag

    def _cuttable(self) -> Tensor:
        """(ids,) bool: classes that are made by a weight, read by a weight, and not frozen."""
        made, read = torch.zeros_like(self.frozen), torch.zeros_like(self.frozen)
        for key, record in self.ledger.records.items():
            if record.role == "producer":
                made[self.slots[key]] = True
            elif record.role == "consumer":
                read[self.slots[key]] = True
        return made & read & ~self.frozen

    def _partition(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Classes with the same slots, each as often, form a group (compared by a random hash)."""
        generator = torch.Generator().manual_seed(0)
        size = self.ledger.count
        # Every slot gets a random number of 63 bits, and a class the sum (modulo 2^64) of the
        # numbers of the slots that it fills, each as often as it does. Equal sums are equal slots,
        # accidents of one in 2^60 apart: one pass over all slots instead of a set for each class.
        digest = torch.zeros(size, dtype=torch.int64)
        keys = torch.randint(-(2**62), 2**62, (len(self.slots),), generator=generator)
        for key, roots in zip(keys, self.slots.values(), strict=True):
            digest.index_add_(0, roots, key.expand(roots.numel()))
        group_of = torch.full((size,), -1)
        class_of = torch.full((size,), -1)
        classes = self.cuttable.nonzero().flatten()
        # in the order of ids, which is that of execution: group 0 is made first
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

    def classes_in(self, roots: Tensor) -> dict[int, Tensor]:
        """Group number -> (positions,) class ids of that group, -1 elsewhere."""
        numbers, classes = self.group_of[roots], self.class_of[roots]
        present = torch.unique(numbers[numbers >= 0]).tolist()
        # nearly every slot is filled by one group alone
        if len(present) == 1 and int(numbers.min()) >= 0:
            return {present[0]: classes}
        return {n: torch.where(numbers == n, classes, -1) for n in present}
