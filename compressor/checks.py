"""What a composed config can have wrong, told before any data is read.

The methods' constructors hold their own ranges: each is made once here, but for the remedy and the
pruning, which the experiment makes and keeps. Here stands what no method knows alone, such as two
groups that exclude each other.
"""

from collections.abc import Mapping
from typing import Any

from compressor import _ranges, starting
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.stages import finetune, recalibrate
from compressor.stages._distill import options as distill_options
from compressor.stages._fit import SELECT, plain
from compressor.stages._labels import LABELS
from compressor.stages._pruning import Pruning
from compressor.starting import Start

# Data and saved networks are float32: the mixed forms compute in fewer bits and keep the weights.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check(config: Mapping[str, Any], pruning: Pruning, start: Start) -> None:
    """Refuse what no run can do, whatever its data. pruning, start: what its groups say."""
    if str(config["precision"]) not in PRECISIONS:
        raise UsageError(
            f"precision={config['precision']} is not known: choose one of {', '.join(PRECISIONS)}"
        )
    for stage in ("pretrain", "train", "finetune"):
        try:
            plain(config[stage])
        except UsageError as error:
            raise UsageError(f"{stage}.{error}") from None  # it begins with the key
        select = config[stage]["select"]
        if select not in SELECT:
            raise UsageError(
                f"{stage}.select={select} is not known: choose one of {', '.join(SELECT)}"
            )
        patience = config[stage]["patience"]
        if patience is not None and patience < 1:
            raise UsageError(f"{stage}.patience={patience} must be at least 1, or null")
    if config["finetune"]["labels"] not in LABELS:
        raise UsageError(
            f"finetune.labels={config['finetune']['labels']} is not known: "
            f"choose one of {', '.join(LABELS)}"
        )
    if config["finetune"]["robust"] not in ("none", "same"):
        raise UsageError(
            f"finetune.robust={config['finetune']['robust']} is not known: none or same"
        )
    distill_options.check(config["distill"])
    _check_groups(config)
    make(config["regularize"])
    make(config["noise"])
    make(config["scale"])
    finetune.check(
        config["finetune"], config["train"]["epochs"],
        one_shot=pruning.one_shot, between=pruning.between,
    )  # fmt: skip
    if config["pretrain"]["pretext"] and config["finetune"]["mode"] == "rewind":
        raise UsageError(
            "finetune=rewind goes back into a training from initial weights: type pretrain=none"
        )
    recalibrate.check(config["recalibrate"])
    if config["export"]["normalize"] and not config["export"]["onnx"]:
        raise UsageError(
            "export.normalize=true is of model.onnx, which export.onnx=false leaves out: type one "
            "of the two"
        )
    _ranges.RANGES["stages"].check("stages", list(config["stages"]))
    starting.check_groups(start, config)


def _check_groups(config: Mapping[str, Any]) -> None:
    distill = config["distill"]
    size = config[distill["at"]]["batch_size"]
    if distill["sampler"] != "none" and distill["per_group"] > size:
        raise UsageError(
            f"distill.per_group={distill['per_group']} is more than a batch holds: give at most "
            f"{distill['at']}.batch_size={size}"
        )
