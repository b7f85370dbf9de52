"""The ledger of a trace: which ids of channels every tensor carries, and what met what.

The tracer (`_trace`) runs the network and hands every operator to its rule (`_rules`); the rules
write here, and what is written here is all that the groups are made of (`_classes`). Nothing in
this file knows an operator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.surgery._ids import Alias, Derived, Event, Ids, Marks, Record, Site, Spread


class Ledger:
    """What one forward pass of a network on the meta device has shown.

    dense: the ledger of the same network before a cut. It settles what one channel leaves open: a
    grouped layer with one channel per group looks depthwise, a split in pieces of one like none.

    The results, which `Grouping` reads:
    count: ids given out so far; edges: pairs of equally long vectors of ids that were united;
    events: places where ids were frozen; sites: nonlinearities; marks: meetings that decide kinds;
    records: (parameter or buffer, its dimension) -> the ids that lie along it;
    passes: module path -> the vectors of ids that went through it;
    spread: kernels that are expanded over all channels, which stand along none of their dimensions
    -> over which ones, call by call.

    What the ledger of a cut network asks of its `dense` one: depthwise (names of weights), splits
    (number of the move -> pieces), norms (of each group norm, whether its groups are several and
    wider than one channel).

    Where the pass is: operator, its tensors (arguments), and the modules around it (stack).
    """

    def __init__(self, net: nn.Module, dense: Ledger | None = None):
        self.dense = dense
        # what a cut network asks of its dense one
        self.depthwise: set[str] = set()
        self.splits: dict[int, int] = {}
        self.moves = 0
        self.norms: list[bool] = []
        self.spread: dict[str, list[Spread]] = {}
        # the results
        self.count = 0
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.events: list[Event] = []
        self.records: dict[tuple[str, int], Record] = {}
        self.sites: list[Site] = []
        self.marks = Marks()
        self.passes: dict[str, dict[int, Tensor]] = {}
        # where the pass is
        self.operator = ""
        self.arguments: list[Tensor] = []
        self.stack: list[str] = [""]
        self._calls: dict[str, int] = {}
        # Facts about tensors, by id(). `_alive` holds every tensor of the pass, lest an id() is
        # given twice: on the meta device they cost no memory.
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
                # a dimension of size 1 has no order to follow, so it is no axis
                axes = {d: (d, torch.arange(n)) for d, n in enumerate(tensor.shape) if n > 1}
                self._aliases[id(tensor)] = Alias(name, axes)
                self._sizes[name] = tensor.shape
                self.keep(tensor)

    # --- where the pass is ----------------------------------------------------------------------

    def enter(self, path: str) -> None:
        self.stack.append(path)
        self._calls[path] = self._calls.get(path, -1) + 1

    def leave(self, path: str, output) -> None:
        """output: of the module's forward; a tensor that an activation made marks it as a leaf."""
        self.stack.pop()
        if isinstance(output, Tensor):
            site = self._site_of.get(id(output))
            if site is not None and self.sites[site].module == path:
                self.sites[site].leaf = True

    @property
    def module(self) -> str:
        """Path of the innermost module that runs."""
        return self.stack[-1]

    # --- ids ----------------------------------------------------------------------------------

    def keep(self, tensor: Tensor) -> None:
        """Hold the tensor, so that its id() is never given to another one."""
        self._alive.append(tensor)
        # the first tensor on a storage is the whole, later ones are views of it
        self._owner.setdefault(tensor.untyped_storage()._cdata, id(tensor))

    def is_part(self, tensor: Tensor) -> bool:
        """True for a view of a tensor that was seen before."""
        return self._owner.get(tensor.untyped_storage()._cdata) != id(tensor)

    def fresh(self, size: int) -> Tensor:
        """(size,) ids that nothing carries yet."""
        self.count += size
        return torch.arange(self.count - size, self.count)

    def ids(self, tensor: Tensor) -> Ids | None:
        """The tensor's ids; None for what holds no channels, as a weight or a constant."""
        return self._ids.get(id(tensor))

    def set_ids(self, tensor: Tensor, vector: Tensor, dim: int | None) -> None:
        """vector: (n,) ids along `dim`; with dim None its first one is the whole tensor's."""
        if vector.numel() == 1 or dim is None:
            vector, dim = vector[:1], None
        self._ids[id(tensor)] = Ids(vector, dim)

    def forget_ids(self, tensor: Tensor) -> None:
        self._ids.pop(id(tensor), None)

    def vector(self, tensor: Tensor, dim: int) -> Tensor:
        """The ids along `dim`, frozen where they also differ along another dimension."""
        size, ids = tensor.shape[dim], self.ids(tensor)
        # the caller is a layer with a weight, which has an entry for each position along `dim`
        if ids is None:
            event = self.event(self.operator, "a constant takes the place of channels")
            return self.event_vector(event).expand(size)
        if ids.dim is None:
            # one id for the whole tensor: all positions are one class
            return ids.vector.expand(size)
        if ids.dim == dim % tensor.ndim:
            return ids.vector
        event = self.freeze(ids.vector, self.operator, "channels lie across another dimension")
        return self.event_vector(event).expand(size)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Ids at one position of both vectors (they broadcast) are channels of one class."""
        # branches of one stream often carry the very same vector
        if left is not right:
            left, right = torch.broadcast_tensors(left, right)
            self.edges.append((left.reshape(-1), right.reshape(-1)))

    def aligned(self, vector: Tensor, pieces: int) -> Tensor:
        """(pieces * k,) -> (k,): position p becomes one class across all pieces."""
        # row p of (pieces, k) is a piece; every row is united with the first one, entry by entry
        rows = vector.reshape(pieces, -1)
        if pieces > 1:
            self.unite(rows[1:], rows[:1])
        return rows[0]

    # --- what cannot be cut -----------------------------------------------------------------------

    def event(
        self, operator: str, reason: str, module: str | None = None, channels: int = 0
    ) -> int:
        """Note that `operator` stops a cut; the id returned freezes every class it is united with.

        module: the innermost one that runs, unless another is named.
        """
        # an event has an id like a channel's, so that freezing is a union like any other
        number = int(self.fresh(1))
        path = self.module if module is None else module
        self.events.append(Event(number, path, operator, reason, channels))
        return number

    @staticmethod
    def event_vector(event: int) -> Tensor:
        return torch.tensor([event])

    def united(self, vector: Tensor, event: int) -> Tensor:
        self.unite(vector, self.event_vector(event))
        return vector

    def freeze(self, vector: Tensor, operator: str, reason: str, module: str | None = None) -> int:
        """A new event that all these ids are united with; returns its id."""
        event = self.event(operator, reason, module)
        self.unite(vector, self.event_vector(event))
        return event

    # --- parameters -----------------------------------------------------------------------------

    def alias(self, tensor: Tensor | None) -> Alias | None:
        """The parameter or buffer that a tensor is, or is a moved copy of."""
        return None if tensor is None else self._aliases.get(id(tensor))

    def set_alias(self, tensor: Tensor, alias: Alias) -> None:
        self._aliases[id(tensor)] = alias

    def record(
        self, alias: Alias, dim: int, vector: Tensor | None, role: str, *, after: str = ""
    ) -> Tensor:
        """Note the ids along dimension `dim` of a parameter's alias; None asks for fresh ones.

        A dimension seen before keeps its first ids, and the new ones are united with them.
        """
        # the alias may be turned (its dimension is another one of the parameter) or hold a part
        parameter_dim, positions = alias.axes[dim]
        key = (alias.name, parameter_dim)
        size = self._sizes[alias.name][parameter_dim]
        whole = positions.numel() == size and torch.equal(positions, torch.arange(size))
        old = self.records.get(key)
        if old is None:
            # the channels' own vector serves as the record of the whole: nothing to unite, and
            # layers that see the same channels share one vector, which later saves much work
            first = vector if whole and vector is not None else self.fresh(size)
            old = self.records[key] = Record(first, role, after)
        if self.module not in old.callers:
            old.callers.append(self.module)
        part = old.vector if whole else old.vector[positions]
        if vector is not None:
            self.unite(part, vector)
        return part

    def shape(self, name: str) -> torch.Size:
        """Of a parameter or buffer, as it stands in the network."""
        return self._sizes[name]

    def taint(self, name: str) -> None:
        """The parameter is also used in a way that no cut follows: freeze all its dimensions."""
        reason = f"'{name}' is used in other ways than as the weight of a layer"
        self._tainted.append((name, self.event(self.operator, reason)))

    def freeze_tainted(self) -> None:
        """After the pass, because some dimensions are recorded later than the use that taints."""
        for name, event in self._tainted:
            for (parameter, _), record in self.records.items():
                if parameter == name:
                    self.unite(record.vector, self.event_vector(event))

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
        """The last operator that changed the tensor's values, "" where none is known."""
        return self._after.get(id(tensor), "")

    def set_after(self, tensor: Tensor, name: str) -> None:
        self._after[id(tensor)] = name
        # an in-place operator has the tensor of an activation before it, which it is no more
        self._site_of.pop(id(tensor), None)

    def passing(self, vector: Tensor) -> None:
        """Note that these ids go through the innermost module that runs."""
        # by identity of the vector: the same one passes many operators of a module
        self.passes.setdefault(self.module, {})[id(vector)] = vector

    def site(self, op: str, ids: Ids, out: Tensor) -> None:
        """Call after `set_after`: a later in-place operator on `out` forgets the site."""
        self._site_of[id(out)] = len(self.sites)
        call = self._calls.get(self.module, 0)
        self.sites.append(Site(op, self.module, call, ids.vector, ids.dim))
