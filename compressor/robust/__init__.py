"""Robust losses: what training does about wrong labels. One file each, named by the method.

Run: compress-run robust=gce noise=symmetric
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Phase:
    """One fit of a training: a run of epochs with one loss and one learning-rate schedule."""

    epochs: int
    loss: object  # has `loss` and `after_backward`, as Robust does
    lr_scale: float = 1.0  # factor on the stage's learning rate
    schedule: str | None = None  # None: the stage's own


class Robust(Protocol):
    """The criterion of a training, chosen by the config group `robust`."""

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        """Scalar. outputs: the task's; targets: given labels; index: positions in the part."""

    def after_backward(self, index: Tensor) -> None:
        """Update per-sample state, if there is any."""

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        """How the epochs of a training are shared out."""


def with_auxiliary(outputs: Mapping[str, object], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """`loss` of the logits plus that of every auxiliary head, by the head's own weight.

    outputs["logits"]: (B, K); outputs["aux"], if present: (weight, logits) pairs.
    """
    total = loss(outputs["logits"].float())
    for weight, logits in outputs.get("aux", ()):
        total = total + weight * loss(logits.float())
    return total
