"""What each operator does to channel ids: the table behind the provenance trace.

Operators are named as in torch.ops.aten. An operator without a rule freezes what it touches.
A rule is called with (ledger, call) and sets the ids of `call.outs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from compressor.surgery import _layers
from compressor.surgery._combine import combine, freeze_all
from compressor.surgery._derived import VIEWS, derive, pass_on
from compressor.surgery._ids import Alias, Call, Ids, operator_name, tensors_in, varying
from compressor.surgery._ledger import Ledger
from compressor.surgery._operators import (
    ALONG,
    FACTORIES,
    MASKS,
    MOVES,
    NONLINEAR,
    PARTS,
    POINTWISE,
    REDUCTIONS,
    SAME,
    SHORT,
    SIZES_IN_CODE,
)


def base_name(name: str) -> str:
    """Operator name without the underscore of its in-place form."""
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def follow(ledger: Ledger, func, args: tuple, kwargs: dict, out) -> None:
    """Carry ids from the arguments of one operator to its results."""
    name = operator_name(func)
    base = base_name(name)
    tensors, outs = ledger.arguments, tensors_in(out)
    for tensor in [*tensors, *outs]:
        ledger.keep(tensor)
    # A tensor is one of four: an activation with ids (tracked), a parameter or a moved one
    # (aliased), a constant whose elements are all alike (plain), or one whose elements differ.
    tracked = [t for t in tensors if ledger.ids(t) is not None]
    aliased = [t for t in tensors if ledger.ids(t) is None and ledger.alias(t) is not None]
    pointwise = base in POINTWISE or torch.Tag.pointwise in func.tags
    if base in FACTORIES or (not tracked and base in MASKS):
        for tensor in outs:
            ledger.set_plain(tensor)
        return
    if not tracked and not aliased:
        # constants stay plain through what treats all elements alike
        if (pointwise or base in SAME | MOVES | PARTS) and all(ledger.is_plain(t) for t in tensors):
            for tensor in outs:
                ledger.set_plain(tensor)
        return
    for tensor in tracked:
        ledger.passing(ledger.ids(tensor).vector)
    if name != base and ledger.ids(tensors[0]) is None and tracked and ledger.is_part(tensors[0]):
        # the whole, of which this view is a part, would keep no trace of what was written
        for tensor in tracked:
            ledger.freeze(ledger.ids(tensor).vector, base, "it is written into a part of a tensor")
    rule = _rule(base, pointwise)
    call = Call(base, func, args, kwargs, outs)
    # Parameters without activations: one that is moved is still itself, one that is reduced may be
    # on its way to become another weight, and what else they go through, no cut can follow.
    if not tracked and rule in (_move, _same, _part):
        _move_alias(ledger, call)
        return
    if not tracked and rule in (_unknown, _reduce, _along, _cat):
        if rule is not _reduce or not all(derive(ledger, t) for t in aliased):
            for tensor in aliased:
                ledger.taint(ledger.alias(tensor).name)
            return
    # a weight that is standardised by a batch norm is its input, not one of its scales
    if "batch_norm" in base and ledger.ids(args[0]) is None:
        derive(ledger, args[0])
    rule(ledger, call)
    if base not in _layers.RULES or "batch_norm" in base:
        made_of = [t for t in tensors if ledger.ids(t) is not None]
        pass_on(ledger, base, pointwise, made_of, outs)
    _note_after(ledger, base, tensors, tracked, outs)
    if base in NONLINEAR and outs and (ids := ledger.ids(outs[0])) is not None:
        ledger.site(SHORT.get(base, base), ids, outs[0])


def _note_after(ledger: Ledger, base: str, tensors: list, tracked: list, outs: list) -> None:
    """The last operator that changed values: copies and random masks are looked through."""
    name = SHORT.get(base, base)
    if base in _layers.RULES:
        name = "batch_norm" if "batch_norm" in base else ""
    # dropout: the activation times a random mask over the share that is kept
    masked = base in ("mul", "div") and len(tracked) == 1
    masked = masked and all(ledger.is_plain(t) for t in tensors if t is not tracked[0])
    if tracked and (base in SAME or masked):
        name = ledger.after(tracked[0])
    for tensor in outs:
        ledger.set_after(tensor, name)


def _rule(base: str, pointwise: bool) -> Callable:
    if base in _layers.RULES:
        return _layers.RULES[base]
    # listed names first, then parts of names, then PyTorch's own tag
    for names, rule in _SETS:
        if base in names:
            return rule
    if "pool" in base or base.lstrip("_").startswith(("upsample", "reflection_pad", "replicat")):
        return _spatial
    return combine if pointwise else _unknown


# --- operators that move data --------------------------------------------------------------------


def _same(ledger: Ledger, call: Call) -> None:
    source = ledger.ids(call.args[0])
    for out in call.outs:
        if out.shape == call.args[0].shape:
            ledger.set_ids(out, source.vector, source.dim)
        else:
            _unknown(ledger, replace(call, outs=[out]))


def _execute(call: Call, ids: Ids) -> list[Tensor]:
    """Run a data-moving operator on ids instead of values.

    A view of the expanded ids takes no memory; what copies takes 8 bytes for each value.
    """
    spread = ids.spread(call.args[0].shape)
    # a view of the values need not be one of the ids, whose strides are 0
    if call.base in ("view", "_unsafe_view", "_reshape_alias"):
        return [spread.reshape(call.args[1])]
    result = call.func(spread, *call.args[1:], **call.kwargs)
    return list(result) if isinstance(result, list | tuple) else [result]


def _move(ledger: Ledger, call: Call) -> None:
    ids = ledger.ids(call.args[0])
    ledger.moves += 1  # the move's number: the cut network makes the same ones in the same order
    if ids.dim is None:
        for out in call.outs:
            ledger.set_ids(out, ids.vector, None)
        return
    if call.base == "pixel_shuffle" and ids.dim == call.args[0].ndim - 3:
        # (N, C r^2, H, W) -> (N, C, r H, r W): that many neighbouring channels become one
        pieces = int(call.args[1]) ** 2
        vector = ledger.aligned(ids.vector.view(-1, pieces).t().reshape(-1), pieces)
        ledger.set_ids(call.outs[0], vector, ids.dim)
        return
    if call.base.endswith("channel_shuffle") and ids.dim == 1:
        # position p of every piece is one class, as where a view splits them
        pieces = int(call.args[1])
        ledger.aligned(ids.vector, pieces)
        ledger.set_ids(call.outs[0], ids.vector.view(pieces, -1).t().reshape(-1), ids.dim)
        return
    for out, moved in zip(call.outs, _execute(call, ids), strict=True):
        dims, least = varying(moved)
        if not dims:
            ledger.set_ids(out, least.reshape(-1), None)
        else:
            # Channels split in g x k, as (N, C, H, W) -> (N, g, k, H, W): code computes with equal
            # pieces, so position p is one class. The last dimension along which ids differ is k.
            # Flattened with the positions, (N, C, H, W) -> (N, C H W), ids differ along one
            # dimension and stand in runs of H W: no pieces, but the same id H W times.
            pieces = least.numel() // least.shape[dims[-1]]
            if ledger.dense is not None and len(dims) == 1:
                # cut to one channel a piece, (g, 1) looks like g channels in no pieces: the dense
                # network tells that there were g
                if ledger.dense.splits.get(ledger.moves) == least.numel():
                    pieces = least.numel()
            ledger.splits[ledger.moves] = pieces
            ledger.set_ids(out, ledger.aligned(least.reshape(-1), pieces), dims[-1])


def _part(ledger: Ledger, call: Call) -> None:
    source, ids = call.args[0], ledger.ids(call.args[0])
    dim = call.argument(2 if "split" in call.base else 1, "dim", 0) % source.ndim
    if ids.dim is None or ids.dim != dim:
        moved = ids.dim
        # select and unbind take a dimension away, and later ones move up
        if moved is not None and call.base in ("select", "unbind") and dim < moved:
            moved -= 1
        for out in call.outs:
            ledger.set_ids(out, ids.vector, moved)
    elif "split" in call.base and len({out.shape[dim] for out in call.outs}) == 1:
        # equal pieces of the channels, as of a gated unit, are halves of one thing: cut alike
        first = ledger.aligned(ids.vector, len(call.outs))
        for out in call.outs:
            ledger.set_ids(out, first, dim)
    elif len(call.outs) == 1 and call.outs[0].shape == source.shape:
        ledger.set_ids(call.outs[0], ids.vector, dim)
    else:
        freeze_all(ledger, call.base, [source], call.outs, SIZES_IN_CODE)


def _move_alias(ledger: Ledger, call: Call) -> None:
    """Follow a transposed, reshaped or detached parameter to its name."""
    alias = ledger.alias(call.args[0]) if isinstance(call.args[0], Tensor) else None
    if alias is None:
        return
    if call.base in SAME:
        if call.base in ("detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh"):
            ledger.set_alias(call.outs[0], alias)
        return
    # Each axis of the parameter is followed by itself, with positions in place of ids. Where one is
    # spread over two dimensions of the result, or two share one, the result is the parameter in
    # another order no more (marked by -1).
    found: list[dict] = [{} for _ in call.outs]
    for dim, (parameter_dim, positions) in alias.axes.items():
        moved = _execute(call, Ids(positions, dim))
        for axes, part in zip(found, moved, strict=True):
            dims, least = varying(part)
            if len(dims) == 1 and dims[0] not in axes:
                axes[dims[0]] = (parameter_dim, least.reshape(-1))
            elif dims:
                axes[-1] = None
    if any(-1 in axes for axes in found):
        # flattened to (outputs, rest), as weight standardisation does: ids of outputs can follow
        if call.base in VIEWS and derive(ledger, call.args[0]):
            _move(ledger, call)
            pass_on(ledger, call.base, False, [call.args[0]], call.outs)
        else:
            ledger.taint(alias.name)
        return
    for out, axes in zip(call.outs, found, strict=True):
        # a part of a parameter without one whole axis is a constant
        if not call.args[0].numel() == out.numel() and call.base in PARTS and not axes:
            continue
        ledger.set_alias(out, Alias(alias.name, axes))


def _cat(ledger: Ledger, call: Call) -> None:
    # torch.cat passes over empty vectors, whatever the shape of the others
    pieces = [t for t in call.args[0] if t.numel() or t.ndim > 1]
    out = call.outs[0]
    dim = call.argument(1, "dim", 0) % out.ndim
    known = [ids for t in pieces if (ids := ledger.ids(t)) is not None]
    own = {ids.dim for ids in known if ids.dim is not None}
    # stack makes a new dimension, behind which the channels lie one further
    lies = {d + (call.base == "stack" and d >= dim) for d in own}
    if len(lies) == 1 and (call.base == "stack" or dim not in lies):
        # joined along another dimension than the channels': each channel meets itself
        first = None
        for piece in pieces:
            vector = _piece(ledger, piece, next(iter(own)), first)
            first = vector if first is None else first
        ledger.set_ids(out, first, lies.pop())
    elif call.base == "stack" or len(lies) > 1:
        freeze_all(ledger, call.base, pieces, call.outs, "channels lie across different dimensions")
    else:
        # along the channels: one vector behind the other, and nothing is united
        for piece in pieces:
            if ledger.ids(piece) is None and ledger.alias(piece) is not None:
                ledger.taint(ledger.alias(piece).name)
        vector = torch.cat([ledger.vector(piece, dim) for piece in pieces])
        if len(pieces) > 1 and lies:
            ledger.marks.cat.append(vector)
        ledger.set_ids(out, vector, None if bool((vector == vector[0]).all()) else dim)


def _piece(ledger: Ledger, piece: Tensor, dim: int, first: Tensor | None) -> Tensor | None:
    """A piece's ids along `dim`, united with those of the first piece; None for plain constants."""
    alias = ledger.alias(piece)
    if ledger.ids(piece) is None and (alias is not None or ledger.is_plain(piece)):
        if alias is not None and dim in alias.axes:
            return ledger.record(alias, dim, first, "follower")
        return None
    vector = ledger.vector(piece, dim)
    if first is not None:
        ledger.unite(first, vector)
    return vector


def _pad(ledger: Ledger, call: Call) -> None:
    source, pads = call.args[0], call.args[1]
    ids = ledger.ids(source)
    # pairs (before, after) from the last dimension on
    padded = {source.ndim - 1 - i // 2 for i, pad in enumerate(pads) if pad}
    if ids.dim is not None and ids.dim in padded:
        freeze_all(
            ledger, call.base, [source], call.outs, "the amount of padding stands in Python code"
        )
    else:
        ledger.set_ids(call.outs[0], ids.vector, ids.dim)


# --- operators along dimensions ------------------------------------------------------------------


def _reduce(ledger: Ledger, call: Call) -> None:
    source, ids = call.args[0], ledger.ids(call.args[0])
    # torch.max(x, y) of two tensors is no reduction
    if call.base in ("max", "min") and len(call.args) > 1 and isinstance(call.args[1], Tensor):
        combine(ledger, call)
        return
    # the order of a norm stands before its dimensions
    at = 2 if call.base in ("norm", "linalg_vector_norm") else 1
    dims = call.argument(at, "dim", None)
    dims = [dims] if isinstance(dims, int) else list(dims or range(source.ndim))
    dims = {d % source.ndim for d in dims} if source.ndim else set()
    for out in call.outs:
        if ids.dim is None:
            ledger.set_ids(out, ids.vector, None)
        elif ids.dim in dims:
            # a sum over channels changes when one goes, and what reads it cannot make up for that
            freeze_all(ledger, call.base, [source], [out], "it reduces over channels")
        elif out.ndim == source.ndim:
            ledger.set_ids(out, ids.vector, ids.dim)
        else:
            ledger.set_ids(out, ids.vector, ids.dim - sum(d < ids.dim for d in dims))


def _along(ledger: Ledger, call: Call) -> None:
    ids = ledger.ids(call.args[0])
    dim = call.argument(1, "dim", -1) % call.args[0].ndim
    if ids.dim == dim:
        freeze_all(ledger, call.base, [call.args[0]], call.outs, "it runs along the channels")
    else:
        for out in call.outs:
            ledger.set_ids(out, ids.vector, ids.dim)


def _restride(ledger: Ledger, call: Call) -> None:
    """as_strided where it only changes the strides of dimensions of size 1, as pooling does."""
    ids, out = ledger.ids(call.args[0]), call.outs[0]
    plain = torch.empty(out.shape, device="meta").stride()
    strides = zip(out.shape, out.stride(), plain, strict=True)
    same = out.storage_offset() == 0 and all(n == 1 or a == b for n, a, b in strides)
    if same and (ids.dim is None or out.shape[ids.dim] == ids.vector.numel()):
        ledger.set_ids(out, ids.vector, ids.dim)
    else:
        _unknown(ledger, call)


def _spatial(ledger: Ledger, call: Call) -> None:
    source, ids = call.args[0], ledger.ids(call.args[0])
    # pooling and resizing act on the last 1, 2 or 3 dimensions; channels may stand before them
    spatial = next((n for n in (1, 2, 3) if f"{n}d" in call.base), 2)
    if ids.dim is None or ids.dim < source.ndim - spatial:
        for out in call.outs:
            ledger.set_ids(out, ids.vector, ids.dim)
    else:
        freeze_all(
            ledger, call.base, [source], call.outs, "it mixes channels as if they were positions"
        )


def _glu(ledger: Ledger, call: Call) -> None:
    ids = ledger.ids(call.args[0])
    dim = call.argument(1, "dim", -1) % call.args[0].ndim
    # one half of the channels gates the other: (N, 2 C, ...) -> (N, C, ...)
    vector = ledger.aligned(ids.vector, 2) if ids.dim == dim else ids.vector
    ledger.set_ids(call.outs[0], vector, ids.dim)


def _unknown(ledger: Ledger, call: Call) -> None:
    tensors = tensors_in(call.args, call.kwargs)
    freeze_all(ledger, call.base, tensors, call.outs, "no cut can follow this operator")


_SETS = (
    (SAME, _same),
    (MOVES, _move),
    (PARTS, _part),
    (REDUCTIONS, _reduce),
    (ALONG, _along),
    (frozenset({"cat", "stack"}), _cat),
    (frozenset({"constant_pad_nd"}), _pad),
    (frozenset({"glu"}), _glu),
    (frozenset({"as_strided"}), _restride),
)
