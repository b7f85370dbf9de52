"""Training on images that a second network makes, the two networks in turns from the same batch.

The method (one term of the distillation) owns the images and the losses, this module the steps:

    draw(maker, count, device, rng)   (count, C, H, W)
    judge(teacher)                    the maker's losses by name, and their sum to go down
    turn(progress)                    whether maker and student learn now; progress: in [0, 1)
    maker_optimizer(maker)            an optimizer, or None for a maker that does not learn
    count, beside                     images a step; whether real images and labels count as well

No training image is read unless the method wants them `beside` its own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from compressor.distill import Batch
from compressor.seeding import derive
from compressor.tasks.optimization import make_optimizer, make_schedule, move_on
from compressor.tasks.training import Training


class Alternating(Training):
    """Trains the network and its maker of images.

    The teacher's answer to a made image is the truth here: what Training measures against labels is
    agreement with the teacher, on the images of the epoch and, in the place of validation, on fresh
    ones. It is called so, not an accuracy, unless real images are validated on.
    """

    def __init__(self, net: nn.Module, *, name: str, **options: Any) -> None:
        """name: of the term that owns the images. The rest as in Training."""
        if not options["distillation"].terms[name].beside:
            options["clean"] = None  # no label is read, so that none can be wrong
        super().__init__(net, **options)
        self.automatic_optimization = False
        self.name = name
        self.term = self.distillation.terms[name]
        self.maker = self.adapters[name]

    def tag(self, part: str, name: str) -> str:
        real = self.term.beside and part == "val"
        if real:
            return super().tag(part, name)
        where = "made" if part == "train" else "fresh_made"
        return f"{where}/{name.replace(self.task.headline[0], 'agreement')}"

    def training_step(self, batch: Any, number: int) -> None:
        progress = (self.current_epoch + number / self.trainer.num_training_batches) / max(
            1, self.options.epochs
        )
        makes, learns = self.term.turn(progress)
        optimizers = self.optimizers()
        own, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        images = self._layout(self.term.draw(self.maker, self.term.count, self.device, None))
        # the teacher's parameters are frozen, its graph is not: the maker learns through it
        with torch.set_grad_enabled(makes and bool(others)):
            answer = self._ask(images)
            parts, loss = self.term.judge(answer)
        if makes and others:
            others[0].zero_grad()
            self.manual_backward(loss)
            others[0].step()
        for name, part in parts.items():
            self.note_part(f"{self.name}/{name}", part)
        logits = self.task.teacher_view(answer).detach()
        if learns:
            outputs = self._learn(own, images.detach(), logits, batch)
        else:
            with torch.no_grad():
                outputs = self.task.outputs(self.net(images))
        self.lr_schedulers().step()
        self.steps += 1
        self.train_metrics.update(outputs, logits.argmax(dim=1))

    def _learn(self, own: Any, images: Tensor, answer: Tensor, batch: Any) -> dict[str, Any]:
        outputs = self.task.outputs(self.net(images))
        part = self.term.loss(outputs, {"logits": answer}, Batch(images, answer, answer, _no_label))
        self.note_part(self.name, part)
        loss = self.term.weight * part
        if self.term.beside:
            inputs, targets, index = self.task.loss_inputs(batch)
            real = self.task.outputs(self.net(self._layout(inputs)))
            if self.clean_metric is not None:
                self.clean_metric.update(real, self._clean[index])
            label = self.label_loss(real, targets, index)
            self.note_part("labels", label)
            loss = loss + self.distillation.label_weight * label
        for name, penalty in self.regularizer.penalties(self.net).items():
            self.note_part(name, penalty)
            loss = loss + penalty
        own.zero_grad()
        self.manual_backward(loss)
        if self.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.options.clip_norm)
        own.step()
        return outputs

    def on_after_backward(self) -> None:
        """Nothing: no sample of the train part has a state here."""

    def validation_step(self, batch: Any, number: int) -> None:
        if self.term.beside:
            super().validation_step(batch, number)
            return
        rng = torch.Generator().manual_seed(derive(self.seed, "fresh images", number))
        images = self._layout(self.term.draw(self.maker, self.term.count, self.device, rng))
        targets = self.task.teacher_view(self._ask(images)).argmax(dim=1)
        self.val_metrics.update(self.task.outputs(self.net(images)), targets)

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        own = make_optimizer(self.net, self.options)
        schedule = make_schedule(own, self.options, steps * self.options.epochs)
        if self.done:
            move_on(schedule, steps * self.done)
        other = self.term.maker_optimizer(self.maker)
        return [own] if other is None else [own, other], [schedule]

    def _ask(self, images: Tensor) -> dict[str, Any]:
        taps = self.distillation.teacher_taps
        return self.forward_tapped(self.distillation.teacher, images, taps)


def _no_label(logits: Tensor) -> Tensor:
    raise RuntimeError("a made image has no label")
