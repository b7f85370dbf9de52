"""No remedy: cross-entropy on the given labels, with optional label smoothing.

Szegedy et al. CVPR 2016, arXiv:1512.00567, section 7 (smoothing; off by default).
Run: compress-run robust=none
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from compressor.options import BelowOne, checked
from compressor.robust import Remedy, with_auxiliary


class CrossEntropy(Remedy):
    """-log p_y, averaged over the batch; with distributions for targets -sum_k t_k log p_k."""

    is_none = True
    per_sample = True

    @checked("robust")
    def __init__(self, label_smoothing: BelowOne = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return self._of(outputs, targets, "mean")

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return self._of(outputs, targets, "none")

    def _of(self, outputs: Mapping[str, object], targets: Tensor, reduction: str) -> Tensor:
        smoothing = self.label_smoothing
        return with_auxiliary(
            outputs,
            lambda logits: F.cross_entropy(
                logits, targets, label_smoothing=smoothing, reduction=reduction
            ),
        )
