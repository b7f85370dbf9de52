"""What a run is going to do, printed before its first epoch."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from compressor import disk, models, sizes
from compressor.automatic import told
from compressor.durations import duration
from compressor.errors import UsageError
from compressor.measure import forward_ms
from compressor.notices import collapsed, notices
from compressor.report import sentences
from compressor.report.latencies import asked_cell
from compressor.report.setting import model_name
from compressor.run_folder import unscaled
from compressor.stages import _sensitivity, compress
from compressor.stages._blank import Blank
from compressor.stages._rehearsal import rehearse
from compressor.stages._timed import Bench

if TYPE_CHECKING:
    from compressor.experiment import Experiment
    from compressor.plan import RunPlan, Step


def preview(plan: "RunPlan", *, brief: bool = False) -> dict[str, Any]:
    """What the run is going to do, as far as it is known before the first epoch.

    brief: without what `line` leaves out and costs something to know.
    """
    experiment, reused = plan.run, plan.reused()
    labels = experiment.labels
    preview = {
        "model": model_name(experiment.spec.factory, experiment.spec.arguments),
        "start": None if experiment.started is None else dict(experiment.started.told),
        "input_size": list(experiment.spec.input_size),
        "data": {part: experiment.data.size(part) for part in ("train", "val", "test")},
        "labelled": None if labels.labelled is None else len(labels.labelled),
        "flip_rate": labels.flip_rate,
        "resolved": told(experiment.resolved, {s.stage for s in plan.steps if not s.identity}),
        "stages": [],
        "dense": None,
        "scaled": None,
        "cut": None,
        "disk": None,
        "seconds": None,
        "notices": notices(plan),
    }
    if experiment.pruning.wants_table:
        _sensitivity.check(experiment.data)
    cutting = [s for s in plan.steps if s.stage == "compress" and not s.identity]
    dense = experiment.blank()
    preview["dense"] = dense.figures
    if experiment.spec != experiment.unscaled and not brief:
        preview["scaled"] = _shares(experiment, dense.figures)
    cuts: list[dict[str, Any]] = []
    if cutting:
        bench = partial(_bench, experiment, dense)
        cuts = [compress.preview(dense, step.options, bench) for step in cutting]
        _check_rounds(cuts)
        preview["cut"] = cuts[-1]
        preview["notices"] += collapsed(cuts[-1])
        _rehearse(experiment, dense, cutting[-1], cuts[-1], reused)
    for step in (*plan.steps, *plan.baselines):
        known = {stage["key"] for stage in preview["stages"]}
        sides = [side for side in step.sides if not (reused[step.key] or side.key in known)]
        rows = [_row(part, plan, reused, preview["cut"]) for part in (*sides, step)]
        # the noisy baseline may be the training itself
        preview["stages"] += rows if step in plan.steps or step.key not in known else []
    needs = disk.needed(plan, reused, cuts, member=brief)
    free = disk.check(needs, experiment.cache.root)
    preview["disk"] = {"needed": needs, "free": free, "folder": str(experiment.cache.root)}
    preview["seconds"] = _rough_seconds(experiment, preview)
    return preview


def _rehearse(
    experiment: "Experiment",
    dense: Blank,
    step: "Step",
    cut: Mapping[str, Any],
    reused: Mapping[str, bool],
) -> None:
    """Cut a network that is not this tool's own at random once, before its first epoch."""
    if models.is_known(experiment.spec.factory) or reused[step.key]:
        return
    if not experiment.pruning.method.owns_stage:
        groups = step.options.groups(dense)
        rehearse(dense, groups, {name: n for name, _, n in cut["layers"]})


def _bench(experiment: "Experiment", dense: Blank) -> Bench:
    return Bench(
        dense.with_storage(),
        dense.spec,
        dense.plan,
        experiment.cache,
        experiment.machine,
        experiment.note,
        base=dense.plan,
    )


def _shares(experiment: "Experiment", scaled: Mapping[str, int]) -> dict[str, float] | None:
    """What is left of the unscaled network; None where that cannot take the unscaled image."""
    whole = unscaled(experiment)
    return None if whole is None else {name: scaled[name] / whole[name] for name in whole}


def _row(
    step: "Step", plan: "RunPlan", reused: Mapping[str, bool], cut: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A stage as the plan shows it. rehearsals: how many trainings come before it, and the epochs
    of this stage that these cost. images: the share of them that an epoch visits.
    """
    epochs, rehearsals = None, (0, 0.0)
    if step.trains:
        epochs = step.options.epochs(tuple(cut["macs"]) if cut and cut["macs"] else None)
    elif step.stage == "compress" and cut:
        epochs = cut["epochs"] or None
    if step.stage == "train":
        labelled = plan.run.labels.labelled
        images = plan.run.data.size("train") if labelled is None else len(labelled)
        asked = step.options.recipe.epochs
        rehearsals = step.options.remedy.method.rehearsals(images, asked)
    return {
        "name": step.stage,
        "title": step.title,
        "point": step.point,
        "key": step.key,
        "skipped": step.identity,
        "reused": not step.identity and reused[step.key],
        "epochs": epochs,
        "rehearsals": rehearsals,
        "images": _visited(step, plan),
    }


def _visited(step: "Step", plan: "RunPlan") -> float:
    fewer = step.stage == "finetune" or (step.stage == "baseline" and step.point == "clean")
    return plan.run.recipes.finetune.clean_fraction if fewer else 1.0


def _check_rounds(cuts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a round that would find nothing to cut, before the first one trains."""
    for number, (before, after) in enumerate(itertools.pairwise(cuts), 2):
        if before["layers"] == after["layers"]:
            raise UsageError(
                f"round {number} of {len(cuts)} would cut nothing: these layers are too narrow for "
                "so many; lower prune.rounds, or spread prune.keep_rates"
            )


def _rough_seconds(experiment: "Experiment", preview: Mapping[str, Any]) -> float | None:
    """Training time from one timed forward pass; the rest of a run is small beside it."""
    epochs = 0.0
    cut = preview["cut"]
    share = cut["macs"][1] / cut["macs"][0] if cut and cut["macs"] else 1.0
    for stage in preview["stages"]:
        if stage["reused"] or stage["skipped"] or not stage["epochs"]:
            continue
        macs = share if stage["name"] == "finetune" else 1.0
        epochs += stage["epochs"] * macs * stage["images"]
        epochs += stage["rehearsals"][1]
    if not epochs:
        return None
    images = 16
    place = experiment.machine.device
    net = experiment.blank().with_storage().to(place).train()
    (inputs,) = experiment.task.example_inputs(experiment.spec.input_size, images)
    inputs = inputs.to(place)
    # the first pass pays for the set-up
    seconds = min(forward_ms(net, inputs) for _ in range(3)) / 1e3
    # a training step costs about three forward passes
    return 3 * seconds / images * (preview["labelled"] or preview["data"]["train"]) * epochs


def line(coming: Mapping[str, Any]) -> str:
    """The plan in one line, for a member of a multirun: tables would bury the progress."""
    stages = []
    for stage in coming["stages"]:
        if stage["reused"]:
            stages.append(f"{stage['name']} reused")
        elif not stage["skipped"]:
            epochs = stage["epochs"]
            of = "" if epochs is None else f" ({epochs} epoch{'' if epochs == 1 else 's'})"
            of += _before(stage)
            stages.append(f"{stage['name']}{of}")
    begun = f" from {coming['start']['path']}" if coming["start"] else ""
    parts = [f"{coming['model']}{begun}: {', '.join(stages) or 'no stage runs'}"]
    if coming["cut"] and coming["cut"]["macs"]:
        dense, small = coming["cut"]["macs"]
        parts.append(f"{small / dense:.3f} of the dense MACs")
    if coming["flip_rate"]:
        parts.append(f"{coming['flip_rate']:.1%} of the train labels changed")
    if coming["seconds"]:
        parts.append(f"training takes about {duration(coming['seconds'], rough=True)}")
    return "; ".join(parts)


def show(coming: Mapping[str, Any]) -> None:
    """Print the plan: stages and reuse, the cut per layer, a rough time."""
    console = Console()
    say = partial(console.print, soft_wrap=True)  # a file keeps each line whole
    data = coming["data"]
    size = "x".join(map(str, coming["input_size"]))
    head = (
        f"[bold]{coming['model']}[/bold] at {size}: {data['train']:,} train, {data['val']:,} "
        f"validation, {data['test']:,} test images"
    )
    if coming["labelled"] is not None:
        head += f", {coming['labelled']:,} of the train images with a label"
    if coming["flip_rate"]:
        head += f", {coming['flip_rate']:.1%} of the train labels changed"
    say(head)
    if coming["start"]:
        say(sentences.begun(coming["start"]), markup=False)
    for key, chosen in coming["resolved"].items():
        say(f"{key}={chosen['value']} ({chosen['reason']})", markup=False)
    stages = Table("stage", "epochs", "state", "key", title="Plan", title_justify="left")
    for stage in coming["stages"]:
        state = "skipped" if stage["skipped"] else "reused" if stage["reused"] else "to run"
        epochs = "" if stage["epochs"] is None else str(stage["epochs"])
        stages.add_row(stage["title"], epochs, state, stage["key"])
    console.print(stages)
    cut, dense = coming["cut"], coming["dense"]
    if not cut or not (cut["macs"] and cut["params"]):
        say(f"MACs {dense['macs']:,}, parameters {dense['params']:,}")
    if coming["scaled"]:
        say(
            f"scaled to {coming['scaled']['macs']:.3f} of the model's MACs and "
            f"{coming['scaled']['params']:.3f} of its parameters, measured"
        )
    if cut:
        _show_cut(cut, console)
    for stage in coming["stages"]:
        if stage["rehearsals"][0] and not (stage["reused"] or stage["skipped"]):
            say(f"{stage['title']}{_before(stage)} that its remedy learns from")
    room = coming["disk"]
    say(
        f"takes about {sizes.shown(room['needed'])} of disk, and {room['folder']} has "
        f"{sizes.shown(room['free'])} left",
        markup=False,
    )
    if coming["seconds"]:
        say(f"training takes about {duration(coming['seconds'], rough=True)} on this machine")
    for notice in coming["notices"]:
        say(f"note: {notice}", markup=False)


def _show_cut(cut: Mapping[str, Any], console: Console) -> None:
    """What the compress stage leaves of every layer, and of the network's figures."""
    say = partial(console.print, soft_wrap=True)
    if cut["decided"]:
        say(
            f"prune.allocation={cut['decided']} chooses the widths after the training; with "
            "one ratio for all layers they would be"
        )
    if cut["layers"]:
        console.print(_cut_table(cut))
        widths = cut["widths"].values()
        whole, left = (sum(pair[i] for pair in widths) for i in (0, 1))
        say(f"{left:,} of {whole:,} channels are kept in the {len(widths)} layers that are cut")
    if cut["macs"] and cut["params"]:
        before, small = cut["macs"]
        say(
            f"MACs {before:,} -> {small:,} ({small / before:.3f} of the dense network), "
            f"parameters {cut['params'][0]:,} -> {cut['params'][1]:,}"
        )
    else:
        say(f"what prune={cut['method']} leaves of these is known when it has run")
    if cut["latency"]:
        asked = cut["budget"]["latency"]
        say(f"latency: {asked_cell(asked, **cut['latency'])} with these widths", markup=False)
    if cut["reach"]:
        say(
            "these layers can keep "
            + " and ".join(
                f"{low:.3f} to {high:.3f} of the {n}" for n, (low, high) in cut["reach"].items()
            )
        )
    if cut["frozen"]:
        say(f"never cut: {', '.join(cut['frozen'])}")


def _before(stage: Mapping[str, Any]) -> str:
    number, epochs = stage["rehearsals"]
    return f" after {number} training{'' if number == 1 else 's'} ({epochs:g} epochs)" * bool(
        number
    )


def _cut_table(cut: Mapping[str, Any]) -> Table:
    """Layers of equal widths that follow each other stand in one row, uncut ones at the end."""
    table = Table("layers", "channels", "kept", title="Cut", title_justify="left")
    rows: list[tuple[list[str], int, int]] = []
    uncut = [(name, size, keep) for name, size, keep in cut["layers"] if keep == size]
    for name, size, keep in [*((n, *pair) for n, pair in cut["widths"].items()), *uncut]:
        if rows and rows[-1][1:] == (size, keep):
            rows[-1][0].append(name)
        else:
            rows.append(([name], size, keep))
    for names, size, keep in rows:
        label = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)})"
        table.add_row(label, str(size), str(keep))
    return table
