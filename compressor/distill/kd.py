"""KD: match the teacher's softened class probabilities.

Hinton, Vinyals, Dean. 2015, arXiv:1503.02531, section 2.
Run: compress-run distill=kd distill.terms.kd.temperature=4
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from compressor.distill import Batch, Term
from compressor.options import NotNegative, Positive, checked


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(p_t(T) || p_s(T)), summed over classes and averaged over everything else.

    student, teacher: (B, K, ...) logits. The factor T^2 keeps the gradient's size about constant
    in T; KL and the paper's cross-entropy differ by the teacher's entropy, a constant.
    """
    # float32 also under autocast: in half precision the small probabilities round to 0
    log_s = F.log_softmax(student.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_s, log_t, reduction="none", log_target=True)
    return temperature**2 * divergence.sum(dim=1).mean()


class KD(Term):
    """Reads the logits only."""

    @checked("distill.terms.kd")
    def __init__(self, weight: NotNegative = 0.9, temperature: Positive = 4.0) -> None:
        self.weight = weight
        self.temperature = temperature

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        return soft_divergence(student["logits"], teacher["logits"], self.temperature)
