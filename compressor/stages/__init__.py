"""The stages of a run: each is a function of an artefact, its own options and a context."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artefact import Artefact, Spec
from compressor.cache import Cache
from compressor.data import ImageData
from compressor.surgery import Plan
from compressor.tasks import Task


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

    @property
    def device(self) -> torch.device:
        """Where figures are measured: the first GPU when there is one and it may be used."""
        if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("cpu")


@dataclass(frozen=True)
class Given:
    """What a stage is handed: the network to build, and the parent's artefact if there is one."""

    spec: Spec
    parent: Artefact | None

    @property
    def plan(self) -> Plan:
        from compressor.surgery import EMPTY_PLAN

        return self.parent.plan if self.parent else EMPTY_PLAN

    def network(self, trust: tuple[str, ...] = ()) -> nn.Module:
        """The parent's network (eval mode), or a freshly built one where nothing was trained."""
        if self.parent:
            return self.parent.network(trust)
        return self.spec.build(trust, download=True)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage may use beside its options.

    seed: the stage's own, derived from the run's seed, the stage's name and occurrence.
    folder: where it may write; it becomes the artefact.
    targets: given labels of the train part, (n,) int64; clean_targets: the true ones.
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
    trust: tuple[str, ...] = ()
    roles: Mapping[str, Artefact] = field(default_factory=dict)
    note: Callable[[str], None] = lambda line: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage made: the network, the plan that leads to its shape, the report's notes."""

    net: nn.Module
    plan: Plan
    notes: Mapping[str, Any] = field(default_factory=dict)
