"""Ids of channels: the values that a provenance trace carries, and their union."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One operator that ran: its name without the underscore of the in-place form, and its values.

    outs: the tensors among its results.
    """

    base: str
    func: Callable
    args: tuple
    kwargs: dict
    outs: list[Tensor]

    def argument(self, position: int, name: str, default):
        """An argument that may be given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of one tensor: they differ along at most one dimension.

    vector: (n,) int64 along `dim`, or (1,) with dim None when the whole tensor carries one id.
    """

    vector: Tensor
    dim: int | None

    def spread(self, shape: Iterable[int]) -> Tensor:
        """The ids at every element of a tensor of that shape, without memory (stride 0)."""
        shape = list(shape)
        if self.dim is None:
            return self.vector[0].expand(shape)
        # (n,) -> (1, .., n, .., 1) -> shape, all other dimensions with stride 0
        size = [1] * len(shape)
        size[self.dim] = -1
        return self.vector.view(size).expand(shape)


@dataclass(frozen=True, eq=False)
class Alias:
    """A tensor that is a parameter or buffer, or a moved copy of one.

    axes: dimension of this tensor -> (dimension of the parameter, its positions in order).
    """

    name: str
    axes: dict[int, tuple[int, Tensor]]


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


@dataclass(eq=False)
class Record:
    """Ids seen along one dimension of one parameter; role: producer, bias, consumer, follower.

    callers: paths of the modules in whose forward it was used.
    """

    vector: Tensor
    role: str
    after: str
    callers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    """A place where ids were frozen; `id` is united with all of them.

    channels: those that a layer makes with a weight that is no parameter, which no record counts.
    """

    id: int
    module: str
    operator: str
    reason: str
    channels: int = 0


@dataclass(eq=False)
class Site:
    """A nonlinearity that ids passed through."""

    op: str
    module: str
    call: int
    vector: Tensor
    dim: int | None = None
    leaf: bool = False


@dataclass(frozen=True, eq=False)
class Spread:
    """The ids of the channels that a kernel makes by `times` from each channel that it reads."""

    vector: Tensor
    times: int


def varying(ids: Tensor) -> tuple[list[int], Tensor]:
    """Dimensions along which the ids differ, and the ids narrowed to size 1 along all others."""
    dims = []
    # a dimension along which nothing differs is dropped at once, so that the next comparison is
    # small: ids of an activation are expanded (stride 0) and never as large as it
    for dim in range(ids.ndim):
        head = ids.narrow(dim, 0, 1)
        if ids.size(dim) > 1 and ids.stride(dim) != 0 and not torch.equal(head.expand_as(ids), ids):
            dims.append(dim)
        else:
            ids = head
    return dims, ids


def tensors_in(*values) -> list[Tensor]:
    """The tensors among the arguments or results of an operator, which nest at most twice.

    PyTorch's own tree functions know every container and take a fifth of an analysis for it.
    """
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


def hollow(tensor: Tensor) -> Tensor:
    """A meta tensor of the same shape, strides and type (empty_like is slow there, in Python)."""
    if 0 in tensor.stride():
        return torch.empty_like(tensor, device="meta", requires_grad=False)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def operator_name(func) -> str:
    return func._schema.name.split("::")[-1]


@dataclass(eq=False)
class Marks:
    """Vectors of ids that met something which decides the kind of their group.

    add: two for every addition, in the order of execution.
    """

    add: list[Tensor] = field(default_factory=list)
    join: list[Tensor] = field(default_factory=list)
    cat: list[Tensor] = field(default_factory=list)
    gate: list[Tensor] = field(default_factory=list)
    mixing: list[Tensor] = field(default_factory=list)
    depthwise: list[Tensor] = field(default_factory=list)


def execute(func, args: tuple, kwargs: dict):
    """Run an operator on meta tensors, by the short way where the result is plain to see.

    PyTorch decomposes batch norm and pointwise operators on the meta device in Python, which would
    take most of the time of an analysis.
    """
    name = operator_name(func)
    if name == "native_batch_norm":
        source, channels = args[0], args[0].shape[1]
        for tensor in args[1:5]:
            if tensor is not None and tensor.shape[0] != channels:
                raise RuntimeError(f"batch norm of {tensor.shape[0]} gets {channels} channels")
        # (output, saved mean, saved 1 / standard deviation)
        small = torch.empty(channels, dtype=source.dtype, device="meta")
        return hollow(source), small, hollow(small)
    if name in ("relu_", "hardtanh_", "silu_", "hardswish_", "relu", "sigmoid", "hardsigmoid"):
        return args[0] if name.endswith("_") else hollow(args[0])
    if name in ("add_", "mul_", "div_"):
        other = args[1]
        # equal shapes alone: that a broadcast fits is the operator's to check
        if not isinstance(other, Tensor) or other.shape == args[0].shape:
            return args[0]
    return func(*args, **kwargs)


def components(count: int, edges: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Connected components of `count` ids: (count,) int64, each id -> the smallest of its class."""
    # The label of an id is the smallest id that it is known to be connected with. Each round hangs
    # the larger of two labels that an edge joins below the smaller one, then shortens all chains to
    # length one. Whole classes meet in a round, so a few rounds are enough.
    label = torch.arange(count)
    if not edges:
        return label
    left = torch.cat([a for a, _ in edges])
    right = torch.cat([b for _, b in edges])
    while True:
        a, b = label[left], label[right]
        open_ = a != b
        if not bool(open_.any()):
            return label
        # edges inside one class are done with
        left, right, a, b = left[open_], right[open_], a[open_], b[open_]
        low = torch.minimum(a, b)
        label.scatter_reduce_(0, torch.maximum(a, b), low, "amin")
        while not torch.equal(label, label[label]):
            label = label[label]
