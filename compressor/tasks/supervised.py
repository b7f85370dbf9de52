"""The usual loop: images of the data, their labels, and what stands beside the labels' loss.

loss = label_weight * remedy.loss + sum of term.weight * term.loss
       + sum of regularizer.losses + sum of regularizer.penalties
The null objects give 1, the cross-entropy, 0, 0 and 0, so that the step knows no method by name.
"""

from typing import Any

from torch import Tensor, nn

from compressor.distill import Batch
from compressor.loop import Loop
from compressor.tasks.optimization import make_optimizer, make_schedule, move_on
from compressor.tasks.training import Training


class Supervised(Loop):
    """One optimizer moves the network and the adapters of the terms."""

    def tag(self, part: str, name: str) -> str:
        return f"{part}/{name}"

    def step(self, training: Training, batch: Any, number: int) -> Tensor:
        inputs, targets, index = training.task.loss_inputs(batch)
        inputs = training.lay_out(inputs)
        training.regularizer.before_step(training.net, training.progress(number))
        outputs = training.forward_tapped(training.net, inputs, training.student_taps)
        distillation = training.distillation
        criterion = training.criterion(targets, index)
        loss = distillation.label_weight * training.label_loss(outputs, targets, index)
        terms = distillation.acting
        if terms:
            teacher = training.ask_teacher(inputs, index)
            seen = Batch(inputs, targets, index, criterion)
            for name, term in terms.items():
                part = term.loss(outputs, teacher, seen)
                training.note_part(name, part)
                loss = loss + term.weight * part
        for name, part in training.regularizer.losses(training.net, outputs, criterion).items():
            training.note_part(name, part)
            loss = loss + part
        loss = loss + training.penalty()
        training.steps += 1
        self._index = index
        training.train_metrics.update(outputs, targets)
        training.note_clean(outputs, index)
        # Not every step: a logged value costs about as much as a small network's layer.
        if training.global_step % training.trainer.log_every_n_steps == 0:
            training.log("train/step_loss", loss.detach())
        return loss

    def after_backward(self, training: Training) -> None:
        training.remedy.after_backward(self._index)

    def validate(self, training: Training, batch: Any, number: int) -> None:
        inputs, targets, _ = training.task.loss_inputs(batch)
        outputs = training.task.outputs(training.net(training.lay_out(inputs)))
        training.val_metrics.update(outputs, targets)

    def optimizers(self, training: Training) -> dict[str, Any]:
        steps = training.steps_per_epoch()
        trained = nn.ModuleList([training.net, *training.adapters.values()])
        optimizer = make_optimizer(trained, training.options)
        schedule = make_schedule(optimizer, training.options, steps * training.options.epochs)
        if training.done:
            move_on(schedule, steps * training.done)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
