"""Export: the forms in which a run leaves its network behind. One file each, named by the format.

Run: compress-run export.onnx=false, or export.enabled=true in the members of a multirun
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compressor.artefact import Artefact
from compressor.data import ImageData
from compressor.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run ends with: its last artefact, the data that it was measured on, and its task.

    eval_batch_size: images at a time where a file is judged. trust: dotted class names that may be
    built.
    """

    made: Artefact
    data: ImageData
    task: Task
    eval_batch_size: int
    trust: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """Read afresh, in eval mode, on the CPU."""
        return self.made.network(self.trust)


class Exporter(ABC):
    """One format.

    name: how options and messages call it. files: what it leaves in the run folder, files or
    folders; an earlier run's are taken away first.
    """

    name: str
    files: tuple[str, ...]

    @abstractmethod
    def write(self, finished: Finished, run_dir: Path) -> Mapping[str, float]:
        """Write `files` into the run folder, whole or not at all. Raises RunError where the network
        has no such form.

        Returns what was compared on the way, for the report's `parity`.
        """

    def check(self, finished: Finished, run_dir: Path) -> Mapping[str, float]:
        """What the written files are worth by the task's own metrics, for the report's `parity`."""
        return {}
