"""Dense training on the given (maybe wrong) labels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.robust import Remedy, Samples
from compressor.seeding import derive
from compressor.stages import Context, Given, Outcome
from compressor.stages._crossfit import probabilities
from compressor.stages._fit import TrainingSet, fit, plain
from compressor.tasks.training import Distillation

VERSION = 2
CORRECTED = "corrected.npy"  # what a remedy made of the labels, in the artefact


def train(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Build the network from the stage's seed and train it.

    options: train (configs/train), robust (configs/robust), distill (configs/distill or none),
    regularize (configs/regularize, or absent); frozen: true where only the head of a pretrained
    network learns.
    epochs=0 leaves the initial weights, or the library's pretrained ones. until: an epoch after
    which to stop, the schedule being that of the whole training.
    """
    torch.manual_seed(context.seed)
    net = given.network(context.trust)
    own = options["train"]
    fitting = plain(own)
    if fitting.epochs == 0:
        return Outcome(net=net.eval(), plan=given.plan, notes={"epochs": 0})
    robust = make(options["robust"])
    training, notes = training_set(robust, given, own, context)
    if options.get("frozen"):
        _freeze(net, given, context.trust)
        training = TrainingSet(**{**vars(training), "norms_rest": True})

    def another() -> nn.Module:
        torch.manual_seed(derive(context.seed, "second network"))
        return given.network(context.trust)

    fitted = fit(
        robust.networks(net, another),
        fitting,
        context,
        name="train",
        select="last" if "until" in options else own["select"],
        robust=robust,
        distillation=distillation(options["distill"], context),
        regularizer=make(options["regularize"]) if "regularize" in options else None,
        training=training,
        patience=own["patience"],
        stop=options.get("until"),
    )
    if robust.corrected(context.folder / CORRECTED):
        notes["corrected"] = True
    net = robust.chosen(fitted.net).requires_grad_(True)
    return Outcome(net=net, plan=given.plan, notes={**notes, **fitted.metrics})


def check(robust: Remedy, injected: bool) -> None:
    """Refuse loss correction by a matrix that is not there."""
    from compressor.robust._transition import NO_MATRIX

    if robust.needs_known and not injected:
        raise UsageError(NO_MATRIX)


def training_set(
    robust: Remedy, given: Given, options: Mapping[str, Any], context: Context
) -> tuple[TrainingSet, dict[str, Any]]:
    """The given labels, or what the remedy makes of them, and its notes.

    options: the train stage's.
    """
    samples = Samples(
        targets=context.targets,
        num_classes=context.data.num_classes,
        batch_size=options["batch_size"],
        epochs=options["epochs"],
        index=context.labelled,
        transition=context.transition,
        probabilities=lambda folds, epochs: probabilities(given, options, context, folds, epochs),
    )
    change = robust.begin(samples)
    noisy = context.truth_known and not torch.equal(context.clean_targets, context.targets)
    clean = context.clean_targets if noisy else None
    targets, index, notes = context.targets, context.labelled, {}
    if change is not None:
        targets = targets if change.targets is None else change.targets
        index = index if change.index is None else change.index
        notes = {"robust": dict(change.notes)}
        if change.corrected is not None and noisy:
            notes["robust"] |= _found(change.corrected, context)
    return TrainingSet(targets=targets, index=index, clean=clean, damage=context.damage), notes


def _found(corrected: Tensor, context: Context) -> dict[str, float]:
    """How well the labels that a method left are the wrong ones."""
    flagged = corrected != context.targets
    wrong = context.clean_targets != context.targets
    hits = (flagged & wrong).sum().item()
    return {
        "precision": hits / max(1, int(flagged.sum())),
        "recall": hits / max(1, int(wrong.sum())),
    }


def _freeze(net: nn.Module, given: Given, trust: tuple[str, ...]) -> None:
    from compressor.stages.pretrain import head_names

    head = head_names(given.spec, trust)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in head)


def distillation(options: Mapping[str, Any], context: Context) -> Distillation:
    """The terms of configs/distill with their teacher, from the role that the stage declared."""
    terms = {name: make(term) for name, term in options["terms"].items()}
    teacher = context.roles["teacher"].network(context.trust) if terms else None
    return Distillation(terms, options["label_weight"], teacher)
