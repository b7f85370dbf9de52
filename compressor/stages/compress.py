"""Makes the network smaller: select channels, cut them, prove the cut, repair what is kept."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor import surgery
from compressor.cache import key_of
from compressor.errors import UsageError
from compressor.instantiation import make, sources
from compressor.prune.none import NoPruning
from compressor.robust.none import CrossEntropy
from compressor.seeding import derive
from compressor.stages import Context, Given, Outcome
from compressor.stages._budget import check as check_budget
from compressor.stages._budget import reach, solve
from compressor.stages._counts import choose, running
from compressor.stages._derivatives import Loss
from compressor.stages._options import SelectOptions
from compressor.stages._original import Original, check_widths, figures_of
from compressor.stages._refit import refit
from compressor.stages._rescale import apply_rescale
from compressor.stages._schedule import Schedule
from compressor.stages._select import Selection, select
from compressor.stages._sequential import sequential
from compressor.stages._statistics import collect, count_calls, watched
from compressor.surgery import Group, Plan, Structure

VERSION = 2
# Images in a batch of the statistics: a constant, because the rows that are drawn depend on it.
BATCH = 128
PARITY_IMAGES = 4


def check(options: Mapping[str, Any]) -> None:
    """Make the method and read the shared options: their ranges are refused here."""
    schedule, final = Schedule.split(options)
    _, own = SelectOptions.split(final)
    method = make(own)
    if hasattr(method, "run") and not (schedule.one_shot or isinstance(method, NoPruning)):
        raise UsageError(
            f"prune._target_={own['_target_']} owns its stage and cuts once: leave prune.rounds, "
            "prune.keep_rates and prune.finetune_per_layer_epochs as they are"
        )


def is_none(options: Mapping[str, Any]) -> bool:
    """Whether the stage hands on what it was given."""
    _, own = SelectOptions.split(options)
    return isinstance(make(own), NoPruning)


def preview(
    net: nn.Module,
    options: Mapping[str, Any],
    example_inputs: tuple[Tensor, ...],
    structure: Structure | None = None,
) -> dict[str, Any]:
    """What a cut is going to be, as far as no statistics are needed: widths, MACs, parameters.

    structure: the network's, where it is known already.
    """
    shared, own = SelectOptions.split(options)
    structure = structure or surgery.analyse(net, example_inputs)
    groups = running(choose(structure, shared), count_calls(net, example_inputs[0]))
    method = make(own)
    if hasattr(method, "observers"):
        watched(net, groups, method, shared.reconstruct)  # layers that it cannot judge are refused
    counts = solve(structure, groups, shared)
    return {
        "layers": [(group.name, group.size, counts[group.name]) for group in groups],
        "macs": [structure.macs({}), structure.macs(counts)],
        "params": [structure.params({}), structure.params(counts)],
        "reach": reach(structure, groups, shared),
        "frozen": _frozen(structure),
    }


def compress(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """options: prune (configs/prune): the shared ones and the method's own."""
    start = time.perf_counter()
    shared, own = SelectOptions.split(options["prune"])
    method = make(own)
    if hasattr(method, "run"):
        return method.run(given, context)
    device = context.machine.device
    net = given.network(context.trust).to(device)
    examples = tuple(x.to(device) for x in context.task.example_inputs(given.spec.input_size, 2))
    structure = surgery.analyse(net, examples)
    chosen = choose(structure, shared)
    groups = running(chosen, count_calls(net, examples[0]))
    dense = Original.of(given, net, structure, examples, context.trust)
    here = dense.here(shared, groups, figures_of(net, given.spec.input_size))
    counts = solve(structure, groups, here)
    batches = list(_batches(context, shared.images))
    if shared.statistics == "sequential":
        small = given.network(context.trust).to(device)
        done = sequential(
            small, groups, method, counts, shared, batches, context.seed,
            dense=net, loss=_loss(context),
        )  # fmt: skip
        plan = surgery.plan_cut(structure, done.keep)
    else:
        statistics = _statistics(net, groups, method, own, shared, batches, given, context)
        done = select(net, groups, method, statistics, counts, context.seed)
        plan = surgery.plan_cut(structure, done.keep)
        small = surgery.replay(given.network(context.trust).to(device), plan)
        if shared.reconstruct == "rescale":
            done.residual.update(apply_rescale(small, groups, done.keep, statistics))
        elif shared.reconstruct == "refit":
            done.residual.update(refit(small, net, groups, plan, batches, shared, context.seed))
    seconds = time.perf_counter() - start
    inputs = batches[0][0][:PARITY_IMAGES].to(device)
    check_widths(groups, counts, done.keep)
    error = surgery.check_parity(net, structure, plan, (inputs,))
    surgery.check_state(net, small)
    notes = _notes(structure, groups, done, given.plan.then(plan), shared, dense)
    check_budget(shared, dense.figures, figures_of(small, given.spec.input_size))
    idle = [group.name for group in chosen if group not in groups]
    if idle:
        notes["idle"] = idle  # nothing reads them in eval mode: left as they are
    return Outcome(
        net=small.cpu().eval(),
        plan=given.plan.then(plan),
        notes={**notes, "parity": error, "seconds": round(seconds, 3)},
    )


def _batches(context: Context, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `images` of the train part and their clean labels, in the stage's own order.

    Not augmented.
    """
    loader = context.data.loader(
        "train", BATCH, seed=derive(context.seed, "images"), shuffle=True,
        targets=context.clean_targets, workers=context.machine.workers,
    )  # fmt: skip
    left = images
    for inputs, targets, _ in loader:
        yield inputs[:left], targets[:left]
        left -= len(inputs)
        if left <= 0:
            return


def _loss(context: Context) -> Loss:
    """The sum over the images of each one's cross-entropy."""

    def loss(answer: Any, targets: Tensor) -> Tensor:
        outputs, index = context.task.outputs(answer), torch.arange(len(targets))
        return len(targets) * CrossEntropy().loss(outputs, targets, index)

    return loss


def _statistics(
    net: nn.Module,
    groups: Sequence[Group],
    method: Any,
    own: Mapping[str, Any],
    shared: SelectOptions,
    batches: list[tuple[Tensor, Tensor]],
    given: Given,
    context: Context,
) -> dict[str, Tensor]:
    """One pass over the dense network, kept for every ratio of the same selector."""
    if not any(watched(net, groups, method, shared.reconstruct).values()):
        return {}
    key = key_of(
        stage="statistics",
        version=VERSION,
        parent=given.parent.key if given.parent else "",
        selector=dict(own),
        code=sources(own),
        rows=shared.reconstruct == "rescale",
        groups=[group.name for group in groups],
        images=shared.images,
        data=context.data_key,
        seed=context.seed,
    )

    def take(folder: Path) -> None:
        found = collect(
            net, groups, method, shared.reconstruct, batches, context.seed, _loss(context)
        )
        tensors = {name: value.contiguous() for name, value in found.items()}
        save_file(tensors, folder / "statistics.safetensors")

    context.cache.obtain(key, "statistics", take)
    return load_file(context.cache.folder(key) / "statistics.safetensors")


def _notes(
    structure: Structure,
    groups: Sequence[Group],
    done: Selection,
    plan: Plan,
    shared: SelectOptions,
    dense: Original,
) -> dict[str, Any]:
    """plan: with what earlier rounds cut; widths and ratio are those of the dense network too."""
    kept = plan.kept
    widths = {}
    for group in dense.structure.groups:
        for slot in group.producers:
            if slot.parameter.endswith(".weight") and slot.module in kept:
                widths[slot.module] = [len(slot.classes), len(kept[slot.module])]
    whole = sum(dense.size(g) for g in groups)
    left = sum(len(done.keep.get(g.name, range(g.size))) for g in groups)
    return {
        "widths": widths,
        "budget": dict([shared.budget]) if shared.budget else None,
        "ratio": {
            "asked": None if shared.budget else shared.ratio,
            "achieved": (whole - left) / whole,
        },
        "statistics": shared.statistics,
        "reconstruct": shared.reconstruct,
        "residual": dict(done.residual),
        "frozen": _frozen(structure),
    }


def _frozen(structure: Structure) -> list[str]:
    """Where channels cannot be cut, and why; the network's own output goes without saying."""
    return sorted({f"{part.module} ({part.reason})" for part in structure.frozen if part.module})
