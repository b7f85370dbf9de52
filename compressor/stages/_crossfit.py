"""Predictions for training images by networks that have not seen them: one training for each fold.

A fold is an entry of the cache: whoever asks again, with another remedy say, finds it there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressor.instantiation import builders, sources
from compressor.robust.none import CrossEntropy
from compressor.seeding import derive
from compressor.stages import Context, Given
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._recipe import Recipe
from compressor.stages.pretrain import freeze_trunk
from compressor.tasks.optimization import OptimizerOptions

VERSION = 3


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each sample, (m,) int64; every class is spread over all folds.

    labels: (m,) int64, as they were given.
    """
    rng = np.random.default_rng([seed % 2**63, folds])
    fold = np.empty(len(labels), dtype=np.int64)
    values = labels.numpy()
    first = 0
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        # the next class goes on where this one ended: folds of one size
        fold[members] = (first + np.arange(len(members))) % folds
        first += len(members)
    return torch.from_numpy(fold)


def probabilities(
    given: Given,
    optimizer: OptimizerOptions,
    context: Context,
    *,
    folds: int,
    frozen: bool = False,
) -> Tensor:
    """(n, K) float32 for the images that may be trained on, zero for the others.

    optimizer: of the trainings, with cross-entropy. With one fold the network is judged on what it
    was trained on. The last epoch counts: picking one by accuracy on given labels would favour the
    memorised ones. frozen: the head alone learns.
    """
    n = len(context.targets)
    rows = torch.arange(n) if context.labelled is None else context.labelled
    fold = stratified_folds(context.targets[rows], folds, context.seed)
    found = torch.zeros(n, context.data.num_classes)
    for number in range(folds):
        held = rows if folds == 1 else rows[fold == number]
        rest = rows if folds == 1 else rows[fold != number]
        parts = _parts(given, optimizer, context, [number, folds], frozen)

        def make(folder: Path, number: int = number, held: Tensor = held, rest: Tensor = rest):
            if folds == 1:
                context.note("estimating from a training with cross-entropy")
            else:
                context.note(f"out-of-sample predictions: fold {number + 1} of {folds}")
            seed = derive(context.seed, "fold", number, folds)
            torch.manual_seed(seed)
            net = given.network(context.trust)
            job = Job(
                name="fold",
                recipe=Recipe(optimizer=optimizer, select="last"),
                remedy=CrossEntropy(),
                training=TrainingSet(
                    targets=context.targets, index=rest, damage=context.damage, norms_rest=frozen
                ),
            )
            fitted = fit(
                freeze_trunk(net, given.spec, context.trust) if frozen else net,
                job,
                replace(context, folder=folder, seed=seed),
            )
            save_file({"probabilities": _predict(fitted.net, context, held)}, folder / _NAME)

        folder = context.remember("fold", parts, make)
        found[held] = load_file(folder / _NAME)["probabilities"]
    return found


def _parts(
    given: Given, optimizer: OptimizerOptions, context: Context, fold: list[int], frozen: bool
) -> dict[str, Any]:
    """What one fold's training depends on. fold: its number, and how many there are."""
    return {
        "version": VERSION,
        "spec": given.spec.to_json(),
        "code": sources({"_target_": given.spec.factory}),
        "libraries": builders(given.spec.factory),
        "frozen": frozen,
        "parent": given.parent.key if given.parent else "",
        "options": {**vars(optimizer), "milestones": list(optimizer.milestones)},
        "fold": fold,
        "labels": context.labels_key,
        "data": context.data_key,
        "seed": context.seed,
        "precision": context.precision,
        "devices": context.machine.devices,
    }


_NAME = "probabilities.safetensors"


def _predict(net: torch.nn.Module, context: Context, index: Tensor) -> Tensor:
    """(m, K) of un-augmented images, in the order of `index`."""
    device = context.machine.device
    net = net.to(device).eval()
    loader = context.data.loader(
        "train",
        context.machine.eval_batch_size,
        indices=index,
        damage=context.damage,
        workers=context.machine.workers,
    )
    with torch.no_grad():
        task = context.task
        answers = [
            task.teacher_view(task.outputs(net(images.to(device)))).float().softmax(dim=1).cpu()
            for images, _, _ in loader
        ]
    return torch.cat(answers)
