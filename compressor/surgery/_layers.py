"""Rules of the layers with weights: they record which ids lie along which parameter dimension."""

from __future__ import annotations

from torch import Tensor

from compressor.surgery._derived import adopt
from compressor.surgery._ids import Spread
from compressor.surgery._ledger import Ledger

ON_THE_FLY = "its weight is made on the fly, so no parameter of the network can be cut"


def _named(ledger: Ledger, tensor: Tensor | None) -> bool:
    return tensor is not None and ledger.ids(tensor) is None and ledger.alias(tensor) is not None


def _slot(
    ledger: Ledger, tensor: Tensor, dim: int, vector: Tensor | None, role: str, after: str = ""
) -> Tensor:
    """Record ids along a weight's dimension; a dimension of size 1 has no axis to look up."""
    alias = ledger.alias(tensor)
    if dim in alias.axes:
        return ledger.record(alias, dim, vector, role, after)
    if vector is not None:
        return vector
    return ledger.fresh(tensor.shape[dim])


def _bias(ledger: Ledger, bias: Tensor | None, vector: Tensor, operator: str, role: str) -> None:
    if bias is None:
        return
    if _named(ledger, bias):
        _slot(ledger, bias, 0, vector, role)
    else:
        ledger.freeze(vector, operator, "its bias is made on the fly")


def _refuse(ledger: Ledger, base: str, tensors: list, out: Tensor) -> None:
    dim = 1 if "conv" in base else out.ndim - 1
    event = ledger.event(base, ON_THE_FLY, channels=out.shape[dim])
    for tensor in tensors:
        if tensor is not None and (ids := ledger.ids(tensor)) is not None:
            ledger.unite(ids.vector, ledger.event_vector(event))
        elif _named(ledger, tensor):
            ledger.taint(ledger.alias(tensor).name)
    ledger.set_ids(out, ledger.event_vector(event), None)


def convolution(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    out = outs[0]
    if source.shape[1] % groups or out.shape[1] % groups:  # the meta device lets it pass
        raise RuntimeError(
            f"a convolution of {groups} groups has {source.shape[1]} inputs, {out.shape[1]} outputs"
        )
    if not transposed:
        adopt(ledger, weight, source)
    if not _named(ledger, weight):
        _refuse(ledger, base, [source, weight, bias], out)
        return
    vector, after = ledger.vector(source, 1), ledger.after(source)
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    name = ledger.alias(weight).name
    per_group = source.shape[1] // groups
    narrow = groups > 1 and per_group == 1
    if ledger.dense is not None:
        narrow = narrow and name in ledger.dense.depthwise
    if narrow:
        ledger.depthwise.add(name)
        times = out.shape[1] // groups
        repeated = vector.repeat_interleave(times)
        ledger.marks.depthwise.append(vector)
        _slot(ledger, weight, 0, vector if transposed else repeated, "follower")
        axes = ledger.alias(weight).axes
        if 0 in axes:
            ledger.records[name, axes[0][0]].role = "follower"
        else:
            calls = ledger.spread.setdefault(name, [])
            if ledger.dense is not None and times != ledger.dense.spread[name][len(calls)].times:
                ledger.freeze(vector, base, "it is expanded over a number that stands in Python")
            calls.append(Spread(repeated, times))
        _bias(ledger, bias, repeated, base, "follower")
        ledger.set_ids(out, repeated, 1)
        return
    shared = ledger.aligned(vector, groups)
    tiled = shared.repeat(groups)
    # a normal weight lists its inputs once for all groups, a transposed one its outputs
    _slot(ledger, weight, in_dim, tiled if transposed else shared, "consumer", after)
    made = _slot(ledger, weight, out_dim, None, "producer")
    if transposed:
        made = made.repeat(groups)
    else:
        made = ledger.aligned(made, groups).repeat(groups)
    _bias(ledger, bias, made, base, "bias")
    ledger.set_ids(out, made, 1)


def _matmul(
    ledger: Ledger,
    base: str,
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dims,
    out: Tensor,
) -> None:
    """dims: (input, output) dimension of the weight as it stands in the product."""
    if not _named(ledger, weight):
        _refuse(ledger, base, [source, weight, bias], out)
        return
    vector = ledger.vector(source, source.ndim - 1)
    _slot(ledger, weight, dims[0], vector, "consumer", ledger.after(source))
    made = _slot(ledger, weight, dims[1], None, "producer")
    _bias(ledger, bias, made, base, "bias")
    ledger.set_ids(out, made, out.ndim - 1)


def addmm(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    _matmul(ledger, base, args[1], args[2], args[0], (0, 1), outs[0])


def mm(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    _matmul(ledger, base, args[0], args[1], None, (0, 1), outs[0])


def linear(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    _matmul(ledger, base, args[0], args[1], bias, (1, 0), outs[0])


def _followers(ledger: Ledger, base: str, tensors: list, vector: Tensor) -> None:
    for tensor in tensors:
        if tensor is None or tensor.numel() == 1:
            continue
        ids = ledger.ids(tensor)
        if _named(ledger, tensor):
            _slot(ledger, tensor, 0, vector, "follower")
        elif ids is not None and ids.dim == 0 and ledger.derived(tensor) is not None:
            ledger.unite(vector, ids.vector)
        elif ledger.ids(tensor) is not None or not ledger.is_plain(tensor):
            ledger.freeze(vector, base, "its scale is made on the fly")


def batch_norm(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    vector = ledger.vector(args[0], 1)
    # variants without running statistics have a flag in place of the two tensors
    tensors = [t for t in args[1:5] if isinstance(t, Tensor)]
    _followers(ledger, base, tensors, vector)
    ledger.set_ids(outs[0], vector, 1)


def layer_norm(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, shape, weight, bias = args[:4]
    ids = ledger.ids(source)
    if ids is None:
        return
    first = source.ndim - len(shape)
    if ids.dim is not None and ids.dim >= first:
        ledger.marks.mixing.append(ids.vector)
        for tensor in (weight, bias):
            if _named(ledger, tensor):
                _slot(ledger, tensor, ids.dim - first, ids.vector, "follower")
            elif tensor is not None:
                ledger.freeze(ids.vector, base, "its scale is made on the fly")
    ledger.set_ids(outs[0], ids.vector, ids.dim)


def group_norm(ledger: Ledger, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, weight, bias, groups = args[0], args[1], args[2], int(args[6])
    vector = ledger.vector(source, 1)
    aligned = 1 < groups < source.shape[1]
    if ledger.dense is not None:  # with one channel left of each group it looks like none
        aligned = ledger.dense.norms[len(ledger.norms)]
    ledger.norms.append(aligned)
    if aligned or groups == 1 != source.shape[1]:
        ledger.marks.mixing.append(vector)
    if aligned:
        ledger.aligned(vector, groups)
    _followers(ledger, base, [weight, bias], vector)
    ledger.set_ids(outs[0], vector, 1)


RULES = {
    "convolution": convolution,
    "_convolution": convolution,
    "cudnn_convolution": convolution,
    "addmm": addmm,
    "mm": mm,
    "linear": linear,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_functional",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
        ),
        batch_norm,
    ),
}
