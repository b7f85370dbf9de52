"""Classes that are not equally frequent: their weights in the loss, and who may be drawn alike."""

import torch
from torch import Tensor

from compressor.data import spread_over_classes
from compressor.errors import UsageError
from compressor.robust import Remedy
from compressor.seeding import generator
from compressor.stages._distill.options import Teaching
from compressor.stages._recipe import Recipes
from compressor.tasks import Task

# Largest class / smallest, from which on images for statistics are drawn class by class: below, a
# draw without labels is as good, and the figures of even data sets stay what they are.
UNEQUAL = 2.0
_ROWS = 16_384  # of (n, K) labels that are in memory at a time


def counts(targets: Tensor, index: Tensor | None, num_classes: int) -> Tensor:
    """(K,) float64: how often each class is read.

    targets: (n,) int64, or (n, K) distributions, whose masses are added up. index: positions that
    are read, None for all.
    """
    if not targets.is_floating_point():
        rows = targets if index is None else targets[index]
        return torch.bincount(rows, minlength=num_classes).double()
    # (n, K) may be a file: a part of its rows at a time
    places = torch.arange(len(targets)) if index is None else index
    found = torch.zeros(targets.shape[1], dtype=torch.float64)
    for part in places.split(_ROWS):
        found += targets[part].double().sum(dim=0)
    return found


def ratio(found: Tensor) -> float:
    """Largest class / smallest, of those that have a sample. found: `counts`."""
    present = found[found > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def balanced_weights(found: Tensor) -> Tensor:
    """(K,) float32, n / (classes x samples of the class): their mean over the samples is 1.

    As scikit-learn's class_weight="balanced". found: `counts`; a class without a sample has the
    weight 0.
    """
    present = found > 0
    weights = found.sum() / (present.sum() * found.clamp(min=1e-12))
    return torch.where(present, weights, 0.0).float()


def hard(targets: Tensor) -> Tensor:
    """(n,) int64: the labels, or the likeliest class of each distribution."""
    if not targets.is_floating_point():
        return targets
    # as in `counts`
    return torch.cat([rows.argmax(dim=1) for rows in targets.split(_ROWS)])


def alike(classes: Tensor, seed: int) -> Tensor:
    """(n,) positions of which any beginning holds the classes equally, as far as they have images.

    classes: (n,) int64.
    """
    return spread_over_classes(classes, generator(seed, "calibration"))


def decisive(select_by: str | None, task: Task) -> str:
    """The figure that picks the epoch; accuracy stands for the headline of a task without one."""
    other = select_by is None or (select_by == "accuracy" and select_by not in task.figures)
    return task.headline[0] if other else select_by


def check_figures(recipes: Recipes, task: Task) -> None:
    """Refuse a select_by that another task than classification does not measure."""
    for stage in ("pretrain", "train", "finetune"):
        asked = recipes.of(stage).select_by
        if decisive(asked, task) not in task.figures:
            raise UsageError(
                f"{stage}.select_by={asked} is no figure of this task, which has "
                f"{', '.join(task.figures)}: type {stage}.select_by=accuracy, which stands for its "
                f"headline, {task.headline[0]}"
            )


def check(recipes: Recipes, remedy: Remedy, teaching: Teaching) -> None:
    """Refuse options for unequal classes that are unknown, exclude each other, or have no meaning.

    remedy: the training's; the fine-tuning has it where finetune.robust=same.
    """
    if recipes.pretrain.recipe.class_weights != "none":
        raise UsageError(
            "pretrain.class_weights=balanced has no meaning: a task without labels has as many "
            "samples of each of its classes; leave it out"
        )
    for stage in ("train", "finetune"):
        weighted, asked = recipes.of(stage).class_weights != "none", f"{stage}.class_weights"
        if weighted and recipes.balanced:
            raise UsageError(
                f"{asked}=balanced and dataset.sampler=balanced both make up for unequal classes, "
                "each in full: give one of them"
            )
        if stage == "finetune" and recipes.finetune.robust != "same":
            continue
        name = type(remedy).__module__.rpartition(".")[2]
        if remedy.shares and (weighted or recipes.balanced):
            raise UsageError(
                f"{asked if weighted else 'dataset.sampler'}=balanced makes another matrix of "
                f"robust={name}'s, which holds for the labels as often as they were given: leave "
                "it out, or take another robust, such as gce"
            )
        if weighted and not remedy.per_sample:
            raise UsageError(
                f"{asked}=balanced needs a loss that is a mean over samples, which robust={name} "
                "has not: type dataset.sampler=balanced, or take robust=none, gce, sce, mae or "
                "confident"
            )
    if recipes.balanced and teaching.grouping is not None:
        raise UsageError(
            f"dataset.sampler=balanced and distill.sampler={teaching.grouping.sampler} both "
            "choose the images of a batch: give one of them"
        )
