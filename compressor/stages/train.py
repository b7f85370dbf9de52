"""Dense training on the given (maybe wrong) labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.distill._fork import alike
from compressor.errors import UsageError
from compressor.instantiation import Chosen
from compressor.regularize import Regularizer
from compressor.robust import Remedy, Samples
from compressor.seeding import derive
from compressor.stages import Context, Given, Outcome
from compressor.stages._crossfit import probabilities
from compressor.stages._distill.options import Teaching
from compressor.stages._distill.taught import Taught, distillation
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._fold import folded
from compressor.stages._recipe import Recipe
from compressor.stages.pretrain import freeze_trunk, other_head

VERSION = 8
CORRECTED = "corrected.npy"  # what a remedy made of the labels, in the artefact


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a dense training depends on.

    teaching: what of the group `distill` acts in the training. frozen: whether the head alone of a
    pretrained network learns. balanced: whether every class is visited equally often. until: an
    epoch after which to stop, the schedule being that of the whole training; None: the last one.
    """

    recipe: Recipe
    remedy: Chosen[Remedy]
    regularizer: Chosen[Regularizer]
    teaching: Teaching
    frozen: bool = False
    balanced: bool = False
    until: int | None = None

    def epochs(self, macs: tuple[int, int] | None) -> int:
        """That are going to be trained. macs: of the network before and after the cut, if any."""
        return self.recipe.epochs if self.until is None else self.until

    def in_key(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "train": self.recipe.in_key(),
            "robust": dict(self.remedy.tree),
            "distill": self.teaching.in_key(),
        }
        if self.balanced:
            found["sampler"] = "balanced"
        if self.frozen:
            found["frozen"] = True
        if self.remedy.method.content:
            found["content"] = self.remedy.method.content
        if not self.regularizer.method.is_none:
            found["regularize"] = dict(self.regularizer.tree)
        if self.until is not None:
            found["until"] = self.until
        return found


def train(given: Given, options: TrainOptions, context: Context) -> Outcome:
    """Build the network from the stage's seed and train it.

    epochs=0 leaves the initial weights, or the library's pretrained ones.
    """
    torch.manual_seed(context.seed)
    net = given.network(context.trust)
    recipe, frozen = options.recipe, options.frozen
    if recipe.epochs == 0:
        notes = folded(net, given, context)
        return Outcome(net=net.eval(), plan=given.plan, notes={"epochs": 0, **notes})
    remedy = options.remedy.fresh()
    training, notes = training_set(remedy, given, options, context)
    training = training.rebalanced(recipe.class_weights, options.balanced)
    if frozen:
        freeze_trunk(net, given.spec, context.trust)
    another = others(given, context, frozen)
    taught = distillation(options.teaching, net, given.spec, training, context, another=another)
    if options.until is not None or taught.blind:
        recipe = replace(recipe, select="last")
    job = Job(
        name="train",
        recipe=recipe,
        remedy=remedy,
        training=training,
        distillation=taught.distillation,
        regularizer=options.regularizer.fresh(),
        stop=options.until,
    )
    fitted = fit(_student(remedy, taught, given, context, frozen), job, context)
    if remedy.corrected(context.folder / CORRECTED):
        notes["corrected"] = True
    net, told = taught.finish(remedy.chosen(fitted.net).requires_grad_(True))
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
    remedy: Remedy, taught: Taught, given: Given, context: Context, frozen: bool
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

    return remedy.networks(taught.student, another)


def check(remedy: Remedy, injected: bool, teaching: Teaching) -> None:
    """Refuse loss correction by a matrix that is not there, and terms that look into one of two.

    injected: whether the noise's matrix is known. teaching: what of it acts in this stage.
    """
    from compressor.robust._transition import NO_MATRIX

    if remedy.needs_known and not injected:
        raise UsageError(NO_MATRIX)
    for name, term in teaching.acting.items() if remedy.twofold else ():
        if term.owns_training or term.layers()[0]:
            raise UsageError(
                f"distill={name} looks into one network, and this remedy trains two at once: use "
                "distill=kd or mimic, or another robust"
            )


def training_set(
    remedy: Remedy, given: Given, options: TrainOptions, context: Context
) -> tuple[TrainingSet, dict[str, Any]]:
    """The given labels, or what the remedy makes of them, and its notes."""
    optimizer, frozen = options.recipe.optimizer, options.frozen

    def predicted(folds: int, epochs: int) -> Tensor:
        recipe = replace(optimizer, epochs=epochs)
        return probabilities(given, recipe, context, folds=folds, frozen=frozen)

    samples = Samples(
        targets=context.targets,
        num_classes=context.data.num_classes,
        batch_size=optimizer.batch_size,
        epochs=optimizer.epochs,
        index=context.labelled,
        transition=context.transition,
        noise_rate=context.noise_rate,
        probabilities=predicted,
    )
    change = remedy.begin(samples)
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
