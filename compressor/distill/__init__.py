"""Distillation terms: losses between a student's and a teacher's outputs. One file each.

Run: compress-run distill=kd        Several: compress-run distill='[kd,cckd]'
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Term(Protocol):
    """One entry of `distill.terms`. The caller multiplies `loss` by `weight`."""

    weight: float

    def loss(
        self, student: Mapping[str, object], teacher: Mapping[str, object], batch: object
    ) -> Tensor:
        """Scalar, before weighting. student, teacher: outputs of the task, taps included."""

    def taps(self) -> tuple[str, ...]:
        """Paths of the modules whose outputs the loss reads."""
