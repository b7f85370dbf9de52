"""analyse(): trace, group, and prove on the meta device that every group can be cut."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from compressor.errors import RunError
from compressor.surgery._classes import Grouping
from compressor.surgery._cut import replay
from compressor.surgery._forward import unfused, watched
from compressor.surgery._groups import groups as groups_of
from compressor.surgery._groups import report
from compressor.surgery._ids import components, execute, hollow, operator_name, tensors_in
from compressor.surgery._ledger import Ledger
from compressor.surgery._plan import plan_cut
from compressor.surgery._structure import Structure, tally
from compressor.surgery._trace import Tracer

TRACE_BATCH = 2  # images; with one, train-mode batch norm refuses features of 1 x 1
MAX_TRIALS = 256  # each freezes something more, or is the last one
SMALL = 4  # channels


def analyse(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> Structure:
    """Find the groups of channels that can be cut out of a network.

    example_inputs: what the network is called with, batch first. The network is not touched: a
    copy without data is traced once in train mode, then cut and run again in both modes.
    """
    dense = meta_copy(net)
    shapes = {n: t.shape for n, t in [*dense.named_parameters(), *dense.named_buffers()]}
    ledger = _traced(dense, example_inputs)
    calls = _costs(dense, example_inputs)
    # The rules say what should be cut together; a trial on the meta device proves it. What it finds
    # wrong is frozen in the ledger, and the groups are read from it again.
    for _ in range(MAX_TRIALS):
        grouping = Grouping(ledger)
        groups = groups_of(grouping)
        structure = Structure(groups, report(grouping))
        runs = _trial(net, structure, grouping, example_inputs, turn=0)
        if runs and _need_second(structure):
            runs = _trial(net, structure, grouping, example_inputs, turn=1)
        if runs:
            parameters = [name for name, _ in dense.named_parameters()]
            macs = _spread(calls, grouping)
            return Structure(groups, structure.frozen, tally(groups, shapes, parameters, macs))
    raise RunError(
        f"after {MAX_TRIALS} trials some cut of this network still fails on the meta device; "
        "report the network"
    )


class _Short(TorchDispatchMode):
    """Operators on meta tensors by the short way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return execute(func, args, kwargs or {})


def dry_run(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    """One forward in eval mode, for one input; raises what that raises. net: on the meta device."""
    net.eval()
    with torch.no_grad(), unfused(), _Short():
        net(*_meta_inputs(example_inputs, 1))


def meta_copy(net: nn.Module) -> nn.Module:
    """A copy with every tensor on the meta device; no weight is copied."""
    # deepcopy takes what it finds in the memo for copied: here, tensors without storage. Plain
    # attributes count too, and tied tensors stay tied.
    memo: dict[int, object] = {}
    for module in net.modules():
        for store in (module._parameters, module._buffers, module.__dict__):
            for tensor in store.values():
                if not isinstance(tensor, Tensor) or id(tensor) in memo:
                    continue
                empty = hollow(tensor)
                if isinstance(tensor, nn.Parameter):
                    empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                memo[id(tensor)] = empty
    try:
        return copy.deepcopy(net, memo)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise RunError(f"cannot copy the network for its analysis: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


def _meta_inputs(example_inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty((batch, *t.shape[1:]), dtype=t.dtype, device="meta") for t in example_inputs
    )


def _traced(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> Ledger:
    tracer = Tracer(net.train())
    try:
        return tracer.run(_meta_inputs(example_inputs, TRACE_BATCH))
    except Exception as error:  # whatever the user's forward raises
        at = tracer.ledger
        raise _untraceable(net, at.module, at.operator, error) from error


def _costs(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[tuple[str | None, int]]:
    """(weight, MACs) of every matrix product of the dense network in eval mode, in order."""
    costs = _CostRun(net.eval())
    try:
        costs.run(_meta_inputs(example_inputs, 1))
    except Exception as error:  # whatever the user's forward raises
        raise _untraceable(net, costs.stack[-1], costs.operator, error) from error
    return costs.macs


def _untraceable(net: nn.Module, module: str, operator: str, error: Exception) -> RunError:
    return RunError(
        f"cannot trace the network: module '{module}' ({_class_of(net, module)}), operator "
        f"'{operator}': {_first_line(error)}; a forward pass must not read values of tensors"
    )


def _class_of(net: nn.Module, path: str) -> str:
    return type(net.get_submodule(path)).__name__


# --- the trial ---------------------------------------------------------------------------------


def _trial(
    net: nn.Module,
    structure: Structure,
    grouping: Grouping,
    example_inputs: tuple[Tensor, ...],
    turn: int,
) -> bool:
    """Cut a meta copy and run it in both modes. False: it does not run, and more is frozen now.

    The train-mode run is traced again: every class must meet the same classes as in the dense
    network. A size or an index that stands in Python code shows here, with or without an error.
    """
    keep = {}
    generator = torch.Generator().manual_seed(0)
    alike: Counter[int] = Counter()
    for group in structure.groups:
        keep[group.name] = _trial_classes(group.size, alike[group.size], turn, generator)
        alike[group.size] += 1
    # every group at once: sizes that only fit together by accident fall apart
    plan = plan_cut(structure, keep)
    small = replay(meta_copy(net), plan)
    tracer = Tracer(small.train(), dense=grouping.ledger)
    again = tracer.ledger
    try:
        tracer.run(_meta_inputs(example_inputs, TRACE_BATCH))
    except Exception as error:
        guilty = _guilty(grouping, again, plan.by_slot)
        _freeze_failing(grouping, again.stack, again.operator, error, guilty)
        return False
    wrong = _disagreement(grouping, Grouping(again), plan.by_slot)
    if wrong:
        for number in wrong:
            grouping.ledger.freeze(
                grouping.members[number],
                "index",
                "after a cut its channels meet others: an index or a size stands in Python code",
                structure.groups[number].producers[0].module,
            )
        return False
    costs = _CostRun(small.eval())
    try:
        costs.run(_meta_inputs(example_inputs, 1))
    except Exception as error:
        _freeze_failing(grouping, costs.stack, costs.operator, error, set())
        return False
    return True


def _need_second(structure: Structure) -> bool:
    """Whether groups of one small width are cut to sizes that take two trials to tell apart."""
    small = Counter(g.size for g in structure.groups if g.size <= SMALL)
    return any(count > 1 for count in small.values())


def _trial_classes(size: int, number: int, turn: int, generator: torch.Generator) -> Tensor:
    """Classes that the trial keeps: at random, but neither the first nor the last one.

    Without the ends, a shift by a constant number of channels cannot look like an order kept.
    number: of the group among those of this size. Neighbours get other counts, so that code which
    takes one group's size for another's does not run by accident.
    """
    if size <= SMALL:
        # too few for many sizes: a third of the groups keeps more in one turn, a third in the other
        fewer, more = {2: ([1], [0, 1]), 3: ([1, 2], [0, 1, 2]), 4: ([1, 2], [0, 1, 3])}[size]
        return torch.tensor(more if number % 3 == 2 - turn else fewer)
    least = max(2, size // 3)
    # the offset keeps widths that add up (a concatenation) from adding up after the cut
    count = least + (number + size * size // 3) % (size - 1 - least)
    return torch.randperm(size - 2, generator=generator)[:count].sort().values + 1


def _spread(
    calls: list[tuple[str | None, int]], grouping: Grouping
) -> list[tuple[str | None, int, Tensor | None]]:
    """(weight, MACs, numbers of the groups of the channels over which the weight is expanded)."""
    ledger, seen, found = grouping.ledger, Counter[str | None](), []
    for name, cost in calls:
        over = ledger.spread.get(name, ())
        # the ledger and the cost run see the calls of one kernel in the same order
        place = seen[name]
        seen[name] += 1
        numbers = (
            grouping.group_of[grouping.roots[over[place].vector]] if place < len(over) else None
        )
        found.append((name, cost, numbers))
    return found


def _freeze_failing(
    grouping: Grouping, stack: list[str], operator: str, error: Exception, guilty: set[int]
) -> None:
    """Freeze the groups that met the failing operator, else those that pass through its module."""
    ledger = grouping.ledger
    # To blame is what reached the operator; where that is unknown, what passed the innermost
    # module, then the one around it; at last everything.
    through = set(guilty)
    for path in [*reversed(stack), None]:
        if through:
            break
        for where, vectors in ledger.passes.items():
            if path is None or where == path:
                for vector in vectors.values():
                    through |= _numbers(grouping, grouping.roots[vector])
    reason = f"a size stands in Python code: {_first_line(error)}"
    for number in through:
        ledger.freeze(grouping.members[number], operator, reason, stack[-1])


def _numbers(grouping: Grouping, roots: Tensor) -> set[int]:
    numbers = grouping.group_of[roots]
    return set(numbers[numbers >= 0].tolist())


def _guilty(dense: Grouping, small: Ledger, kept: Mapping) -> set[int]:
    """Numbers of the dense groups whose channels reached the operator that failed."""
    # the pass broke off, so its ledger holds what was united up to there
    roots = components(small.count, small.edges)
    met = torch.zeros(small.count, dtype=torch.bool)
    for tensor in small.arguments:
        if (ids := small.ids(tensor)) is not None:
            met[roots[ids.vector]] = True
    found: set[int] = set()
    for key, record in small.records.items():
        hit = met[roots[record.vector]]
        if key in dense.slots and bool(hit.any()):
            # position p of the cut slot was position kept[p] of the dense one
            before = dense.slots[key]
            before = before[torch.tensor(kept[key])] if key in kept else before
            if before.shape == hit.shape:
                found |= _numbers(dense, before[hit])
    return found


def _disagreement(dense: Grouping, small: Grouping, kept: Mapping) -> set[int]:
    """Numbers of the groups with a class whose kept positions are united otherwise after a cut."""
    # A position of a slot has a class in the dense network and, if it is kept, one in the cut one.
    # A sound cut pairs them one to one. Each pair is one number, before * width + after.
    pairs: dict[tuple[int, int], Tensor] = {}
    width = int(small.roots.numel())
    for key, roots in dense.slots.items():
        if key not in small.slots:
            continue
        # norms and layers that see the same channels share one vector: compare it once
        same = (id(dense.ledger.records[key].vector), id(small.ledger.records[key].vector))
        if same not in pairs:
            before = roots[torch.tensor(kept[key])] if key in kept else roots
            pairs[same] = before * width + small.slots[key]
    if not pairs:
        return set()
    codes = torch.unique(torch.cat(list(pairs.values())))
    before, after = codes // width, codes % width
    member = dense.group_of[before] >= 0
    wrong = torch.zeros_like(member)
    # a class that stands in two pairs was torn apart, or thrown together with another one
    for side in (before, after):
        values, counts = torch.unique(side[member], return_counts=True)
        repeated = torch.zeros(int(side.max()) + 1, dtype=torch.bool)
        repeated[values[counts > 1]] = True
        wrong |= repeated[side] & member
    # and one that can no longer be cut met something that it did not meet before
    wrong |= member & small.frozen[after]
    return set(dense.group_of[before[wrong]].tolist())


class _CostRun(TorchDispatchMode):
    """MACs of every matrix product of one forward pass, with the name of its weight.

    A weight is a parameter or a buffer: smoothing kernels are no parameters.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.macs: list[tuple[str | None, int]] = []
        self.operator = ""
        self.stack = [""]
        # by storage, so that views (a weight turned or flattened) go by their weight's name
        tensors = [*net.named_buffers(), *net.named_parameters()]
        self._names = {t.untyped_storage()._cdata: name for name, t in tensors}
        self._wide = {name for name, t in tensors if t.ndim > 1}
        self._learned = {name for name, _ in net.named_parameters()}
        self._derived: list[Tensor] = []

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad(), unfused(), watched(self.net, self.stack.append, self._left), self:
            self.net(*inputs)

    def _left(self, path: str, output: object) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operator = operator_name(func)
        out = execute(func, args, kwargs)
        names = [self._names.get(t.untyped_storage()._cdata) for t in args if isinstance(t, Tensor)]
        # a parameter times a buffer, as a mask, is the parameter's
        weights = sorted((n for n in names if n in self._wide), key=self._constant)
        if func.overloadpacket in flop_registry:
            # PyTorch counts a multiplication and an addition as two
            cost = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out) // 2
            self.macs.append((weights[0] if weights else None, cost))
        elif weights and None not in names:
            for tensor in tensors_in(out):  # a weight made of parameters alone goes by their name
                self._names.setdefault(tensor.untyped_storage()._cdata, weights[0])
                self._derived.append(tensor)  # held, lest another storage get its number
        return out

    def _constant(self, name: str) -> bool:
        return name not in self._learned
