"""Weights made on the fly from a parameter: standardised, scaled by a gain.

Where every value is a function of one output channel's own weights, and lies where the parameter's
value lay, the tensor stands for the parameter. Its output channels can be cut without a change;
a statistic over a channel's weights makes a cut of the inputs `mixing`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.surgery._ids import Alias, Derived
from compressor.surgery._ledger import Ledger
from compressor.surgery._operators import REDUCTIONS, SAME

# these leave every element at its place in memory order
VIEWS = frozenset("view _unsafe_view reshape _reshape_alias unsqueeze squeeze".split())


def derive(ledger: Ledger, tensor: Tensor) -> bool:
    """Give a whole weight the ids of its outputs, its first dimension; False where it is none.

    tensor: the parameter or a view of it with all elements in the same order.
    """
    alias = ledger.alias(tensor)
    if alias is None or len(ledger.shape(alias.name)) < 3:
        return False
    if tensor.numel() != ledger.shape(alias.name).numel():
        return False
    # its axes are the parameter's in their own order, and the first one is the outputs
    order = [at for _, (at, _) in sorted(alias.axes.items())]
    if not order or order[0] != 0 or order != sorted(order):
        return False
    if not all(_in_order(positions) for _, positions in alias.axes.values()):
        return False
    dim = min(alias.axes)
    ledger.set_ids(tensor, ledger.record(alias, dim, None, "producer"), dim)
    ledger.set_derived(tensor, Derived(alias.name))
    return True


def _in_order(positions: Tensor) -> bool:
    return torch.equal(positions, torch.arange(positions.numel()))


def pass_on(ledger: Ledger, base: str, pointwise: bool, tracked: list, outs: list) -> None:
    """What is made of parameters alone is derived from them; mixed with other tensors it is not."""
    # None for an activation, which is made of no parameters alone
    sources = [ledger.derived(t) for t in tracked]
    names = {s.name for s in sources if s is not None and s.name}
    if not names:
        if sources and all(s is not None for s in sources):
            for out in outs:
                ledger.set_derived(out, Derived(""))
        return
    # a weight times an activation, or two weights: no layer's own weight any more
    if len(names) > 1 or any(s is None for s in sources):
        for name in names:
            ledger.taint(name)
        return
    # mean and variance of (outputs, inputs * kernel) run over the inputs: they change with a cut of
    # these. Broadcast back by an arithmetic operator, all lies again where the weight lay.
    statistic = base in REDUCTIONS or "batch_norm" in base
    straight = pointwise or statistic or base in SAME | VIEWS
    mixed = statistic or any(s.mixed for s in sources)
    straight = straight and all(s.straight for s in sources)
    for out in outs:
        ledger.set_derived(out, Derived(names.copy().pop(), mixed, straight))


def adopt(ledger: Ledger, weight: Tensor | None, source: Tensor) -> None:
    """Let a derived weight stand for its parameter; its input channels become mixing if need be."""
    derived, ids = ledger.derived(weight), None if weight is None else ledger.ids(weight)
    if derived is None or ids is None or not derived.name or not derived.straight:
        return
    if weight.shape != ledger.shape(derived.name) or ids.dim != 0:
        return
    # from here on the tensor is the parameter itself, and its outputs are the parameter's
    axes = {d: (d, torch.arange(n)) for d, n in enumerate(weight.shape) if n > 1}
    ledger.unite(ids.vector, ledger.records[derived.name, 0].vector)
    ledger.set_alias(weight, Alias(derived.name, axes))
    ledger.forget_ids(weight)
    if derived.mixed and weight.shape[1] > 1:
        ledger.marks.mixing.append(ledger.vector(source, 1))
