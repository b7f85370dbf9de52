"""Mimic: regress the teacher's logits.

Ba, Caruana: Do Deep Nets Really Need to be Deep? NIPS 2014, arXiv:1312.6184, eq. (1).
Run: compress-run model=shallow_mimic distill=mimic distill.at=train distill.teacher.source=model
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from compressor.distill import Batch, Term
from compressor.options import NotNegative, checked

_LEAST = 0.01  # of the classes' usual deviation: what moves less is taken to move so much


def logit_regression(student: Tensor, teacher: Tensor, std: Tensor | None = None) -> Tensor:
    """1 / (2 N) * sum_n || g(x_n) - z_n ||^2: the paper's form; mean((g - z)^2) is 2 / K of it.

    student, teacher: (B, K, ...) logits, before the softmax: probabilities would lose the large
    negative ones, log-probabilities the shift. std: (K,), divides the difference of each class.
    """
    difference = student.float() - teacher.float()
    if std is not None:
        difference = difference / std.view(-1, *[1] * (difference.ndim - 2))
    return 0.5 * (difference**2).sum(dim=1).mean()


def deviations(logits: Tensor) -> Tensor:
    """(K,) what each class's logit is divided by, from logits (n, K): its standard deviation.

    A class whose logit hardly moves has nothing but rounding to be divided by, and its loss would
    be all there is: it counts as one of a hundredth of the root mean square over the classes, and
    a teacher none of whose logits moves is not standardised.
    """
    std = logits.double().std(dim=0, correction=0)
    usual = std.square().mean().sqrt()
    largest = logits.double().abs().max()
    if not usual > 1e-6 * largest:  # float32 logits that are all constant
        return std.new_ones(std.shape).float()
    return std.clamp_min(_LEAST * usual).float()


class Mimic(Term):
    """Reads the logits only; no label is needed.

    standardize=per_class: the paper subtracts the logits' mean and divides by their deviation over
    the train part, and undoes that at test. Here the student answers in the teacher's units at
    all times, and the difference is divided: the mean cancels, the optimum is the same, and the
    last layer needs no undoing (its gradient is smaller by the deviation).
    """

    @checked("distill.terms.mimic")
    def __init__(
        self, weight: NotNegative = 1.0, standardize: Literal["none", "per_class"] = "none"
    ) -> None:
        self.weight = weight
        self.standardize = standardize
        self.reads_logits = standardize == "per_class"
        self.std: Tensor | None = None

    def survey(self, logits: Tensor) -> None:
        """logits: (n, K) of the teacher in eval mode, over the train part."""
        self.std = deviations(logits)

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        std = self.std.to(student["logits"].device) if self.std is not None else None
        return logit_regression(student["logits"], teacher["logits"], std)
