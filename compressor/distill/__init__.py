"""Distillation terms: losses between a student's and a teacher's outputs. One file each.

Run: compress-run distill=kd        Several: compress-run distill='[kd,pkt]'

A term is a loss; what else it needs it says by methods of its own, all of them optional:

    adapter(student, teacher, input_size)   a module to train beside the student, from the shapes of
                                            the features: never exported, counted or pruned
    survey(logits)                          told the teacher's logits of the train part, once
    grow(net, another)                      another network to train in the student's place
    forks(net)                              beside grow: where it parts, or what makes that wrong
    draw(maker, count, device, rng)         images to train on in place of the real ones;
                                            see tasks/alternating.py
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Layers = tuple[tuple[str, ...], tuple[str, ...]]
NO_LAYERS: Layers = ((), ())


class Batch(NamedTuple):
    """What a training step saw. criterion: logits -> the stage's own loss on the labels."""

    inputs: Tensor
    targets: Tensor
    index: Tensor
    criterion: Callable[[Tensor], Tensor]


class Term(Protocol):
    """One entry of `distill.terms`. The caller multiplies `loss` by `weight`."""

    weight: float
    needs_teacher: bool
    alone: bool
    """Whether the method takes the whole training, so that no other term stands beside it."""
    only_at: str | None
    """The stage in which alone it can act, or None."""

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        """Scalar, before weighting.

        student, teacher: the task's outputs, "logits" among them, and "features": by name a list
        of tensors, one for each place that the name stands for.
        """

    def layers(self) -> Layers:
        """Names of the layers whose features the loss reads, the student's and the teacher's.

        A name is a module's path (its output), or a word of distill/_layers.py.
        """
