"""How much accuracy each layer costs when it alone is cut, without fine-tuning.

Li, Kadav, Durdanovic, Samet, Graf. ICLR 2017, arXiv:1608.08710, section 3.2. On the validation
part, never on the test part. Nothing is copied: a channel whose readers have weight zero is a
channel that is gone (the gate after every cut compares just that), so the live network is masked,
evaluated and put back. A layer that is done is a line in a file: a killed table goes on after it.
"""

import copy
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
from compressor.stages._case import Case
from compressor.surgery import Group, Structure

VERSION = 1


def table(case: Case) -> dict[str, Any]:
    """{"metric", "dense", "noise", "images", "rows"}; a row is one layer at one ratio.

    A row: {"layer", "channels", "ratio", "kept", "value", "drop"}; drop is how much worse than the
    dense network. noise: one standard error of the dense figure.
    """
    options, context = case.options.sensitivity, case.context
    check(context.data)
    key = case.key(
        "sensitivity",
        table=VERSION,
        ratios=list(options.ratios),
        held_out=options.images,
        metric=context.task.headline[0],
    )

    def take(folder: Path) -> None:
        lines = folder / RESUME / "rows.jsonl"
        lines.parent.mkdir(exist_ok=True)
        found = measure_layers(
            case.net, case.structure, case.groups, case.rankings, options.ratios,
            scorer(context, options.images), lines, context.note,
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

    context.cache.obtain(key, "sensitivity", take)
    return manifest.read_json(context.cache.folder(key) / "sensitivity.json")


def check(data: Any) -> None:
    """Refuse data without a validation part before anything is trained."""
    if not data.size("val"):
        raise UsageError(
            "the sensitivity of layers is measured on the validation part, and "
            "dataset.validation=0 leaves none; give it a share, such as dataset.validation=0.1"
        )


def measure_layers(
    net: nn.Module,
    structure: Structure,
    groups: Sequence[Group],
    rankings: Mapping[str, Ranking],
    ratios: Sequence[float],
    score: Callable[[nn.Module], float],
    lines: Path,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """{"dense": the figure of the whole network, "rows": one for every group and ratio}.

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

    (dense,) = obtain("", lambda: [score(net)])
    rows = []
    for group in groups:
        found = obtain(
            group.name,
            lambda group=group: list(
                _layer(net, structure, group, rankings[group.name], ratios, score)
            ),
        )
        shown = " ".join(f"{row['value']:.3f}" for row in found)
        note(f"sensitivity: {group.name} of {dense:.3f}: {shown}")
        rows += found
    return {"dense": dense, "rows": rows}


@contextmanager
def without(
    net: nn.Module, structure: Structure, group: Group, kept: Tensor
) -> Iterator[nn.Module]:
    """The network as if only the `kept` classes of the group were there; itself again afterwards.

    Where a statistic runs over the channels (mixing groups), zeros are not absence: a copy is cut.
    """
    if group.mixing:
        plan = surgery.plan_cut(structure, {group.name: kept})
        yield surgery.replay(copy.deepcopy(net), plan)
        return
    before: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for slot in group.consumers:
                weight = net.get_parameter(slot.parameter)
                before.setdefault(slot.parameter, weight.detach().clone())
                gone = (slot.classes >= 0) & ~torch.isin(slot.classes, kept)
                weight.index_fill_(slot.dim, gone.nonzero()[:, 0].to(weight.device), 0)
        yield net
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                net.get_parameter(name).copy_(weight)


def scorer(context: Context, images: int) -> Callable[[nn.Module], float]:
    """The task's own figure on at most so many images of the validation part, read once."""
    size = context.data.size("val")
    chosen = torch.randperm(size, generator=generator(context.seed, "held out"))[:images]
    batches = list(
        context.data.loader("val", context.machine.eval_batch_size, indices=chosen.sort().values)
    )
    name = context.task.headline[0]

    def score(net: nn.Module) -> float:
        return measure.evaluate(
            net, context.task, batches, context.machine.device,
            num_classes=context.data.num_classes,
        )[name]  # fmt: skip

    return score


def _layer(
    net: nn.Module,
    structure: Structure,
    group: Group,
    ranking: Ranking,
    ratios: Sequence[float],
    score: Callable[[nn.Module], float],
) -> Iterator[dict[str, Any]]:
    last: tuple[int, float] | None = None
    for ratio in ratios:
        count = surgery.keep_count(group.size, ratio)
        if last is None or last[0] != count:  # narrow layers move in coarse steps
            with without(net, structure, group, ranking.keep(count)) as cut:
                last = count, score(cut)
        yield {
            "layer": group.name, "channels": group.size, "ratio": ratio, "kept": count,
            "value": last[1],
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
