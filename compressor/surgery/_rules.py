"""What each operator does to channel ids: the table behind the provenance trace.

Operators are named as in torch.ops.aten. An operator without a rule freezes what it touches.
A rule is called with (ledger, name, func, args, kwargs, outs) and sets the ids of `outs`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressor.surgery import _layers
from compressor.surgery._combine import argument, combine, freeze_all
from compressor.surgery._derived import VIEWS, derive, pass_on
from compressor.surgery._ids import Alias, Ids, operator_name, tensors_in, varying
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
    tracked = [t for t in tensors if ledger.ids(t) is not None]
    aliased = [t for t in tensors if ledger.ids(t) is None and ledger.alias(t) is not None]
    pointwise = base in POINTWISE or torch.Tag.pointwise in func.tags
    if base in FACTORIES or (not tracked and base in MASKS):
        for tensor in outs:
            ledger.set_plain(tensor)
        return
    if not tracked and not aliased:
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
    if not tracked and rule in (_move, _same, _part):
        _move_alias(ledger, base, func, args, kwargs, outs, aliased)
        return
    if not tracked and rule in (_unknown, _reduce, _along, _cat):
        if rule is not _reduce or not all(derive(ledger, t) for t in aliased):
            for tensor in aliased:
                ledger.taint(ledger.alias(tensor).name)
            return
    if "batch_norm" in base and ledger.ids(args[0]) is None:
        derive(ledger, args[0])
    rule(ledger, base, func, args, kwargs, outs)
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
    masked = base in ("mul", "div") and len(tracked) == 1
    masked = masked and all(ledger.is_plain(t) for t in tensors if t is not tracked[0])
    if tracked and (base in SAME or masked):
        name = ledger.after(tracked[0])
    for tensor in outs:
        ledger.set_after(tensor, name)


def _rule(base: str, pointwise: bool) -> Callable:
    if base in _layers.RULES:
        return _layers.RULES[base]
    for names, rule in _SETS:
        if base in names:
            return rule
    if "pool" in base or base.lstrip("_").startswith(("upsample", "reflection_pad", "replicat")):
        return _spatial
    return combine if pointwise else _unknown


# --- operators that move data --------------------------------------------------------------------


def _same(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source = ledger.ids(args[0])
    for out in outs:
        if out.shape == args[0].shape:
            ledger.set_ids(out, source.vector, source.dim)
        else:
            _unknown(ledger, base, func, args, kwargs, [out])


def _execute(func, base: str, args: tuple, kwargs: dict, ids: Ids) -> list[Tensor]:
    """Run a data-moving operator on ids instead of values."""
    spread = ids.spread(args[0].shape)
    if base in ("view", "_unsafe_view", "_reshape_alias"):
        return [spread.reshape(args[1])]
    result = func(spread, *args[1:], **kwargs)
    return list(result) if isinstance(result, list | tuple) else [result]


def _move(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    ids = ledger.ids(args[0])
    ledger.moves += 1
    if ids.dim is None:
        for out in outs:
            ledger.set_ids(out, ids.vector, None)
        return
    if base == "pixel_shuffle" and ids.dim == args[0].ndim - 3:
        pieces = int(args[1]) ** 2  # that many neighbouring channels become one
        vector = ledger.aligned(ids.vector.view(-1, pieces).t().reshape(-1), pieces)
        ledger.set_ids(outs[0], vector, ids.dim)
        return
    if base.endswith("channel_shuffle") and ids.dim == 1:
        pieces = int(args[1])  # position p of every piece is one class, as where a view splits them
        ledger.aligned(ids.vector, pieces)
        ledger.set_ids(outs[0], ids.vector.view(pieces, -1).t().reshape(-1), ids.dim)
        return
    for out, moved in zip(outs, _execute(func, base, args, kwargs, ids), strict=True):
        dims, least = varying(moved)
        if not dims:
            ledger.set_ids(out, least.reshape(-1), None)
        else:
            # channels split in g x k: code computes with equal pieces, so position p is one class
            pieces = least.numel() // least.shape[dims[-1]]
            if ledger.dense is not None and len(dims) == 1:
                if ledger.dense.splits.get(ledger.moves) == least.numel():
                    pieces = least.numel()
            ledger.splits[ledger.moves] = pieces
            ledger.set_ids(out, ledger.aligned(least.reshape(-1), pieces), dims[-1])


def _part(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, ids = args[0], ledger.ids(args[0])
    dim = argument(args, kwargs, 2 if "split" in base else 1, "dim", 0) % source.ndim
    if ids.dim is None or ids.dim != dim:
        moved = ids.dim
        if moved is not None and base in ("select", "unbind") and dim < moved:
            moved -= 1
        for out in outs:
            ledger.set_ids(out, ids.vector, moved)
    elif "split" in base and len({out.shape[dim] for out in outs}) == 1:
        first = ledger.aligned(ids.vector, len(outs))
        for out in outs:
            ledger.set_ids(out, first, dim)
    elif len(outs) == 1 and outs[0].shape == source.shape:
        ledger.set_ids(outs[0], ids.vector, dim)
    else:
        freeze_all(ledger, base, [source], outs, SIZES_IN_CODE)


def _move_alias(ledger: Ledger, base: str, func, args, kwargs, outs: list, aliased: list) -> None:
    """Follow a transposed, reshaped or detached parameter to its name."""
    alias = ledger.alias(args[0]) if isinstance(args[0], Tensor) else None
    if alias is None:
        return
    if base in SAME:
        if base in ("detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh"):
            ledger.set_alias(outs[0], alias)
        return
    found: list[dict] = [{} for _ in outs]
    for dim, (parameter_dim, positions) in alias.axes.items():
        moved = _execute(func, base, args, kwargs, Ids(positions, dim))
        for axes, part in zip(found, moved, strict=True):
            dims, least = varying(part)
            if len(dims) == 1 and dims[0] not in axes:
                axes[dims[0]] = (parameter_dim, least.reshape(-1))
            elif dims:
                axes[-1] = None
    if any(-1 in axes for axes in found):
        if base in VIEWS and derive(ledger, args[0]):
            _move(ledger, base, func, args, kwargs, outs)
            pass_on(ledger, base, False, [args[0]], outs)
        else:
            ledger.taint(alias.name)
        return
    for out, axes in zip(outs, found, strict=True):
        if not args[0].numel() == out.numel() and base in PARTS and not axes:
            continue
        ledger.set_alias(out, Alias(alias.name, axes))


def _cat(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    pieces = [t for t in args[0] if t.numel() or t.ndim > 1]
    out = outs[0]
    dim = argument(args, kwargs, 1, "dim", 0) % out.ndim
    known = [ids for t in pieces if (ids := ledger.ids(t)) is not None]
    own = {ids.dim for ids in known if ids.dim is not None}
    # stack makes a new dimension, behind which the channels lie one further
    lies = {d + (base == "stack" and d >= dim) for d in own}
    if len(lies) == 1 and (base == "stack" or dim not in lies):
        first = None
        for piece in pieces:
            vector = _piece(ledger, piece, next(iter(own)), first)
            first = vector if first is None else first
        ledger.set_ids(out, first, lies.pop())
    elif base == "stack" or len(lies) > 1:
        freeze_all(ledger, base, pieces, outs, "channels lie across different dimensions")
    else:
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


def _pad(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, pads = args[0], args[1]
    ids = ledger.ids(source)
    padded = {source.ndim - 1 - i // 2 for i, pad in enumerate(pads) if pad}
    if ids.dim is not None and ids.dim in padded:
        freeze_all(ledger, base, [source], outs, "the amount of padding stands in Python code")
    else:
        ledger.set_ids(outs[0], ids.vector, ids.dim)


# --- operators along dimensions ------------------------------------------------------------------


def _reduce(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, ids = args[0], ledger.ids(args[0])
    if base in ("max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
        combine(ledger, base, func, args, kwargs, outs)
        return
    at = 2 if base in ("norm", "linalg_vector_norm") else 1
    dims = argument(args, kwargs, at, "dim", None)
    dims = [dims] if isinstance(dims, int) else list(dims or range(source.ndim))
    dims = {d % source.ndim for d in dims} if source.ndim else set()
    for out in outs:
        if ids.dim is None:
            ledger.set_ids(out, ids.vector, None)
        elif ids.dim in dims:
            freeze_all(ledger, base, [source], [out], "it reduces over channels")
        elif out.ndim == source.ndim:
            ledger.set_ids(out, ids.vector, ids.dim)
        else:
            ledger.set_ids(out, ids.vector, ids.dim - sum(d < ids.dim for d in dims))


def _along(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    ids = ledger.ids(args[0])
    dim = argument(args, kwargs, 1, "dim", -1) % args[0].ndim
    if ids.dim == dim:
        freeze_all(ledger, base, [args[0]], outs, "it runs along the channels")
    else:
        for out in outs:
            ledger.set_ids(out, ids.vector, ids.dim)


def _restride(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    """as_strided where it only changes the strides of dimensions of size 1, as pooling does."""
    ids, out = ledger.ids(args[0]), outs[0]
    plain = torch.empty(out.shape, device="meta").stride()
    strides = zip(out.shape, out.stride(), plain, strict=True)
    same = out.storage_offset() == 0 and all(n == 1 or a == b for n, a, b in strides)
    if same and (ids.dim is None or out.shape[ids.dim] == ids.vector.numel()):
        ledger.set_ids(out, ids.vector, ids.dim)
    else:
        _unknown(ledger, base, func, args, kwargs, outs)


def _spatial(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, ids = args[0], ledger.ids(args[0])
    spatial = next((n for n in (1, 2, 3) if f"{n}d" in base), 2)
    if ids.dim is None or ids.dim < source.ndim - spatial:
        for out in outs:
            ledger.set_ids(out, ids.vector, ids.dim)
    else:
        freeze_all(ledger, base, [source], outs, "it mixes channels as if they were positions")


def _glu(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    ids = ledger.ids(args[0])
    dim = argument(args, kwargs, 1, "dim", -1) % args[0].ndim
    vector = ledger.aligned(ids.vector, 2) if ids.dim == dim else ids.vector
    ledger.set_ids(outs[0], vector, ids.dim)


def _unknown(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    tensors = tensors_in(args, kwargs)
    freeze_all(ledger, base, tensors, outs, "no cut can follow this operator")


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
