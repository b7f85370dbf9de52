"""PKT: give every sample the neighbours, with their probabilities, that it has for the teacher.

Passalis, Tefas: Probabilistic Knowledge Transfer. ECCV 2018, arXiv:1803.10837, eq. (2) to (6).
Run: compress-run distill=pkt
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from compressor.distill import Batch, Layers, Term
from compressor.distill._layers import pooled
from compressor.options import NotNegative, checked

# The authors' code keeps the diagonal and averages over all pairs; the paper's formula leaves it
# out and sums. A weight belongs to its form: at 64 samples the first is 4096 times smaller.
_EPS = 1e-7  # the authors'


def neighbours(features: Tensor, diagonal: bool) -> Tensor:
    """p_{j|i}: row i holds the probability of each j under the shifted cosine kernel.

    features: (B, D). Returns (B, B) with rows that sum to 1; without the diagonal it is 0.
    """
    rows = features / (torch.sqrt((features**2).sum(dim=1, keepdim=True) + _EPS**2) + _EPS)
    kernel = (rows @ rows.T + 1) / 2
    if not diagonal:
        kernel = kernel - torch.diag(torch.diag(kernel))
    return kernel / kernel.sum(dim=1, keepdim=True).clamp_min(_EPS)


def transfer(student: Tensor, teacher: Tensor, form: str = "reference") -> Tensor:
    """sum_ij p_{j|i} log(p_{j|i} / q_{j|i}), p the teacher's; a mean in the forms that average.

    student, teacher: (B, D), of any two widths.
    """
    diagonal = form != "paper"
    p, q = neighbours(teacher, diagonal), neighbours(student, diagonal)
    total = (p * torch.log((p + _EPS) / (q + _EPS))).sum()
    n = len(student)
    return total / {"reference": n * n, "paper": 1, "row_mean": n}[form]


class PKT(Term):
    """Reads the penultimate features unless told otherwise; needs no adapter."""

    @checked("distill.terms.pkt")
    def __init__(
        self,
        weight: NotNegative = 30000.0,
        form: Literal["reference", "paper", "row_mean"] = "reference",
        student_layer: str = "penultimate",
        teacher_layer: str = "penultimate",
    ) -> None:
        self.weight = weight
        self.form = form
        self.student_layer, self.teacher_layer = student_layer, teacher_layer

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        own = pooled(student["features"][self.student_layer][0])
        other = pooled(teacher["features"][self.teacher_layer][0])
        if len(own) < 2:
            return own.sum() * 0  # one sample has no neighbour
        # values near 1 / n: half precision would lose their digits
        with torch.autocast(own.device.type, enabled=False):
            return transfer(own, other, self.form)

    def layers(self) -> Layers:
        return (self.student_layer,), (self.teacher_layer,)
