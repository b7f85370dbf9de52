"""Recovery after the cut, on the original clean labels unless asked otherwise."""

from collections.abc import Mapping
from typing import Any

from compressor.instantiation import make
from compressor.stages import Context, Given, Outcome
from compressor.stages._fit import fit, plain
from compressor.stages.train import distillation

VERSION = 1
LABELS = ("clean", "given")


def finetune(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Go on training the parent's network.

    options: finetune (configs/finetune), robust (none, or the train stage's), distill.
    """
    own = options["finetune"]
    fitted = fit(
        given.network(context.trust),
        plain(own),
        context,
        name="finetune",
        select=own["select"],
        robust=make(options["robust"]),
        distillation=distillation(options["distill"], context),
        targets=context.clean_targets if own["labels"] == "clean" else context.targets,
    )
    return Outcome(net=fitted.net, plan=given.plan, notes=fitted.metrics)
