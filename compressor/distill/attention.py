"""Attention transfer: look where the teacher looks.

Zagoruyko, Komodakis: Paying More Attention to Attention. ICLR 2017, arXiv:1612.03928, eq. (2).
Run: compress-run distill=attention
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.distill import Batch, Layers, Shapes, Term
from compressor.distill._layers import unit
from compressor.errors import UsageError
from compressor.options import NotNegative, checked


def attention_map(features: Tensor) -> Tensor:
    """Where a layer is active: the mean square over its channels, as a vector of length 1.

    features: (B, C, H, W). Returns (B, H * W).
    """
    return unit((features**2).mean(dim=1).flatten(1))


def attention_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two maps. student, teacher: (B, C, H, W), of any widths.

    The larger map is averaged down to the smaller. As in the authors' code, which takes the mean
    of the squares where the paper's formula has the norm.
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    maps = [
        attention_map(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size))
        for x in (student.float(), teacher.float())
    ]
    return ((maps[0] - maps[1]) ** 2).mean()


class Attention(Term):
    """Sums over pairs of layers, the ends of the networks' stages unless told otherwise."""

    @checked("distill.terms.attention")
    def __init__(
        self,
        weight: NotNegative = 1000.0,
        student_layers: str | Sequence[str] = ("stages",),
        teacher_layers: str | Sequence[str] = ("stages",),
    ) -> None:
        self.weight = weight
        self.student_layers, self.teacher_layers = (
            (layers,) if isinstance(layers, str) else tuple(layers)
            for layers in (student_layers, teacher_layers)
        )

    def adapter(self, student: Shapes, teacher: Shapes, input_size: tuple[int, ...]) -> None:
        """Needs none; refuses layers that cannot be paired."""
        own = [shape for name in self.student_layers for shape in student[name]]
        other = [shape for name in self.teacher_layers for shape in teacher[name]]
        if len(own) != len(other):
            raise UsageError(
                f"distill.terms.attention pairs layers one by one: the student has {len(own)}, the "
                f"teacher {len(other)}; list them in student_layers and teacher_layers"
            )
        flat = [shape for shape in (*own, *other) if len(shape) != 4]
        if flat:
            raise UsageError(
                f"distill.terms.attention needs feature maps: a layer of shape "
                f"{'x'.join(map(str, flat[0][1:]))} has no height and width"
            )

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        own = [x for name in self.student_layers for x in student["features"][name]]
        other = [x for name in self.teacher_layers for x in teacher["features"][name]]
        gaps = [attention_gap(s, t) for s, t in zip(own, other, strict=True)]
        return torch.stack(gaps).sum()

    def layers(self) -> Layers:
        return self.student_layers, self.teacher_layers
