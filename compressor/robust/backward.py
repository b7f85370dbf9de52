"""Backward correction: the losses of all labels, sent back through the noise.

Patrini et al. CVPR 2017, arXiv:1609.03683, theorem 1.
Run: compress-run robust=backward noise=asymmetric noise.rate=0.2
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.options import checked
from compressor.robust import Change, EstimateEpochs, Folds, Remedy, Samples, listed, with_auxiliary
from compressor.robust._transition import FOLDS, Source

_WORST = 1e3  # condition number of T from which on its inverse is refused


def backward(logits: Tensor, targets: Tensor, inverse: Tensor) -> Tensor:
    """Mean of (T^-1 l)_y with l_k = -log p_k; may be negative.

    logits: (B, K); targets: (B,) int64; inverse: (K, K), of T. Unbiased: the mean over given
    labels, sum_j T[i, j] (T^-1 l)_j, is the clean loss l_i.
    """
    losses = -logits.log_softmax(dim=1)
    return (inverse.to(losses.dtype)[targets] * losses).sum(dim=1).mean()


class Backward(Remedy):
    """Unbiased, of large variance where T is near a singular matrix: forward is the safer one."""

    @checked("robust")
    def __init__(
        self,
        transition: str = "known",
        folds: Folds = FOLDS,
        estimate_epochs: EstimateEpochs = None,
    ) -> None:
        self.source = Source(transition, folds, estimate_epochs)
        self.shares = True  # T holds for the labels as they were given
        self.train_only = True  # a fine-tune reads other labels than those that T belongs to
        self.content = self.source.content
        self.needs_known = self.source.name == "known"
        self.inverse = torch.empty(0, 0)

    def cautions(self, epochs: int, schedule: str, num_classes: int) -> list[str]:
        return self.source.unread()

    def rehearsals(self, images: int, epochs: int) -> tuple[int, float]:
        return self.source.rehearsals(images, epochs)

    def begin(self, samples: Samples) -> Change:
        T = self.source.matrix(samples)
        # of NaN, which a diverged estimate has, there are no singular values
        condition = torch.linalg.cond(T).item() if T.isfinite().all() else float("inf")
        if not condition <= _WORST:
            raise UsageError(
                f"robust=backward inverts the transition matrix, whose condition number is "
                f"{condition:.3g}, above {_WORST:g}: type robust=forward"
            )
        self.inverse = torch.linalg.inv(T)
        return Change(notes={**listed(T), "condition": condition})

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        self.inverse = self.inverse.to(targets.device)
        return with_auxiliary(outputs, lambda logits: backward(logits, targets, self.inverse))
