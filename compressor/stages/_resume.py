"""How a killed training goes on: from the checkpoint of its last finished epoch.

Lightning restores weights, optimizer, schedule and counters; the order of the images, augmentation
and dropout are functions of (seed, epoch), so that nothing random has to be restored and the
numbers are those of an unbroken training.
"""

import csv
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from compressor.cache import RESUME
from compressor.errors import RunError
from compressor.manifest import digest, read_json


@dataclass
class Progress:
    """What an earlier attempt at the same fit has finished.

    folder: where checkpoints lie; first: epochs before the phase that was under way; epochs: those
    that are finished, all phases together; seconds: what they took.
    """

    folder: Path
    first: int = 0
    epochs: int = 0
    global_step: int = 0
    seconds: float = 0.0
    file: str = ""
    sidecar: str = ""  # per-sample state that belongs to the checkpoint

    @classmethod
    def find(cls, stage_folder: Path) -> "Progress":
        """The progress that a killed process left in the stage's folder, if it can be trusted.

        history.csv loses the rows after it; anything else half-written is taken away.
        """
        folder = stage_folder / RESUME
        try:
            left = read_json(folder / "progress.json")
            found = cls(folder, **{name: left[name] for name in _FIELDS})
            sound = digest(folder / found.file) == left["sha256"]
            if found.sidecar:
                sound = sound and digest(folder / found.sidecar) == left["sidecar_sha256"]
        except (RunError, OSError, KeyError, TypeError):
            sound = False
        if not sound:
            for path in stage_folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            folder.mkdir()
            return cls(folder)
        _cut_history(stage_folder / "history.csv", found.epochs)
        return found

    def checkpoint(self, first: int) -> Path | None:
        """The checkpoint to go on from in the phase that begins after `first` epochs."""
        return self.folder / self.file if self.epochs and first == self.first else None

    def state(self, first: int) -> Path | None:
        """The per-sample state that belongs to that checkpoint."""
        return self.folder / self.sidecar if self.sidecar and self.checkpoint(first) else None

    def step(self, first: int) -> int | None:
        """The optimizer step from which on logged values are to be forgotten."""
        return self.global_step if self.epochs and first == self.first else None


_FIELDS = ("first", "epochs", "global_step", "seconds", "file", "sidecar")


class Resume(Checkpoint):
    """Writes a checkpoint of everything at the end of every epoch; the one before goes then.

    Rows that a remedy keeps for every sample are a file beside it, named and checksummed with it.
    """

    def __init__(self, progress: Progress, first: int) -> None:
        self.folder = progress.folder
        self.first = first
        self._earlier = progress.seconds
        self._start = time.perf_counter()
        self._sidecar: tuple[str, str] = ("", "")

    # A Checkpoint's hooks come after all others', so the epoch's figures and pick are in it.
    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epochs = self.first + trainer.current_epoch + 1
        name = f"epoch-{epochs}.ckpt"
        if trainer.is_global_zero:
            # before the checkpoint: the other processes wait there and change no row meanwhile
            self._save_rows(module.remedy.store, epochs)
        trainer.save_checkpoint(self.folder / name)
        if not trainer.is_global_zero:
            return
        progress = {
            "first": self.first,
            "epochs": epochs,
            "global_step": trainer.global_step,
            "seconds": round(self._earlier + time.perf_counter() - self._start, 3),
            "file": name,
            "sha256": digest(self.folder / name),
            "sidecar": self._sidecar[0],
            "sidecar_sha256": self._sidecar[1],
        }
        fresh = self.folder / "progress.json.part"
        fresh.write_text(json.dumps(progress), encoding="utf-8")
        os.replace(fresh, self.folder / "progress.json")
        for old in (*self.folder.glob("epoch-*.ckpt"), *self.folder.glob("rows-*")):
            if old.name not in (name, self._sidecar[0]):
                old.unlink()

    def _save_rows(self, store: Any, epochs: int) -> None:
        if store is None:
            return
        path = store.save(self.folder / f"rows-{epochs}")
        if path.name != self._sidecar[0]:
            self._sidecar = (path.name, digest(path))


def _cut_history(path: Path, epochs: int) -> None:
    """Keep the rows of the first `epochs` epochs."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows: list[dict[str, Any]] = [row for row in reader if int(row["epoch"]) <= epochs]
        names = reader.fieldnames or ()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
