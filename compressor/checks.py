"""What a composed config can have wrong, told before any data is read.

The methods' constructors hold their own ranges, and the typed options of a group theirs. Here
stands what none of them knows alone, such as two groups that exclude each other.
"""

from collections.abc import Mapping
from typing import Any

from compressor import starting
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.options import hold
from compressor.schema import RunKeys
from compressor.stages import finetune, recalibrate
from compressor.stages._distill.options import Teaching
from compressor.stages._pruning import Pruning
from compressor.stages._recipe import Recipes
from compressor.starting import Start


def check(
    config: Mapping[str, Any], recipes: Recipes, teaching: Teaching, pruning: Pruning, start: Start
) -> None:
    """Refuse what no run can do, whatever its data. All are those of the config."""
    none = not pruning.cuts  # what it does not read may be anything
    hold(RunKeys, "", {key: value for key, value in config.items() if key != "prune" or not none})
    _check_groups(recipes, teaching)
    make(config["scale"])
    finetune.check(
        recipes.finetune, recipes.train.epochs,
        one_shot=pruning.one_shot, between=pruning.between,
    )  # fmt: skip
    if not recipes.pretrain.is_none and recipes.finetune.mode == "rewind":
        raise UsageError(
            "finetune=rewind goes back into a training from initial weights: type pretrain=none"
        )
    recalibrate.check(config["recalibrate"])
    starting.check_groups(start, config)


def _check_groups(recipes: Recipes, teaching: Teaching) -> None:
    grouping, size = teaching.grouping, recipes.of(teaching.at).optimizer.batch_size
    if grouping is not None and grouping.per_group > size:
        raise UsageError(
            f"distill.per_group={grouping.per_group} is more than a batch holds: give at most "
            f"{teaching.at}.batch_size={size}"
        )
