"""What noisy-then-clean has to beat: one training without the detour, with the same recipe.

Run: compress-run baselines=true noise=symmetric finetune.clean_fraction=0.1
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from compressor.instantiation import Chosen
from compressor.robust.none import CrossEntropy
from compressor.stages import Context, Given, Outcome
from compressor.stages._distill.options import Teaching
from compressor.stages._distill.taught import distillation
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._fold import folded
from compressor.stages._labels import trusted
from compressor.stages._recipe import Recipe, Recovery
from compressor.stages.pretrain import freeze_trunk
from compressor.stages.train import TrainOptions, others

VERSION = 5
# noisy: all given labels. clean: the trusted clean labels alone, on as many images as the others,
# or it would be a straw man. mixed: all given labels, with the trusted ones in the place of theirs.
MOST = 10  # times the epochs of the others: each one is validated
# As configs/robust/none.yaml: a training of the run that has no remedy is the same entry.
NO_REMEDY = Chosen(
    CrossEntropy(), {"_target_": "compressor.robust.none.CrossEntropy", "label_smoothing": 0.0}
)


def kinds(damaged: bool, wrong: bool, clean_fraction: float) -> tuple[str, ...]:
    """Those that differ. damaged: whether the training's images are; wrong: whether labels are."""
    clean = damaged or wrong or clean_fraction < 1
    mixed = wrong and clean_fraction < 1
    return ("noisy", *(["clean"] if clean else []), *(["mixed"] if mixed else []))


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """What a baseline depends on. training: as it would train without a remedy."""

    kind: str
    clean_fraction: float
    clean_seed: int
    training: TrainOptions

    @property
    def recipe(self) -> Recipe:
        return self.training.recipe

    @property
    def teaching(self) -> Teaching:
        return self.training.teaching

    def epochs(self, macs: tuple[int, int] | None) -> int:
        """As `TrainOptions.epochs`."""
        return self.training.epochs(macs)

    def in_key(self) -> dict[str, Any]:
        names = ("kind", "clean_fraction", "clean_seed")
        return {**self.training.in_key(), "baseline": {name: vars(self)[name] for name in names}}


def options(kind: str, training: TrainOptions, recovery: Recovery) -> BaselineOptions:
    """training: the train stage's. recovery: which tells the share of trusted labels."""
    recipe = training.recipe
    if kind == "clean":
        times = min(MOST, 1 / recovery.clean_fraction)
        optimizer = recipe.optimizer
        recipe = replace(
            recipe.with_optimizer(
                epochs=round(times * optimizer.epochs),
                warmup_epochs=_grown(times, optimizer.warmup_epochs),
            ),
            patience=_grown(times, recipe.patience),
        )
    return BaselineOptions(
        kind=kind,
        clean_fraction=recovery.clean_fraction,
        clean_seed=recovery.clean_seed,
        training=replace(training, recipe=recipe, remedy=NO_REMEDY),
    )


def _grown(times: float, value: float | None) -> Any:
    """Whole epochs; 0 and null stay what they are."""
    return round(times * value) if value else value


def baseline(given: Given, options: BaselineOptions, context: Context) -> Outcome:
    """Train as the run would, on the labels of this kind and with cross-entropy."""
    plain = options.training
    frozen, recipe = plain.frozen, options.recipe
    torch.manual_seed(context.seed)
    index = trusted(
        context.clean_targets, context.labelled, options.clean_fraction, options.clean_seed
    )
    targets = context.targets.clone()
    if options.kind != "noisy":
        rows = slice(None) if index is None else index
        targets[rows] = context.clean_targets[rows]
    net = given.network(context.trust)
    if frozen:
        freeze_trunk(net, given.spec, context.trust)
    clean_only = options.kind == "clean"
    noisy = not clean_only and not torch.equal(targets, context.clean_targets)
    training = TrainingSet(
        targets=targets,
        index=index if clean_only else context.labelled,
        clean=context.clean_targets if noisy else None,
        damage=None if clean_only else context.damage,
        norms_rest=frozen,
    ).rebalanced(recipe.class_weights, plain.balanced)
    another = others(given, context, frozen)
    taught = distillation(options.teaching, net, given.spec, training, context, another=another)
    job = Job(
        name=options.kind,
        recipe=replace(recipe, select="last") if taught.blind else recipe,
        remedy=plain.remedy.fresh(),
        training=training,
        distillation=taught.distillation,
        regularizer=plain.regularizer.fresh(),
    )
    fitted = fit(taught.student, job, context)
    net, told = taught.finish(fitted.net)
    notes = {"epochs": 0, **told, **folded(net, given, context), **fitted.metrics}
    return Outcome(net=net, plan=given.plan, notes=notes)
