"""No regulariser beside the optimizer's weight decay.

Run: compress-run regularize=none
"""

from compressor.regularize import Regularizer


class NoRegularizer(Regularizer):
    """Adds nothing to the loss."""

    is_none = True
