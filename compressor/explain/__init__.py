"""Explain: a look into finished networks, after the walk. One file each, named by the method.

Run: compress-run explain=NAME, or explain='[NAME,...]'
A probe changes no figure of the run. What it finds is an entry of the cache, keyed by the artefacts
that it reads, so that a second run with the same networks shows it again at no cost.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressor.artefact import Artefact
from compressor.data import ImageData
from compressor.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """What a probe may look at.

    artefacts: by point of the run, those that it asked for (`Probe.points`). device: where networks
    may run. batch_size: images at a time. seed: of its draws. trust: dotted class names that may be
    built.
    """

    artefacts: Mapping[str, Artefact]
    data: ImageData
    task: Task
    device: torch.device
    batch_size: int
    seed: int
    trust: tuple[str, ...] = ()

    def network(self, point: str) -> nn.Module:
        """The network at a point, read afresh, in eval mode, on the CPU."""
        return self.artefacts[point].network(self.trust)


class Probe(ABC):
    """One way to look into networks, chosen by the config group `explain`.

    points: whose networks it reads, of dense, compressed, recalibrated and final. version: raised
    when the same options find something else.
    """

    points: tuple[str, ...] = ("final",)
    version: int = 1

    @abstractmethod
    def look(self, subjects: Subjects, folder: Path) -> Mapping[str, float]:
        """Write pictures (*.png, which the report shows) and tables into `folder`.

        Returns figures for the report, by name. A function of its options and `subjects` alone.
        """
