"""Ranges of the values that can be typed, checked with the command, before torch is imported.

The constructors hold the ranges of their own options as well, for whoever calls them from Python;
`tests/conformance/test_ranges.py` tries values and holds both equal. What only several values
together can have wrong is the constructors' alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError

INF = math.inf
LISTED = ("train", "compress", "recalibrate", "finetune")  # what `stages` may hold


@dataclass(frozen=True)
class Range:
    """Numbers between low and high; `above`, `below`: these themselves are outside, `never`: a
    number between them that is. A list is checked entry by entry. remedy: what to type instead,
    beside the bounds.
    """

    low: float = -INF
    high: float = INF
    above: bool = False
    below: bool = False
    remedy: str = ""
    never: float | None = None

    def check(self, key: str, value: Any) -> None:
        if isinstance(value, list | tuple):
            for entry in value:
                self.check(key, entry)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return  # of another type than the key's: that is told elsewhere
        remedy = f": {self.remedy}" if self.remedy else ""
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key}={value} is out of range: give a finite number")
        if value < self.low or (self.above and value == self.low):
            least = "above" if self.above else "at least"
            raise UsageError(f"{key}={value} must be {least} {self.low:g}{remedy}")
        if value > self.high or (self.below and value == self.high):
            most = "below" if self.below else "at most"
            high = int(self.high) if self.high == int(self.high) else self.high
            raise UsageError(f"{key}={value} must be {most} {high}{remedy}")
        if value == self.never:
            raise UsageError(f"{key}={value} must not be {self.never:g}{remedy}")


@dataclass(frozen=True)
class Series(Range):
    """A list of such numbers, at least one, that rises; with `falls` it falls."""

    falls: bool = False

    def check(self, key: str, value: Any) -> None:
        super().check(key, value)
        if not isinstance(value, list | tuple):
            return
        if not value:
            raise UsageError(f"{key}=[] is empty: give at least one number")
        if all(isinstance(entry, int | float) for entry in value):
            wanted = sorted(set(value), reverse=self.falls)
            if list(value) != wanted:
                way = "fall" if self.falls else "rise"
                example = ",".join(map(str, wanted))
                raise UsageError(f"{key}={list(value)} must {way}, as in {key}='[{example}]'")


@dataclass(frozen=True)
class Each(Range):
    """A mapping from names of the user's to such numbers."""

    def check(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                super().check(f"{key}.{name}", entry)
        elif isinstance(value, int | float | list | tuple):
            raise UsageError(f"{key}={value} names nothing: type {key}='{{layer1: 0.3}}'")


@dataclass(frozen=True)
class AtMostOne:
    """A mapping of which one value at most is not null."""

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            return
        given = [f"{key}.{name}={entry}" for name, entry in value.items() if entry is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} both say how much goes: give one of them")


@dataclass(frozen=True)
class Stages:
    """The list `stages`; with what it may begin depends on `start` (`starting.check_stages`)."""

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            return
        stages = list(value)
        if any(name not in LISTED for name in stages):
            raise UsageError(
                f"{key}={stages} must hold only {', '.join(LISTED)}; pretrain=rotnet comes before "
                "the training by itself"
            )
        if stages.count("compress") > 1 or stages.count("train") > 1:
            raise UsageError(f"{key}={stages} holds train or compress twice: give each once")


@dataclass(frozen=True)
class OneOf:
    choices: tuple[Any, ...]

    def check(self, key: str, value: Any) -> None:
        # another type than the choices' is told elsewhere
        if type(value) is type(self.choices[0]) and value not in self.choices:
            raise UsageError(
                f"{key}={value} is not known: choose one of {', '.join(map(str, self.choices))}"
            )


def _least(low: float, remedy: str = "") -> Range:
    return Range(low, remedy=remedy)


def _over(low: float, remedy: str = "") -> Range:
    return Range(low, above=True, remedy=remedy)


def _one_of(*choices: Any) -> OneOf:
    return OneOf(choices)


# what numpy's and torch's generators take
_SEED = Range(0, 2**63 - 1, remedy="give a whole number such as 0")
_FRACTION = Range(0, 1)  # both ends included
_SHARE = Range(0, 1, above=True)  # some, or all
_INSIDE = Range(0, 1, above=True, below=True)
_SAVED = Range(0, 1, below=True)
_NORMALIZE = _one_of("none", "mean", "cost", "lamp")
# Cost goes as the square of a width; no published network is 64 times as wide as its first form.
_FACTOR = Range(0, 64, above=True, remedy="1.0 leaves it unscaled")
_REMOVED = Range(
    0, 1, above=True, below=True,
    remedy="it is the fraction of channels removed; to remove nothing type prune=none",
)  # fmt: skip
_KEPT = Range(
    0, 1, above=True, below=True,
    remedy="it is the fraction of the dense figure KEPT; to keep everything type prune=none",
)  # fmt: skip

Check = Range | OneOf | AtMostOne | Stages
_TRAINING: dict[str, Range | OneOf] = {
    "epochs": _least(0),
    "batch_size": _least(1),
    "optimizer": _one_of("sgd", "adamw"),
    "lr": _over(0),
    "momentum": _SAVED,
    "weight_decay": _least(0),
    "schedule": _one_of("constant", "cosine", "step", "onecycle"),
    "warmup_epochs": _least(0),
    "milestones": Range(0, 1, above=True, below=True, remedy="it is a fraction of the epochs"),
    "gamma": Range(0, 1, above=True, remedy="each drop multiplies lr by it"),
    "clip_norm": _over(0, "null does not clip"),
    "select": _one_of("best", "last", "clean_peak"),
    "patience": _least(1, "or null"),
    "class_weights": _one_of("none", "balanced"),
    "select_by": _one_of("accuracy", "balanced_accuracy", "macro_f1", "loss"),
}
# Keys by their full name; `distill.terms.` and `model.` go on with the option's own.
RANGES: dict[str, Check] = {
    "seed": _SEED,
    "stages": Stages(),
    "precision": _one_of("32-true", "bf16-mixed", "16-mixed"),
    **{
        f"{stage}.{k}": r
        for stage in ("pretrain", "train", "finetune")
        for k, r in _TRAINING.items()
    },
    "finetune.labels": _one_of("auto", "clean", "given", "corrected_soft", "corrected_hard"),
    "finetune.clean_fraction": _SHARE,
    "finetune.clean_seed": _SEED,
    "finetune.robust": _one_of("none", "same"),
    "finetune.mode": _one_of("finetune", "scratch_e", "scratch_b", "rewind"),
    "finetune.epoch_cap": _least(1, "or null"),
    "finetune.rewind_epoch": _least(0),
    "recalibrate.images": _least(2, "one image has no variance"),
    "recalibrate.batch_size": _least(2, "one image has no variance"),
    "dataset.image_size": Range(1, 8192, remedy="give pixels, height = width"),
    "dataset.num_classes": _least(2),
    "dataset.channels": _one_of(1, 3),
    "dataset.validation": _SAVED,
    "dataset.split_seed": _SEED,
    "dataset.samples": _least(4),
    "dataset.seed": _SEED,
    "dataset.crop_fraction": _SHARE,
    "dataset.augment.crop": _least(0),
    "dataset.augment.scale": _SHARE,
    "dataset.test": _INSIDE,
    "dataset.unreadable": _one_of("refuse", "skip"),
    "dataset.max_pixels": Range(1, 178_956_970, remedy="give width x height"),
    "dataset.sampler": _one_of("none", "balanced"),
    "dataset.labelled_fraction": _SHARE,
    "dataset.labelled_seed": _SEED,
    "noise.seed": _SEED,
    "noise.rate": _FRACTION,
    "noise.mode": _one_of("exact", "bernoulli"),
    "noise.deviation": _over(0),
    "noise.sigma": _least(0),
    "robust.label_smoothing": _SAVED,
    "robust.q": _SHARE,
    "robust.k": _INSIDE,
    "robust.warmup": _FRACTION,
    "robust.correct": _FRACTION,
    "robust.alpha": _least(0),
    "robust.beta": _least(0),
    "robust.A": Range(high=0, below=True, remedy="it stands for log 0"),
    "robust.b": _FRACTION,
    "robust.form": _one_of("soft", "hard"),
    "robust.forget": Range(0, 0.99, remedy="give the share of wrong labels, or null"),
    "robust.ramp": _FRACTION,
    "robust.action": _one_of("drop", "relabel", "weight"),
    "robust.folds": _least(2),
    "robust.estimate_epochs": _least(1, "or null"),
    "robust.margin": _FRACTION,
    "robust.min_per_class": Range(0, 10**9),
    "robust.label_lr": _over(0, "or null"),
    "robust.compat": _one_of("released", "literal"),
    "robust.refine_lr_scale": _over(0),
    "regularize.weight": _over(0, "regularize=none leaves it out"),
    "scale.width": _FACTOR,
    "scale.depth": _FACTOR,
    "scale.resolution": _FACTOR,
    "prune.ratio": _REMOVED,
    "prune.ratios": Each(0, 1, below=True, remedy="it is the fraction of channels removed"),
    "prune.budget": AtMostOne(),
    "prune.budget.macs": _KEPT,
    "prune.budget.params": _KEPT,
    "prune.budget.latency": _KEPT,
    "prune.allocation": _one_of("uniform", "global", "sensitivity"),
    "prune.normalize": _NORMALIZE,
    "prune.sensitivity.ratios": Series(0, 1, above=True, below=True),
    "prune.sensitivity.images": _least(1),
    "prune.scope": _one_of("interior", "all", "mixing"),
    "prune.round_to": _least(1, "or null"),
    "prune.min_channels": _least(1, "or null"),
    "prune.reconstruct": _one_of("none", "rescale", "refit"),
    "prune.ridge": _over(0),
    "prune.positions": _least(1),
    "prune.statistics": _one_of("dense", "sequential"),
    "prune.images": _least(1),
    "prune.rounds": _least(1),
    "prune.spacing": _one_of("geometric", "linear"),
    "prune.keep_rates": Series(
        0, 1, above=True, below=True, remedy="give fractions, or null", falls=True
    ),
    "prune.round_epochs": _least(0),
    "prune.finetune_per_layer_epochs": _least(0),
    "prune.eps": _over(0, "or null"),
    "prune.samples": _least(1),
    "prune.variant": _one_of("backward", "forward", "rescale_aware"),
    "distill.at": _one_of("train", "finetune"),
    "distill.label_weight": _least(0, "0 leaves the labels out of the loss"),
    "distill.sampler": _one_of("none", "class_uniform", "superclass_uniform"),
    "distill.per_group": _least(2),
    "distill.superclasses": _least(0),
    "distill.teacher.source": _one_of("dense", "artefact", "model", "callable"),
    "distill.teacher.epochs": _least(0),
    "distill.teacher.model": _one_of(
        "mobilenet_v2",
        "resnet18",
        "resnet20",
        "resnet34",
        "resnet50",
        "resnet56",
        "shallow_mimic",
        "timm",
        "torchvision",
        "vgg16_bn",
    ),
    **{
        f"distill.terms.{name}.weight": _least(0)
        for name in (
            "kd",
            "mimic",
            "cckd",
            "pkt",
            "hints",
            "attention",
            "data_free",
            "ensemble_net",
            "collaborative",
        )
    },
    "distill.terms.kd.temperature": _over(0),
    "distill.terms.mimic.standardize": _one_of("none", "per_class"),
    "distill.terms.cckd.kernel": _one_of("gaussian", "bilinear"),
    "distill.terms.cckd.gamma": _over(0),
    "distill.terms.cckd.order": _least(1),
    "distill.terms.cckd.embed_dim": _least(1, "or null"),
    "distill.terms.pkt.form": _one_of("reference", "paper", "row_mean"),
    "distill.terms.collaborative.heads": _least(2),
    "distill.terms.collaborative.beta": _FRACTION,
    "distill.terms.collaborative.temperature": _over(0),
    "distill.terms.collaborative.pattern": _one_of("multi_instance", "simple", "hierarchical"),
    "distill.terms.ensemble_net.heads": _least(2),
    "distill.terms.ensemble_net.lam": Range(high=1),
    "distill.terms.ensemble_net.combine": _one_of("logits", "probs"),
    "distill.terms.data_free.images": _one_of("learned", "untrained", "noise"),
    "distill.terms.data_free.schedule": _one_of("joint", "two_stage"),
    "distill.terms.data_free.latent": _least(1),
    "distill.terms.data_free.count": _least(2),
    "distill.terms.data_free.steps": _least(1),
    "distill.terms.data_free.generator_lr": _over(0),
    "distill.terms.data_free.norm_eps": _over(0),
    "distill.terms.data_free.entropy_base": _over(1),
    "model.width": _FACTOR,
    "model.depth": _FACTOR,
    "model.stem": _one_of("auto", "cifar", "imagenet"),
    "model.shortcut": _one_of("A", "B"),
    "model.dropout": _SAVED,
    "model.filters": _least(1),
    "model.pool": _least(1),
    "model.bottleneck": _least(0),
    "model.hidden": _least(1),
    "machine.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "machine.strategy": _one_of("auto", "ddp", "ddp_find_unused_parameters_true"),
    "machine.devices": Range(-1, remedy="give a number of devices, or -1 for every GPU", never=0),
    # torch makes them all at once, and the machine may not have room for their stacks
    "machine.threads": Range(1, 4096, remedy="give a number of CPU threads, or null for torch's"),
    "machine.workers": _least(0, "0 loads the images in the main process"),
    "machine.log_every": _least(1, "give a number of steps, such as 10"),
    "machine.eval_batch_size": _least(1, "give a number of images, such as 256"),
    "machine.latency_batch_size": _least(1, "give a number of images, such as 1"),
    "machine.latency_seconds": Range(0, 600, remedy="give seconds; 0 leaves latency unmeasured"),
    "cache.lock": _one_of("auto", "lock", "lease"),
    "cache.lease_seconds": _over(0, "give seconds, such as 60"),
}
FOLDERS = (
    "dataset.root",
    "paths.outputs",
    "paths.data",
    "paths.cache",
    "cache.dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
)
KEYS = (*RANGES, *FOLDERS)
# Class of an option -> the keys of which it needs one, and how they are typed.
_NEEDED = {
    "compressor.noise.file.File": (
        ("noise.file",),
        "noise=file needs the file of labels: type noise.file=labels.csv",
    ),
    "compressor.noise.matrix.Matrix": (
        ("noise.matrix", "noise.file"),
        "noise=matrix needs noise.matrix='[[...],...]' or noise.file=T.csv",
    ),
}
# Of distill.teacher.source: likewise.
_TEACHERS = {
    "artefact": ("distill.teacher.path", "outputs/runs/.../model"),
    "callable": ("distill.teacher.function", "my_package.predict"),
    "model": ("distill.teacher.model", "resnet56"),
}
# Terms that learn without a teacher; of a class of a user's own it is not known here.
_TEACHERLESS = ("compressor.distill.collaborative.", "compressor.distill.ensemble_net.")
# Options `none` that take what the others of their group are swept over, and read none of it.
_UNREAD = re.compile(r"compressor\.(prune|noise|scale)\.none\.")


def check(key: str, value: Any, group: Any = None) -> None:
    """Raise UsageError when a value of this key is outside its range; other keys pass.

    group: the composed group that the key belongs to, where it is known: a class of a user's own
    has ranges of its own.
    """
    empty = isinstance(value, str) and not value.strip()
    if key in FOLDERS and empty and not _of_others(key, group):
        raise UsageError(f"{key}= is empty: name a folder, or leave it out for the default")
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check(f"{key}.{name}", entry, group)
    if key in RANGES and not _of_others(key, group):
        RANGES[key].check(key, value)


def _of_others(key: str, group: Any) -> bool:
    """Whether the key is a user's own class's, or that of an option which reads none of them."""
    target, node = "", group
    # typed below `arguments` of an option, or of a group that is not there, it has no node
    for part in ("", *key.split(".")[1:-1]):
        node = node.get(part) if part and isinstance(node, Mapping) else node
        here = node.get("_target_") if isinstance(node, Mapping) else None
        target = here if isinstance(here, str) else target
    return bool(target) and (
        not target.startswith("compressor.") or _UNREAD.match(target) is not None
    )


def check_needs(groups: Mapping[str, Any], open_keys: Collection[str] = ()) -> None:
    """Raise UsageError when an option lacks the file, or the name, without which it is nothing.

    groups: the composed configuration, `noise` and `distill` of which are looked at, as plain
    values. open_keys: keys that get their values later, each of which is compared by itself.
    """
    target = (groups.get("noise") or {}).get("_target_")
    if target in _NEEDED:
        keys, line = _NEEDED[target]
        _check_given(groups, keys, line, open_keys)
    distill = groups.get("distill") or {}
    source = (distill.get("teacher") or {}).get("source")
    named = [str((term or {}).get("_target_")) for term in (distill.get("terms") or {}).values()]
    taught = any(
        name.startswith("compressor.distill.") and not name.startswith(_TEACHERLESS)
        for name in named
    )
    if taught and source in _TEACHERS and "distill.teacher.source" not in open_keys:
        key, example = _TEACHERS[source]
        line = f"distill.teacher.source={source} needs {key}, such as {example}"
        _check_given(groups, (key,), line, open_keys)


def _check_given(
    groups: Mapping[str, Any], keys: Sequence[str], line: str, open_keys: Collection[str]
) -> None:
    for key in keys:
        if any(key == each or key.startswith(f"{each}.") for each in open_keys):
            return
        node: Any = groups
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node:
            return
    raise UsageError(line)
