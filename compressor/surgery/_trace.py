"""Channel provenance: run a network once without data and see where every channel goes.

A forward pass on the meta device runs under a dispatch mode. Beside each activation stands a
vector of ids, one per channel: operators that move data are executed on the ids themselves,
operators that combine elements unite the ids that meet, and layers with weights record which ids
lie along which dimension of which parameter. What no cut can follow is frozen, by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.surgery._derived import Derived
from compressor.surgery._ids import (
    Alias,
    Event,
    Ids,
    Marks,
    Record,
    Site,
    Spread,
    execute,
    operator_name,
    tensors_in,
)
from compressor.surgery._rules import follow


class Tracer(TorchDispatchMode):
    """Follows ids through one forward pass of a network on the meta device.

    dense: the trace of the same network before a cut. It settles what one channel leaves open: a
    grouped layer with one channel per group looks depthwise, a split in pieces of one like none.
    spread: kernels that are expanded over all channels, which stand along none of their dimensions
    -> over which ones, call by call.
    """

    def __init__(self, net: nn.Module, dense: Tracer | None = None):
        super().__init__()
        self.net = net
        self.dense = dense
        self.depthwise: set[str] = set()
        self.splits: dict[int, int] = {}
        self.moves = 0
        self.norms: list[bool] = []
        self.spread: dict[str, list[Spread]] = {}
        self.count = 0
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.events: list[Event] = []
        self.records: dict[tuple[str, int], Record] = {}
        self.sites: list[Site] = []
        self.marks = Marks()
        self.passes: dict[str, dict[int, Tensor]] = {}
        self.operator = ""
        self.arguments: list[Tensor] = []
        self.stack: list[str] = [""]
        self._calls: dict[str, int] = {}
        self._ids: dict[int, Ids] = {}
        self._aliases: dict[int, Alias] = {}
        self._derived: dict[int, Derived] = {}
        self._plain: set[int] = set()
        self._after: dict[int, str] = {}
        self._site_of: dict[int, int] = {}
        self._owner: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._tainted: list[tuple[str, int]] = []
        self._sizes: dict[str, torch.Size] = {}
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if id(tensor) not in self._aliases:
                axes = {d: (d, torch.arange(n)) for d, n in enumerate(tensor.shape) if n > 1}
                self._aliases[id(tensor)] = Alias(name, axes)
                self._sizes[name] = tensor.shape
                self.keep(tensor)

    # --- the forward pass ---------------------------------------------------------------------

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """One forward pass; inputs and outputs of the network are frozen."""
        for tensor in inputs:
            self.keep(tensor)
            event = self.event("input", "the input of the network")
            size = tensor.shape[1] if tensor.ndim > 1 else 1
            self.set_ids(tensor, self.united(self.fresh(size), event), 1)
        handles = []
        seen: set[int] = set()
        for path, module in self.net.named_modules():
            if id(module) not in seen:
                seen.add(id(module))
                handles += self._watch(path, module)
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self:
                outputs = self.net(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            for handle in handles:
                handle.remove()
        self.operator = "output"
        for tensor in tree_leaves(as_tree(outputs)):
            if isinstance(tensor, Tensor) and (ids := self._ids.get(id(tensor))) is not None:
                self.freeze(ids.vector, "output", "the output of the network")
        for name, event in self._tainted:
            for (parameter, _), record in self.records.items():
                if parameter == name:
                    self.unite(record.vector, self.event_vector(event))

    def _watch(self, path: str, module: nn.Module) -> list:
        def enter(module, args):
            self.stack.append(path)
            self._calls[path] = self._calls.get(path, -1) + 1

        def leave(module, args, output):
            self.stack.pop()
            if isinstance(output, Tensor):
                site = self._site_of.get(id(output))
                if site is not None and self.sites[site].module == path:
                    self.sites[site].leaf = True

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    @property
    def module(self) -> str:
        return self.stack[-1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operator = operator_name(func)
        self.arguments = tensors_in(args, kwargs)
        out = execute(func, args, kwargs)
        follow(self, func, args, kwargs, out)
        return out

    # --- ids ----------------------------------------------------------------------------------

    def keep(self, tensor: Tensor) -> None:
        """Hold the tensor, so that its id() is never given to another one."""
        self._alive.append(tensor)
        self._owner.setdefault(tensor.untyped_storage()._cdata, id(tensor))

    def is_part(self, tensor: Tensor) -> bool:
        """True for a view of a tensor that was seen before."""
        return self._owner.get(tensor.untyped_storage()._cdata) != id(tensor)

    def fresh(self, size: int) -> Tensor:
        self.count += size
        return torch.arange(self.count - size, self.count)

    def ids(self, tensor: Tensor) -> Ids | None:
        return self._ids.get(id(tensor))

    def set_ids(self, tensor: Tensor, vector: Tensor, dim: int | None) -> None:
        if vector.numel() == 1 or dim is None:
            vector, dim = vector[:1], None
        self._ids[id(tensor)] = Ids(vector, dim)

    def forget_ids(self, tensor: Tensor) -> None:
        self._ids.pop(id(tensor), None)

    def vector(self, tensor: Tensor, dim: int) -> Tensor:
        """The ids along `dim`, frozen where they also differ along another dimension."""
        size, ids = tensor.shape[dim], self.ids(tensor)
        if ids is None:
            event = self.event(self.operator, "a constant takes the place of channels")
            return self.event_vector(event).expand(size)
        if ids.dim is None:
            return ids.vector.expand(size)
        if ids.dim == dim % tensor.ndim:
            return ids.vector
        event = self.freeze(ids.vector, self.operator, "channels lie across another dimension")
        return self.event_vector(event).expand(size)

    def unite(self, left: Tensor, right: Tensor) -> None:
        if left is not right:
            left, right = torch.broadcast_tensors(left, right)
            self.edges.append((left.reshape(-1), right.reshape(-1)))

    def united(self, vector: Tensor, event: int) -> Tensor:
        self.unite(vector, self.event_vector(event))
        return vector

    def event(
        self, operator: str, reason: str, module: str | None = None, channels: int = 0
    ) -> int:
        number = int(self.fresh(1))
        path = self.module if module is None else module
        self.events.append(Event(number, path, operator, reason, channels))
        return number

    @staticmethod
    def event_vector(event: int) -> Tensor:
        return torch.tensor([event])

    def freeze(self, vector: Tensor, operator: str, reason: str, module: str | None = None) -> int:
        event = self.event(operator, reason, module)
        self.unite(vector, self.event_vector(event))
        return event

    def aligned(self, vector: Tensor, pieces: int) -> Tensor:
        """(pieces * k,) -> (k,): position p becomes one class across all pieces."""
        rows = vector.reshape(pieces, -1)
        if pieces > 1:
            self.unite(rows[1:], rows[:1])
        return rows[0]

    # --- parameters -----------------------------------------------------------------------------

    def alias(self, tensor: Tensor | None) -> Alias | None:
        return None if tensor is None else self._aliases.get(id(tensor))

    def set_alias(self, tensor: Tensor, alias: Alias) -> None:
        self._aliases[id(tensor)] = alias

    def record(
        self, alias: Alias, dim: int, vector: Tensor | None, role: str, after: str = ""
    ) -> Tensor:
        """Note the ids along dimension `dim` of a parameter's alias; None asks for fresh ones.

        A dimension seen before keeps its first ids, and the new ones are united with them.
        """
        parameter_dim, positions = alias.axes[dim]
        key = (alias.name, parameter_dim)
        size = self._sizes[alias.name][parameter_dim]
        whole = positions.numel() == size and torch.equal(positions, torch.arange(size))
        old = self.records.get(key)
        if old is None:
            first = vector if whole and vector is not None else self.fresh(size)
            old = self.records[key] = Record(first, role, after)
        if self.module not in old.callers:
            old.callers.append(self.module)
        part = old.vector if whole else old.vector[positions]
        if vector is not None:
            self.unite(part, vector)
        return part

    def shape(self, name: str) -> torch.Size:
        return self._sizes[name]

    def taint(self, name: str) -> None:
        """The parameter is also used in a way that no cut follows: freeze all its dimensions."""
        reason = f"'{name}' is used in other ways than as the weight of a layer"
        self._tainted.append((name, self.event(self.operator, reason)))

    def derived(self, tensor: Tensor | None) -> Derived | None:
        return None if tensor is None else self._derived.get(id(tensor))

    def set_derived(self, tensor: Tensor, derived: Derived) -> None:
        self._derived[id(tensor)] = derived

    # --- facts about tensors ----------------------------------------------------------------------

    def is_plain(self, tensor: Tensor) -> bool:
        """True for constants whose elements are exchangeable: zeros, random masks."""
        return id(tensor) in self._plain or tensor.numel() == 1

    def set_plain(self, tensor: Tensor) -> None:
        self._plain.add(id(tensor))

    def after(self, tensor: Tensor) -> str:
        return self._after.get(id(tensor), "")

    def set_after(self, tensor: Tensor, name: str) -> None:
        self._after[id(tensor)] = name
        self._site_of.pop(id(tensor), None)

    def passing(self, vector: Tensor) -> None:
        self.passes.setdefault(self.module, {})[id(vector)] = vector

    def site(self, op: str, ids: Ids, out: Tensor) -> None:
        """Call after `set_after`: a later in-place operator on `out` forgets the site."""
        self._site_of[id(out)] = len(self.sites)
        call = self._calls.get(self.module, 0)
        self.sites.append(Site(op, self.module, call, ids.vector, ids.dim))


def as_tree(value):
    """Outputs that are objects with fields count like dictionaries."""
    if hasattr(value, "__dict__") and not isinstance(value, Tensor | dict | tuple | list):
        return dict(vars(value))
    return value
