"""The kind of a group: where in the architecture its channels lie, read from the ledger alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compressor.surgery._classes import Grouping


class Kinds:
    """Facts about the weights of one traced network. A weight is named by its parameter.

    inputs, outputs: weight -> class roots along its input and output dimension.
    streams: (ids,) bool at class roots, what runs between the blocks of a residual network.
    """

    def __init__(self, grouping: Grouping):
        self.grouping = grouping
        self.ledger = ledger = grouping.ledger
        self.inputs, self.outputs = self._ends("consumer"), self._ends("producer")
        self.joined = grouping.flag(ledger.marks.join)
        self.concatenated = grouping.flag(ledger.marks.cat)
        self.streams = grouping.flag(ledger.marks.add)
        # no addition, no residual blocks
        self.residual = bool(self.streams.any())
        if self.residual:
            self.streams = self.streams | self._bottlenecks()
        self.gates = self._gates()
        self.squeezes = self._squeezes()
        self.reaching = self._reaching()

    def of(self, classes: Tensor, roles: dict[str, list[str]]) -> str:
        """interior, stream, concat, se or fc, for a group with these classes and weights."""
        # squeeze and excitation reads and scales channels that others made: it decides nothing
        readers = [n for n in roles["consumer"] if n not in self.gates | self.squeezes]
        makers = [n for n in roles["producer"] if n not in self.gates]
        # between squeeze and excitation: only gates read it
        if all(name in self.gates for name in roles["consumer"]):
            return "se"
        if bool((self.streams | self.joined)[classes].any()):
            return "stream"
        if bool(self.concatenated[classes].any()):
            return "concat"
        if len(self.ledger.shape(roles["producer"][0])) == 2:
            return "fc"
        # several layers made the same channels: they were united by something between them
        if len(makers) > 1:
            return "stream"
        if self.residual:
            made = [self.outputs[name] for name in readers if name in self.outputs]
            onto = any(bool(self.streams[roots].any()) for roots in made)
            if len(readers) > 1 and onto:
                return "stream"  # feeds a block and its projection shortcut, as a ResNet's stem
            if not self.reaching & set(readers):
                return "stream"  # the end of the stream: what only the classifier reads
        return "interior"

    def _ends(self, role: str) -> dict[str, Tensor]:
        slots = self.grouping.slots
        return {key[0]: slots[key] for key, r in self.ledger.records.items() if r.role == role}

    def _flag(self, roots: Iterable[Tensor]) -> Tensor:
        flag = torch.zeros_like(self.grouping.frozen)
        for vector in roots:
            flag[vector] = True
        return flag

    def _bottlenecks(self) -> Tensor:
        """Outputs without a nonlinearity behind a depthwise convolution.

        They are the projections of inverted residual blocks, streams even where the block changes
        the shape and so has no shortcut.
        """
        depthwise = self.grouping.flag(self.ledger.marks.depthwise)
        active = self.grouping.flag(site.vector for site in self.ledger.sites)
        # linear bottlenecks (MobileNetV2): no activation behind them, not concatenated, not frozen
        passive = ~(active | self.concatenated | self.grouping.frozen)
        return self._flag(
            made
            for name, made in self.outputs.items()
            if name in self.inputs
            and bool(passive[made].all())
            and bool(depthwise[self.inputs[name]].any())
        )

    def _gates(self) -> set[str]:
        """Weights whose own outputs (before any union) are multiplied into other channels."""
        # The gate's ids before the union. After it, the gated channels have the same classes, and
        # whoever made those would be a gate too.
        raw = torch.zeros_like(self.grouping.frozen)
        for vector in self.ledger.marks.gate:
            raw[vector] = True
        return {
            name
            for (name, _), record in self.ledger.records.items()
            if record.role == "producer" and bool(raw[record.vector].any())
        }

    def _squeezes(self) -> set[str]:
        """Weights whose outputs only gates read: the first layer of a squeeze and excitation."""
        by_gates = self._flag(v for name, v in self.inputs.items() if name in self.gates)
        by_others = self._flag(v for name, v in self.inputs.items() if name not in self.gates)
        only = by_gates & ~by_others
        return {name for name, made in self.outputs.items() if bool(only[made].all())}

    def _reaching(self) -> set[str]:
        """Weights from which a stream can be reached."""
        fresh = {n for n, made in self.outputs.items() if bool(self.streams[made].any())}
        # backwards from the streams: the makers of a stream, then the makers of what those read
        reached: set[str] = set()
        fed = torch.zeros_like(self.grouping.frozen)
        while fresh:
            reached |= fresh
            for name in fresh & set(self.inputs):
                fed[self.inputs[name]] = True
            left = set(self.outputs) - reached
            fresh = {name for name in left if bool(fed[self.outputs[name]].any())}
        return reached
