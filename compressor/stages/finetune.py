"""Recovery after the cut, on the original clean labels unless asked otherwise.

finetune      go on from the weights that the cut left
scratch_e/_b  train the cut network from new weights, for as many epochs as the dense one, or with
              as much computing (Liu et al. 2019, arXiv:1810.05270)
rewind        go back to an epoch of the dense training, and train the kept channels from there
              (Frankle et al., arXiv:1803.03635 and 1903.01611, over whole channels)
Run: compress-run prune=thinet finetune=scratch_b
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from compressor import surgery
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.measure import count_macs
from compressor.stages import Context, Given, Outcome
from compressor.stages._distill.taught import distillation
from compressor.stages._fit import fit, plain, rebalanced
from compressor.stages._labels import training_set
from compressor.stages._scratch import fresh
from compressor.tasks.optimization import OptimizerOptions

VERSION = 6
MODES = ("finetune", "scratch_e", "scratch_b", "rewind")
# Keys that one mode alone reads.
_OWN = {"epoch_cap": "scratch_b", "rewind_epoch": "rewind"}


def check(
    options: Mapping[str, Any],
    trained: int,
    *,
    one_shot: bool,
    between: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse what no run can do. options: configs/finetune; trained: epochs of the dense training.

    one_shot: whether the network is compressed once; between: what of `options` is otherwise in
    rounds before the last, by the key that says so.
    """
    mode, epochs, epoch = options["mode"], options["epochs"], options["rewind_epoch"]
    if mode not in MODES:
        raise UsageError(f"finetune.mode={mode} is not known: choose one of {', '.join(MODES)}")
    cap = options["epoch_cap"]
    if cap is not None and not cap >= 1:
        raise UsageError(f"finetune.epoch_cap={cap} must be 1 or more, or null")
    if epoch < 0:
        raise UsageError(f"finetune.rewind_epoch={epoch} must be 0 or more")
    if mode.startswith("scratch") and epochs == 0:
        raise UsageError(
            f"finetune={mode} with finetune.epochs=0 hands on an untrained network: its epochs are "
            "those of train; give finetune.epochs"
        )
    if mode.startswith("scratch") and not one_shot:
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
        _check_otherwise(key, own, options)


def _check_otherwise(key: str, own: Any, options: Mapping[str, Any]) -> None:
    """What other rounds have of their own is of the optimizer's options, and of their types."""
    known = OptimizerOptions.__dataclass_fields__
    for name, value in own.items() if isinstance(own, Mapping) else [("", own)]:
        if name not in known:
            raise UsageError(
                f"{key}={own} holds what no round has of its own; give some of {', '.join(known)}, "
                "such as {lr: 0.0001, schedule: constant}"
            )
        usual = options[name]
        number = isinstance(usual, float) or (usual is None and name == "clip_norm")
        right = type(value) is type(usual) or (number and type(value) in (int, float, type(usual)))
        if not right:
            raise UsageError(f"{key}: {name}={value} is not of the kind of finetune.{name}={usual}")
    try:
        plain({**options, **own})
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None


def reads(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen mode depends on."""
    return {k: v for k, v in options.items() if _OWN.get(k, options["mode"]) == options["mode"]}


def is_none(options: Mapping[str, Any]) -> bool:
    """Whether the stage hands on what it was given."""
    return options["mode"] == "finetune" and options["epochs"] == 0


def finetune(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Train the parent's network as the mode says.

    options: finetune (configs/finetune; its labels are resolved), robust (none, or the train
    stage's), distill; sampler as of the train stage.
    """
    own = options["finetune"]
    training = replace(training_set(own, context), **rebalanced(options, own))
    fitting = plain(own)
    if own["mode"] == "scratch_b":
        dense = count_macs(given.dense(context.trust), given.spec.input_size)
        small = count_macs(given.network(context.trust), given.spec.input_size)
        epochs = scratch_b_epochs(fitting.epochs, dense, small, own["epoch_cap"])
        fitting = replace(fitting, epochs=epochs)
    net = _start(given, own, context)
    taught = distillation(options["distill"], net, given.spec, training, context)
    fitted = fit(
        taught.student,
        fitting,
        context,
        name="finetune",
        select="last" if taught.blind else own["select"],
        robust=make(options["robust"]),
        distillation=taught.distillation,
        training=training,
        patience=own["patience"],
        select_by=own["select_by"],
        start=own.get("rewind_epoch", 0),
    )
    told = {"mode": own["mode"], "labels": own["labels"]}
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


def _start(given: Given, own: Mapping[str, Any], context: Context) -> nn.Module:
    """The network that the training begins with."""
    if own["mode"] == "rewind":
        earlier = context.roles[f"rewind_{own['rewind_epoch']}"].network(context.trust)
        return surgery.replay(earlier, given.plan, done=given.base)
    net = given.network(context.trust)
    if own["mode"].startswith("scratch"):
        return fresh(given.spec, given.plan, net, context.seed, context.trust)
    return net
