"""Dense training on the given (maybe wrong) labels."""

from collections.abc import Mapping
from typing import Any

import torch

from compressor.instantiation import make
from compressor.stages import Context, Given, Outcome
from compressor.stages._fit import fit, plain
from compressor.tasks.training import Distillation

VERSION = 2


def train(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Build the network from the stage's seed and train it.

    options: train (configs/train), robust (configs/robust), distill (configs/distill or none),
    regularize (configs/regularize, or absent).
    epochs=0 leaves the initial weights, or the library's pretrained ones. until: an epoch after
    which to stop, the schedule being that of the whole training.
    """
    torch.manual_seed(context.seed)
    net = given.network(context.trust)
    fitting = plain(options["train"])
    if fitting.epochs == 0:
        return Outcome(net=net.eval(), plan=given.plan, notes={"epochs": 0})
    fitted = fit(
        net,
        fitting,
        context,
        name="train",
        select="last" if "until" in options else options["train"]["select"],
        robust=make(options["robust"]),
        distillation=distillation(options["distill"], context),
        regularizer=make(options["regularize"]) if "regularize" in options else None,
        targets=context.targets,
        stop=options.get("until"),
    )
    return Outcome(net=fitted.net, plan=given.plan, notes=fitted.metrics)


def distillation(options: Mapping[str, Any], context: Context) -> Distillation:
    """The terms of configs/distill with their teacher, from the role that the stage declared."""
    terms = {name: make(term) for name, term in options["terms"].items()}
    teacher = context.roles["teacher"].network(context.trust) if terms else None
    return Distillation(terms, options["label_weight"], teacher)
