"""What `auto` stands for in a recipe, once the data are read.

A data set of one's own has no paper. Where its recipe says `auto`, the number follows from the
images whose labels may be read (all of the train part in pretraining):

    images      batch size   epochs: training   fine-tuning
    to 1,000            16                 60            15
    to 5,000            32                 50            12
    to 20,000           64                 40            10
    to 100,000         128                 40            10
    more               256                 90            20

The last row is He et al. 2016 (arXiv:1512.03385) and Liu et al. 2019 (arXiv:1810.05270). The others
are choices of this project: 3,000 to 30,000 steps, more images a step where there are more of them,
a quarter of the epochs to fine-tune. The rate of sgd follows the batch that is used, 0.1 at 256
images (Goyal et al. 2017, arXiv:1706.02677), that of adamw is 0.001 (its authors' default,
arXiv:1711.05101). Fine-tuning takes a tenth of what this says of its own batch and optimizer; with
the last row, Liu et al.'s hundredth.

`compressor/data/_auto.py` has the rules for the images themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from compressor.data import ImageData

AUTO = "auto"  # not that of the data: this module is read before torch is
STAGES = ("pretrain", "train", "finetune")
# What no check of a config without data refuses: large enough for all that refers to it.
_STAND_IN = {"epochs": 10**6, "batch_size": 10**6, "lr": 0.1}


class Recipe(NamedTuple):
    """most: images up to which the row holds, None for any number."""

    most: int | None
    batch_size: int
    epochs: int
    finetune_epochs: int
    finetune_lr: float
    """As a fraction of the rate that a training of this batch size takes, whatever was typed."""


RECIPES = (
    Recipe(1_000, 16, 60, 15, 0.1),
    Recipe(5_000, 32, 50, 12, 0.1),
    Recipe(20_000, 64, 40, 10, 0.1),
    Recipe(100_000, 128, 40, 10, 0.1),
    Recipe(None, 256, 90, 20, 0.01),
)


def recipe(images: int) -> Recipe:
    """The row of the table for a number of images."""
    return next(row for row in RECIPES if row.most is None or images <= row.most)


def stood_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with numbers for what the data decide, to be checked before they are read."""
    found = {
        f"{stage}.{name}": value
        for stage in STAGES
        for name, value in _STAND_IN.items()
        if config[stage][name] == AUTO
    }
    return _replaced(config, found)


def resolve(
    config: Mapping[str, Any], data: ImageData
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The config with every `auto` as a number, and {key: {"value", "reason"}} of these.

    data: prepared. A config without an `auto` comes back as it is.
    """
    found: dict[str, tuple[Any, str]] = dict(data.resolved)
    every = data.size("train")
    share = config["dataset"]["labelled_fraction"]
    labelled = max(1, round(share * every)) if 0 < share <= 1 else every
    made: dict[str, Any] = {}
    for stage in STAGES:
        own = made[stage] = dict(config[stage])
        auto = [name for name in _STAND_IN if own[name] == AUTO]
        if stage == "finetune" and own["mode"] != "finetune":
            chosen = {name: (made["train"][name], "that of the training") for name in auto}
        else:
            images = every if stage == "pretrain" else labelled
            chosen = _training(own, stage == "finetune", images, auto)
        own.update({name: value for name, (value, _) in chosen.items()})
        found |= {f"{stage}.{name}": each for name, each in chosen.items()}
    told = {key: {"value": value, "reason": reason} for key, (value, reason) in found.items()}
    return _replaced(config, {key: value for key, (value, _) in found.items()}), told


def unresolved(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it was composed: with `auto` where `resolve` put a number."""
    return _replaced(config, dict.fromkeys(resolved, AUTO))


def told(resolved: Mapping[str, Any], stages: Collection[str]) -> dict[str, Any]:
    """Of `resolved` what a run with these stages reads."""
    idle = set(STAGES) - set(stages)
    return {key: each for key, each in resolved.items() if key.partition(".")[0] not in idle}


def _training(
    own: Mapping[str, Any], tunes: bool, images: int, auto: list[str]
) -> dict[str, tuple[Any, str]]:
    """name -> (number, why) of those in `auto`. tunes: whether it is the fine-tuning."""
    row = recipe(images)
    where = f"{images:,} images"
    found: dict[str, tuple[Any, str]] = {
        "epochs": (row.finetune_epochs if tunes else row.epochs, where),
        "batch_size": (row.batch_size, where),
    }
    size = found["batch_size"][0] if "batch_size" in auto else own["batch_size"]
    if own["optimizer"] == "adamw":
        rate, why = 0.001, "adamw's usual rate"
    else:
        size = min(size, images)  # a batch holds no more
        rate, why = 0.1 * size / 256, f"0.1 at a batch of 256, here {size}"
    if tunes:
        rate, why = rate * row.finetune_lr, f"{row.finetune_lr:g} of a usual training's: {why}"
    found["lr"] = (float(f"{rate:.6g}"), why)
    return {name: found[name] for name in _STAND_IN if name in auto}


def _replaced(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which the values stand at their dotted keys; branches without one are shared."""
    made = dict(config)
    for key, value in values.items():
        *above, name = key.split(".")
        node = made
        for part in above:
            if not isinstance(node.get(part), Mapping):
                break
            node[part] = dict(node[part])
            node = node[part]
        else:
            node[name] = value
    return made
