"""No distillation: the labels alone, at full weight.

Run: compress-run distill=none
"""

from collections.abc import Mapping

from torch import Tensor


class NoDistillation:
    """Stands where a list of terms would: label weight 1, loss 0."""

    label_weight = 1.0
    weight = 0.0

    def loss(
        self, student: Mapping[str, object], teacher: Mapping[str, object], batch: object
    ) -> Tensor:
        return student["logits"].new_zeros(())

    def taps(self) -> tuple[str, ...]:
        return ()
