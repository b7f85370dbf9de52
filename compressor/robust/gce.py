"""GCE: generalised cross-entropy, between cross-entropy (q to 0) and mean absolute error (q = 1).

Zhang, Sabuncu. NeurIPS 2018, arXiv:1805.07836, eq. (6); truncated form: eq. (9).
Run: compress-run robust=gce noise=symmetric noise.rate=0.4
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.options import Fraction, Inside, Share, checked
from compressor.robust import Phase, Remedy, with_auxiliary

K, WARMUP = 0.5, 0.33  # of the truncated form


def gce(logits: Tensor, targets: Tensor, q: float = 0.7, k: float | None = None) -> Tensor:
    """Mean over the batch of (1 - p_y^q) / q, with p_y the probability of the given label.

    logits: (B, K); targets: (B,) int64. k: where p_y <= k the loss is the constant
    (1 - k^q) / q, without gradient. Returns a scalar; low is good.
    """
    return _each(logits, targets, q, k).mean()


def _each(logits: Tensor, targets: Tensor, q: float, k: float | None) -> Tensor:
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    # expm1 of q * log p: exact for small q, and no p_y^q whose gradient is infinite at p_y = 0
    loss = -torch.expm1(q * log_p) / q
    if k is not None:
        loss = torch.where(log_p.exp() > k, loss, loss.new_tensor((1 - k**q) / q))
    return loss


class GCE(Remedy):
    """The L_q loss; with `truncated` the truncated one after the first `warmup` of the epochs.

    The authors' release recomputes the kept set p_y > k every ten epochs, here every batch asks
    afresh. An untrained network's p_y starts near 1/K < k: without a warm-up nothing has a
    gradient.
    """

    per_sample = True

    @checked("robust")
    def __init__(
        self, q: Share = 0.7, truncated: bool = False, k: Inside = K, warmup: Fraction = WARMUP
    ) -> None:
        self.q = q
        self.truncated = truncated
        self.k = k
        self.warmup = warmup
        self._from_epoch = self._epoch = 0

    def cautions(self, epochs: int, schedule: str, num_classes: int) -> list[str]:
        asked = {"k": (self.k, K), "warmup": (self.warmup, WARMUP)}
        return [
            f"robust.{name}={value} does nothing beside robust.truncated=false"
            for name, (value, usual) in asked.items()
            if value != usual and not self.truncated
        ]

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        self._from_epoch = round(self.warmup * epochs)
        return (Phase(epochs, self),)

    def before_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: gce(logits, targets, self.q, self._k()))

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: _each(logits, targets, self.q, self._k()))

    def _k(self) -> float | None:
        return self.k if self.truncated and self._epoch >= self._from_epoch else None
