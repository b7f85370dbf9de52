"""The disk that a run is going to take, told and compared with what is free before its first epoch.

Rough: weights are counted, of trainings their checkpoints too. Curves, figures and what a criterion
keeps of images are not.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressor import sizes
from compressor.errors import UsageError

if TYPE_CHECKING:
    from compressor.plan import RunPlan, Step

_WEIGHT = 4  # bytes: networks are saved as float32


def needed(
    plan: "RunPlan", reused: Mapping[str, bool], cuts: Sequence[Mapping], *, member: bool
) -> int:
    """Bytes of the artefacts that are to be made, of the largest training's checkpoints, and of the
    exported network.

    reused: by key. cuts: `compress.preview` of each compress step that cuts. member: of a multirun,
    which exports nothing unless asked to.
    """
    kept: dict[str, int] = {}
    passing = 0
    for step, params, inside in _sized(plan, reused, cuts):
        if not (step.identity or reused[step.key]):
            # of what is trained inside a stage, the best stays as an entry of its own
            best = inside and step.stage == "compress"
            kept[step.key] = _WEIGHT * params * (1 + best)
            if inside:
                passing = max(passing, _WEIGHT * params * _checkpoints(plan, step))
    export = plan.run.config["export"]
    enabled = not member if export["enabled"] is None else export["enabled"]
    copies = (1 + bool(export["onnx"])) if enabled else 0
    return sum(kept.values()) + passing + copies * _WEIGHT * _last(plan, cuts)


def check(needs: int, root: Path) -> int:
    """Bytes that are free on the disk of the cache `root`. UsageError: they are too few."""
    place = root.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needs > free:
        raise UsageError(
            f"the run takes about {sizes.shown(needs)} of disk, and {root} has "
            f"{sizes.shown(free)} left: free some, as with compress-cache prune --dir {root} "
            "--older-than 7d, or set cache.dir= to a folder on another disk"
        )
    return free


def _sized(
    plan: "RunPlan", reused: Mapping[str, bool], cuts: Sequence[Mapping]
) -> Iterator[tuple["Step", int, bool]]:
    """Every step that may be made, the parameters of its network, and whether it has epochs."""
    from compressor.plan import STAGES

    dense = params = plan.run.blank().figures["params"]
    coming = iter(cuts)
    for step in plan.steps:
        inside = STAGES[step.stage].trains
        if step.stage == "compress" and not step.identity:
            cut = next(coming)
            params, inside = (cut["params"] or [0, params])[1], bool(cut["epochs"])
        for side in () if reused[step.key] else step.sides:
            own = side.spec and plan.run.blank(side.spec).figures["params"]
            yield side, own or dense, True
        yield step, params, inside
    yield from ((step, dense, True) for step in plan.baselines)


def _last(plan: "RunPlan", cuts: Sequence[Mapping]) -> int:
    """Parameters of the network that the run ends with, as far as they are known."""
    known = [cut["params"][1] for cut in cuts if cut["params"]]
    return known[-1] if known else plan.run.blank().figures["params"]


def _checkpoints(plan: "RunPlan", step: "Step") -> int:
    """Numbers that a training has on the disk for each parameter at the end of an epoch.

    That epoch's checkpoint is there before the one before it goes; the picked epoch's likewise.
    """
    # of what is trained inside a stage nothing is known before: as the dense network is
    recipe = step.options.recipe if step.trains else plan.run.recipes.train
    return 2 * (1 + recipe.optimizer.moments) + 2
