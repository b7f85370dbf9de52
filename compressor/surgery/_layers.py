"""Rules of the layers with weights: they record which ids lie along which parameter dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compressor.surgery._derived import adopt
from compressor.surgery._ids import Spread

if TYPE_CHECKING:
    from compressor.surgery._trace import Tracer

ON_THE_FLY = "its weight is made on the fly, so no parameter of the network can be cut"


def _named(trace: Tracer, tensor: Tensor | None) -> bool:
    return tensor is not None and trace.ids(tensor) is None and trace.alias(tensor) is not None


def _slot(
    trace: Tracer, tensor: Tensor, dim: int, vector: Tensor | None, role: str, after: str = ""
) -> Tensor:
    """Record ids along a weight's dimension; a dimension of size 1 has no axis to look up."""
    alias = trace.alias(tensor)
    if dim in alias.axes:
        return trace.record(alias, dim, vector, role, after)
    if vector is not None:
        return vector
    return trace.fresh(tensor.shape[dim])


def _bias(trace: Tracer, bias: Tensor | None, vector: Tensor, operator: str, role: str) -> None:
    if bias is None:
        return
    if _named(trace, bias):
        _slot(trace, bias, 0, vector, role)
    else:
        trace.freeze(vector, operator, "its bias is made on the fly")


def _refuse(trace: Tracer, base: str, tensors: list, out: Tensor) -> None:
    dim = 1 if "conv" in base else out.ndim - 1
    event = trace.event(base, ON_THE_FLY, channels=out.shape[dim])
    for tensor in tensors:
        if tensor is not None and (ids := trace.ids(tensor)) is not None:
            trace.unite(ids.vector, trace.event_vector(event))
        elif _named(trace, tensor):
            trace.taint(trace.alias(tensor).name)
    trace.set_ids(out, trace.event_vector(event), None)


def convolution(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    out = outs[0]
    if source.shape[1] % groups or out.shape[1] % groups:  # the meta device lets it pass
        raise RuntimeError(
            f"a convolution of {groups} groups has {source.shape[1]} inputs, {out.shape[1]} outputs"
        )
    if not transposed:
        adopt(trace, weight, source)
    if not _named(trace, weight):
        _refuse(trace, base, [source, weight, bias], out)
        return
    vector, after = trace.vector(source, 1), trace.after(source)
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    name = trace.alias(weight).name
    per_group = source.shape[1] // groups
    narrow = groups > 1 and per_group == 1
    if trace.dense is not None:
        narrow = narrow and name in trace.dense.depthwise
    if narrow:
        trace.depthwise.add(name)
        times = out.shape[1] // groups
        repeated = vector.repeat_interleave(times)
        trace.marks.depthwise.append(vector)
        _slot(trace, weight, 0, vector if transposed else repeated, "follower")
        axes = trace.alias(weight).axes
        if 0 in axes:
            trace.records[name, axes[0][0]].role = "follower"
        else:
            calls = trace.spread.setdefault(name, [])
            if trace.dense is not None and times != trace.dense.spread[name][len(calls)].times:
                trace.freeze(vector, base, "it is expanded over a number that stands in Python")
            calls.append(Spread(repeated, times))
        _bias(trace, bias, repeated, base, "follower")
        trace.set_ids(out, repeated, 1)
        return
    shared = trace.aligned(vector, groups)
    tiled = shared.repeat(groups)
    # a normal weight lists its inputs once for all groups, a transposed one its outputs
    _slot(trace, weight, in_dim, tiled if transposed else shared, "consumer", after)
    made = _slot(trace, weight, out_dim, None, "producer")
    if transposed:
        made = made.repeat(groups)
    else:
        made = trace.aligned(made, groups).repeat(groups)
    _bias(trace, bias, made, base, "bias")
    trace.set_ids(out, made, 1)


def _matmul(
    trace: Tracer, base: str, source: Tensor, weight: Tensor, bias: Tensor | None, dims, out: Tensor
) -> None:
    """dims: (input, output) dimension of the weight as it stands in the product."""
    if not _named(trace, weight):
        _refuse(trace, base, [source, weight, bias], out)
        return
    vector = trace.vector(source, source.ndim - 1)
    _slot(trace, weight, dims[0], vector, "consumer", trace.after(source))
    made = _slot(trace, weight, dims[1], None, "producer")
    _bias(trace, bias, made, base, "bias")
    trace.set_ids(out, made, out.ndim - 1)


def addmm(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    _matmul(trace, base, args[1], args[2], args[0], (0, 1), outs[0])


def mm(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    _matmul(trace, base, args[0], args[1], None, (0, 1), outs[0])


def linear(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    _matmul(trace, base, args[0], args[1], bias, (1, 0), outs[0])


def _followers(trace: Tracer, base: str, tensors: list, vector: Tensor) -> None:
    for tensor in tensors:
        if tensor is None or tensor.numel() == 1:
            continue
        ids = trace.ids(tensor)
        if _named(trace, tensor):
            _slot(trace, tensor, 0, vector, "follower")
        elif ids is not None and ids.dim == 0 and trace.derived(tensor) is not None:
            trace.unite(vector, ids.vector)
        elif trace.ids(tensor) is not None or not trace.is_plain(tensor):
            trace.freeze(vector, base, "its scale is made on the fly")


def batch_norm(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    vector = trace.vector(args[0], 1)
    # variants without running statistics have a flag in place of the two tensors
    tensors = [t for t in args[1:5] if isinstance(t, Tensor)]
    _followers(trace, base, tensors, vector)
    trace.set_ids(outs[0], vector, 1)


def layer_norm(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, shape, weight, bias = args[:4]
    ids = trace.ids(source)
    if ids is None:
        return
    first = source.ndim - len(shape)
    if ids.dim is not None and ids.dim >= first:
        trace.marks.mixing.append(ids.vector)
        for tensor in (weight, bias):
            if _named(trace, tensor):
                _slot(trace, tensor, ids.dim - first, ids.vector, "follower")
            elif tensor is not None:
                trace.freeze(ids.vector, base, "its scale is made on the fly")
    trace.set_ids(outs[0], ids.vector, ids.dim)


def group_norm(trace: Tracer, base: str, func, args, kwargs, outs: list[Tensor]) -> None:
    source, weight, bias, groups = args[0], args[1], args[2], int(args[6])
    vector = trace.vector(source, 1)
    aligned = 1 < groups < source.shape[1]
    if trace.dense is not None:  # with one channel left of each group it looks like none
        aligned = trace.dense.norms[len(trace.norms)]
    trace.norms.append(aligned)
    if aligned or groups == 1 != source.shape[1]:
        trace.marks.mixing.append(vector)
    if aligned:
        trace.aligned(vector, groups)
    _followers(trace, base, [weight, bias], vector)
    trace.set_ids(outs[0], vector, 1)


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
