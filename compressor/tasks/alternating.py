"""Training on images that a second network makes, the two networks in turns from the same batch.

The method, a `distill.Maker`, owns the images and the losses, this loop the steps. No training
image is read unless the method wants them beside its own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from compressor.distill import Batch, Maker
from compressor.loop import Loop
from compressor.seeding import derive
from compressor.tasks.optimization import make_optimizer, make_schedule, move_on
from compressor.tasks.supervised import Supervised
from compressor.tasks.training import Training


class Alternating(Loop):
    """Trains the network and its maker of images.

    The teacher's answer to a made image is the truth here: what is measured against labels else is
    agreement with the teacher, on the images of the epoch and, in the place of validation, on fresh
    ones. It is called so, not an accuracy, unless real images are validated on.
    """

    automatic = False

    def __init__(self, name: str, term: Maker, headline: str) -> None:
        """name: of the term. headline: name of the task's, which is an agreement here."""
        self.name = name
        self.term = term
        self.headline = headline
        self.reads_labels = term.reads_images
        self.real = Supervised()

    def tag(self, part: str, name: str) -> str:
        if self.term.reads_images and part == "val":
            return self.real.tag(part, name)
        where = "made" if part == "train" else "fresh_made"
        return f"{where}/{name.replace(self.headline, 'agreement')}"

    def step(self, training: Training, batch: Any, number: int) -> None:
        makes, learns = self.term.turn(training.progress(number))
        optimizers = training.optimizers()
        own, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        images = self._drawn(training, None)
        # the teacher's parameters are frozen, its graph is not: the maker learns through it
        with torch.set_grad_enabled(makes and bool(others)):
            answer = self._ask(training, images)
            parts, loss = self.term.judge(answer)
        if makes and others:
            others[0].zero_grad()
            training.manual_backward(loss)
            others[0].step()
        for name, part in parts.items():
            training.note_part(f"{self.name}/{name}", part)
        logits = training.task.teacher_view(answer).detach()
        if learns:
            outputs = self._learn(training, own, images.detach(), logits, (batch, number))
        else:
            with torch.no_grad():
                outputs = training.task.outputs(training.net(images))
        training.lr_schedulers().step()
        training.steps += 1
        training.train_metrics.update(outputs, logits.argmax(dim=1))

    def validate(self, training: Training, batch: Any, number: int) -> None:
        if self.term.reads_images:
            self.real.validate(training, batch, number)
            return
        rng = torch.Generator().manual_seed(derive(training.seed, "fresh images", number))
        images = self._drawn(training, rng)
        targets = self._ask(training, images)["logits"].argmax(dim=1)
        training.val_metrics.update(training.task.outputs(training.net(images)), targets)

    def optimizers(self, training: Training) -> Any:
        steps, options = training.steps_per_epoch(), training.options
        own = make_optimizer(training.net, options)
        schedule = make_schedule(own, options, steps * options.epochs)
        if training.done:
            move_on(schedule, steps * training.done)
        other = self.term.maker_optimizer(training.adapters[self.name])
        return [own] if other is None else [own, other], [schedule]

    def _learn(
        self, training: Training, own: Any, images: Tensor, answer: Tensor, given: tuple[Any, int]
    ) -> dict[str, Any]:
        """One step of the student.

        own: its optimizer; answer: the teacher's logits (B, K); given: the loader's batch, of which
        `Regularizer.losses` are and which counts `beside` alone, and its number in the epoch.
        """
        batch, number = given
        training.regularizer.before_step(training.net, training.progress(number))
        outputs = training.forward_tapped(training.net, images, training.student_taps)
        seen = Batch(images, answer, answer, _no_label)
        part = self.term.loss(outputs, {"logits": answer}, seen)
        training.note_part(self.name, part)
        loss = self.term.weight * part
        if self.term.reads_images:
            loss = loss + training.distillation.label_weight * self._labels(training, batch)
        loss = loss + training.penalty()
        own.zero_grad()
        training.manual_backward(loss)
        if training.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(training.net.parameters(), training.options.clip_norm)
        own.step()
        return outputs

    def _labels(self, training: Training, batch: Any) -> Tensor:
        """The loss of the labels on real images."""
        inputs, targets, index = training.task.loss_inputs(batch)
        real = training.task.outputs(training.net(training.lay_out(inputs)))
        training.note_clean(real, index)
        label = training.label_loss(real, targets, index)
        training.note_part("labels", label)
        return label

    def _drawn(self, training: Training, rng: torch.Generator | None) -> Tensor:
        maker = training.adapters[self.name]
        return training.lay_out(self.term.draw(maker, self.term.count, training.device, rng))

    def _ask(self, training: Training, images: Tensor) -> dict[str, Any]:
        distillation = training.distillation
        return training.forward_tapped(distillation.teacher, images, distillation.teacher_taps)


def _no_label(logits: Tensor) -> Tensor:
    raise RuntimeError("a made image has no label")
