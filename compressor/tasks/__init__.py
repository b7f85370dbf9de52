"""What a network is for: its targets, its loss, its outputs, its metrics, and the headline.

Run: compress-run task=classification, or task._target_=my_module.Segmentation
A sample is (image, target, index), with any target. Nothing outside this room assumes (N, K) logits
or one class an image, unless the task says so (`labelled`, `teacher_view`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection


class Task(ABC):
    """The interface of a task object, chosen by the config group `task`.

    What is abstract has to be given. `loss_inputs`, `teacher_view` and `misfit` have null answers,
    which may be overridden; the rest may not.

    name: how spec.json and messages call it. figures: the scalar metrics by which networks are
    compared, each with its better direction, "max" or "min"; "loss" is among them, and the first
    one is the headline. labelled: whether a target is one class. Then the labels are an artefact
    that noise, remedies, class weights and fine-tuning on trusted labels read, and the report draws
    classes. Otherwise the targets of the data reach the loss as they are.
    """

    name: str
    figures: Mapping[str, str]
    labelled: bool = False

    @property
    def headline(self) -> tuple[str, str]:
        """Name of the deciding metric and its direction, "max" or "min"."""
        return next(iter(self.figures.items()))

    @abstractmethod
    def outputs(self, net_out: Any) -> dict[str, Any]:
        """The network's answer as named tensors, those that `loss` and `metrics` read.

        Methods that act on classes read "logits", (B, K), and "aux": ((weight, logits), ...).
        """

    @abstractmethod
    def loss(self, outputs: Mapping[str, Any], targets: Any) -> Tensor:
        """Scalar, the mean over the images of the batch.

        A training on labels takes its remedy's loss instead (`robust`); criteria that ask for the
        derivative of a loss take this one always.
        """

    @abstractmethod
    def metrics(self, num_classes: int) -> MetricCollection:
        """Fresh metrics with update(outputs, targets) and compute(); all of `figures` are there.

        One whose value is a vector, such as a figure of each class, is measured of finished
        networks and not followed during training.
        """

    def loss_inputs(self, batch: Any) -> tuple[Tensor, Any, Tensor]:
        """(inputs, targets, index) of a batch. index: (B,) int64, positions within the part."""
        return batch

    def example_inputs(self, input_size: tuple[int, ...], batch: int) -> tuple[Tensor, ...]:
        """Inputs of the right shape with values like normalised images: one (batch, C, H, W)."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(batch, *input_size, generator=generator),)

    def teacher_view(self, outputs: Mapping[str, Any]) -> Tensor | None:
        """Logits (B, K), what a teacher hands on to a student and a fold's network to a remedy.

        None: an answer of this task can teach nobody, and distillation is refused.
        """
        return None

    def misfit(self, answer: Any, images: int, num_classes: int) -> str | None:
        """What the task expects of a network where this answer to `images` images is another.

        None: the answer fits, or nothing is known of it before the training.
        """
        return None
