"""Channel provenance: run a network once without data and see where every channel goes.

A forward pass on the meta device runs under a dispatch mode. Beside each activation stands a
vector of ids, one per channel: operators that move data are executed on the ids themselves,
operators that combine elements unite the ids that meet, and layers with weights record which ids
lie along which dimension of which parameter. What no cut can follow is frozen, by name.

Here stands the pass alone. What it finds lies in the ledger (`_ledger`), and what an operator means
for ids is told by its rule (`_rules`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.surgery._forward import as_tree, unfused, watched
from compressor.surgery._ids import execute, operator_name, tensors_in
from compressor.surgery._ledger import Ledger
from compressor.surgery._rules import follow


class Tracer(TorchDispatchMode):
    """Follows ids through one forward pass of a network on the meta device.

    dense: the ledger of the same network before a cut, if this one was cut.
    """

    def __init__(self, net: nn.Module, dense: Ledger | None = None):
        super().__init__()
        self.net = net
        self.ledger = Ledger(net, dense)

    def run(self, inputs: tuple[Tensor, ...]) -> Ledger:
        """One forward pass; inputs and outputs of the network are frozen."""
        ledger = self.ledger
        # dimension 1 of an input is its channels, which no cut may take away
        for tensor in inputs:
            ledger.keep(tensor)
            event = ledger.event("input", "the input of the network")
            size = tensor.shape[1] if tensor.ndim > 1 else 1
            ledger.set_ids(tensor, ledger.united(ledger.fresh(size), event), 1)
        with torch.no_grad(), unfused(), watched(self.net, ledger.enter, ledger.leave), self:
            outputs = self.net(*inputs)
        ledger.operator = "output"
        for tensor in tree_leaves(as_tree(outputs)):
            if isinstance(tensor, Tensor) and (ids := ledger.ids(tensor)) is not None:
                ledger.freeze(ids.vector, "output", "the output of the network")
        ledger.freeze_tainted()
        return ledger

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        ledger = self.ledger
        # set before it runs: if the operator fails, these say where the network does
        ledger.operator = operator_name(func)
        ledger.arguments = tensors_in(args, kwargs)
        out = execute(func, args, kwargs)
        follow(ledger, func, args, kwargs, out)
        return out
