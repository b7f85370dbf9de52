"""How much accuracy each layer costs when it alone is cut, without fine-tuning.

Li, Kadav, Durdanovic, Samet, Graf. ICLR 2017, arXiv:1608.08710, section 3.2. On the validation
part, never on the test part. What the cut would do to the layer's readers (prune.reconstruct) is
done to them here: a layer that seems to be vital often is not once they are refitted. Where nothing
is, nothing is copied: a channel whose readers have weight zero is a channel that is gone (the gate
after every cut compares just that), so the live network is masked, evaluated and put back. A layer
that is done is a line in a file: a killed table goes on after it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor import manifest, measure, surgery
from compressor.cache import RESUME
from compressor.errors import UsageError
from compressor.prune import Ranking
from compressor.seeding import generator
from compressor.stages import Context
from compressor.stages._alone import Repair, alone, refitting, rescaling
from compressor.stages._case import Case
from compressor.stages._options import RepairOptions
from compressor.stages._select import tensors
from compressor.surgery import Group, Structure

VERSION = 3


def table(case: Case) -> dict[str, Any]:
    """{"metric", "dense", "loss", "noise", "images", "rows"}; a row is one layer at one ratio.

    A row: {"layer", "channels", "ratio", "kept", "value", "loss", "drop"}; drop is how much worse
    than the dense network. noise: one standard error of the dense figure.
    """
    options, context = case.pruning.sensitivity, case.context
    check(context.data)
    parts = case.parts(
        table=VERSION,
        ratios=list(options.ratios),
        held_out=options.images,
        metric=context.task.headline[0],
        reconstruct=_reconstruct(case.pruning.repair),
    )

    def take(folder: Path) -> None:
        lines = folder / RESUME / "rows.jsonl"
        lines.parent.mkdir(exist_ok=True)
        found = measure_layers(
            case.net, case.structure, case.groups, case.rankings, options.ratios,
            scorer(context, options.images), lines, context.note,
            lambda group: _repair(case, group),
        )  # fmt: skip
        name, direction = context.task.headline
        dense = found.pop("dense")
        sign = 1 if direction == "max" else -1
        for row in found["rows"]:
            row["drop"] = sign * (dense - row["value"])
        images = min(options.images, context.data.size("val"))
        # of a share of right answers; at least one answer
        noise = max(max(0.0, dense * (1 - dense)) / images, images**-2) ** 0.5
        manifest.write_json(
            folder / "sensitivity.json",
            {"metric": name, "dense": dense, "noise": noise, "images": images, **found},
        )

    folder = context.remember("sensitivity", parts, take)
    return manifest.read_json(folder / "sensitivity.json")


def check(data: Any) -> None:
    """Refuse data without a validation part before anything is trained."""
    if not data.size("val"):
        raise UsageError(
            "the sensitivity of layers is measured on the validation part, and "
            f"dataset.validation={data.validation:g} leaves none; give it a share, such as "
            "dataset.validation=0.1"
        )


def _reconstruct(options: RepairOptions) -> dict[str, Any]:
    """What the repair of the readers depends on."""
    found: dict[str, Any] = {"by": options.reconstruct}
    if options.reconstruct == "refit":
        found.update(ridge=options.ridge, positions=options.positions)
    return found


def _repair(case: Case, group: Group) -> Repair | None:
    options = case.pruning.repair
    if options.reconstruct == "rescale":
        return rescaling(group, case.statistics)
    if options.reconstruct == "refit":
        return refitting(case.net, group, case.batches, options, case.context.seed)
    return None


def measure_layers(
    net: nn.Module,
    structure: Structure,
    groups: Sequence[Group],
    rankings: Mapping[str, Ranking],
    ratios: Sequence[float],
    score: Callable[[nn.Module], tuple[float, float]],
    lines: Path,
    note: Callable[[str], None] = lambda line: None,
    repair: Callable[[Group], Repair | None] = lambda group: None,
) -> dict[str, Any]:
    """{"dense", "loss": those of the whole network, "rows": one for every group and ratio}.

    score: a network's figure and its loss. repair: of a group's readers, asked for before its rows.
    lines: a file that gets a line for the network and for every layer, and whose lines are not
    measured again.
    """
    done = _read(lines)

    def obtain(name: str, make: Callable[[], list[Any]]) -> list[Any]:
        if name not in done:
            done[name] = make()
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, done[name]]) + "\n")
        return done[name]

    dense, loss = obtain("", lambda: list(score(net)))
    rows = []
    for group in groups:
        found = obtain(
            group.name,
            lambda group=group: list(
                _layer(net, structure, group, rankings[group.name], ratios, score, repair(group))
            ),
        )
        shown = " ".join(f"{row['value']:.3f}" for row in found)
        note(f"sensitivity: {group.name} of {dense:.3f}: {shown}")
        rows += found
    return {"dense": dense, "loss": loss, "rows": rows}


@contextmanager
def without(
    net: nn.Module, structure: Structure, group: Group, kept: Tensor, repair: Repair | None = None
) -> Iterator[nn.Module]:
    """The network as if only the `kept` classes of the group were there; itself again afterwards.

    A copy is cut where its readers are repaired, and where a statistic runs over the channels
    (mixing groups), so that zeros are not absence.
    """
    if repair or group.mixing:
        yield alone(net, structure, group, kept, repair)
        return
    before: dict[str, Tensor] = {}
    weights = tensors(net)
    try:
        with torch.no_grad():
            for slot in group.consumers:
                weight = weights[slot.parameter]
                before.setdefault(slot.parameter, weight.detach().clone())
                gone = (slot.classes >= 0) & ~torch.isin(slot.classes, kept)
                weight.index_fill_(slot.dim, gone.nonzero()[:, 0].to(weight.device), 0)
        yield net
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                weights[name].copy_(weight)


def scorer(context: Context, images: int) -> Callable[[nn.Module], tuple[float, float]]:
    """The task's figure and loss on at most so many validation images, which are read once."""
    size = context.data.size("val")
    chosen = torch.randperm(size, generator=generator(context.seed, "held out"))[:images]
    batches = list(
        context.data.loader("val", context.machine.eval_batch_size, indices=chosen.sort().values)
    )
    name = context.task.headline[0]

    def score(net: nn.Module) -> tuple[float, float]:
        found = measure.evaluate(
            net, context.task, batches, context.machine.device,
            num_classes=context.data.num_classes,
        )  # fmt: skip
        return found[name], found["loss"]

    return score


def _layer(
    net: nn.Module,
    structure: Structure,
    group: Group,
    ranking: Ranking,
    ratios: Sequence[float],
    score: Callable[[nn.Module], tuple[float, float]],
    repair: Repair | None,
) -> Iterator[dict[str, Any]]:
    last: tuple[int, tuple[float, float]] | None = None
    for ratio in ratios:
        count = surgery.keep_count(group.size, ratio)
        if last is None or last[0] != count:  # narrow layers move in coarse steps
            with without(net, structure, group, ranking.keep(count), repair) as cut:
                last = count, score(cut)
        yield {
            "layer": group.name, "channels": group.size, "ratio": ratio, "kept": count,
            "value": last[1][0], "loss": last[1][1],
        }  # fmt: skip


def _read(lines: Path) -> dict[str, list[Any]]:
    done: dict[str, list[Any]] = {}
    if lines.is_file():
        for line in lines.read_text(encoding="utf-8").splitlines():
            try:
                name, found = json.loads(line)
            except ValueError:
                continue  # the process was killed while it wrote
            done[name] = found
    return done
