"""Distillation terms: losses between a student's and a teacher's outputs. One file each.

Run: compress-run distill=kd        Several: compress-run distill='[kd,pkt]'
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compressor.loop import Loop

Layers = tuple[tuple[str, ...], tuple[str, ...]]
NO_LAYERS: Layers = ((), ())


class Batch(NamedTuple):
    """What a training step saw. criterion: logits -> the stage's own loss on the labels."""

    inputs: Tensor
    targets: Tensor
    index: Tensor
    criterion: Callable[[Tensor], Tensor]


Shapes = Mapping[str, list[tuple[int, ...]]]
"""Sizes of features by the name of their layer, one for each place that the name stands for."""


class Term:
    """One entry of `distill.terms`: a loss, and what it needs beside; the rest does nothing.

    weight: factor on `loss`, which the caller multiplies; a term of weight 0 is not computed.
    needs_teacher: whether it learns from another network than the student.
    reads_logits: whether `survey` is to be given the teacher's logits of the whole train part.
    makes_images: whether it is a `Maker`. reads_images: whether images of the data are read.
    owns_training: whether it takes the whole training, so that no other term stands beside it.
    only_at: the stage in which alone it can act, "train" or "finetune"; None: both.
    heads: networks on shared lower layers that `student` makes of one; 1: it changes nothing.
    """

    weight: float = 1.0
    needs_teacher: bool = True
    reads_logits: bool = False
    makes_images: bool = False
    reads_images: bool = True
    owns_training: bool = False
    only_at: str | None = None
    heads: int = 1

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        """Scalar, before weighting.

        student, teacher: the task's outputs, "logits" among them, and "features": by name a list
        of tensors, one for each place that the name stands for.
        """
        raise NotImplementedError

    def layers(self) -> Layers:
        """Names of the layers whose features the loss reads, the student's and the teacher's.

        A name is a module's path (its output), or a word of distill/_layers.py.
        """
        return NO_LAYERS

    def survey(self, logits: Tensor) -> None:
        """Called once before the training, where `reads_logits`.

        logits: (n, K) of the teacher in eval mode, over the train part.
        """

    def adapter(
        self, student: Shapes, teacher: Shapes, input_size: tuple[int, ...]
    ) -> nn.Module | None:
        """A module to train beside the student: never exported, counted or pruned.

        student, teacher: of the features of `layers`, (B, ...). input_size: (C, H, W). Raises
        UsageError where layers do not meet.
        """
        return None

    def check_student(self, net: nn.Module) -> None:
        """Raise UsageError where `student` could do nothing with this network."""

    def student(self, net: nn.Module, another: Callable[[int], nn.Module] | None) -> nn.Module:
        """The module to train. another: number of a head -> such a network, begun otherwise."""
        return net

    def kept(self, net: nn.Module) -> nn.Module:
        """The network that goes on, of what `student` made."""
        return net

    def ensemble(self, heads: Sequence[Tensor]) -> Tensor:
        """(B, K) logits of all heads together; asked for where there are several."""
        raise NotImplementedError

    def loop(self) -> Loop | None:
        """Who runs the steps of the training; None: the usual loop."""
        return None


class Maker(Term):
    """A term that makes the images of its training, which tasks/alternating.py runs.

    Its `adapter` is the maker, a network. count: images a step; steps: steps an epoch where no
    image of the data is read (`reads_images`), so that nothing else says how many.
    """

    makes_images = True
    count: int
    steps: int

    def draw(
        self, maker: nn.Module, count: int, device: torch.device, rng: torch.Generator | None
    ) -> Tensor:
        """(count, C, H, W). rng: on the CPU; None: the global one, which each epoch seeds."""
        raise NotImplementedError

    def judge(self, teacher: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """The maker's losses by name, before weighting, and the scalar that is to go down.

        teacher: its outputs for the images, as in `loss`.
        """
        raise NotImplementedError

    def turn(self, progress: float) -> tuple[bool, bool]:
        """Whether maker and student learn now. progress: of the training, in [0, 1)."""
        raise NotImplementedError

    def maker_optimizer(self, maker: nn.Module) -> torch.optim.Optimizer | None:
        """None for a maker that does not learn."""
        raise NotImplementedError
