"""Dense training on the given (maybe wrong) labels."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.distill._fork import alike
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.robust import Remedy, Samples
from compressor.seeding import derive
from compressor.stages import Context, Given, Outcome
from compressor.stages._crossfit import probabilities
from compressor.stages._distill.taught import Taught, distillation
from compressor.stages._fit import TrainingSet, fit, plain, rebalanced
from compressor.stages._fold import folded
from compressor.stages.pretrain import freeze_trunk, other_head

VERSION = 8
CORRECTED = "corrected.npy"  # what a remedy made of the labels, in the artefact


def train(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Build the network from the stage's seed and train it.

    options: train (configs/train), robust (configs/robust), distill (configs/distill or none),
    regularize (configs/regularize, or absent); frozen: true where only the head of a pretrained
    network learns; sampler: balanced where every class is visited equally often, or absent.
    epochs=0 leaves the initial weights, or the library's pretrained ones. until: an epoch after
    which to stop, the schedule being that of the whole training.
    """
    torch.manual_seed(context.seed)
    net = given.network(context.trust)
    own = options["train"]
    fitting = plain(own)
    if fitting.epochs == 0:
        notes = folded(net, given, context)
        return Outcome(net=net.eval(), plan=given.plan, notes={"epochs": 0, **notes})
    robust = make(options["robust"])
    frozen = options.get("frozen", False)
    training, notes = training_set(robust, given, own, context, frozen)
    training = replace(training, **rebalanced(options, own))
    if frozen:
        freeze_trunk(net, given.spec, context.trust)
    taught = distillation(
        options["distill"], net, given.spec, training, context, others(given, context, frozen)
    )
    fitted = fit(
        _student(robust, taught, given, context, frozen),
        fitting,
        context,
        name="train",
        select="last" if "until" in options or taught.blind else own["select"],
        robust=robust,
        distillation=taught.distillation,
        regularizer=make(options["regularize"]) if "regularize" in options else None,
        training=training,
        patience=own["patience"],
        select_by=own["select_by"],
        stop=options.get("until"),
    )
    if robust.corrected(context.folder / CORRECTED):
        notes["corrected"] = True
    net, told = taught.finish(robust.chosen(fitted.net).requires_grad_(True))
    notes = {**notes, **told, **folded(net, given, context), **fitted.metrics}
    return Outcome(net=net, plan=given.plan, notes=notes)


def others(given: Given, context: Context, frozen: bool) -> Callable[[int], nn.Module]:
    """The number of a head -> a network like the one that is trained, with weights of its own."""

    def build(head: int) -> nn.Module:
        return _another(given, context, frozen, "head", head)

    return build


def _another(given: Given, context: Context, frozen: bool, *names: str | int) -> nn.Module:
    net = other_head(given, derive(context.seed, *names), context.trust)
    return freeze_trunk(net, given.spec, context.trust) if frozen else net


def _student(
    robust: Remedy, taught: Taught, given: Given, context: Context, frozen: bool
) -> nn.Module:
    """The network to train: the one that is taught, or the pair that a remedy makes of it."""

    def another() -> nn.Module:
        net = _another(given, context, frozen, "second network")
        if alike(net, taught.student):
            raise UsageError(
                "this remedy trains two networks that have to begin differently, and both have the "
                "same weights: set model.pretrained=false"
            )
        return net

    return robust.networks(taught.student, another)


def check(robust: Remedy, injected: bool, terms: Mapping[str, Any]) -> None:
    """Refuse loss correction by a matrix that is not there, and terms that look into one of two.

    terms: of distillation in this stage.
    """
    from compressor.robust._transition import NO_MATRIX

    if robust.needs_known and not injected:
        raise UsageError(NO_MATRIX)
    made = {name: make(term) for name, term in terms.items()} if robust.twofold else {}
    for name, term in made.items():
        if term.weight and (term.alone or term.layers()[0]):
            raise UsageError(
                f"distill={name} looks into one network, and this remedy trains two at once: use "
                "distill=kd or mimic, or another robust"
            )


def training_set(
    robust: Remedy,
    given: Given,
    options: Mapping[str, Any],
    context: Context,
    frozen: bool = False,
) -> tuple[TrainingSet, dict[str, Any]]:
    """The given labels, or what the remedy makes of them, and its notes.

    options: the train stage's. frozen: whether the trunk and its batch norms stay as they are.
    """

    def predicted(folds: int, epochs: int) -> Tensor:
        return probabilities(given, options, context, folds, epochs, frozen)

    samples = Samples(
        targets=context.targets,
        num_classes=context.data.num_classes,
        batch_size=options["batch_size"],
        epochs=options["epochs"],
        index=context.labelled,
        transition=context.transition,
        noise_rate=context.noise_rate,
        probabilities=predicted,
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
    training = TrainingSet(
        targets=targets, index=index, clean=clean, damage=context.damage, norms_rest=frozen
    )
    return training, notes


def _found(corrected: Tensor, context: Context) -> dict[str, float]:
    """How well the labels that a method left are the wrong ones, of those that may be read."""
    rows = slice(None) if context.labelled is None else context.labelled
    flagged = (corrected != context.targets)[rows]
    wrong = (context.clean_targets != context.targets)[rows]
    hits = (flagged & wrong).sum().item()
    return {
        "precision": hits / max(1, int(flagged.sum())),
        "recall": hits / max(1, int(wrong.sum())),
    }
