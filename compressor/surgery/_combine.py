"""Operators that combine elements: ids that meet are united, or frozen where no cut can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compressor.surgery._derived import Derived, derive
from compressor.surgery._ids import tensors_in
from compressor.surgery._operators import GATES

if TYPE_CHECKING:
    from compressor.surgery._trace import Tracer


def combine(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    tensors = tensors_in(args, kwargs)
    if not outs:
        return
    rank = outs[0].ndim
    tracked = [t for t in tensors if trace.ids(t) is not None]
    if not tracked:
        tracked = _parameters_as_data(trace, tensors)
        if not tracked:
            return
    lies = {ids.dim + rank - t.ndim for t in tracked if (ids := trace.ids(t)).dim is not None}
    if len(lies) > 1:
        freeze_all(trace, base, tracked, outs, "channels lie across different dimensions")
        return
    dim = lies.pop() if lies else None
    main = [t for t in tracked if (trace.ids(t).dim is not None) == (dim is not None)]
    vector = trace.ids(main[0]).vector
    for tensor in tracked:
        if not any(tensor is t for t in main):
            _broadcast(trace, base, tensor, dim - rank, vector)
    for tensor in tensors:
        if trace.ids(tensor) is None and dim is not None:
            _constant(trace, base, tensor, dim - rank, vector)
    for tensor in main[1:]:
        other = trace.ids(tensor).vector
        if other is not vector:
            trace.unite(vector, other)
            _mark(trace, base, main[0], tensor, outs[0])
    for out in outs:
        trace.set_ids(out, vector, dim)


def _mark(trace: Tracer, base: str, left: Tensor, right: Tensor, out: Tensor) -> None:
    """Note how two streams of channels meet: an addition, a gate, or another product."""
    vectors = [trace.ids(left).vector, trace.ids(right).vector]
    if base != "mul":
        (trace.marks.add if base in ("add", "sub") else trace.marks.join).extend(vectors)
        return
    gates = [t for t in (right, left) if trace.after(t) in GATES or t.numel() < out.numel()]
    if gates:
        trace.marks.gate.append(trace.ids(gates[0]).vector)
    else:
        trace.marks.join.extend(vectors)


def _broadcast(trace: Tracer, base: str, tensor: Tensor, dim: int, vector: Tensor) -> None:
    """One channel meets many (a spatial gate): it can never be removed."""
    ids = trace.ids(tensor)
    wide = tensor.ndim >= -dim and tensor.shape[dim] > 1
    event = trace.freeze(ids.vector, base, "one channel meets all channels of another tensor")
    if wide:
        trace.unite(vector, trace.event_vector(event))


def _constant(trace: Tracer, base: str, tensor: Tensor, dim: int, vector: Tensor) -> None:
    """A tensor of the network or a constant meets channels along dimension `dim` (negative)."""
    if tensor.ndim < -dim or tensor.shape[dim] == 1:
        return
    alias = trace.alias(tensor)
    if alias is not None:
        trace.record(alias, tensor.ndim + dim, vector, "follower")
    elif not trace.is_plain(tensor):
        trace.freeze(vector, base, "a constant per channel that is no parameter")


def _parameters_as_data(trace: Tracer, tensors: list[Tensor]) -> list[Tensor]:
    """Scales, biases and whole weights get ids of their own; other parameters taint."""
    data = []
    for tensor in tensors:
        alias = trace.alias(tensor)
        if alias is None or not alias.axes:
            continue
        if len(alias.axes) > 1:
            if any(t is tensor for t in data) or derive(trace, tensor):
                data.append(tensor)
                continue
            for other in tensors:
                if trace.alias(other) is not None:
                    trace.taint(trace.alias(other).name)
            return []
        dim = next(iter(alias.axes))
        trace.set_ids(tensor, trace.record(alias, dim, None, "follower"), dim)
        trace.set_derived(tensor, Derived(""))
        data.append(tensor)
    return data


def freeze_all(trace: Tracer, base: str, tensors: list, outs: list, reason: str) -> None:
    event = trace.event(base, reason)
    for tensor in tensors:
        if (ids := trace.ids(tensor)) is not None:
            trace.unite(ids.vector, trace.event_vector(event))
        elif (alias := trace.alias(tensor)) is not None:
            trace.taint(alias.name)
    for out in outs:
        trace.set_ids(out, trace.event_vector(event), None)


def argument(args: tuple, kwargs: dict, position: int, name: str, default):
    return args[position] if len(args) > position else kwargs.get(name, default)
