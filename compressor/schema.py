"""The keys of a run that are no method's own: what each may hold, and its default.

A dataclass is a group of the config (configs/GROUP/_base.yaml, or the group's part of run.yaml,
where the units are); `Run` is the whole. A method's own options are declared by its constructor.
What a run is given is held to these by `options.hold`, as in `hold(TrainingKeys, "train", values)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from compressor.options import (
    AtMostOne,
    BelowOne,
    Count,
    Each,
    NotNegative,
    Paths,
    Pipeline,
    Positive,
    Range,
    Seed,
    Series,
    Share,
    Size,
)

# Data and saved networks are float32: the mixed forms compute in fewer bits and keep the weights.
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# How several devices share a training. Others of Lightning's run the whole command once more for
# every device, and each of these would wait for the others' entries of the cache.
Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
Lock = Literal["auto", "lock", "lease"]
Labels = Literal["auto", "clean", "given", "corrected_soft", "corrected_hard"]
SelectBy = Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
LISTED = ("train", "compress", "recalibrate", "finetune")  # what `stages` may hold

_REMOVED = "it is the fraction of channels removed"
_KEPT = "it is the fraction of the dense figure KEPT; to keep everything type prune=none"
Epochs = Annotated[int, Range(0)]
Kept = Annotated[float, Range(0, 1, above=True, below=True, remedy=_KEPT)]
_MANY = Annotated[int, Range(2, remedy="one image has no variance")]


@dataclass(frozen=True, kw_only=True)
class TrainingKeys:
    """`train`, and what `pretrain` and `finetune` share with it."""

    epochs: Epochs | Literal["auto"] = 30
    batch_size: Count | Literal["auto"] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive | Literal["auto"] = 0.1
    momentum: BelowOne = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 1.0e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["constant", "cosine", "step", "onecycle"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    milestones: Annotated[
        Sequence[float],
        Range(0, 1, above=True, below=True, remedy="it is a fraction of the epochs"),
    ] = (0.5, 0.75)
    gamma: Annotated[float, Range(0, 1, above=True, remedy="each drop multiplies lr by it")] = 0.1
    clip_norm: Annotated[float | None, Range(0, above=True, remedy="null does not clip")] = None
    select: Literal["best", "last", "clean_peak"] = "best"
    select_by: SelectBy = "accuracy"
    class_weights: Literal["none", "balanced"] = "none"
    patience: Annotated[int | None, Range(1, remedy="or null")] = None


@dataclass(frozen=True, kw_only=True)
class PretrainingKeys(TrainingKeys):
    pretext: Mapping[str, object] | None = None
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetuningKeys(TrainingKeys):
    epochs: Epochs | Literal["auto"] = 10
    lr: Positive | Literal["auto"] = 0.01
    labels: Labels = "auto"
    clean_fraction: Share = 1.0
    clean_seed: Seed = 0
    robust: Literal["none", "same"] = "none"
    mode: Literal["finetune", "scratch_e", "scratch_b", "rewind"] = "finetune"
    epoch_cap: Annotated[float | None, Range(1, remedy="or null")] = None
    rewind_epoch: Epochs = 0


@dataclass(frozen=True, kw_only=True)
class RecalibrationKeys:
    images: _MANY = 2048
    batch_size: _MANY = 128


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """What every data set is read with; the rest is its constructor's."""

    labelled_fraction: Share = 1.0
    labelled_seed: Seed = 0
    sampler: Literal["none", "balanced"] = "none"


@dataclass(frozen=True, kw_only=True)
class BudgetKeys:
    macs: Kept | None = None
    params: Kept | None = None
    latency: Kept | None = None


@dataclass(frozen=True, kw_only=True)
class SensitivityKeys:
    table: bool = False
    ratios: Annotated[Sequence[float], Series(0, 1, above=True, below=True)] = (
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9
    )  # fmt: skip
    images: Count = 512


@dataclass(frozen=True, kw_only=True)
class PruningKeys:
    ratio: Annotated[
        float,
        Range(
            0, 1, above=True, below=True, remedy=f"{_REMOVED}; to remove nothing type prune=none"
        ),
    ] = 0.5
    ratios: Annotated[Mapping[str, float] | None, Each(0, 1, below=True, remedy=_REMOVED)] = None
    budget: Annotated[BudgetKeys, AtMostOne()] = BudgetKeys()
    allocation: Literal["uniform", "global", "sensitivity"] = "uniform"
    normalize: Literal["none", "mean", "cost", "lamp"] = "mean"
    sensitivity: SensitivityKeys = SensitivityKeys()
    scope: Literal["interior", "all", "mixing"] = "interior"
    round_to: Annotated[int | None, Range(1, remedy="or null")] = None
    min_channels: Annotated[int | None, Range(1, remedy="or null")] = None
    reconstruct: Literal["none", "rescale", "refit"] = "none"
    ridge: Positive = 0.01
    positions: Count = 20
    statistics: Literal["dense", "sequential"] = "dense"
    images: Count = 1024
    skip: Annotated[Sequence[str], Paths()] = ()
    rounds: Count = 1
    spacing: Literal["geometric", "linear"] = "geometric"
    keep_rates: Annotated[
        Sequence[float] | None,
        Series(0, 1, above=True, below=True, remedy="give fractions, or null", falls=True),
    ] = None
    round_epochs: Epochs | None = None
    round_finetune: Mapping[str, object] | None = None
    finetune_per_layer_epochs: Epochs = 0
    layer_finetune: Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherKeys:
    source: Literal["dense", "artefact", "model", "callable"] = "dense"
    path: str | Sequence[str] | None = None
    model: Literal[
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
    ] = "resnet56"
    arguments: Mapping[str, object] = field(default_factory=dict)
    epochs: Epochs | None = None
    function: str | None = None


@dataclass(frozen=True, kw_only=True)
class DistillationKeys:
    """What every term stands beside; a term's own options are its constructor's."""

    at: Literal["train", "finetune"] = "finetune"
    label_weight: Annotated[float, Range(0, remedy="0 leaves the labels out of the loss")] = 1.0
    sampler: Literal["none", "class_uniform", "superclass_uniform"] = "none"
    per_group: Annotated[int, Range(2)] = 4
    superclasses: Annotated[int, Range(0)] = 5
    cache_teacher: bool = False
    teacher: TeacherKeys = TeacherKeys()
    terms: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportKeys:
    enabled: bool | None = None
    onnx: bool = True
    figures: bool = True
    normalize: bool = False


@dataclass(frozen=True, kw_only=True)
class ExplainKeys:
    """A probe's own options are its constructor's."""

    terms: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MachineKeys:
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Annotated[
        int | Literal["auto"],
        Range(-1, remedy="give a number of devices, or -1 for every GPU", never=0),
    ] = 1
    strategy: Strategy = "auto"
    # torch makes them all at once, and the machine may not have room for their stacks
    threads: Annotated[
        int | None, Range(1, 4096, remedy="give a number of CPU threads, or null for torch's")
    ] = None
    workers: Annotated[int, Range(0, remedy="0 loads the images in the main process")] = 0
    progress: bool = True
    log_every: Annotated[int, Range(1, remedy="give a number of steps, such as 10")] = 10
    eval_batch_size: Annotated[int, Range(1, remedy="give a number of images, such as 256")] = 256
    channels_last: bool = True
    latency_batch_size: Annotated[int, Range(1, remedy="give a number of images, such as 1")] = 1
    latency_seconds: Annotated[
        float, Range(0, 600, remedy="give seconds; 0 leaves latency unmeasured")
    ] = 2.0


@dataclass(frozen=True, kw_only=True)
class CacheKeys:
    dir: str = "outputs/cache"
    enabled: bool = True
    lock: Lock = "auto"
    lease_seconds: Annotated[float, Range(0, above=True, remedy="give seconds, such as 60")] = 60.0
    max_size: Annotated[int | str | None, Size()] = None


@dataclass(frozen=True, kw_only=True)
class FolderKeys:
    outputs: str = "outputs"
    data: str = ""
    cache: str = "outputs/cache"


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """The whole configuration. noise, robust, regularize, scale, model and task have no shared
    options that are not their constructors'.
    """

    seed: Seed = 0
    precision: Precision = "32-true"
    plan_only: bool = False
    baselines: bool = False
    objective: str | Sequence[str] = "final.accuracy"
    stages: Annotated[Sequence[str], Pipeline(LISTED)] = LISTED
    recalibrate: RecalibrationKeys = RecalibrationKeys()
    distill: DistillationKeys = DistillationKeys()
    cache: CacheKeys = CacheKeys()
    pretrain: PretrainingKeys = PretrainingKeys()
    train: TrainingKeys = TrainingKeys()
    finetune: FinetuningKeys = FinetuningKeys()
    dataset: DataKeys = DataKeys()
    prune: PruningKeys = PruningKeys()
    export: ExportKeys = ExportKeys()
    explain: ExplainKeys = ExplainKeys()
    machine: MachineKeys = MachineKeys()
    paths: FolderKeys = FolderKeys()
