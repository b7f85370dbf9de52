"""What a composed config can have wrong, told before any data is read.

The methods' constructors hold their own ranges: each is made once here, but for the remedy, which
the experiment makes and keeps. Here stands what no method knows alone, such as two groups that
exclude each other.
"""

from collections.abc import Mapping
from typing import Any

from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.options import hold
from compressor.schema import Run
from compressor.stages import compress, finetune, recalibrate
from compressor.stages._distill import options as distill_options
from compressor.stages._schedule import Schedule


def check(config: Mapping[str, Any]) -> None:
    """Refuse what no run can do, whatever its data."""
    none = compress.is_none(config["prune"])  # what it does not read may be anything
    hold(Run, "", {key: value for key, value in config.items() if key != "prune" or not none})
    distill_options.check(config["distill"])
    _check_groups(config)
    make(config["regularize"])
    make(config["noise"])
    make(config["scale"])
    compress.check(config["prune"])
    once, between = True, {}
    if not none:
        schedule, _ = Schedule.split(config["prune"])
        once = schedule.one_shot
        between = {} if once else schedule.between
    finetune.check(config["finetune"], config["train"]["epochs"], one_shot=once, between=between)
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


def _check_groups(config: Mapping[str, Any]) -> None:
    distill = config["distill"]
    size = config[distill["at"]]["batch_size"]
    if distill["sampler"] != "none" and distill["per_group"] > size:
        raise UsageError(
            f"distill.per_group={distill['per_group']} is more than a batch holds: give at most "
            f"{distill['at']}.batch_size={size}"
        )
