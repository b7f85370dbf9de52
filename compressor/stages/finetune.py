"""Recovery after the cut, on the original clean labels unless asked otherwise.

finetune      go on from the weights that the cut left
scratch_e/_b  train the cut network from new weights, for as many epochs as the dense one, or with
              as much computing (Liu et al. 2019, arXiv:1810.05270)
rewind        go back to an epoch of the dense training, and train the kept channels from there
              (Frankle et al., arXiv:1803.03635 and 1903.01611, over whole channels)
Run: compress-run prune=thinet finetune=scratch_b
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from compressor import surgery
from compressor.errors import UsageError
from compressor.instantiation import Chosen
from compressor.measure import count_macs
from compressor.robust import Remedy
from compressor.stages import Context, Given, Outcome
from compressor.stages._distill.options import Teaching
from compressor.stages._distill.taught import distillation
from compressor.stages._fit import Job, fit
from compressor.stages._labels import training_set
from compressor.stages._recipe import Recipe, Recovery
from compressor.stages._scratch import fresh

VERSION = 6


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What a fine-tuning depends on.

    recovery: its labels are resolved. remedy: none, or the training's. teaching: what of the group
    `distill` acts here. balanced: whether every class is visited equally often.
    """

    recovery: Recovery
    remedy: Chosen[Remedy]
    teaching: Teaching
    balanced: bool = False

    @property
    def recipe(self) -> Recipe:
        return self.recovery.recipe

    def epochs(self, macs: tuple[int, int] | None) -> int:
        """As `TrainOptions.epochs`."""
        own = self.recovery
        if own.mode == "scratch_b" and macs:
            return scratch_b_epochs(own.recipe.epochs, *macs, own.epoch_cap)
        return own.recipe.epochs - own.start

    def in_key(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "finetune": self.recovery.in_key(),
            "robust": dict(self.remedy.tree),
            "distill": self.teaching.in_key(),
        }
        if self.balanced:
            found["sampler"] = "balanced"
        return found


def check(
    recovery: Recovery,
    trained: int,
    *,
    one_shot: bool,
    between: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse what no run can do. trained: epochs of the dense training.

    one_shot: whether the network is compressed once; between: what of the recipe is otherwise in
    rounds before the last, by the key that says so.
    """
    mode, epochs, epoch = recovery.mode, recovery.recipe.epochs, recovery.rewind_epoch
    if recovery.from_scratch and epochs == 0:
        raise UsageError(
            f"finetune={mode} with finetune.epochs=0 hands on an untrained network: its epochs are "
            "those of train; give finetune.epochs"
        )
    if recovery.from_scratch and not one_shot:
        raise UsageError(
            f"finetune={mode} takes the widths of the cut network and none of its weights: rounds "
            "do not change them; leave out the keys of prune that ask for several"
        )
    if mode == "rewind" and between:
        key = next(iter(between))
        raise UsageError(
            f"finetune=rewind trains every round from the same epoch on: leave {key} as it is"
        )
    if mode == "rewind" and epoch >= (min(epochs, trained) if epoch else epochs):
        raise UsageError(
            f"finetune.rewind_epoch={epoch} lies beyond the training, with train.epochs={trained} "
            f"and finetune.epochs={epochs} (both count from its start): choose an earlier one"
        )
    for key, own in between.items():
        in_round(recovery, own, key)


def in_round(recovery: Recovery, own: Mapping[str, Any], key: str = "prune") -> Recovery:
    """The fine-tuning of a round. own: what it has of its own, of the optimizer's options and of
    their types; key: who says so. Raises UsageError for all else.
    """
    usual = vars(recovery.recipe.optimizer)
    for name, value in own.items() if isinstance(own, Mapping) else [("", own)]:
        if name not in usual:
            raise UsageError(
                f"{key}={own} holds what no round has of its own; give some of {', '.join(usual)}, "
                "such as {lr: 0.0001, schedule: constant}"
            )
        if not _of_the_kind(name, value, usual[name]):
            raise UsageError(
                f"{key}: {name}={value} is not of the kind of finetune.{name}={_told(usual[name])}"
            )
    try:
        return recovery.with_optimizer(**own)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None


def _of_the_kind(name: str, value: Any, usual: Any) -> bool:
    """Whether a round may have this value in place of the usual one."""
    if isinstance(usual, float) or (usual is None and name == "clip_norm"):
        return type(value) in (int, float, type(usual))
    return type(value) is type(usual) or (isinstance(usual, tuple) and isinstance(value, list))


def _told(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def finetune(given: Given, options: FinetuneOptions, context: Context) -> Outcome:
    """Train the parent's network as the mode says."""
    own, recipe = options.recovery, options.recipe
    training = training_set(own, context).rebalanced(recipe.class_weights, options.balanced)
    if own.mode == "scratch_b":
        dense = count_macs(given.dense(context.trust), given.spec.input_size)
        small = count_macs(given.network(context.trust), given.spec.input_size)
        recipe = recipe.with_optimizer(epochs=options.epochs((dense, small)))
    net = _start(given, own, context)
    taught = distillation(options.teaching, net, given.spec, training, context)
    job = Job(
        name="finetune",
        recipe=replace(recipe, select="last") if taught.blind else recipe,
        remedy=options.remedy.fresh(),
        training=training,
        distillation=taught.distillation,
        start=own.start,
    )
    fitted = fit(taught.student, job, context)
    told = {"mode": own.mode, "labels": own.labels}
    told["images"] = len(context.targets) if training.index is None else len(training.index)
    if taught.blind:
        told |= {"labels": "none", "images": 0}
    net, notes = taught.finish(fitted.net)
    return Outcome(net=net, plan=given.plan, notes={**told, **notes, **fitted.metrics})


def scratch_b_epochs(epochs: int, macs_full: int, macs_small: int, cap: float | None = None) -> int:
    """Epochs that cost a cut network as much as `epochs` cost the dense one (arXiv:1810.05270).

    Never fewer than `epochs`, which a network that costs more than the other one gets.
    MACs are those of convolutions and linear layers; the authors' counter has batch norms, ReLUs
    and pooling too. cap: so many times `epochs` at most, 2 in their ImageNet runs.
    """
    grown = max(epochs, epochs * macs_full // macs_small)
    return grown if cap is None else min(grown, int(epochs * cap))


def _start(given: Given, own: Recovery, context: Context) -> nn.Module:
    """The network that the training begins with."""
    if own.mode == "rewind":
        earlier = context.roles[f"rewind_{own.rewind_epoch}"].network(context.trust)
        return surgery.replay(earlier, given.plan, done=given.base)
    net = given.network(context.trust)
    if own.from_scratch:
        return fresh(given.spec, given.plan, net, context.seed, context.trust)
    return net
