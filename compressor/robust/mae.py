"""MAE: mean absolute error between the given label and the prediction.

Ghosh, Kumar, Sastry. AAAI 2017, arXiv:1712.09482, section 3.
Run: compress-run robust=mae noise=symmetric
"""

from collections.abc import Mapping

from torch import Tensor

from compressor.robust import Remedy, with_auxiliary


def mae(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of |onehot - p|_1 = 2 - 2 p_y. logits: (B, K); targets: (B,) int64.

    Its sum over all labels is the constant 2K - 2, which makes it tolerant of symmetric noise.
    """
    return _each(logits, targets).mean()


def _each(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.softmax(dim=1).gather(1, targets[:, None])
    return (2 - 2 * p)[:, 0]


class MAE(Remedy):
    """Learns slowly, the more so the more classes: give it more epochs than cross-entropy."""

    per_sample = True

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: mae(logits, targets))

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: _each(logits, targets))
