"""Runs Lightning for a stage: loaders, callbacks, checkpoints, history; picks the epoch.

The picked weights are those of the epoch with the best validation figure (select_by; ties: the
later one), or of the last epoch with `select: last`; both figures stay in the history. A fit that
was killed goes on from its last finished epoch (stages/_resume.py) and ends with the same numbers.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from compressor.artefact import fill
from compressor.data import Damage, ImageData
from compressor.distill._layers import places
from compressor.errors import RunError
from compressor.loop import Loop
from compressor.regularize import Regularizer
from compressor.regularize.none import NoRegularizer
from compressor.robust import Phase, Remedy
from compressor.seeding import derive, generator
from compressor.stages import Context, Machine
from compressor.stages._callbacks import (
    EpochLine,
    History,
    LaterOfEquals,
    Stop,
    bar_of,
    column,
    quiet,
)
from compressor.stages._classes import balanced_weights, counts, decisive, hard
from compressor.stages._recipe import Recipe
from compressor.stages._resume import Progress, Resume
from compressor.tasks import Task
from compressor.tasks.alternating import Alternating
from compressor.tasks.holding import Holding
from compressor.tasks.optimization import OptimizerOptions
from compressor.tasks.supervised import Supervised
from compressor.tasks.training import Distillation, KnownLabels, Leg, Training

HISTORY = "history.csv"
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
    damage: Damage | None = None
    norms_rest: bool = False
    weighted: bool = False
    balanced: bool = False

    def rebalanced(self, class_weights: str, balanced: bool) -> "TrainingSet":
        """What is done about unequal classes. class_weights: a recipe's, none or balanced."""
        return replace(self, weighted=class_weights == "balanced", balanced=balanced)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: by which recipe, on what, and what a method of each group does to it.

    name: of its checkpoints and of the lines that a terminal sees. holding: what of the network
    stays as it is in every step. start, stop: epochs of the recipe's that are done before, and
    after which to leave; schedules, the order of the images and the phases stay those of the whole.
    """

    name: str
    recipe: Recipe
    remedy: Remedy
    training: TrainingSet = field(default_factory=TrainingSet)
    distillation: Distillation = field(default_factory=Distillation)
    regularizer: Regularizer = field(default_factory=NoRegularizer)
    holding: Holding = field(default_factory=Holding)
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Fitted:
    """What a training left behind: the network holds the picked weights."""

    net: nn.Module
    metrics: dict[str, Any]


class StageData(LightningDataModule):
    """Loaders of one leg; made inside each process, so that ranks and workers are known."""

    def __init__(self, job: Job, leg: Leg, context: Context) -> None:
        super().__init__()
        self.data: ImageData = context.data
        self.distillation = job.distillation
        self.batch_size = leg.optimizer.batch_size
        self.training = job.training
        # Lightning counts the epochs of each phase from 0: a seed of its own keeps a later phase
        # from repeating the first one's order and augmentation
        self.seed = derive(context.seed, "images", leg.first)
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
        makers = [term for term in self.distillation.acting.values() if not term.reads_images]
        return makers[0].steps if makers else 0

    def _counts(self, steps: int) -> DataLoader:
        return DataLoader(range(steps), batch_size=None, generator=generator(self.seed, "loader"))


def fit(net: nn.Module, job: Job, context: Context) -> Fitted:
    """Train `net` for the recipe's epochs, in the phases that the remedy asks for.

    The epoch that goes on is one of the last phase; the phases before go on from their last epoch.
    A killed fit of the same folder is gone on with. Raises RunError where no epoch was trained.
    """
    progress = Progress.find(context.folder)
    if progress.epochs:
        context.note(f"{job.name}: goes on after epoch {progress.epochs} of {job.recipe.epochs}")
    job.remedy.open(progress.folder, progress.state(progress.first))
    metrics: dict[str, Any] = {}
    if not context.task.labelled:  # those of the data, whatever they are
        job = replace(job, training=replace(job.training, targets=None))
    for leg in legs(job):
        if leg.first >= progress.first:  # else it is a finished phase of a killed fit
            net.train()  # loaded networks are in eval mode, and batch norms that rested before
            metrics = _run(_module(net, job, leg, context), job, leg, context, progress)
    if progress.epochs:
        metrics = {**metrics, "earlier_seconds": progress.seconds}
    return Fitted(net.cpu().eval(), metrics)


def legs(job: Job) -> Iterator[Leg]:
    """The part of each phase that lies between the job's start and its stop."""
    first = 0
    phases = [phase for phase in job.remedy.phases(job.recipe.epochs) if phase.epochs]
    for phase in phases:
        done = max(0, job.start - first)
        end = phase.epochs if job.stop is None else min(phase.epochs, job.stop - first)
        if done < end:
            yield Leg(
                loss=phase.loss,
                optimizer=_phase_options(job.recipe.optimizer, phase, first == 0),
                first=first,
                done=done,
                end=end,
                last=phase is phases[-1],
            )
        first += phase.epochs


def _phase_options(options: OptimizerOptions, phase: Phase, first: bool) -> OptimizerOptions:
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


def _module(net: nn.Module, job: Job, leg: Leg, context: Context) -> Training:
    training, classes = job.training, context.data.num_classes
    weights = None
    if training.weighted:
        weights = balanced_weights(counts(training.targets, training.index, classes))
    read = {name: places(net, name, "network") for name in job.regularizer.layers()}
    return Training(
        net,
        _loop(job.distillation, context.task.headline[0]),
        leg,
        task=context.task,
        num_classes=classes,
        distillation=job.distillation,
        regularizer=job.regularizer,
        holding=job.holding,
        labels=KnownLabels(given=training.targets, clean=training.clean, weights=weights),
        student_taps={**job.distillation.student_taps, **read},
        seed=context.seed,
        channels_last=context.machine.channels_last,
        norms_rest=training.norms_rest,
    )


def _loop(distillation: Distillation, headline: str) -> Loop:
    """Who runs the steps: the usual one, or that of a term which makes images or brings its own."""
    for name, term in distillation.acting.items():
        own = term.loop()
        if own is not None:
            return own
        if term.makes_images:
            return Alternating(name, term, headline)
    return Supervised()


@dataclass(frozen=True)
class _Pick:
    """By which figure the epoch that goes on is picked.

    tag: the figure's. mode: max or min. best: whether it decides at all, or the last epoch goes on.
    early: whether it is there when the training epoch ends, before the validation. told: columns of
    the history that the metrics show.
    """

    tag: str
    mode: str
    best: bool
    early: bool
    told: tuple[str, ...]

    @classmethod
    def of(cls, module: Training, job: Job, leg: Leg, task: Task) -> "_Pick":
        headline = task.headline[0]
        by = decisive(job.recipe.select_by, task)
        peak = leg.last and job.recipe.select == "clean_peak" and job.training.clean is not None
        tag = f"train/clean_{headline}" if peak else module.tag("val", by)
        direction = task.figures[headline if peak else by]
        told = tuple(dict.fromkeys(column(module.tag("val", name)) for name in (headline, by)))
        best = leg.last and job.recipe.select != "last"
        return cls(tag, direction, best, peak, told)


def _checkpoint(pick: _Pick, job: Job, leg: Leg, progress: Progress) -> LaterOfEquals:
    """Keeps the epoch that goes on."""
    return LaterOfEquals(
        dirpath=progress.folder / f"picked-{leg.first}",
        filename=f"{job.name}-{{epoch}}",
        monitor=pick.tag if pick.best else None,
        mode=pick.mode,
        save_top_k=1,
        save_weights_only=True,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=True if pick.early else None,
    )


def _watchers(
    pick: _Pick, job: Job, leg: Leg, context: Context, progress: Progress
) -> list[Callback]:
    history = History(context.folder / HISTORY, leg.first)
    found: list[Callback] = [history, Resume(progress, leg.first)]
    patience = job.recipe.patience
    if leg.last and patience is not None:
        found.append(Stop(pick.tag, min_delta=0.0, patience=patience, mode=pick.mode))
    if context.machine.progress:
        headline = context.task.headline[0]
        told = f"{job.name}: epoch {{}} of {job.recipe.epochs}"
        shown = (headline, job.recipe.select_by or headline)
        bar = bar_of(job.name, leg.first) if _terminal() else EpochLine(told, leg.first, shown)
        found.append(bar)
    return found


def _run(
    module: Training, job: Job, leg: Leg, context: Context, progress: Progress
) -> dict[str, Any]:
    """Train one leg; `module.net` then holds the weights that go on. Returns the metrics."""
    machine = context.machine
    pick = _Pick.of(module, job, leg, context.task)
    checkpoint = _checkpoint(pick, job, leg, progress)
    data = StageData(job, leg, context)
    step = progress.step(leg.first)
    with quiet():
        trainer = Trainer(
            max_epochs=leg.end,
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy=_strategy(machine, module),
            precision=context.precision,
            # a module that steps by itself clips by itself
            gradient_clip_val=leg.optimizer.clip_norm if module.automatic_optimization else None,
            logger=TensorBoardLogger(
                context.folder, name="tensorboard", version="", purge_step=step
            ),
            callbacks=[checkpoint, *_watchers(pick, job, leg, context, progress)],
            log_every_n_steps=machine.log_every,
            enable_progress_bar=machine.progress and _terminal(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if data.validates() else 0,
            use_distributed_sampler=False,
            default_root_dir=context.folder,
        )
        # Lightning counts on from here; a checkpoint that is gone on from knows better
        epoch = trainer.fit_loop.epoch_progress.current
        epoch.ready = epoch.started = epoch.processed = epoch.completed = leg.done
        torch.manual_seed(derive(context.seed, "fit", leg.first))
        saved = progress.checkpoint(leg.first)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=saved, weights_only=True)
        except SystemExit:
            raise KeyboardInterrupt from None  # how Lightning leaves after Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt
    if not checkpoint.best_model_path:
        raise RunError(f"{job.name} kept no epoch: {leg.end - leg.done} epochs were asked for")
    picked = _take(module.net, checkpoint.best_model_path)
    return _summary(context.folder / HISTORY, pick.told, picked + 1 + leg.first)


def _take(net: nn.Module, path: str) -> int:
    """Put the network's part of a checkpoint into it. Returns the epoch of its phase, from 0."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "net."
    tensors = {k[len(prefix) :]: v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    fill(net, tensors)
    return int(state["epoch"])


def _terminal() -> bool:
    return Console().is_terminal


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


def _strategy(machine: Machine, module: Training) -> str:
    """Spawned ranks instead of re-run commands: only `fit` runs in several processes.

    A module that steps by itself goes back through a part of its parameters at a time.
    """
    if not machine.several:
        return "auto"
    unused = "_find_unused_parameters_true"
    whole = module.automatic_optimization and not machine.strategy.endswith(unused)
    return "ddp_spawn" if whole else f"ddp_spawn{unused}"
