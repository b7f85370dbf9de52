"""Operators that combine elements: ids that meet are united, or frozen where no cut can follow."""

from __future__ import annotations

from torch import Tensor

from compressor.surgery._derived import derive
from compressor.surgery._ids import Call, Derived, tensors_in
from compressor.surgery._ledger import Ledger
from compressor.surgery._operators import GATES


def combine(ledger: Ledger, call: Call) -> None:
    """One element of the result is made of one element of each operand, which broadcast."""
    tensors = tensors_in(call.args, call.kwargs)
    if not call.outs:
        return
    rank = call.outs[0].ndim
    tracked = [t for t in tensors if ledger.ids(t) is not None]
    if not tracked:
        tracked = _parameters_as_data(ledger, tensors)
        if not tracked:
            return
    # broadcasting aligns dimensions at the end, so an operand's d is the result's d + rank - ndim
    lies = {ids.dim + rank - t.ndim for t in tracked if (ids := ledger.ids(t)).dim is not None}
    if len(lies) > 1:
        freeze_all(
            ledger, call.base, tracked, call.outs, "channels lie across different dimensions"
        )
        return
    dim = lies.pop() if lies else None
    # operands whose ids lie along `dim`; others carry one id for all of their elements
    main = [t for t in tracked if (ledger.ids(t).dim is not None) == (dim is not None)]
    vector = ledger.ids(main[0]).vector
    for tensor in tracked:
        if not any(tensor is t for t in main):
            _broadcast(ledger, call.base, tensor, dim - rank, vector)
    for tensor in tensors:
        if ledger.ids(tensor) is None and dim is not None:
            _constant(ledger, call.base, tensor, dim - rank, vector)
    for tensor in main[1:]:
        other = ledger.ids(tensor).vector
        if other is not vector:
            ledger.unite(vector, other)
            _mark(ledger, call.base, main[0], tensor, call.outs[0])
    for out in call.outs:
        ledger.set_ids(out, vector, dim)


def _mark(ledger: Ledger, base: str, left: Tensor, right: Tensor, out: Tensor) -> None:
    """Note how two streams of channels meet: an addition, a gate, or another product."""
    vectors = [ledger.ids(left).vector, ledger.ids(right).vector]
    if base != "mul":
        (ledger.marks.add if base in ("add", "sub") else ledger.marks.join).extend(vectors)
        return
    # squeeze and excitation: a factor in (0, 1), or one value per channel for a whole image
    gates = [t for t in (right, left) if ledger.after(t) in GATES or t.numel() < out.numel()]
    if gates:
        ledger.marks.gate.append(ledger.ids(gates[0]).vector)
    else:
        ledger.marks.join.extend(vectors)


def _broadcast(ledger: Ledger, base: str, tensor: Tensor, dim: int, vector: Tensor) -> None:
    """One channel meets many (a spatial gate): it can never be removed."""
    ids = ledger.ids(tensor)
    wide = tensor.ndim >= -dim and tensor.shape[dim] > 1
    event = ledger.freeze(ids.vector, base, "one channel meets all channels of another tensor")
    # with an entry for each of the channels it would have to lose some itself; with size 1 it works
    # on whatever channels are left
    if wide:
        ledger.unite(vector, ledger.event_vector(event))


def _constant(ledger: Ledger, base: str, tensor: Tensor, dim: int, vector: Tensor) -> None:
    """A tensor of the network or a constant meets channels along dimension `dim` (negative)."""
    if tensor.ndim < -dim or tensor.shape[dim] == 1:
        return
    alias = ledger.alias(tensor)
    # a parameter (a bias, a layer scale) is cut along with the channels
    if alias is not None:
        ledger.record(alias, tensor.ndim + dim, vector, "follower")
    elif not ledger.is_plain(tensor):
        ledger.freeze(vector, base, "a constant per channel that is no parameter")


def _parameters_as_data(ledger: Ledger, tensors: list[Tensor]) -> list[Tensor]:
    """Scales, biases and whole weights get ids of their own; other parameters taint."""
    data = []
    for tensor in tensors:
        alias = ledger.alias(tensor)
        if alias is None or not alias.axes:
            continue
        if len(alias.axes) > 1:
            # a whole weight: standardised or scaled, and used as a layer's weight afterwards
            if any(t is tensor for t in data) or derive(ledger, tensor):
                data.append(tensor)
                continue
            for other in tensors:
                if ledger.alias(other) is not None:
                    ledger.taint(ledger.alias(other).name)
            return []
        # one value per channel: its ids are new ones until it meets the channels
        dim = next(iter(alias.axes))
        ledger.set_ids(tensor, ledger.record(alias, dim, None, "follower"), dim)
        ledger.set_derived(tensor, Derived(""))
        data.append(tensor)
    return data


def freeze_all(ledger: Ledger, base: str, tensors: list, outs: list, reason: str) -> None:
    event = ledger.event(base, reason)
    for tensor in tensors:
        if (ids := ledger.ids(tensor)) is not None:
            ledger.unite(ids.vector, ledger.event_vector(event))
        elif (alias := ledger.alias(tensor)) is not None:
            ledger.taint(alias.name)
    for out in outs:
        ledger.set_ids(out, ledger.event_vector(event), None)
