"""A range that is declared once is held by the command and from Python alike, by trying values."""

import copy
import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.accelerators import AcceleratorRegistry

from compressor import _ranges, checks, models, options, schema, starting
from compressor.configuration import Menu, config_dir, plain, read_command
from compressor.errors import UsageError
from compressor.instantiation import make, parameters
from compressor.options import declarations
from compressor.stages import Machine, _classes
from compressor.stages._distill.options import Teaching
from compressor.stages._labels import check_labels
from compressor.stages._pruning import Pruning
from compressor.stages._recipe import Recipes
from compressor.stages.noise import _labelled
from compressor.tasks.classification import Classification

GROUPS = ("prune", "robust", "distill", "noise", "regularize", "scale")
# A file or a name of the user's is asked for first.
OUTSIDE = {"noise": {"file", "matrix"}}
MORE = [("finetune", "finetune"), ("pretrain", "rotnet"), ("dataset", "digits"),
        ("dataset", "fake"), *(("model", name) for name in
        ("resnet20", "resnet18", "mobilenet_v2", "vgg16_bn", "shallow_mimic"))]  # fmt: skip
# The option of a group on which the keys that all its options share are tried.
SHARED = {"prune": "weight_sum", "noise": "symmetric", "scale": "multiplier", "distill": "kd"}
# Refused for what other values are, not for what these are.
TOGETHER = {
    "dataset.num_classes": "is fixed by the data",
    "dataset.augment.crop": "is more than the image",
    "distill.superclasses": "1 leaves nothing to tell apart, 0 is the data set's own",
    "distill.at": "of a method that trains from the start",
    "distill.teacher.source": "needs a path, a function or a model",
    "distill.terms.collaborative.heads": "are a power of two with some patterns",
    "robust.warmup": "and robust.correct are 1 together",
    "robust.correct": "and robust.warmup are 1 together",
    "finetune.mode": "belongs to its recipe",
    "finetune.labels": "need a remedy",
    "finetune.rewind_epoch": "lies within the training",
    "prune.rounds": "are one of several schedules",
    "pretrain.class_weights": "has no classes",
}


@functools.cache
def menu():
    return Menu(read_command([]))


def every_option():
    for group in GROUPS:
        for path in sorted((config_dir() / group).glob("[a-z]*.yaml")):
            if path.stem not in OUTSIDE.get(group, ()):
                yield group, path.stem
    yield from MORE


def composed(*words):
    config = menu().compose(words)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return plain(config)


def leaves(tree: Any, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif not str(key).startswith("_") and key != "arguments":
            yield f"{prefix}{key}", value


def own_keys(group, option, config):
    """Those that the option's own file has; of one option of the group all."""
    every = list(leaves(config[group], f"{group}."))
    if group not in SHARED or SHARED[group] == option:
        return every
    if group == "distill":
        return [(key, value) for key, value in every if ".terms." in key]
    shared = {key for key, _ in leaves(composed(f"{group}={SHARED[group]}")[group], f"{group}.")}
    return [(key, value) for key, value in every if key not in shared]


def with_value(config, key, value):
    group, *path = key.split(".")
    changed = {**config, group: copy.deepcopy(config[group])}
    node = changed[group]
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


def read(config):
    recipes = Recipes.read(config)
    _classes.check(recipes, make(config["robust"]), Teaching.read(config["distill"]))
    return recipes


def construct(config, group):
    """What the constructors say; raises UsageError."""
    own = config[group]
    if group == "prune":
        Pruning.read(own)
    elif group == "distill":
        Teaching.read(own)
    elif group == "dataset":
        shared = {key: own[key] for key in declarations(schema.DataKeys)}
        options.hold(schema.DataKeys, "dataset", shared)
        make({key: value for key, value in own.items() if key not in shared})
        read(config)
        _labelled(torch.arange(10_000) % 10, shared["labelled_fraction"], 0)
    elif group in ("finetune", "pretrain"):
        recipes, start = read(config), starting.of(config)
        pruning = Pruning.read(config["prune"])
        checks.check(config, recipes, Teaching.read(config["distill"]), pruning, start)
        check_labels(replace(recipes.finetune, labels="clean"), make(config["robust"]), True)
    elif group == "model":
        arguments = {name: value for name, value in own.items() if name != "_target_"}
        models.build(own["_target_"], arguments, 10, (3, 32, 32))
    else:
        make(own)


def refuses(attempt, *arguments) -> bool:
    try:
        attempt(*arguments)
    except UsageError:
        return True
    return False


def candidates(key, value, config):
    """Values of the key's own type on either side of where its range ends, or might end."""
    declared = next(iter(_ranges.declared(key, config).rules), None)
    if isinstance(declared, options.OneOf):
        return [*declared.choices, "no such word" if isinstance(declared.choices[0], str) else 7]
    if isinstance(value, bool | str | dict) or (value is None and declared is None):
        return []
    ends = [end for end in (0, 1, getattr(declared, "low", 0), getattr(declared, "high", 1))]
    ends = [int(end) for end in ends if abs(end) != options.INF and end == int(end)]
    found = {end + step for end in ends for step in (-1, 0, 1)}
    if isinstance(value, float | list) or (value is None and key not in WHOLE):
        found |= {end + step for end in ends for step in (-0.005, 0.005)}
        found |= {float(getattr(declared, "high", 1))} - {options.INF}
    if isinstance(declared, options.Each):
        return [{"layer1": number} for number in sorted(found)] + [0.5, {}]
    if isinstance(declared, options.Series):
        together = [[], [0.3, 0.6], [0.6, 0.3], [0.6, 0.6], [0.3, 0.9, 0.6]]
        return [[number] for number in sorted(found)] + together
    if isinstance(value, list):
        return [[number] for number in sorted(found)] if declared else []
    return sorted(found)


WHOLE = {"prune.round_to", "prune.min_channels", "prune.round_epochs", "robust.estimate_epochs",
         "distill.teacher.epochs", "distill.terms.cckd.embed_dim", "finetune.patience",
         "pretrain.patience", "dataset.num_classes"}  # fmt: skip


def name_of(value):
    return str(value)


@pytest.mark.parametrize(("group", "option"), list(every_option()), ids=name_of)
def test_the_command_refuses_what_the_constructor_refuses_and_nothing_else(group, option):
    config = composed(f"{group}={option}")
    for key, value in own_keys(group, option, config):
        last = key.rpartition(".")[2]
        unread = group == "noise" and last not in parameters(config["noise"]["_target_"])
        for candidate in candidates(key, value, config):
            early = refuses(_ranges.check, key, candidate, config)
            if group == "model" and not early:
                continue  # to build them all takes long
            late = refuses(construct, with_value(config, key, candidate), group)
            beyond = key.endswith("seed") and candidate > 1  # what numpy takes no constructor tells
            if not unread and not beyond:
                assert late or not early, f"{key}={candidate} is good, and the command refuses it"
            if key not in TOGETHER:
                assert early or not late, f"{key}={candidate} is refused by the constructor alone"


def test_the_ranges_of_the_machine_hold_its_defaults():
    config = composed()["machine"]
    Machine(**config)
    for key, value in config.items():
        _ranges.check(f"machine.{key}", value)


def test_names_that_are_known_without_torch_are_those_that_exist():
    (known,) = _ranges.declared("distill.teacher.model").rules
    assert known.choices == tuple(sorted(models.__all__))
    (figures,) = _ranges.declared("train.select_by").rules
    assert figures.choices == tuple(Classification.figures)
    (accelerators,) = _ranges.declared("machine.accelerator").rules
    assert {"auto", "gpu", *AcceleratorRegistry.available_accelerators()} >= {*accelerators.choices}
    config = composed()["machine"]
    for name in (*accelerators.choices, "foo"):
        early = refuses(_ranges.check, "machine.accelerator", name)
        try:
            Machine(**{**config, "accelerator": name})
            known = True
        except UsageError as error:
            known = "is not known" not in str(error)  # that none is in this machine comes later
        assert known is not early, name
    for devices in (0, -2, -5):
        assert refuses(_ranges.check, "machine.devices", devices)
        with pytest.raises(UsageError, match="devices"):
            Machine(**{**config, "devices": devices})
    _ranges.check("machine.devices", -1)


@pytest.mark.parametrize("name", [p.stem for p in (config_dir() / "distill").glob("[a-z]*.yaml")])
def test_a_teacher_is_asked_for_where_the_term_learns_from_one(name):
    config = composed(f"distill={name}")
    own = config["distill"]
    own["teacher"] = {**own["teacher"], "source": "artefact", "path": None}
    early = refuses(_ranges.check_needs, config)
    assert early == any(make(term).needs_teacher for term in own["terms"].values())
    assert refuses(Teaching.read, own) or not early


def test_values_that_are_none_of_its_business_pass():
    _ranges.check("robust.q", 7, {"robust": {"_target_": "my_lab.rkd.RKD", "q": 7}})
    none = {"prune": {"_target_": "compressor.prune.none.NoPruning"}}
    _ranges.check("prune.ratio", 7, none)
    _ranges.check("prune.budget", {"macs": 7, "params": 7}, none)
    _ranges.check("robust.q", "${q}")
    _ranges.check("train.clip_norm", None)
    with pytest.raises(UsageError, match="prune.budget.macs=2 must be below 1"):
        _ranges.check("prune.budget", {"macs": 2, "params": None})
    with pytest.raises(UsageError, match="finite"):
        _ranges.check("train.lr", float("nan"))
