"""The stages of a run: each is a function of an artefact, its own options and a context."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.artefact import Artefact, Spec
from compressor.cache import Cache, key_of
from compressor.data import ImageData
from compressor.errors import UsageError
from compressor.options import hold
from compressor.schema import MachineKeys
from compressor.surgery import EMPTY_PLAN, Plan, replay
from compressor.tasks import Task

if TYPE_CHECKING:
    from compressor.stages._fit import TrainingSet
    from compressor.stages._inner import Trained
    from compressor.stages._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of the machine (configs/machine): they enter no key."""

    accelerator: str
    devices: int | str
    strategy: str
    threads: int | None
    workers: int
    progress: bool
    log_every: int
    eval_batch_size: int
    channels_last: bool
    latency_batch_size: int
    latency_seconds: float

    def __post_init__(self) -> None:
        """Refuse what Lightning would refuse when the first training starts, after the plan."""
        hold(MachineKeys, "machine", vars(self))
        gpus = torch.cuda.device_count()
        here = {"auto", "cpu", *(["cuda", "gpu"] if gpus else [])}
        if torch.backends.mps.is_available():
            here |= {"mps", "gpu"}
        if self.accelerator not in here:
            raise UsageError(
                f"machine.accelerator={self.accelerator}: there is none in this machine, which has "
                f"{', '.join(sorted(here))}"
            )
        on_gpus = gpus and self.accelerator in ("auto", "gpu", "cuda")
        most = gpus if on_gpus else os.cpu_count() or 1
        every = on_gpus and self.devices == -1
        if isinstance(self.devices, int) and not (every or 1 <= self.devices <= most):
            has = f"{most} {'GPUs' if on_gpus else 'cores'}"
            raise UsageError(
                f"machine.devices={self.devices} does not fit this machine, which has {has}"
            )

    @property
    def several(self) -> bool:
        """Whether a training runs in more than one process."""
        if self.devices == "auto":
            return self.device.type == "cuda" and torch.cuda.device_count() > 1
        return self.devices != 1

    @property
    def device(self) -> torch.device:
        """Where figures are measured: the first GPU when there is one and it may be used."""
        if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("cpu")


@dataclass(frozen=True)
class Given:
    """What a stage is handed: the network to build, and the parent's artefact if there is one.

    base: what had been done to the network that the walk began with; nothing, if a training did.
    """

    spec: Spec
    parent: Artefact | None
    base: Plan = EMPTY_PLAN

    @property
    def plan(self) -> Plan:
        return self.parent.plan if self.parent else EMPTY_PLAN

    def network(self, trust: tuple[str, ...] = ()) -> nn.Module:
        """The parent's network (eval mode), or a freshly built one where nothing was trained."""
        if self.parent:
            return self.parent.network(trust)
        return self.spec.build(trust, download=True)

    def dense(self, trust: tuple[str, ...] = ()) -> nn.Module:
        """The network of `base`, with fresh weights: what a ratio, a budget and a cost refer to."""
        return replay(self.spec.build(trust), self.base)


@dataclass(frozen=True)
class Judging:
    """Labels that the making of a cut may read: those that the fine-tuning trusts.

    targets: (n,) int64. index: positions that have one, None for all. key: digest of both.
    """

    targets: Tensor
    index: Tensor | None
    key: str


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage may use beside its options.

    seed: the stage's own, derived from the run's seed, the stage's name and occurrence.
    folder: where it may write; it becomes the artefact.
    targets: given labels of the train part, (n,) int64; clean_targets: the true ones, equal to
    them where nobody knows the truth (truth_known). transition: (K, K), of injected noise, and
    noise_rate, the share of labels that it changed; None without any.
    labelled: positions whose labels a training may read, None for all. damage: what noise does to
    the images of the training. labels_key: digest of all of these. judging: what a criterion of the
    cut may read of labels, None where it reads none. alike: labels by whose classes images for
    statistics are drawn equally often, None where the classes are about equal.
    data_free: whether no stage but the teacher's own training may read an image of the train part.
    trust: dotted class names that the run's own model config names.
    roles: artefacts of other stages that this one declared.
    note: tells the user what happens, a line each.
    """

    seed: int
    folder: Path
    data: ImageData
    task: Task
    machine: Machine
    precision: str
    targets: Tensor
    clean_targets: Tensor
    cache: Cache
    data_key: str
    labels_key: str = ""
    truth_known: bool = True
    transition: Tensor | None = None
    noise_rate: float | None = None
    labelled: Tensor | None = None
    damage: Callable[[Tensor, Tensor, int], Tensor] | None = None
    judging: Judging | None = None
    data_free: bool = False
    alike: Judging | None = None
    trust: tuple[str, ...] = ()
    roles: Mapping[str, Artefact] = field(default_factory=dict)
    note: Callable[[str], None] = lambda line: None

    def remember(self, kind: str, parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of what a stage works out once for all runs, an entry of the cache.

        kind: what it is, as the cache lists it. parts: plain values, all that it depends on: its
        key. make: writes it into the empty folder that it is given, where it is not there yet; the
        folder of a killed process is handed on where that had begun a `cache.RESUME` in it.
        """
        key = key_of(stage=kind, **parts)
        self.cache.obtain(key, kind, make)
        return self.cache.folder(key)

    def fit(
        self,
        name: str,
        net: nn.Module,
        recipe: "Recipe",
        *,
        training: "TrainingSet | None" = None,
        parts: Mapping[str, Any] | None = None,
    ) -> "Trained":
        """Train a copy of `net` with cross-entropy, inside a stage, once for all runs.

        name: of its lines on the terminal; random numbers are derived from it, so that candidates
        under names of their own see the images in orders of their own. recipe: optimizer, schedule,
        epochs, 1 at least, and the one of them that goes on. training: labels and images, None for
        the given labels of the run.
        parts: plain values on which the network's forward depends, beside its layers and numbers.

        What it came to is an entry of the cache whose key knows the network, the recipe, the labels
        and the devices; where a process was killed the next one goes on from its last finished
        epoch. `net` is left as it is. Raises RunError where the training diverges.
        """
        # late: Lightning is not needed to say what a stage may use
        from compressor.stages._inner import fit

        return fit(self, name, net, recipe, training=training, parts=parts)

    def best(self, trained: "Sequence[Trained]") -> "Trained":
        """The one of the best headline on the validation part, of equals the first.

        The cache keeps its weights and of the others the figures alone. A search calls it with the
        best so far and the newcomers. UsageError: there is no validation part.
        """
        from compressor.stages._inner import best

        return best(self, trained)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage made: the network, the plan that leads to its shape, the report's notes."""

    net: nn.Module
    plan: Plan
    notes: Mapping[str, Any] = field(default_factory=dict)
