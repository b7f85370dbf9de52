"""Which labels a fine-tuning reads, and the share of clean ones that may be trusted."""

import numpy as np
import torch
from torch import Tensor

from compressor.data import stratified_split
from compressor.errors import UsageError
from compressor.robust import DROPPED, Remedy
from compressor.stages import Context
from compressor.stages._classes import hard
from compressor.stages._fit import TrainingSet
from compressor.stages._recipe import Recovery
from compressor.stages.train import CORRECTED

_FEW = 1000  # clean samples below which the batch norms keep the statistics of the training


def training_set(recovery: Recovery, context: Context) -> TrainingSet:
    """The labels of finetune.labels, and the positions that have one.

    Clean labels come with the original images; the others with those that the training saw.
    """
    labels = recovery.labels
    if labels == "clean":
        share = recovery.clean_fraction
        index = trusted(context.clean_targets, context.labelled, share, recovery.clean_seed)
        # new weights have no statistics yet that could rest
        goes_on = recovery.mode == "finetune" or recovery.start > 0
        few = share < 1 and len(index) < _FEW and goes_on
        return TrainingSet(targets=context.clean_targets, index=index, norms_rest=few)
    targets, index = context.targets, context.labelled
    if labels.startswith("corrected"):
        # (n, K) stays a file: rows are read as batches ask for them
        stored = np.load(context.roles["corrected"].folder / CORRECTED, mmap_mode="c")
        targets = torch.from_numpy(stored)
        if labels == "corrected_hard" and targets.ndim == 2:
            targets = hard(targets)
        elif targets.ndim == 1 and bool((targets == DROPPED).any()):
            rows = torch.arange(len(targets)) if index is None else index
            index = rows[targets[rows] != DROPPED]
            targets = torch.where(targets == DROPPED, context.targets, targets)
    noisy = context.truth_known and not torch.equal(context.clean_targets, context.targets)
    clean = context.clean_targets if noisy else None
    return TrainingSet(targets=targets, index=index, clean=clean, damage=context.damage)


def trusted(clean: Tensor, labelled: Tensor | None, fraction: float, seed: int) -> Tensor | None:
    """Positions of the clean labels that may be used, drawn within every class; None for all."""
    if fraction == 1:
        return labelled
    rows = torch.arange(len(clean)) if labelled is None else labelled
    chosen = rows[stratified_split(clean[rows], fraction, seed)[1]]
    if not len(chosen):
        raise UsageError(
            f"finetune.clean_fraction={fraction} leaves none of {len(rows)} samples: raise it"
        )
    return chosen


def resolve(labels: str, truth_known: bool, injected: bool, corrects: tuple[str, ...]) -> str:
    """What `auto` stands for: the clean labels where they are known.

    Where no noise was injected the data set's own labels may be wrong ones: then what a correcting
    remedy made of them is better, and without one they are all there is.
    """
    if labels != "auto":
        return labels
    if truth_known and (injected or not corrects):
        return "clean"
    if corrects:
        return "corrected_soft" if "soft" in corrects else "corrected_hard"
    return "given"


def check_labels(
    recovery: Recovery, remedy: Remedy, truth_known: bool, trained: bool = True
) -> None:
    """Refuse labels that are not there.

    recovery: its labels are resolved. remedy: the training's; trained: whether that has an epoch.
    """
    labels, fraction = recovery.labels, recovery.clean_fraction
    if not truth_known and (labels == "clean" or fraction < 1):
        asked = f"clean_fraction={fraction}" if fraction < 1 else "labels=clean"
        raise UsageError(
            f"finetune.{asked} needs clean labels, and the labels come from noise.file: type "
            "finetune.labels=given finetune.clean_fraction=1.0, or noise.known=true if the data "
            "set's own labels are the true ones"
        )
    if fraction < 1 and labels != "clean":
        raise UsageError(
            f"finetune.clean_fraction={fraction} is a share of the clean labels, finetune.labels="
            f"{labels} reads others: type finetune.labels=clean"
        )
    if labels.startswith("corrected"):
        form = labels.removeprefix("corrected_")
        if not trained:
            raise UsageError(
                f"finetune.labels={labels} are what the training makes of them, and this run has "
                "no epoch of train: type finetune.labels=given or clean, or give it some"
            )
        if form not in remedy.corrects:
            ways = "robust=pencil" if form == "soft" else "robust=pencil or robust=confident"
            raise UsageError(
                f"finetune.labels={labels} needs a remedy that makes them: type {ways}"
            )
        if form == "soft" and recovery.robust == "same":
            raise UsageError(
                "finetune.labels=corrected_soft trains on distributions with cross-entropy: type "
                "finetune.robust=none"
            )
    if recovery.robust == "same" and remedy.train_only:
        raise UsageError(
            "finetune.robust=same: this remedy belongs to the training on given labels alone; type "
            "finetune.robust=none"
        )
