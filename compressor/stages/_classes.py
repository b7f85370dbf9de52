"""Classes that are not equally frequent: their weights in the loss, and who may be drawn alike."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.data import spread_over_classes
from compressor.errors import UsageError
from compressor.options import hold
from compressor.robust import Remedy
from compressor.schema import Data, Training
from compressor.seeding import generator

# Figures by which an epoch can be picked, and their directions.
SELECT_BY = {"accuracy": "max", "balanced_accuracy": "max", "macro_f1": "max", "loss": "min"}
# Largest class / smallest, from which on images for statistics are drawn class by class: below, a
# draw without labels is as good, and the figures of even data sets stay what they are.
UNEQUAL = 2.0


def counts(targets: Tensor, index: Tensor | None, num_classes: int) -> Tensor:
    """(K,) float64: how often each class is read.

    targets: (n,) int64, or (n, K) distributions, whose masses are added up. index: positions that
    are read, None for all.
    """
    rows = targets if index is None else targets[index]
    if rows.is_floating_point():
        return rows.double().sum(dim=0)
    return torch.bincount(rows, minlength=num_classes).double()


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
    # (n, K) may be a file: a part of its rows at a time
    return torch.cat([rows.argmax(dim=1) for rows in targets.split(16_384)])


def alike(classes: Tensor, seed: int) -> Tensor:
    """(n,) positions of which any beginning holds the classes equally, as far as they have images.

    classes: (n,) int64.
    """
    return spread_over_classes(classes, generator(seed, "calibration"))


def check(config: Mapping[str, Any], robust: Remedy) -> None:
    """Refuse options for unequal classes that are unknown, exclude each other, or have no meaning.

    robust: the training's remedy; the fine-tuning has it where finetune.robust=same.
    """
    sampler = config["dataset"]["sampler"]
    hold(Data, "dataset", {"sampler": sampler})
    for stage in ("pretrain", "train", "finetune"):
        own = {name: config[stage][name] for name in ("class_weights", "select_by")}
        hold(Training, stage, own)
    if config["pretrain"]["class_weights"] != "none":
        raise UsageError(
            "pretrain.class_weights=balanced has no meaning: a task without labels has as many "
            "samples of each of its classes; leave it out"
        )
    for stage in ("train", "finetune"):
        weights = config[stage]["class_weights"]
        asked = f"{stage}.class_weights=balanced"
        if weights != "none" and sampler != "none":
            raise UsageError(
                f"{asked} and dataset.sampler=balanced both make up for unequal classes, each in "
                "full: give one of them"
            )
        if stage == "finetune" and config["finetune"]["robust"] != "same":
            continue
        name = config["robust"]["_target_"].split(".")[-2]
        if robust.shares and (weights != "none" or sampler != "none"):
            asked = asked if weights != "none" else "dataset.sampler=balanced"
            raise UsageError(
                f"{asked} makes another matrix of robust={name}'s, which holds for the labels as "
                "often as they were given: leave it out, or take another robust, such as gce"
            )
        if weights != "none" and not robust.per_sample:
            raise UsageError(
                f"{asked} needs a loss that is a mean over samples, which robust={name} has not: "
                "type dataset.sampler=balanced, or take robust=none, gce, sce, mae or confident"
            )
    if sampler != "none" and config["distill"]["sampler"] != "none":
        raise UsageError(
            f"dataset.sampler=balanced and distill.sampler={config['distill']['sampler']} both "
            "choose the images of a batch: give one of them"
        )
