"""The one LightningModule: a network, a task, a robust loss, distillation terms and penalties.

loss = label_weight * robust.loss + sum of term.weight * term.loss + sum of regularizer.penalties;
the null objects give 1, the cross-entropy, 0 and 0, so the step knows no method by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from compressor.distill import Batch
from compressor.errors import Diverged
from compressor.seeding import derive
from compressor.taps import Tap, tapped
from compressor.tasks import Task
from compressor.tasks._layout import overruns
from compressor.tasks.optimization import (
    OptimizerOptions,
    make_optimizer,
    make_schedule,
    move_on,
)

Taps = Mapping[str, tuple[Tap, ...]]


@dataclass(frozen=True)
class Distillation:
    """Distillation terms by name, the weight of the labels beside them, and the teacher.

    teacher: frozen and in eval mode; no part of the LightningModule, so that it is in no
    checkpoint and no call of train() reaches it. logits: (n, K), what it answers on the train part,
    in its place. adapters: what the terms train beside the student. *_taps: the features that the
    terms read, by the name that they gave. groups: (n,), of which a batch holds per_group each.
    """

    terms: Mapping[str, Any] = field(default_factory=dict)
    label_weight: float = 1.0
    teacher: nn.Module | None = None
    logits: Tensor | None = None
    adapters: Mapping[str, nn.Module] = field(default_factory=dict)
    student_taps: Taps = field(default_factory=dict)
    teacher_taps: Taps = field(default_factory=dict)
    groups: Tensor | None = None
    per_group: int = 1

    @property
    def acting(self) -> dict[str, Any]:
        """The terms that count: one of weight 0 is not computed."""
        return {name: term for name, term in self.terms.items() if term.weight}


def scalars(meter: MetricCollection) -> dict[str, Tensor]:
    """What a meter comes to, without vectors, such as figures of each class."""
    return {name: value for name, value in meter.compute().items() if value.ndim == 0}


class Training(LightningModule):
    """Trains `net` for one phase.

    seed: dropout and other draws of the network are reseeded from (seed, epoch).
    first_epoch: epochs that earlier phases of the same stage took; done: those of this phase that
    are over already, for the schedule to begin behind.
    given, clean: (n,) labels of the train part: what it trains on, and the true ones if they are
    known and others. norms_rest: batch norms keep the statistics that they have.
    class_weights: (K,), by which the loss of each sample on its label counts, mean 1 over the
    samples; None where the remedy's loss counts as it is.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        task: Task,
        num_classes: int,
        robust: Any,
        distillation: Distillation,
        regularizer: Any,
        optimizer: OptimizerOptions,
        seed: int,
        first_epoch: int = 0,
        done: int = 0,
        channels_last: bool = True,
        given: Tensor | None = None,
        clean: Tensor | None = None,
        norms_rest: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.task = task
        self.robust = robust
        self.distillation = distillation
        self.regularizer = regularizer
        self.adapters = nn.ModuleDict(distillation.adapters)
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.options = optimizer
        self.seed = seed
        self.first_epoch = first_epoch
        self.done = done
        self.channels_last = channels_last
        self.train_metrics = task.metrics(num_classes)
        self.val_metrics = task.metrics(num_classes)
        self.given = given
        self.clean = clean
        self.clean_metric = None if clean is None else task.metrics(num_classes)[task.headline[0]]
        self.norms_rest = norms_rest
        self.class_weights = class_weights

    def tag(self, part: str, name: str) -> str:
        """What a figure is logged under. part: train or val; name: of the task's metrics."""
        return f"{part}/{name}"

    def setup(self, stage: str) -> None:
        # not later: what runs processes side by side notes the layout of the parameters
        self.channels_last &= not overruns(self.net, self.trainer.strategy.root_device)
        if self.channels_last:
            for part in (self.net, self.adapters, self.distillation.teacher):
                if part is not None:
                    part.to(memory_format=torch.channels_last)

    def on_fit_start(self) -> None:
        teacher = self.distillation.teacher
        if teacher is not None:
            teacher.to(self.device).eval().requires_grad_(False)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device)
        self._clean = None if self.clean is None else self.clean.to(self.device)
        logits = self.distillation.logits
        self._logits = None if logits is None else logits.to(self.device)

    def on_train_epoch_start(self) -> None:
        epoch = self.first_epoch + self.current_epoch
        torch.manual_seed(derive(self.seed, "dropout", epoch, self.global_rank))
        self.train_metrics.reset()
        self.sums, self.steps = {}, 0
        if self.clean_metric is not None:
            self.clean_metric.reset()
        self.robust.before_epoch(epoch)
        if self.norms_rest:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()

    def training_step(self, batch: Any, _: int) -> Tensor:
        inputs, targets, index = self.task.loss_inputs(batch)
        inputs = self._layout(inputs)
        outputs = self.forward_tapped(self.net, inputs, self.distillation.student_taps)
        loss = self.distillation.label_weight * self.label_loss(outputs, targets, index)
        terms = self.distillation.acting
        if terms:
            teacher = self._ask_teacher(inputs, index)
            batch = Batch(inputs, targets, index, self._criterion(targets, index))
            for name, term in terms.items():
                part = term.loss(outputs, teacher, batch)
                self.note_part(name, part)
                loss = loss + term.weight * part
        for name, penalty in self.regularizer.penalties(self.net).items():
            self.note_part(name, penalty)
            loss = loss + penalty
        self.steps += 1
        self._index = index
        self.train_metrics.update(outputs, targets)
        if self.clean_metric is not None:
            self.clean_metric.update(outputs, self._clean[index])
        # Not every step: a logged value costs about as much as a small network's layer.
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log("train/step_loss", loss.detach())
        return loss

    def on_after_backward(self) -> None:
        self.robust.after_backward(self._index)

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

    def validation_step(self, batch: Any, _: int) -> None:
        inputs, targets, _ = self.task.loss_inputs(batch)
        outputs = self.task.outputs(self.net(self._layout(inputs)))
        self.val_metrics.update(outputs, targets)

    def on_validation_epoch_end(self) -> None:
        for name, value in scalars(self.val_metrics).items():
            shown = name == self.task.headline[0]
            self.log(self.tag("val", name), value.float(), prog_bar=shown)
        self.val_metrics.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        # the trainer may leave early: the schedule is that of the whole phase all the same
        steps = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        optimizer = make_optimizer(nn.ModuleList([self.net, *self.adapters.values()]), self.options)
        schedule = make_schedule(optimizer, self.options, steps * self.options.epochs)
        if self.done:
            move_on(schedule, steps * self.done)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _layout(self, inputs: Tensor) -> Tensor:
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
            return self.robust.loss(outputs, targets, index)
        soft = targets.is_floating_point()
        weights = targets @ self.class_weights if soft else self.class_weights[targets]
        return (weights * self.robust.losses(outputs, targets, index)).mean()

    def note_part(self, name: str, value: Tensor) -> None:
        """Add to the epoch's mean of a part of the loss, before weighting."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> dict[str, Tensor]:
        """The epoch's mean of every part, over all processes, each of which has to ask."""
        means = {name: value / max(1, self.steps) for name, value in self.sums.items()}
        exchange = self.trainer.strategy.reduce
        return {name: exchange(value, reduce_op="mean") for name, value in means.items()}

    def _criterion(self, targets: Tensor, index: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda logits: self.label_loss({"logits": logits, "aux": ()}, targets, index)

    def _ask_teacher(self, inputs: Tensor, index: Tensor) -> dict[str, Any]:
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
