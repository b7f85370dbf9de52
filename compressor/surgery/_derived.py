"""Weights made on the fly from a parameter: standardised, scaled by a gain.

Where every value is a function of one output channel's own weights, and lies where the parameter's
value lay, the tensor stands for the parameter. Its output channels can be cut without a change;
a statistic over a channel's weights makes a cut of the inputs `mixing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.surgery._ids import Alias
from compressor.surgery._operators import REDUCTIONS, SAME

if TYPE_CHECKING:
    from compressor.surgery._trace import Tracer

# these leave every element at its place in memory order
VIEWS = frozenset("view _unsafe_view reshape _reshape_alias unsqueeze squeeze".split())


@dataclass(frozen=True)
class Derived:
    """A tensor made of parameters alone.

    name: the one with more than one long dimension, or "" where there is none;
    mixed: statistics were taken over an output channel's weights;
    straight: elements lie in the parameter's own order.
    """

    name: str
    mixed: bool = False
    straight: bool = True


def derive(trace: Tracer, tensor: Tensor) -> bool:
    """Give a whole weight the ids of its outputs, its first dimension; False where it is none.

    tensor: the parameter or a view of it with all elements in the same order.
    """
    alias = trace.alias(tensor)
    if alias is None or len(trace.shape(alias.name)) < 3:
        return False
    if tensor.numel() != trace.shape(alias.name).numel():
        return False
    order = [at for _, (at, _) in sorted(alias.axes.items())]
    if not order or order[0] != 0 or order != sorted(order):
        return False
    if not all(_in_order(positions) for _, positions in alias.axes.values()):
        return False
    dim = min(alias.axes)
    trace.set_ids(tensor, trace.record(alias, dim, None, "producer"), dim)
    trace.set_derived(tensor, Derived(alias.name))
    return True


def _in_order(positions: Tensor) -> bool:
    return torch.equal(positions, torch.arange(positions.numel()))


def pass_on(trace: Tracer, base: str, pointwise: bool, tracked: list, outs: list) -> None:
    """What is made of parameters alone is derived from them; mixed with other tensors it is not."""
    sources = [trace.derived(t) for t in tracked]
    names = {s.name for s in sources if s is not None and s.name}
    if not names:
        if sources and all(s is not None for s in sources):
            for out in outs:
                trace.set_derived(out, Derived(""))
        return
    if len(names) > 1 or any(s is None for s in sources):
        for name in names:
            trace.taint(name)
        return
    statistic = base in REDUCTIONS or "batch_norm" in base
    straight = pointwise or statistic or base in SAME | VIEWS
    mixed = statistic or any(s.mixed for s in sources)
    straight = straight and all(s.straight for s in sources)
    for out in outs:
        trace.set_derived(out, Derived(names.copy().pop(), mixed, straight))


def adopt(trace: Tracer, weight: Tensor | None, source: Tensor) -> None:
    """Let a derived weight stand for its parameter; its input channels become mixing if need be."""
    derived, ids = trace.derived(weight), None if weight is None else trace.ids(weight)
    if derived is None or ids is None or not derived.name or not derived.straight:
        return
    if weight.shape != trace.shape(derived.name) or ids.dim != 0:
        return
    axes = {d: (d, torch.arange(n)) for d, n in enumerate(weight.shape) if n > 1}
    trace.unite(ids.vector, trace.records[derived.name, 0].vector)
    trace.set_alias(weight, Alias(derived.name, axes))
    trace.forget_ids(weight)
    if derived.mixed and weight.shape[1] > 1:
        trace.marks.mixing.append(trace.vector(source, 1))
