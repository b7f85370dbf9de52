"""What a network is for: its outputs, its metrics, and which figure is the headline.

Nothing outside this room assumes (N, K) logits.
"""

from typing import Any, Protocol

from torch import Tensor
from torchmetrics import MetricCollection


class Task(Protocol):
    """The interface of a task object."""

    headline: tuple[str, str]
    """Name of the deciding metric and its direction, "max" or "min"."""

    def loss_inputs(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(inputs, targets, index) of a batch."""

    def outputs(self, net_out: Any) -> dict[str, Any]:
        """The network's answer as named tensors: "logits", and "aux": ((weight, logits), ...)."""

    def metrics(self, num_classes: int) -> MetricCollection:
        """Fresh metrics with update(outputs, targets) and compute(); "loss" among them.

        One whose value is a vector, such as a figure of each class, is measured of finished
        networks and not followed during training.
        """

    def example_inputs(self, input_size: tuple[int, ...], batch: int) -> tuple[Tensor, ...]:
        """Inputs of the right shape with values like normalised images."""
