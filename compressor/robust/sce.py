"""SCE: symmetric cross-entropy, cross-entropy plus its reverse.

Wang et al. ICCV 2019, arXiv:1908.06112, eq. (7).
Run: compress-run robust=sce noise=symmetric
"""

from collections.abc import Mapping
from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from compressor.options import NotNegative, Range, checked
from compressor.robust import Remedy, with_auxiliary


def sce(logits: Tensor, targets: Tensor, alpha: float, beta: float, A: float) -> Tensor:
    """Mean of alpha * CE + beta * RCE. logits: (B, K); targets: (B,) int64.

    RCE = -sum_k p_k log t_k with log 0 := A, hence -A (1 - p_y).
    """
    return _each(logits, targets, alpha, beta, A).mean()


def _each(logits: Tensor, targets: Tensor, alpha: float, beta: float, A: float) -> Tensor:
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    return -alpha * log_p - beta * A * (1 - log_p.exp())


class SCE(Remedy):
    """Defaults for ten classes. Its scale is not that of cross-entropy: tune lr with it.

    Public re-implementations clamp the one-hot label at 1e-4, which is A = -9.21.
    """

    per_sample = True

    @checked("robust")
    def __init__(
        self,
        alpha: NotNegative = 0.1,
        beta: NotNegative = 1.0,
        A: Annotated[float, Range(high=0, below=True, remedy="it stands for log 0")] = -4.0,
    ) -> None:
        self.alpha, self.beta, self.A = alpha, beta, A

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(
            outputs, lambda logits: sce(logits, targets, self.alpha, self.beta, self.A)
        )

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(
            outputs, lambda logits: _each(logits, targets, self.alpha, self.beta, self.A)
        )
