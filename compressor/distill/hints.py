"""Hints: guess the teacher's features in the middle of the network.

Romero et al.: FitNets. ICLR 2015, arXiv:1412.6550, eq. (3). The paper trains on the hint first and
on soft labels then; here, as in later comparisons, the hint is a term beside the others.
Run: compress-run distill=hints        With soft labels too: compress-run distill='[hints,kd]'
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.distill import Batch, Layers, Shapes, Term
from compressor.errors import UsageError
from compressor.options import NotNegative, checked


class Hints(Term):
    """The regressor is a 1x1 convolution, or a linear layer where the features are vectors."""

    @checked("distill.terms.hints")
    def __init__(
        self,
        weight: NotNegative = 100.0,
        student_layer: str = "middle",
        teacher_layer: str = "middle",
    ) -> None:
        self.weight = weight
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self.regressor: nn.Module | None = None

    def adapter(self, student: Shapes, teacher: Shapes, input_size: tuple[int, ...]) -> nn.Module:
        """student, teacher: shapes of the features by name. The student's become the teacher's."""
        own, other = student[self.student_layer][0], teacher[self.teacher_layer][0]
        if own[2:] != other[2:] or len(own) not in (2, 4):
            raise UsageError(
                f"the adapter of distill.terms.hints maps channels alone: the student's "
                f"'{self.student_layer}' is {_shape(own)}, the teacher's '{self.teacher_layer}' is "
                f"{_shape(other)}; choose student_layer and teacher_layer of equal height and width"
            )
        if len(own) == 2:
            self.regressor = nn.Linear(own[1], other[1])
        else:
            self.regressor = nn.Conv2d(own[1], other[1], 1)
        return self.regressor

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        own = student["features"][self.student_layer][0].float()
        other = teacher["features"][self.teacher_layer][0].float()
        with torch.autocast(own.device.type, enabled=False):
            # mean over all entries as in RepDistiller, whose weight 100 it is; the paper's sum
            # would grow with the layer
            return F.mse_loss(self.regressor(own), other)

    def layers(self) -> Layers:
        return (self.student_layer,), (self.teacher_layer,)


def _shape(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size[1:]))
