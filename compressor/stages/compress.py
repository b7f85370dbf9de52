"""Makes the network smaller: select channels, cut them, prove the cut, repair what is kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from compressor import latency, surgery
from compressor.errors import RunError, UsageError
from compressor.prune import Compressor, Selector
from compressor.seeding import generator
from compressor.stages import Context, Given, Machine, Outcome
from compressor.stages._allocate import Family, by_curve, by_ratio, by_threshold
from compressor.stages._blank import Blank
from compressor.stages._budget import check as check_budget
from compressor.stages._budget import check_widths_known, reach, solve
from compressor.stages._case import Case
from compressor.stages._counts import in_part as told_in_part
from compressor.stages._options import WidthOptions
from compressor.stages._original import Original, check_widths, figures_of
from compressor.stages._pruning import Pruning
from compressor.stages._refit import NOTHING_CUT, refit
from compressor.stages._rescale import apply_rescale
from compressor.stages._select import Selection, judge, prefixes
from compressor.stages._sensitivity import table
from compressor.stages._sequential import sequential
from compressor.stages._statistics import collect, watched
from compressor.stages._timed import Bench
from compressor.surgery import Group, Plan, Slot, Structure

VERSION = 5
# Batch statistics over a few values are ill-conditioned; large images have many positions each.
PARITY_IMAGES, PARITY_LARGE, LARGE = 4, 2, 128
TARGET = "target"  # the role of the network that a refit aims at, where it is not the given one


def in_key(pruning: Pruning, machine: Machine) -> dict[str, Any]:
    """What the stage depends on: under a budget of latency that is the machine too."""
    found = {"prune": pruning.in_key()}
    if pruning.widths.timed:
        found["latency"] = latency.facts(machine)
    return found


def preview(
    dense: Blank,
    pruning: Pruning,
    bench: Callable[[], Bench] | None = None,
) -> dict[str, Any]:
    """What a cut is going to be, as far as no statistics are needed: widths, MACs, parameters.

    bench: makes what times widths for a budget of latency. Widths that a trained network decides
    are the uniform ones here, and "decided" names who decides. A method that owns its stage is
    asked itself, and what it cannot tell is None.
    """
    if pruning.method.owns_stage:
        return _told_by(pruning.method, dense)
    structure, options = dense.structure, pruning.widths
    groups = pruning.groups(dense)
    # layers that it cannot judge are refused, and so is a threshold on scores that it lacks
    watched(dense.net, groups, pruning.method, pruning.repair.reconstruct)
    if options.allocation == "global":
        _check_compares(dense, groups, pruning.method, options)
    family = by_ratio(groups, options)
    timed: dict[str, Any] = {}
    if options.timed:
        timed = bench().widths(structure, groups, options, family)
        counts = timed["counts"]
    else:
        counts = solve(structure, groups, options, family)
        check_widths_known(structure, groups, options, counts)
    uniform = options.allocation == "uniform"
    if uniform and all(counts[group.name] == group.size for group in groups):
        raise UsageError(
            "nothing would be cut: every layer keeps all of its channels; raise prune.ratio or "
            "prune.ratios, lower prune.min_channels or prune.round_to, or type prune=none"
        )
    return {
        "method": pruning.method.name,
        "layers": [(group.name, group.size, counts[group.name]) for group in groups],
        "widths": _coming_widths(groups, counts),
        "macs": [structure.macs({}), structure.macs(counts)],
        "params": [structure.params({}), structure.params(counts)],
        "epochs": 0,
        "reach": reach(structure, groups, options),
        "frozen": _frozen(structure),
        "decided": "" if uniform else options.allocation,
        "budget": dict([options.budget]) if options.budget else None,
        "latency": {name: timed.get(name) for name in ("share", "interval")} if timed else None,
        "least": options.least,
    }


def _told_by(method: Compressor, dense: Blank) -> dict[str, Any]:
    """What a method that owns its stage says of it."""
    coming = method.preview(dense)
    left = {"macs": coming.macs, "params": coming.params}
    return {
        "method": method.name,
        "layers": list(coming.rows),
        "widths": {layer: (size, kept) for layer, size, kept in coming.rows if kept < size},
        **{n: None if few is None else [dense.figures[n], few] for n, few in left.items()},
        "epochs": coming.epochs,
        "reach": {},
        "frozen": [],
        "decided": "",
        "budget": None,
        "latency": None,
        "least": 1,
    }


def in_part(dense: Blank, pruning: Pruning) -> list[str]:
    """What the plan says of names in prune.skip and prune.ratios that hold a part of a layer."""
    return [] if pruning.method.owns_stage else told_in_part(dense.structure, pruning.widths)


def _coming_widths(
    groups: Sequence[Group], counts: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Layers that lose channels, with their widths before and after, as the report counts them.

    A group is one or several layers that share their channels.
    """
    found: dict[tuple[str, int], tuple[str, int, int]] = {}
    for layer, group, slot in _layers(groups):
        left = counts[group.name] / group.size
        if left < 1:
            channels, place = len(slot.classes), (slot.parameter, slot.dim)
            _, before, after = found.get(place, (layer, channels, channels))
            lost = round(int((slot.classes >= 0).sum()) * (1 - left))
            found[place] = (layer, before, after - lost)
    # a layer may have several kernels of the same channels
    return {layer: (before, after) for layer, before, after in found.values()}


def _layers(groups: Sequence[Group]) -> Iterator[tuple[str, Group, Slot]]:
    """(name, group, slot) of the kernels that make the groups' channels, as plan and report list
    them: by their module, and a kernel of the network itself by its own name.
    """
    for group in groups:
        for slot in group.producers:
            if not slot.parameter.endswith("bias"):
                yield slot.module or slot.parameter, group, slot


def parity_images(input_size: Sequence[int]) -> int:
    """How many images the parity gate looks at."""
    return PARITY_LARGE if min(input_size[-2:]) >= LARGE else PARITY_IMAGES


def _check_compares(
    dense: Blank,
    groups: Sequence[Group],
    method: Selector,
    options: WidthOptions,
) -> None:
    """Refuse a criterion whose channels cannot be compared across layers.

    Where it needs data, one layer is judged on a few random images.
    """
    net = dense.with_storage()
    if any(watched(net, groups, method, "none").values()):
        groups = [min(groups, key=lambda group: sum(slot.classes.numel() for slot in group.slots))]
    images = torch.randn(8, *dense.spec.input_size, generator=generator(0, "example"))
    batch = images, torch.zeros(len(images), dtype=torch.long)
    try:
        found = collect(net, groups, method, "none", [batch], 0, _any_loss)
        rankings = judge(net, groups, method, found, 0)
    except RunError:
        return  # of these images it can tell nothing
    by_threshold(groups, options, rankings, dense.structure)


def _any_loss(answer: Any, targets: Tensor) -> Tensor:
    return sum(leaf.sum() for leaf in tree_leaves(answer) if isinstance(leaf, Tensor))


def compress(given: Given, pruning: Pruning, context: Context) -> Outcome:
    """Cut the network once, to the widths of `pruning`; its schedule is the plan's."""
    start = time.perf_counter()
    if pruning.method.owns_stage:
        return pruning.method.run(given, context)
    device = context.machine.device
    case = Case.of(given, pruning, context)
    net, structure, repair = case.net, case.structure, pruning.repair
    dense = Original.of(
        given, net, structure, case.groups, case.examples, pruning.widths, context.trust
    )
    case = replace(case, groups=dense.known(case.groups))
    groups = case.groups
    aim = _aim(case, dense)
    target, earlier = net, NOTHING_CUT
    if TARGET in context.roles:
        role = context.roles[TARGET]
        target, earlier = role.network(context.trust).to(device), given.plan.since(role.plan)
    if pruning.statistics == "sequential":
        small = given.network(context.trust).to(device)
        done = sequential(
            small, groups, case.selector, aim.counts, repair, case.batches, context.seed,
            dense=target, earlier=earlier, loss=case.loss, labelled=case.labelled,
        )  # fmt: skip
        plan = surgery.plan_cut(structure, done.keep)
    else:
        done = prefixes(groups, case.rankings, aim.counts)
        plan = surgery.plan_cut(structure, done.keep)
        small = surgery.replay(given.network(context.trust).to(device), plan)
        if repair.reconstruct == "rescale":
            done.residual.update(apply_rescale(small, groups, done.keep, case.statistics))
        elif repair.reconstruct == "refit":
            done.residual.update(
                refit(
                    small,
                    net,
                    groups,
                    plan,
                    case.batches,
                    repair,
                    context.seed,
                    target=target,
                    earlier=earlier,
                )
            )
    seconds = time.perf_counter() - start
    if context.data_free:
        (images,) = context.task.example_inputs(given.spec.input_size, PARITY_IMAGES)
    else:
        images = case.batches[0][0]
    inputs = images[: parity_images(images.shape)].to(device)
    check_widths(groups, aim.counts, done.keep)
    error = surgery.check_parity(net, structure, plan, (inputs,))
    surgery.check_state(net, small)
    figures = figures_of(small, given.spec.input_size)
    check_budget(pruning.widths, {**dense.figures, "latency": 1.0}, {**figures, **aim.timed})
    whole = given.plan.then(plan)
    return Outcome(
        net=small.cpu().eval(),
        plan=whole,
        notes={
            **_notes(case, aim, done, whole, dense), "parity": error, "seconds": round(seconds, 3)
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Aim:
    """How many channels every group keeps, and how that was decided."""

    counts: Mapping[str, int]
    timed: Mapping[str, float]
    """{"latency": the measured share of the dense one} under a budget of latency."""
    notes: Mapping[str, Any]


def _aim(case: Case, dense: Original) -> Aim:
    context = case.context
    # what refers to the dense network, in terms of the one that earlier rounds have left
    here = dense.here(case.pruning.widths, case.groups, case.structure)
    family = _family(case, here)
    notes: dict[str, Any] = {"by": here.allocation}
    if here.allocation == "global":
        notes["normalize"] = here.normalize
    if not here.timed:
        return Aim(solve(case.structure, case.groups, here, family), {}, notes)
    bench = Bench(
        case.net, case.given.spec, case.given.plan, context.cache, context.machine, context.note,
        dense.net, case.given.base,
    )  # fmt: skip
    found = bench.widths(case.structure, case.groups, here, family)
    told = {name: found[name] for name in found if name != "counts"}
    notes["latency"] = {**told, **latency.facts(context.machine)}
    return Aim(found["counts"], {"latency": found["share"]}, notes)


def _family(case: Case, options: WidthOptions) -> Family:
    if options.allocation == "global":
        return by_threshold(case.groups, options, case.rankings, case.structure)
    if options.allocation == "sensitivity":
        return by_curve(case.groups, options, table(case), case.structure)
    return by_ratio(case.groups, options)


def _notes(case: Case, aim: Aim, done: Selection, plan: Plan, dense: Original) -> dict[str, Any]:
    """plan: with what earlier rounds cut; widths and ratio are those of the dense network too."""
    kept, pruning = plan.since(case.given.base), case.pruning
    asked = pruning.widths
    widths = {}
    for layer, _, slot in _layers(dense.structure.groups):
        left = kept.get((slot.parameter, slot.dim))
        if left is not None:
            widths[layer] = [len(slot.classes), len(left)]
    notes = {
        "widths": widths,
        "budget": dict([asked.budget]) if asked.budget else None,
        "ratio": {
            "asked": None if asked.budget else asked.ratio,
            "achieved": dense.removed(plan),
        },
        "allocation": dict(aim.notes),
        "statistics": pruning.statistics,
        "reconstruct": pruning.repair.reconstruct,
        "residual": dict(done.residual),
        "frozen": _frozen(case.structure),
    }
    if case.idle:
        notes["idle"] = list(case.idle)  # nothing reads them in eval mode: left as they are
    return notes


def _frozen(structure: Structure) -> list[str]:
    """Where channels cannot be cut, and why; the network's own output goes without saying."""
    return sorted({f"{part.module} ({part.reason})" for part in structure.frozen if part.module})
