"""What watches a fit: the history of its epochs, the epoch that is kept, what a terminal sees."""

import csv
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from compressor.tasks.training import scalars


def columns(headline: str) -> tuple[str, ...]:
    """Those of every history.csv, in this order; others stand behind them."""
    figures = [f"{part}_{figure}" for part in ("train", "val") for figure in ("loss", headline)]
    return ("epoch", *figures, "lr", "seconds")


def column(tag: str) -> str:
    """Where a figure of this tag stands in history.csv."""
    return tag.replace("/", "_")


class History(Callback):
    """One row an epoch in history.csv, written as the epochs end; seconds: its training steps.

    train_*: measured while training, on the images that it visits (not on those that a remedy
    dropped) against the labels that it trains on; train_clean_accuracy, or another headline:
    against the true ones.
    Figures of made images have names of their own (tasks/alternating.py).
    """

    def __init__(self, path: Path, first_epoch: int) -> None:
        self.path = path
        self.first_epoch = first_epoch
        self._start = self._end = 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start = self._end = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self._end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # Callbacks come before the module's own hook, so its train metrics are not logged yet.
        # Every rank computes: the metrics are exchanged.
        train = scalars(module.train_metrics)
        clean = None if module.clean_metric is None else module.clean_metric.compute()
        parts = module.means()
        if not trainer.is_global_zero:
            return
        headline = module.task.headline[0]
        values = {column(module.tag("train", name)): value for name, value in train.items()}
        for name in train:
            tag = module.tag("val", name)
            values[column(tag)] = trainer.callback_metrics.get(tag, "")
        if clean is not None:
            values[f"train_clean_{headline}"] = clean
        if module.remedy.store is not None:
            index = trainer.datamodule.training.index
            figures = module.remedy.figures(module.given, module.clean, index)
            step = self.first_epoch + trainer.current_epoch
            for name, value in figures.items():
                module.logger.experiment.add_scalar(f"train/{name}", value, step)
            values |= figures
        row = {
            "epoch": self.first_epoch + trainer.current_epoch + 1,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(self._end - self._start, 3),
            **{name: float(value) if value != "" else "" for name, value in values.items()},
            **{f"train_{name}": float(value) for name, value in parts.items()},
        }
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            usual = tuple(name for name in columns(headline) if name in row)
            others = tuple(name for name in row if name not in usual)
            writer = csv.DictWriter(file, usual + others)
            if new:
                writer.writeheader()
            writer.writerow(row)


class EpochLine(Callback):
    """A line an epoch where no terminal is: a bar's lines wrap in a file, and most are lost."""

    def __init__(self, told: str, first_epoch: int, figures: tuple[str, ...]) -> None:
        self.told, self.first_epoch = told, first_epoch
        self.figures = tuple(dict.fromkeys(("loss", *figures)))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        found = trainer.callback_metrics
        tags = [module.tag("val", name) for name in self.figures]
        figures = [
            f"{column(tag).replace('_', ' ')} {float(found[tag]):.4f}"
            for tag in tags
            if tag in found
        ]
        told = self.told.format(self.first_epoch + trainer.current_epoch + 1)
        print(", ".join([told, *figures]), flush=True)


class LaterOfEquals(ModelCheckpoint):
    """Keeps the best epoch; of equally good ones the later, which has trained longer."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # the folder has another name now: whoever goes on moves it out of a dead maker's reach
        old, new = state_dict["dirpath"], str(self.dirpath)
        names = ("dirpath", "best_model_path", "last_model_path", "kth_best_model_path")
        moved = {name: state_dict[name].replace(old, new, 1) for name in names}
        kept = {
            path.replace(old, new, 1): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict({**state_dict, **moved, "best_k_models": kept})

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        best = self.best_model_score
        if current is None or best is None or torch.isnan(best):
            return current is not None
        good = current >= best if self.mode == "max" else current <= best
        return bool(trainer.strategy.reduce_boolean_decision(bool(good)))


class Stop(EarlyStopping):
    """Ends a training that no longer gets better; one that went on after a kill ends there too."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


def bar_of(name: str, first: int) -> Callback:
    from pytorch_lightning.callbacks import RichProgressBar

    class StageBar(RichProgressBar):
        """Says which stage the epochs belong to."""

        def _get_train_description(self, current_epoch: int) -> str:
            return f"{name}: epoch {first + current_epoch + 1}"

    return StageBar(leave=False)


class quiet:
    """Silences Lightning's advice on things that are decided here."""

    _loggers = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    _ignored = (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*GPU available but not used.*",
        ".*MPS available but not used.*",
        ".*exists and is not empty.*",
        ".*`_register_pytree_node`.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`trainer.init_module.*",
        ".*TensorBoard.*",
        ".*sync_dist=True.*",  # what is logged has been exchanged
    )

    def __enter__(self) -> None:
        self._levels = {n: logging.getLogger(n).level for n in self._loggers}
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        self.ignore()

    @classmethod
    def ignore(cls) -> None:
        for name in cls._loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        for message in cls._ignored:
            warnings.filterwarnings("ignore", message=message)

    def __exit__(self, *error: Any) -> None:
        self._caught.__exit__(*error)
        for logger, level in self._levels.items():
            logging.getLogger(logger).setLevel(level)
