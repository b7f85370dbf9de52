"""What noisy-then-clean has to beat: one training without the detour, with the same recipe.

Run: compress-run baselines=true noise=symmetric finetune.clean_fraction=0.1
"""

from collections.abc import Mapping
from typing import Any

import torch

from compressor.instantiation import make
from compressor.stages import Context, Given, Outcome
from compressor.stages._distill.taught import distillation
from compressor.stages._fit import TrainingSet, fit, plain, rebalanced
from compressor.stages._fold import folded
from compressor.stages._labels import trusted
from compressor.stages.pretrain import freeze_trunk
from compressor.stages.train import others

VERSION = 5
# noisy: all given labels. clean: the trusted clean labels alone, on as many images as the others,
# or it would be a straw man. mixed: all given labels, with the trusted ones in the place of theirs.
MOST = 10  # times the epochs of the others: each one is validated
NO_REMEDY = {"_target_": "compressor.robust.none.CrossEntropy", "label_smoothing": 0.0}


def kinds(damaged: bool, wrong: bool, clean_fraction: float) -> tuple[str, ...]:
    """Those that differ. damaged: whether the training's images are; wrong: whether labels are."""
    clean = damaged or wrong or clean_fraction < 1
    mixed = wrong and clean_fraction < 1
    return ("noisy", *(["clean"] if clean else []), *(["mixed"] if mixed else []))


def options(kind: str, train: Mapping[str, Any], finetune: Mapping[str, Any]) -> dict[str, Any]:
    """train: the train stage's; finetune: configs/finetune, with the share of trusted labels."""
    names = ("train", "distill", "regularize", "frozen", "sampler")
    shared = {name: train[name] for name in names if name in train}
    if kind == "clean":
        times = min(MOST, 1 / finetune["clean_fraction"])
        shared["train"] = dict(train["train"])
        for name in ("epochs", "patience", "warmup_epochs"):
            if shared["train"][name]:
                shared["train"][name] = round(times * shared["train"][name])
    own = {"kind": kind, **{name: finetune[name] for name in ("clean_fraction", "clean_seed")}}
    return {**shared, "robust": NO_REMEDY, "baseline": own}


def baseline(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """options: train, robust (none), distill, baseline; regularize, frozen, sampler, or absent."""
    own, train = options["baseline"], options["train"]
    frozen = options.get("frozen", False)
    torch.manual_seed(context.seed)
    index = trusted(
        context.clean_targets, context.labelled, own["clean_fraction"], own["clean_seed"]
    )
    targets = context.targets.clone()
    if own["kind"] != "noisy":
        rows = slice(None) if index is None else index
        targets[rows] = context.clean_targets[rows]
    net = given.network(context.trust)
    if frozen:
        freeze_trunk(net, given.spec, context.trust)
    alone = own["kind"] == "clean"
    noisy = not alone and not torch.equal(targets, context.clean_targets)
    training = TrainingSet(
        targets=targets,
        index=index if alone else context.labelled,
        clean=context.clean_targets if noisy else None,
        damage=None if alone else context.damage,
        norms_rest=frozen,
        **rebalanced(options, train),
    )
    taught = distillation(
        options["distill"], net, given.spec, training, context, others(given, context, frozen)
    )
    fitted = fit(
        taught.student,
        plain(train),
        context,
        name=own["kind"],
        select="last" if taught.blind else train["select"],
        robust=make(options["robust"]),
        distillation=taught.distillation,
        regularizer=make(options["regularize"]) if "regularize" in options else None,
        training=training,
        patience=train["patience"],
        select_by=train["select_by"],
    )
    net, told = taught.finish(fitted.net)
    notes = {"epochs": 0, **told, **folded(net, given, context), **fitted.metrics}
    return Outcome(net=net, plan=given.plan, notes=notes)
