"""A training inside a stage: of a candidate, a proposal, a member of a generation.

Two entries of the cache each. `inner` holds the weights of the picked epoch and the curves;
`inner figures` the figures and the curves alone. Of the candidates that were compared the best
keeps both and the others their figures: a search of a thousand leaves the weights of one. Weights
that are asked for again are trained again, to the same numbers.
"""

import hashlib
import operator
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compressor import brought, manifest
from compressor.artefact import WEIGHTS, fill, stored
from compressor.cache import key_of
from compressor.errors import UsageError
from compressor.instantiation import sources
from compressor.robust.none import CrossEntropy
from compressor.seeding import derive
from compressor.stages import Context
from compressor.stages import _fit as outer
from compressor.stages._recipe import Recipe
from compressor.stages._select import tensors
from compressor.surgery import duplicate

VERSION = 1
_KIND = "inner"
_FIGURES = "figures.json"
_HISTORY = "history.csv"
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


@dataclass(frozen=True)
class Trained:
    """What a training inside a stage came to.

    metrics: its figures ("picked_val_accuracy", "epochs", ...). history: a row an epoch, a CSV
    file.
    """

    name: str
    metrics: Mapping[str, Any]
    history: Path
    key: str = field(repr=False)
    """Of the entry with the weights."""
    _load: Callable[[], nn.Module] = field(repr=False)

    def network(self) -> nn.Module:
        """The network with the weights of the picked epoch: on the CPU, in eval mode, one's own."""
        return self._load()


def fit(
    context: Context,
    name: str,
    net: nn.Module,
    recipe: Recipe,
    *,
    training: outer.TrainingSet | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Trained:
    """As `Context.fit`."""
    if not recipe.epochs:
        raise UsageError(f"{name} is trained inside a stage: give it an epoch, or more")
    if training is None:
        training = outer.TrainingSet(
            targets=context.targets, index=context.labelled, damage=context.damage
        )
    seed = derive(context.seed, _KIND, name)
    known = {
        "version": VERSION,
        "name": name,
        "network": _identity(net),
        "options": recipe.in_key(),
        "labels": _labels(training, context),
        "data": context.data_key,
        "task": [type(context.task).__name__, *context.task.headline],
        "seed": seed,
        "precision": context.precision,
        # batches are per process: more of them are another training
        "devices": context.machine.devices,
        "parts": dict(parts or {}),
    }
    start = duplicate(net)  # the caller may go on with its own

    def train(folder: Path) -> None:
        inner = replace(context, folder=folder, seed=seed)
        # whether it was trained here or found there, the stage draws the same numbers afterwards
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            job = outer.Job(name=name, recipe=recipe, remedy=CrossEntropy(), training=training)
            fitted = outer.fit(duplicate(start), job, inner)
        save_file(stored(fitted.net), folder / WEIGHTS)
        manifest.write_json(folder / _FIGURES, fitted.metrics)

    weights = partial(context.remember, _KIND, known, train)

    def load() -> nn.Module:
        found = duplicate(start).cpu()
        fill(found, load_file(weights() / WEIGHTS))
        return found.eval()

    def take(folder: Path) -> None:
        made = weights()
        for file in (_FIGURES, _HISTORY):
            shutil.copy2(made / file, folder / file)

    key = key_of(stage=_KIND, **known)
    folder = context.remember(f"{_KIND} figures", {"of": key}, take)
    metrics = manifest.read_json(folder / _FIGURES)
    return Trained(name, metrics, folder / _HISTORY, key, load)


def best(context: Context, trained: Sequence[Trained]) -> Trained:
    """As `Context.best`."""
    headline, direction = context.task.headline
    figure = f"picked_val_{headline}"
    if any(figure not in one.metrics for one in trained):
        raise UsageError(
            "networks are compared on the validation part, and there is no validation image: raise "
            "dataset.validation, or add images"
        )
    chosen = (max if direction == "max" else min)(trained, key=lambda one: one.metrics[figure])
    for one in trained:
        if one.key != chosen.key:
            context.cache.drop(one.key)
    return chosen


def _identity(net: nn.Module) -> dict[str, Any]:
    """What a network is before a training: its layers, its numbers, what of it is trained."""
    layers = _ADDRESS.sub("", repr(net))
    return {
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "numbers": brought.digest(lambda: tensors(net)),
        "fixed": sorted(n for n, p in net.named_parameters() if not p.requires_grad),
        "code": sources([{"_target_": name} for name in sorted(_classes(net))]),
    }


def _classes(net: nn.Module) -> set[str]:
    """Dotted names of the modules' classes; a class made on the way stands for the one it is of."""
    found = set()
    for kind in {type(module) for module in net.modules()}:
        named = next(each for each in kind.__mro__ if _is_named(each))
        found.add(f"{named.__module__}.{named.__qualname__}")
    return found


def _is_named(kind: type) -> bool:
    """Whether the class is what its own name leads to."""
    try:
        return operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__]) is kind
    except (AttributeError, KeyError):
        return False


def _labels(training: outer.TrainingSet, context: Context) -> dict[str, Any]:
    """What is trained on. Damage to the images is the noise's: the run's labels know it."""
    read = {"targets": training.targets, "index": training.index, "clean": training.clean}
    given = {name: value for name, value in read.items() if value is not None}
    flags = ("norms_rest", "weighted", "balanced")
    return {
        "read": brought.digest(lambda: given) if given else "",
        "damage": "" if training.damage is None else context.labels_key,
        **{name: vars(training)[name] for name in flags},
    }
