"""The one LightningModule: a network, a task, and what a method of each group does to its training.

What a step sees and moves is the business of a loop (compressor/loop.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from compressor.distill import Term
from compressor.errors import Diverged
from compressor.loop import Loop
from compressor.regularize import Handle, Regularizer
from compressor.robust import Remedy
from compressor.seeding import derive
from compressor.taps import Tap, tapped
from compressor.tasks import Task
from compressor.tasks._layout import overruns
from compressor.tasks.holding import Holding
from compressor.tasks.optimization import OptimizerOptions

Taps = Mapping[str, tuple[Tap, ...]]


@dataclass(frozen=True)
class Distillation:
    """Distillation terms by name, the weight of the labels beside them, and the teacher.

    teacher: frozen and in eval mode; no part of the LightningModule, so that it is in no
    checkpoint and no call of train() reaches it. logits: (n, K), what it answers on the train part,
    in its place. adapters: what the terms train beside the student. *_taps: the features that the
    terms read, by the name that they gave. groups: (n,), of which a batch holds per_group each.
    """

    terms: Mapping[str, Term] = field(default_factory=dict)
    label_weight: float = 1.0
    teacher: nn.Module | None = None
    logits: Tensor | None = None
    adapters: Mapping[str, nn.Module] = field(default_factory=dict)
    student_taps: Taps = field(default_factory=dict)
    teacher_taps: Taps = field(default_factory=dict)
    groups: Tensor | None = None
    per_group: int = 1

    @property
    def acting(self) -> dict[str, Term]:
        """The terms that count: one of weight 0 is not computed."""
        return {name: term for name, term in self.terms.items() if term.weight}


def scalars(meter: MetricCollection) -> dict[str, Tensor]:
    """What a meter comes to, without vectors, such as figures of each class."""
    return {name: value for name, value in meter.compute().items() if value.ndim == 0}


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Epochs `done` to `end` of one phase of a training, run by one module.

    loss: the phase's remedy. optimizer: its options; the schedule is that of all their epochs.
    first: epochs of the training before the phase. last: whether no phase follows, so that the
    epoch that goes on is picked in this one.
    """

    loss: Remedy
    optimizer: OptimizerOptions
    first: int = 0
    done: int = 0
    end: int = 0
    last: bool = True


@dataclass(frozen=True, kw_only=True)
class KnownLabels:
    """What a training may know of the labels of the train part, beside those in its batches.

    given, clean: (n,), what it trains on, and the true ones if they are known and others. weights:
    (K,), by which the loss of each sample on its label counts, mean 1 over the samples; None where
    the remedy's loss counts as it is.
    """

    given: Tensor | None = None
    clean: Tensor | None = None
    weights: Tensor | None = None


class Training(LightningModule):
    """Trains `net` for one leg.

    seed: dropout and other draws of the network are reseeded from (seed, epoch).
    student_taps: the features that terms and regularizer read. norms_rest: batch norms keep the
    statistics that they have.
    """

    def __init__(
        self,
        net: nn.Module,
        loop: Loop,
        leg: Leg,
        *,
        task: Task,
        num_classes: int,
        distillation: Distillation,
        regularizer: Regularizer,
        seed: int,
        holding: Holding | None = None,
        labels: KnownLabels = KnownLabels(),  # noqa: B008 - frozen
        student_taps: Taps | None = None,
        channels_last: bool = True,
        norms_rest: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = loop.automatic
        self.net = net
        self.loop = loop
        self.task = task
        self.remedy = leg.loss
        self.distillation = distillation
        self.regularizer = regularizer
        self.holding = holding or Holding()
        self.student_taps = student_taps or {}
        self.adapters = nn.ModuleDict(distillation.adapters)
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.options = leg.optimizer
        self.first_epoch, self.done = leg.first, leg.done
        self.seed = seed
        self.channels_last = channels_last
        self.train_metrics = task.metrics(num_classes)
        self.val_metrics = task.metrics(num_classes)
        self.given = labels.given
        # where no label is read, none can be wrong
        self.clean = labels.clean if loop.reads_labels else None
        self.clean_metric = (
            None if self.clean is None else task.metrics(num_classes)[task.headline[0]]
        )
        self.class_weights = labels.weights
        self.norms_rest = norms_rest
        self._attached: tuple[Handle, ...] = ()

    def tag(self, part: str, name: str) -> str:
        """What a figure is logged under. part: train or val; name: of the task's metrics."""
        return self.loop.tag(part, name)

    def setup(self, stage: str) -> None:
        # not later: what runs processes side by side notes the layout of the parameters
        self.channels_last &= not overruns(self.net, self.trainer.strategy.root_device)
        if self.channels_last:
            for part in (self.net, self.adapters, self.distillation.teacher):
                if part is not None:
                    part.to(memory_format=torch.channels_last)
        self._attached = tuple(self.regularizer.attach(self.net))

    def teardown(self, stage: str) -> None:
        for handle in self._attached:
            handle.remove()

    def on_fit_start(self) -> None:
        teacher = self.distillation.teacher
        if teacher is not None:
            teacher.to(self.device).eval().requires_grad_(False)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device)
        self._clean = None if self.clean is None else self.clean.to(self.device)
        logits = self.distillation.logits
        self._logits = None if logits is None else logits.to(self.device)

    def on_train_start(self) -> None:
        self.holding.begin(self.net)

    def on_train_epoch_start(self) -> None:
        epoch = self.first_epoch + self.current_epoch
        torch.manual_seed(derive(self.seed, "dropout", epoch, self.global_rank))
        self.train_metrics.reset()
        self.sums, self.steps = {}, 0
        if self.clean_metric is not None:
            self.clean_metric.reset()
        self.remedy.before_epoch(epoch)
        if self.norms_rest:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()

    def training_step(self, batch: Any, number: int) -> Tensor | None:
        return self.loop.step(self, batch, number)

    def on_after_backward(self) -> None:
        self.loop.after_backward(self)

    def on_train_batch_end(self, outputs: Any, batch: Any, number: int) -> None:
        self.holding.after_step(self.net)

    def on_train_epoch_end(self) -> None:
        for name, value in self.means().items():
            self.log(f"train/{name}", value)
        for name, value in scalars(self.train_metrics).items():
            shown = name == self.task.headline[0]
            self.log(self.tag("train", name), value.float(), prog_bar=shown)
            if name == "loss" and not torch.isfinite(value):
                epoch = self.first_epoch + self.current_epoch + 1
                raise Diverged(
                    f"the training loss is {value.item()} in epoch {epoch}: lower lr "
                    f"(now {self.options.lr:g}) or set clip_norm"
                )

        if self.clean_metric is not None:
            name = f"train/clean_{self.task.headline[0]}"
            self.log(name, self.clean_metric.compute().float())

    def validation_step(self, batch: Any, number: int) -> None:
        self.loop.validate(self, batch, number)

    def on_validation_epoch_end(self) -> None:
        for name, value in scalars(self.val_metrics).items():
            shown = name == self.task.headline[0]
            self.log(self.tag("val", name), value.float(), prog_bar=shown)
        self.val_metrics.reset()

    def configure_optimizers(self) -> Any:
        return self.loop.optimizers(self)

    # -- what a loop asks of its training ---------------------------------------------------------

    def progress(self, number: int) -> float:
        """How much of the phase's epochs is over before batch `number` of this one, in [0, 1)."""
        epochs = self.current_epoch + number / self.trainer.num_training_batches
        return epochs / max(1, self.options.epochs)

    def steps_per_epoch(self) -> int:
        # the trainer may leave early: the schedule is that of the whole phase all the same
        return int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)

    def lay_out(self, inputs: Tensor) -> Tensor:
        """The same values in the memory format that the network is trained in."""
        if self.channels_last and inputs.ndim == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def label_loss(self, outputs: dict[str, Any], targets: Tensor, index: Tensor) -> Tensor:
        """Scalar: the remedy's, or the mean over the batch of weight x loss. Of a task whose
        targets are no labels its own.

        Of distributions for targets the weight is their mean. Not divided by the batch's weights,
        as torch's losses do: a batch of a rare class alone counts as much as it should.
        """
        if not self.task.labelled:
            return self.task.loss(outputs, targets)
        if self.class_weights is None:
            return self.remedy.loss(outputs, targets, index)
        soft = targets.is_floating_point()
        weights = targets @ self.class_weights if soft else self.class_weights[targets]
        return (weights * self.remedy.losses(outputs, targets, index)).mean()

    def criterion(self, targets: Tensor, index: Tensor) -> Callable[[Tensor], Tensor]:
        """logits (B, K) -> the loss on these labels."""
        return lambda logits: self.label_loss({"logits": logits, "aux": ()}, targets, index)

    def penalty(self) -> Tensor | float:
        """What the regularizer adds for the weights as they are."""
        total: Tensor | float = 0.0
        for name, penalty in self.regularizer.penalties(self.net).items():
            self.note_part(name, penalty)
            total = total + penalty
        return total

    def note_clean(self, outputs: Mapping[str, Any], index: Tensor) -> None:
        """Count how well these samples' true labels are told, where they are known and others."""
        if self.clean_metric is not None:
            self.clean_metric.update(outputs, self._clean[index])

    def note_part(self, name: str, value: Tensor) -> None:
        """Add to the epoch's mean of a part of the loss, before weighting."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> dict[str, Tensor]:
        """The epoch's mean of every part, over all processes, each of which has to ask."""
        means = {name: value / max(1, self.steps) for name, value in self.sums.items()}
        exchange = self.trainer.strategy.reduce
        return {name: exchange(value, reduce_op="mean") for name, value in means.items()}

    def ask_teacher(self, inputs: Tensor, index: Tensor) -> dict[str, Any]:
        """What it answers to the images at these positions; {} without a teacher."""
        if self._logits is not None:
            return {"logits": self._logits[index]}
        if self.distillation.teacher is None:
            return {}
        # not inference mode, whose tensors no loss could save for its backward pass
        with torch.no_grad():
            return self.forward_tapped(
                self.distillation.teacher, inputs, self.distillation.teacher_taps
            )

    def forward_tapped(self, net: nn.Module, inputs: Tensor, taps: Taps) -> dict[str, Any]:
        """The task's outputs, and the tapped features by name, each a list of tensors."""
        if not taps:
            return self.task.outputs(net(inputs))
        found: dict[Tap, Tensor] = {}

        def keep(tap: Tap) -> Callable[[nn.Module, Tensor], None]:
            def record(_: nn.Module, value: Tensor) -> None:
                found[tap] = value

            return record

        wanted = dict.fromkeys(tap for places in taps.values() for tap in places)
        with tapped(net, {tap: keep(tap) for tap in wanted}):
            outputs = self.task.outputs(net(inputs))
        features = {name: [found[tap] for tap in places] for name, places in taps.items()}
        return {**outputs, "features": features}
