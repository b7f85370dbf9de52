"""Bootstrapping: the target is a mixture of the given label and the network's own opinion.

Reed et al. ICLR 2015 workshop, arXiv:1412.6596, eq. (6) soft and (8) hard.
Run: compress-run robust=boot_soft noise=symmetric      (or robust=boot_hard)
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from compressor.options import Fraction, checked
from compressor.robust import Remedy, with_auxiliary


def soft(logits: Tensor, targets: Tensor, b: float, reduction: str = "mean") -> Tensor:
    """Mean of -sum_k [b t_k + (1 - b) p_k] log p_k; the gradient flows through both p's.

    logits: (B, K); targets: (B,) int64. It is b * cross-entropy plus (1 - b) * entropy.
    reduction: "mean", or "none" for the (B,) values.
    """
    log_p = logits.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    entropy = entropy.mean() if reduction == "mean" else entropy
    return b * F.nll_loss(log_p, targets, reduction=reduction) + (1 - b) * entropy


def hard(logits: Tensor, targets: Tensor, b: float, reduction: str = "mean") -> Tensor:
    """Mean of -sum_k [b t_k + (1 - b) z_k] log p_k, z the one-hot prediction, a constant."""
    log_p = logits.log_softmax(dim=1)
    opinion = log_p.detach().argmax(dim=1)
    own = F.nll_loss(log_p, opinion, reduction=reduction)
    return b * F.nll_loss(log_p, targets, reduction=reduction) + (1 - b) * own


class Bootstrap(Remedy):
    """b: weight of the given label."""

    per_sample = True

    @checked("robust")
    def __init__(self, b: Fraction = 0.95, form: Literal["soft", "hard"] = "soft") -> None:
        self.b, self.form = b, form

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return self._of(outputs, targets, "mean")

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return self._of(outputs, targets, "none")

    def _of(self, outputs: Mapping[str, object], targets: Tensor, reduction: str) -> Tensor:
        mixture = soft if self.form == "soft" else hard
        return with_auxiliary(outputs, lambda logits: mixture(logits, targets, self.b, reduction))
