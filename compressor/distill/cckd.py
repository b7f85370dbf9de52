"""CCKD: let the student's samples lie to one another as the teacher's do.

Peng et al.: Correlation Congruence for Knowledge Distillation. ICCV 2019, arXiv:1904.01802, eq.
(4) to (8). Its loss is alpha * CE + (1 - alpha) * KD + beta * CC: the YAML holds all three.
Run: compress-run distill=cckd distill.sampler=class_uniform
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from compressor.distill import Batch, Layers, Shapes, Term
from compressor.distill._layers import pooled, unit
from compressor.options import Count, NotNegative, Positive, Range, checked


def correlation(features: Tensor, kernel: str, gamma: float, order: int) -> Tensor:
    """C_ij = k(f_i, f_j) over the batch. features: (B, D). Returns (B, B).

    gaussian: the RBF kernel of rows of length 1, exp(-gamma * |f_i - f_j|^2), by the Taylor series
    of its exp(2 gamma f_i.f_j) up to `order`. bilinear: the dot products of the rows as they are.
    """
    if kernel == "bilinear":
        return features @ features.T
    rows = unit(features)
    z = rows @ rows.T
    series = sum((2 * gamma) ** p / math.factorial(p) * z**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


def congruence(
    student: Tensor, teacher: Tensor, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """1 / n^2 * || C_t - C_s ||_F^2. student, teacher: (B, D), of any two widths."""
    # Public codes differ: one compares neighbours only, one leaves out square and normalisation.
    c_s = correlation(student, kernel, gamma, order)
    c_t = correlation(teacher, kernel, gamma, order)
    return ((c_t - c_s) ** 2).mean()


class CCKD(Term):
    """The correlation term alone; needs no adapter, since only (B, B) matrices meet."""

    @checked("distill.terms.cckd")
    def __init__(
        self,
        weight: NotNegative = 10.0,
        kernel: Literal["gaussian", "bilinear"] = "gaussian",
        gamma: Positive = 0.4,
        order: Count = 2,
        embed_dim: Annotated[int | None, Range(1, remedy="or null")] = None,
        student_layer: str = "penultimate",
        teacher_layer: str = "penultimate",
    ) -> None:
        self.weight = weight
        self.kernel, self.gamma, self.order = kernel, gamma, order
        self.embed_dim = embed_dim
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self.embeddings: nn.ModuleDict | None = None

    def adapter(
        self, student: Shapes, teacher: Shapes, input_size: tuple[int, ...]
    ) -> nn.Module | None:
        """A linear layer on either side; the teacher's is drawn once and stays.

        If both could learn, two constants would be a perfect answer.
        """
        if self.embed_dim is None:
            return None
        widths = student[self.student_layer][0][1], teacher[self.teacher_layer][0][1]
        own, other = (nn.Linear(width, self.embed_dim, bias=False) for width in widths)
        nn.init.orthogonal_(other.weight)
        self.embeddings = nn.ModuleDict({"student": own, "teacher": other.requires_grad_(False)})
        return self.embeddings

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        own = pooled(student["features"][self.student_layer][0])
        other = pooled(teacher["features"][self.teacher_layer][0])
        if len(own) < 2:
            return own.sum() * 0  # one sample has no relation: the last batch of an epoch may be it
        with torch.autocast(own.device.type, enabled=False):
            if self.embeddings is not None:
                own, other = self.embeddings["student"](own), self.embeddings["teacher"](other)
            return congruence(own, other, self.kernel, self.gamma, self.order)

    def layers(self) -> Layers:
        return (self.student_layer,), (self.teacher_layer,)
