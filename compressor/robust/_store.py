"""Rows of numbers for every sample, in a file that is mapped into memory.

A million samples of a thousand classes are 4 GB: the file may be larger than the memory, and the
processes of one machine share it. Beside the working file lie the copies that checkpoints name:
the newest one and, until its successor is complete, the one before.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

_CHUNK = 16_384  # rows read at a time


class LabelStore:
    """(n, K) float32. A pickled store is the same file again, mapped in the other process."""

    def __init__(self, path: Path, n: int, k: int) -> None:
        """Maps the file at `path`; makes it, all zero, where there is none."""
        self.path = Path(path)
        self.shape = (n, k)
        if not self.path.exists():
            np.memmap(self.path, np.float32, "w+", shape=self.shape).flush()
        self._open()
        self._saved: Path | None = None  # a copy that holds what the working file holds

    def _open(self) -> None:
        self._map = np.memmap(self.path, np.float32, "r+", shape=self.shape)
        self._rows = torch.from_numpy(self._map)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "shape": self.shape, "_saved": self._saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, index: Tensor) -> Tensor:
        """index: (B,) int64 on any device. Returns a copy of the rows, (B, K), on the CPU."""
        return self._rows[index.cpu()]

    def write(self, index: Tensor, rows: Tensor) -> None:
        """index: (B,) int64, no value twice; rows: (B, K)."""
        self._rows[index.cpu()] = rows.cpu()
        self._saved = None

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, in order, some thousands at a time."""
        for first in range(0, self.shape[0], _CHUNK):
            part = slice(first, min(first + _CHUNK, self.shape[0]))
            yield part, self._rows[part]

    def save(self, path: Path) -> Path:
        """A copy that a checkpoint can name; an earlier one if nothing was written since."""
        if self._saved is not None and self._saved.exists():
            return self._saved
        self._map.flush()
        shutil.copyfile(self.path, path)
        self._saved = path
        return path

    def restore(self, path: Path) -> None:
        """Go on from a copy."""
        del self._rows, self._map
        shutil.copyfile(path, self.path)
        self._open()
        self._saved = path


def exchange(index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all processes, those of the first one first; every process gets them all.

    index: (B,) int64; rows: (B, K); B is the same in all of them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return index, rows
    world = dist.get_world_size()
    indices = [torch.empty_like(index) for _ in range(world)]
    others = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(indices, index.contiguous())
    dist.all_gather(others, rows.contiguous())
    return torch.cat(indices), torch.cat(others)
