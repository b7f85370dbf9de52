"""Rules of the layers with weights: they record which ids lie along which parameter dimension."""

from __future__ import annotations

from torch import Tensor

from compressor.surgery._derived import adopt
from compressor.surgery._ids import Call, Spread
from compressor.surgery._ledger import Ledger

ON_THE_FLY = "its weight is made on the fly, so no parameter of the network can be cut"


# Weights as torch holds them: a convolution's is (outputs, inputs / groups, *kernel), a
# transposed one's (inputs, outputs / groups, *kernel), a linear layer's (outputs, inputs).


def _named(ledger: Ledger, tensor: Tensor | None) -> bool:
    return tensor is not None and ledger.ids(tensor) is None and ledger.alias(tensor) is not None


def _slot(
    ledger: Ledger, tensor: Tensor, dim: int, vector: Tensor | None, role: str, *, after: str = ""
) -> Tensor:
    """Record ids along a weight's dimension; a dimension of size 1 has no axis to look up."""
    alias = ledger.alias(tensor)
    if dim in alias.axes:
        return ledger.record(alias, dim, vector, role, after=after)
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
    """A weight that is no parameter: what it reads and makes is frozen, and counted as such."""
    dim = 1 if "conv" in base else out.ndim - 1
    event = ledger.event(base, ON_THE_FLY, channels=out.shape[dim])
    for tensor in tensors:
        if tensor is not None and (ids := ledger.ids(tensor)) is not None:
            ledger.unite(ids.vector, ledger.event_vector(event))
        elif _named(ledger, tensor):
            ledger.taint(ledger.alias(tensor).name)
    ledger.set_ids(out, ledger.event_vector(event), None)


def convolution(ledger: Ledger, call: Call) -> None:
    source, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    out = call.outs[0]
    if source.shape[1] % groups or out.shape[1] % groups:  # the meta device lets it pass
        raise RuntimeError(
            f"a convolution of {groups} groups has {source.shape[1]} inputs, {out.shape[1]} outputs"
        )
    # a transposed weight's outputs are its second dimension, of which `derive` knows nothing
    if not transposed:
        adopt(ledger, weight, source)
    if not _named(ledger, weight):
        _refuse(ledger, call.base, [source, weight, bias], out)
        return
    vector, after = ledger.vector(source, 1), ledger.after(source)
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    name = ledger.alias(weight).name
    per_group = source.shape[1] // groups
    narrow = groups > 1 and per_group == 1
    # cut to one channel a group, a grouped convolution looks depthwise: the dense one tells
    if ledger.dense is not None:
        narrow = narrow and name in ledger.dense.depthwise
    if narrow:
        _depthwise(ledger, call, vector)
        return
    # All groups of a convolution shrink alike, so position p of every group is one class. With one
    # group, `aligned` unites nothing.
    shared = ledger.aligned(vector, groups)
    tiled = shared.repeat(groups)
    # a normal weight lists its inputs once for all groups, a transposed one its outputs
    _slot(ledger, weight, in_dim, tiled if transposed else shared, "consumer", after=after)
    made = _slot(ledger, weight, out_dim, None, "producer")
    if transposed:
        made = made.repeat(groups)
    else:
        made = ledger.aligned(made, groups).repeat(groups)
    _bias(ledger, bias, made, call.base, "bias")
    ledger.set_ids(out, made, 1)


def _depthwise(ledger: Ledger, call: Call, vector: Tensor) -> None:
    """vector: (groups,) ids of the channels; each is a group of its own.

    Channel c makes the outputs c * times .. (c + 1) * times - 1. These are no channels of their
    own: they live and die with c.
    """
    weight, bias, transposed = call.args[1], call.args[2], bool(call.args[6])
    alias, out = ledger.alias(weight), call.outs[0]
    name = alias.name
    ledger.depthwise.add(name)
    times = out.shape[1] // vector.numel()
    repeated = vector.repeat_interleave(times)
    ledger.marks.depthwise.append(vector)
    _slot(ledger, weight, 0, vector if transposed else repeated, "follower")
    if 0 in alias.axes:
        # where `derive` recorded the weight before, it took it for a producer
        ledger.records[name, alias.axes[0][0]].role = "follower"
    else:
        # one kernel (1, 1, *kernel) expanded over all channels has no dimension to cut, but its
        # MACs follow the channels; a number of copies in Python cannot follow them
        calls = ledger.spread.setdefault(name, [])
        if ledger.dense is not None and times != ledger.dense.spread[name][len(calls)].times:
            ledger.freeze(vector, call.base, "it is expanded over a number that stands in Python")
        calls.append(Spread(repeated, times))
    _bias(ledger, bias, repeated, call.base, "follower")
    ledger.set_ids(out, repeated, 1)


def _matmul(ledger: Ledger, call: Call, operands: tuple, dims: tuple[int, int]) -> None:
    """operands: (source, weight, bias or None); channels are the last dimension of the source.

    dims: (input, output) dimension of the weight as it stands in the product.
    """
    source, weight, bias = operands
    out = call.outs[0]
    if not _named(ledger, weight):
        _refuse(ledger, call.base, [source, weight, bias], out)
        return
    vector = ledger.vector(source, source.ndim - 1)
    _slot(ledger, weight, dims[0], vector, "consumer", after=ledger.after(source))
    made = _slot(ledger, weight, dims[1], None, "producer")
    _bias(ledger, bias, made, call.base, "bias")
    ledger.set_ids(out, made, out.ndim - 1)


def addmm(ledger: Ledger, call: Call) -> None:
    # nn.Linear: bias + source @ weight.t(); the alias of weight.t() knows that it is turned
    _matmul(ledger, call, (call.args[1], call.args[2], call.args[0]), (0, 1))


def mm(ledger: Ledger, call: Call) -> None:
    _matmul(ledger, call, (call.args[0], call.args[1], None), (0, 1))


def linear(ledger: Ledger, call: Call) -> None:
    _matmul(ledger, call, (call.args[0], call.args[1], call.argument(2, "bias", None)), (1, 0))


def _followers(ledger: Ledger, base: str, tensors: list, vector: Tensor) -> None:
    """Scales, shifts and statistics with one entry per channel, where they are parameters."""
    for tensor in tensors:
        # one value for all channels is no channel's
        if tensor is None or tensor.numel() == 1:
            continue
        ids = ledger.ids(tensor)
        if _named(ledger, tensor):
            _slot(ledger, tensor, 0, vector, "follower")
        # made of parameters alone, as a softplus of a scale: its ids stand for theirs
        elif ids is not None and ids.dim == 0 and ledger.derived(tensor) is not None:
            ledger.unite(vector, ids.vector)
        elif ledger.ids(tensor) is not None or not ledger.is_plain(tensor):
            ledger.freeze(vector, base, "its scale is made on the fly")


def batch_norm(ledger: Ledger, call: Call) -> None:
    vector = ledger.vector(call.args[0], 1)
    # variants without running statistics have a flag in place of the two tensors
    tensors = [t for t in call.args[1:5] if isinstance(t, Tensor)]
    _followers(ledger, call.base, tensors, vector)
    ledger.set_ids(call.outs[0], vector, 1)


def layer_norm(ledger: Ledger, call: Call) -> None:
    source, shape, weight, bias = call.args[:4]
    ids = ledger.ids(source)
    if ids is None:
        return
    # it normalises over the last len(shape) dimensions, and its weight has these
    first = source.ndim - len(shape)
    if ids.dim is not None and ids.dim >= first:
        # mean and variance run over the channels: without some of them the others change too
        ledger.marks.mixing.append(ids.vector)
        for tensor in (weight, bias):
            if _named(ledger, tensor):
                _slot(ledger, tensor, ids.dim - first, ids.vector, "follower")
            elif tensor is not None:
                ledger.freeze(ids.vector, call.base, "its scale is made on the fly")
    ledger.set_ids(call.outs[0], ids.vector, ids.dim)


def group_norm(ledger: Ledger, call: Call) -> None:
    source, weight, bias, groups = call.args[0], call.args[1], call.args[2], int(call.args[6])
    vector = ledger.vector(source, 1)
    aligned = 1 < groups < source.shape[1]
    if ledger.dense is not None:  # with one channel left of each group it looks like none
        aligned = ledger.dense.norms[len(ledger.norms)]
    ledger.norms.append(aligned)
    # only a norm of one channel per group (an instance norm) reads each channel alone
    if aligned or groups == 1 != source.shape[1]:
        ledger.marks.mixing.append(vector)
    if aligned:
        ledger.aligned(vector, groups)
    _followers(ledger, call.base, [weight, bias], vector)
    ledger.set_ids(call.outs[0], vector, 1)


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
