"""What the benchmarks call a stage with, where the command line would make it from a config."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressor.cache import Cache
from compressor.configuration import Menu, read_command
from compressor.data import ImageData
from compressor.stages import Context, Given, Machine
from compressor.stages._pruning import Pruning
from compressor.tasks.classification import Classification

MACHINE = Machine(
    accelerator="cpu", devices=1, strategy="auto", threads=None, workers=0, progress=False,
    log_every=50, eval_batch_size=250, channels_last=True, latency_batch_size=1,
    latency_seconds=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Ready(Given):
    """A network in memory where a stage expects its parent's artefact."""

    net: torch.nn.Module = None

    def network(self, trust=()):
        return copy.deepcopy(self.net)


def context(data: ImageData, folder: str | Path, seed: int = 0, **others: Any) -> Context:
    """others: fields of the Context that differ from a plain run's."""
    labels = data.labels("train")
    plain = Context(
        seed=seed, folder=Path(folder), data=data, task=Classification(), machine=MACHINE,
        precision="32-true", targets=labels, clean_targets=labels,
        cache=Cache(Path(folder) / "cache"), data_key="",
    )  # fmt: skip
    return replace(plain, **others)


def prune_options(overrides: Sequence[str]) -> Pruning:
    """What the command line gives the compress stage for these overrides."""
    command = read_command(list(overrides))
    return Pruning.read(Menu(command).compose(command.overrides)["prune"])
