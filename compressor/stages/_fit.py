"""Runs Lightning for a stage: loaders, callbacks, checkpoints, history; picks the epoch.

The picked weights are those of the epoch with the best validation figure (select_by; ties: the
later one), or of the last epoch with `select: last`; both figures stay in the history. A fit that
was killed goes on from its last finished epoch (stages/_resume.py) and ends with the same numbers.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from compressor.artefact import fill
from compressor.data import ImageData
from compressor.errors import RunError
from compressor.regularize import Regularizer
from compressor.regularize.none import NoRegularizer
from compressor.robust import Phase
from compressor.seeding import derive, generator
from compressor.stages import Context
from compressor.stages._callbacks import (
    EpochLine,
    History,
    LaterOfEquals,
    Stop,
    bar_of,
    column,
    quiet,
)
from compressor.stages._classes import SELECT_BY, balanced_weights, counts, hard
from compressor.stages._resume import Progress, Resume
from compressor.tasks.alternating import Alternating
from compressor.tasks.optimization import OptimizerOptions
from compressor.tasks.training import Distillation, Training

# How an epoch is picked: the figure and its direction, None for the task's headline.
_FRESH = 4  # batches of made images that stand for the validation part where none may be read


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What a fit trains on, of the train part.

    targets: (n,) int64 or (n, K) distributions. index: positions that are visited, None for all.
    clean: (n,) int64, the true labels where they are known and not the targets. damage: done to
    the images. norms_rest: batch norms keep their statistics. weighted: whether the loss of a
    sample is weighted by its class, balanced: whether every class is visited equally often.
    """

    targets: Tensor | None = None
    index: Tensor | None = None
    clean: Tensor | None = None
    damage: Any = None
    norms_rest: bool = False
    weighted: bool = False
    balanced: bool = False


@dataclass(frozen=True)
class Fitted:
    """What a training left behind: the network holds the picked weights."""

    net: nn.Module
    metrics: dict[str, Any]


class StageData(LightningDataModule):
    """Loaders of one stage; made inside each process, so that ranks and workers are known."""

    def __init__(
        self,
        data: ImageData,
        options: OptimizerOptions,
        training: TrainingSet,
        context: Context,
        first_epoch: int,
        distillation: Distillation,
    ) -> None:
        super().__init__()
        self.data = data
        self.distillation = distillation
        self.batch_size = options.batch_size
        self.training = training
        # Lightning counts the epochs of each phase from 0: a seed of its own keeps a later phase
        # from repeating the first one's order and augmentation
        self.seed = derive(context.seed, "images", first_epoch)
        self.workers = context.machine.workers
        self.eval_batch_size = context.machine.eval_batch_size

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:  # a spawned process knows no filters
            quiet.ignore()

    def train_dataloader(self) -> Any:
        trainer = self.trainer
        steps = self._made()
        if steps:
            return self._counts(steps)
        return self.data.loader(
            "train",
            self.batch_size,
            seed=self.seed,
            shuffle=True,
            augment=True,
            targets=self.training.targets,
            indices=self.training.index,
            damage=self.training.damage,
            groups=self.distillation.groups,
            per_group=self.distillation.per_group,
            classes=hard(self.training.targets) if self.training.balanced else None,
            workers=self.workers,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def val_dataloader(self) -> Any:
        trainer = self.trainer
        if self._made():
            return self._counts(_FRESH)
        return self.data.loader(
            "val",
            self.eval_batch_size,
            workers=self.workers,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def validates(self) -> bool:
        """Whether an epoch is judged at all: not where nothing was split off the train part."""
        return bool(self._made() or self.data.size("val"))

    def _made(self) -> int:
        """Steps an epoch of a method that makes its images and reads none; 0 for all others."""
        for term in self.distillation.acting.values():
            if hasattr(term, "draw") and not term.beside:
                return term.steps
        return 0

    def _counts(self, steps: int) -> DataLoader:
        return DataLoader(range(steps), batch_size=None, generator=generator(self.seed, "loader"))


def fit(
    net: nn.Module,
    options: OptimizerOptions,
    context: Context,
    *,
    name: str,
    select: str,
    robust: Any,
    distillation: Distillation,
    regularizer: Regularizer | None = None,
    training: TrainingSet | None = None,
    patience: int | None = None,
    select_by: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Fitted:
    """Train `net` for options.epochs in the phases that `robust` asks for, one fit each.

    select: best | last | clean_peak, of the last phase; the phases before go on from their last
    epoch. patience: epochs of the last phase without a better figure after which it ends.
    select_by: the validation figure that decides, None for the task's headline.
    start, stop: epochs of these that are done before, and after which to leave; schedules, the
    order of the images and the phases stay those of the whole.
    """
    training = training or TrainingSet()
    weights = None
    if training.weighted:
        found = counts(training.targets, training.index, context.data.num_classes)
        weights = balanced_weights(found)
    module_options = {
        "class_weights": weights,
        "clean": training.clean,
        "given": training.targets,
        "norms_rest": training.norms_rest,
        "task": context.task,
        "num_classes": context.data.num_classes,
        "distillation": distillation,
        "regularizer": regularizer or NoRegularizer(),
        "seed": context.seed,
        "channels_last": context.machine.channels_last,
    }
    progress = Progress.find(context.folder)
    if progress.epochs:
        context.note(f"{name}: goes on after epoch {progress.epochs} of {options.epochs}")
    robust.open(progress.folder, progress.state(progress.first))
    first = 0
    metrics: dict[str, Any] = {}
    phases = [phase for phase in robust.phases(options.epochs) if phase.epochs]
    for phase in phases:
        done = max(0, start - first)
        end = phase.epochs if stop is None else min(phase.epochs, stop - first)
        if done >= end or first < progress.first:  # the latter: a finished phase of a killed fit
            first += phase.epochs
            continue
        net.train()  # loaded networks are in eval mode, and batch norms that rested before
        module: LightningModule = _module(distillation)(
            net,
            robust=phase.loss,
            optimizer=_phase_options(options, phase, phase is phases[0]),
            first_epoch=first,
            done=done,
            **module_options,
        )
        for term in distillation.terms.values():
            if hasattr(term, "loop"):  # a method that owns the loop brings its own module
                module = term.loop(module)
        metrics = _fit_phase(
            module,
            done,
            end,
            first,
            options,
            context,
            name,
            select if phase is phases[-1] else "last",
            training,
            progress,
            patience if phase is phases[-1] else None,
            select_by or context.task.headline[0],
        )
        first += phase.epochs
    if progress.epochs:
        metrics = {**metrics, "earlier_seconds": progress.seconds}
    return Fitted(net.cpu().eval(), metrics)


def _module(distillation: Distillation) -> Any:
    """The module that trains: the plain one, or that of a method which makes its own images."""
    for name, term in distillation.acting.items():
        if hasattr(term, "draw"):
            return partial(Alternating, name=name)
    return Training


def _phase_options(options: OptimizerOptions, phase: Phase, first: bool) -> OptimizerOptions:
    from dataclasses import replace

    changes: dict[str, Any] = {"lr": options.lr * phase.lr_scale, "epochs": phase.epochs}
    if phase.schedule is not None:
        changes["schedule"] = phase.schedule
    if phase.milestones is not None:
        changes["milestones"] = phase.milestones
    if phase.gamma is not None:
        changes["gamma"] = phase.gamma
    if not first:
        changes["warmup_epochs"] = 0  # a later phase goes on at the rate that the first one reached
    return replace(options, **changes)


def _fit_phase(
    module: LightningModule,
    done: int,
    end: int,
    first: int,
    options: OptimizerOptions,
    context: Context,
    name: str,
    select: str,
    training: TrainingSet,
    progress: Progress,
    patience: int | None,
    by: str,
) -> dict[str, Any]:
    machine = context.machine
    headline, direction = context.task.headline
    peak = select == "clean_peak" and training.clean is not None
    judged = module.tag("val", by)
    monitor = f"train/clean_{headline}" if peak else judged
    if not peak and by != headline:
        direction = SELECT_BY[by]
    checkpoint = LaterOfEquals(
        dirpath=progress.folder / f"picked-{first}",
        filename=f"{name}-{{epoch}}",
        monitor=None if select == "last" else monitor,
        mode=direction,
        save_top_k=1,
        save_weights_only=True,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=True if peak else None,
    )
    history = context.folder / "history.csv"
    callbacks: list[Callback] = [checkpoint, History(history, first), Resume(progress, first)]
    if patience is not None:
        callbacks.append(Stop(monitor, min_delta=0.0, patience=patience, mode=direction))
    bar = machine.progress and Console().is_terminal
    if machine.progress:
        told = f"{name}: epoch {{}} of {options.epochs}"
        callbacks.append(bar_of(name, first) if bar else EpochLine(told, first, (headline, by)))
    data = StageData(context.data, options, training, context, first, module.distillation)
    with quiet():
        trainer = Trainer(
            max_epochs=end,
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy=_strategy(machine, module),
            precision=context.precision,
            # a module that steps by itself clips by itself
            gradient_clip_val=options.clip_norm if module.automatic_optimization else None,
            logger=TensorBoardLogger(
                context.folder, name="tensorboard", version="", purge_step=progress.step(first)
            ),
            callbacks=callbacks,
            log_every_n_steps=machine.log_every,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if data.validates() else 0,
            use_distributed_sampler=False,
            default_root_dir=context.folder,
        )
        # Lightning counts on from here; a checkpoint that is gone on from knows better
        epoch = trainer.fit_loop.epoch_progress.current
        epoch.ready = epoch.started = epoch.processed = epoch.completed = done
        torch.manual_seed(derive(context.seed, "fit", first))
        try:
            trainer.fit(
                module, datamodule=data, ckpt_path=progress.checkpoint(first), weights_only=True
            )
        except SystemExit:
            raise KeyboardInterrupt from None  # how Lightning leaves after Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt
    best = checkpoint.best_model_path
    if not best:
        raise RunError(f"{name} kept no epoch: {end - done} epochs were asked for")
    state = torch.load(best, map_location="cpu", weights_only=True)
    prefix = "net."
    tensors = {k[len(prefix) :]: v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    fill(module.net, tensors)
    shown = dict.fromkeys(column(module.tag("val", figure)) for figure in (headline, by))
    return _summary(history, tuple(shown), int(state["epoch"]) + 1 + first)


def _summary(history: Path, values: tuple[str, ...], picked: int) -> dict[str, Any]:
    """values: columns of the history whose figures at the picked and the last epoch are told.

    Without a validation part their cells are empty, and nothing is told.
    """
    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = next(row for row in rows if int(row["epoch"]) == picked)
    values = tuple(value for value in values if rows[-1][value])
    return {
        "epochs": len(rows),
        "picked_epoch": picked,
        "last_epoch": int(rows[-1]["epoch"]),
        **{f"picked_{value}": float(chosen[value]) for value in values},
        **{f"last_{value}": float(rows[-1][value]) for value in values},
    }


def _strategy(machine: Any, module: LightningModule) -> str:
    """Spawned ranks instead of re-run commands: only `fit` runs in several processes.

    A module that steps by itself goes back through a part of its parameters at a time.
    """
    if not machine.several:
        return "auto"
    unused = "_find_unused_parameters_true"
    whole = module.automatic_optimization and not machine.strategy.endswith(unused)
    return "ddp_spawn" if whole else f"ddp_spawn{unused}"


def rebalanced(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, bool]:
    """What a TrainingSet is to know of unequal classes. own: the optimizer's part of `options`."""
    return {
        "weighted": own["class_weights"] == "balanced",
        "balanced": options.get("sampler") == "balanced",
    }


def plain(options: Mapping[str, Any]) -> OptimizerOptions:
    """The optimizer options among a train or finetune sub-tree."""
    names = OptimizerOptions.__dataclass_fields__
    values = {name: options[name] for name in names}
    return OptimizerOptions(**{**values, "milestones": tuple(values["milestones"])})
