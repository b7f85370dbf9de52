"""Groups of channels that live or die together, and what any cut of them costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor.errors import UsageError


def output_dim(module: nn.Module) -> int:
    """The dimension of a layer's weight that makes its output channels."""
    return int(isinstance(module, _ConvNd) and module.transposed)


@dataclass(frozen=True, eq=False)
class Slot:
    """One dimension of one tensor of the network that is indexed by a group's classes.

    classes: (size of that dimension,) int64, class id in [0, group.size) or -1 (not of the group).
    module: path of the module that holds the tensor; callers: paths of those in whose forward it
    is used, several where modules share it, by default `module` alone.
    after: for consumers, the last operator that its input went through ("relu", "view", ...).
    shortcut: for producers, whether it is the projection on the shortcut of a residual block.
    """

    parameter: str
    dim: int
    classes: Tensor
    module: str
    after: str = ""
    callers: tuple[str, ...] = ()
    shortcut: bool = False

    def __post_init__(self) -> None:
        if not self.callers:
            object.__setattr__(self, "callers", (self.module,))


@dataclass(frozen=True, eq=False)
class Activation:
    """A nonlinearity that the group's channels pass.

    op: aten name; module: path in whose forward it ran; call: which call of this module (0-based);
    leaf: the output of that module call is the activation itself.
    classes: (channels,) int64 of its output along `dim`, as in a slot: the order here, which is
    another than the producer's behind a channel shuffle. site: its number among all activations.
    """

    op: str
    module: str
    call: int
    leaf: bool
    classes: Tensor
    dim: int = 1
    site: int = 0


@dataclass(frozen=True, eq=False)
class Group:
    """Classes of channels that fill the same slots. For grouped layers a class is a position."""

    name: str
    size: int
    producers: tuple[Slot, ...]
    consumers: tuple[Slot, ...]
    followers: tuple[Slot, ...]
    interior: bool
    kind: str
    mixing: bool
    activations: tuple[Activation, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.producers + self.followers + self.consumers


@dataclass(frozen=True)
class Frozen:
    """Channels that cannot be cut, the operator that stopped it, and why."""

    module: str
    operator: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class Costs:
    """Sizes as an integer linear function of what is kept, and MACs and parameters from them.

    axes: one per cut dimension of a tensor, and one per call of a kernel that is expanded over
    channels; index 0 is a dummy of size 1.
    sizes = base - loss @ removed, with removed (groups,) classes.
    Each MAC or parameter term is a factor times the sizes of up to three axes.
    """

    base: Tensor
    loss: Tensor
    mac_factors: Tensor
    mac_axes: Tensor
    parameter_factors: Tensor
    parameter_axes: Tensor

    def sizes(self, removed: Tensor) -> Tensor:
        return self.base - self.loss @ removed

    @staticmethod
    def total(sizes: Tensor, factors: Tensor, axes: Tensor) -> int:
        return int((factors * sizes[axes].prod(dim=1)).sum())


@dataclass(frozen=True, eq=False)
class Structure:
    """What can be cut out of one network: groups in order of execution, and what is frozen."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    costs: Costs | None = field(default=None, repr=False)

    def group(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(g.name for g in self.groups[:8])
        raise UsageError(f"no group '{name}' in this network; the first ones are: {known}")

    def select(self, scope: str) -> tuple[Group, ...]:
        """interior: channels inside blocks; all: streams, concatenations and hidden layers too;
        mixing: also what a statistic over channels reads, so that a cut changes the function.
        """
        kinds = {"interior": ("interior",), "all": ("interior", "stream", "concat", "fc")}
        kinds["mixing"] = kinds["all"]
        if scope not in kinds:
            raise UsageError(f"prune.scope={scope} is not known; use {', '.join(kinds)}")
        mixing = scope == "mixing"
        return tuple(g for g in self.groups if g.kind in kinds[scope] and (mixing or not g.mixing))

    def _sizes(self, keep: Mapping[str, int]) -> Tensor:
        removed = []
        known = {g.name for g in self.groups}
        for name in keep:
            if name not in known:
                self.group(name)
        for group in self.groups:
            kept = int(keep.get(group.name, group.size))
            if not 1 <= kept <= group.size:
                raise UsageError(
                    f"keeping {kept} of {group.size} channels in '{group.name}' is impossible; "
                    f"use 1 to {group.size}"
                )
            removed.append(group.size - kept)
        return self.costs.sizes(torch.tensor(removed, dtype=torch.int64))

    def macs(self, keep: Mapping[str, int]) -> int:
        """Multiply-adds for one input when so many classes of each named group are kept."""
        costs = self.costs
        return costs.total(self._sizes(keep), costs.mac_factors, costs.mac_axes)

    def params(self, keep: Mapping[str, int]) -> int:
        """Parameters when so many classes of each named group are kept."""
        costs = self.costs
        return costs.total(self._sizes(keep), costs.parameter_factors, costs.parameter_axes)


def tally(
    groups: tuple[Group, ...],
    shapes: Mapping[str, torch.Size],
    parameters: list[str],
    macs: list[tuple[str | None, int, Tensor | None]],
) -> Costs:
    """Costs from the groups' slots.

    shapes: of every parameter and buffer; parameters: names counted once each; macs: of every call
    in the dense network the weight (None for what no cut changes), its MACs, and where the weight
    is expanded over channels the number of each channel's group (-1: of none), else None.
    """
    # Every cut dimension of a tensor is an axis, and so is every expansion of a kernel. Axis 0 is a
    # dummy of size 1, so that a term over fewer than three axes can name it.
    index: dict[tuple[str, int], int] = {}
    rows = []
    counted: dict[int, int] = {}
    for number, group in enumerate(groups):
        for slot in group.slots:
            axis = index.setdefault((slot.parameter, slot.dim), len(index) + 1)
            # a class stands there once, or once in each group of a grouped convolution
            number_of = counted.get(id(slot.classes))
            if number_of is None:
                number_of = counted[id(slot.classes)] = int((slot.classes >= 0).sum())
            rows.append((axis, number, number_of // group.size))
    expanded = [numbers for _, _, numbers in macs if numbers is not None]
    base = torch.ones(len(index) + 1 + len(expanded), dtype=torch.int64)
    for (name, dim), axis in index.items():
        base[axis] = shapes[name][dim]
    # size of an axis = base - sum over groups of (entries per class) x (classes removed)
    loss = torch.zeros(len(base), len(groups), dtype=torch.int64)
    for axis, number, times in rows:
        loss[axis, number] += times
    over: dict[int, int] = {}
    for axis, numbers in enumerate(expanded, len(index) + 1):
        over[id(numbers)] = axis
        base[axis] = len(numbers)
        for number in torch.unique(numbers[numbers >= 0]).tolist():
            loss[axis, number] = int((numbers == number).sum()) // groups[number].size

    def terms(entries: list[tuple[str | None, int, Tensor | None]]) -> tuple[Tensor, Tensor]:
        factors, axes = [], []
        for name, cost, numbers in entries:
            dims = [] if name is None else range(len(shapes[name]))
            found = [index[name, dim] for dim in dims if (name, dim) in index]
            found += [] if numbers is None else [over[id(numbers)]]
            # MACs of a layer are (constant) x outputs x inputs: the kernel and the positions are
            # in the constant. Exact, because the axes are factors of the cost.
            for axis in found:
                cost //= int(base[axis])
            factors.append(cost)
            axes.append((found + [0, 0, 0])[:3])
        return torch.tensor(factors, dtype=torch.int64), torch.tensor(
            axes, dtype=torch.int64
        ).reshape(-1, 3)

    entries = [(name, shapes[name].numel(), None) for name in parameters]
    return Costs(base, loss, *terms(macs), *terms(entries))
