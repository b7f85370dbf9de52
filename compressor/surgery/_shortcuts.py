"""The projections on the shortcuts of residual blocks, read from the ledger alone.

A block whose input has another shape than its output begins a stream of channels: the output of its
main branch is added to a projection of its input. So at the first addition of both, one layer reads
what several layers read, and the other summand is made from that by two layers or more in a row,
with no addition between them. What else is added (a stream as it is, the laterals of a feature
pyramid, branches of one length) is no such shortcut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.surgery._ledger import Ledger


def shortcuts(ledger: Ledger) -> set[str]:
    """Names of the weights of the projections."""
    makers = _Makers(ledger)
    summed: set[int] = set()
    found: set[str] = set()
    # two vectors were noted for each addition, in the order of execution
    pairs = [makers.of(vector) for vector in ledger.marks.add]
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        # where one side is a sum already, the stream has begun before this block
        if not summed & (left | right):
            for one, other in ((left, right), (right, left)):
                if len(one) == 1 and makers.projects(min(one), other, summed):
                    found.add(makers.names[min(one)])
        summed |= left | right
    return found


class _Makers:
    """Which layer made which ids, before anything was united, and what each layer reads.

    A maker is the number of a weight; ids that no weight made (the network's input) are makers of
    their own, with negative numbers.
    """

    def __init__(self, ledger: Ledger):
        records = ledger.records.items()
        self.names = [name for (name, _), r in records if r.role == "producer"]
        # overwritten by the makers below; what stays negative, no weight made
        self._maker = -1 - torch.arange(ledger.count)
        for (name, _), record in records:
            if record.role == "producer":
                self._maker[record.vector] = self.names.index(name)
        reads = {name: r.vector for (name, _), r in records if r.role == "consumer"}
        self.inputs = [self.of(reads[name]) if name in reads else set() for name in self.names]

    def of(self, vector: Tensor) -> set[int]:
        return set(torch.unique(self._maker[vector]).tolist())

    def projects(self, layer: int, other: set[int], summed: set[int]) -> bool:
        """Whether `layer` projects what the main branch that ends in `other` begins with."""
        if layer < 0:
            return False
        # what the block begins with; a branch of one layer from there is as short as the projection
        start = self.inputs[layer]
        if not start or any(end >= 0 and self.inputs[end] & start for end in other):
            return False
        # forwards along the main branch, from reader to reader, and not through another addition
        ahead = {n for n, reads in enumerate(self.inputs) if reads & start} - {layer}
        reached: set[int] = set()
        while ahead:
            reached |= ahead
            through = ahead - summed
            ahead = {n for n, reads in enumerate(self.inputs) if reads & through} - reached
        return bool(reached & other)
