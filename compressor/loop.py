"""Who runs the steps of a training: which images a step sees, and which parameters it moves.

`tasks/supervised.py` is the usual one; `tasks/alternating.py` trains a maker of images in turns
with the network. A distillation term may bring another (`Term.loop`).
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


class Loop:
    """A strategy of the one LightningModule, `tasks.training.Training`, handed to every method.

    automatic: whether Lightning goes back through the loss of a step and moves the parameters; if
    not, `step` does both. reads_labels: whether steps see labels, so that some can be wrong.
    """

    automatic: bool = True
    reads_labels: bool = True

    def tag(self, part: str, name: str) -> str:
        """What a figure is logged under. part: train or val; name: of the task's metrics."""
        raise NotImplementedError

    def step(self, training: "LightningModule", batch: Any, number: int) -> Tensor | None:
        """The scalar loss of batch `number` of the epoch, None where the loop is not automatic."""
        raise NotImplementedError

    def after_backward(self, training: "LightningModule") -> None:
        """Called once the gradients of a step are there."""

    def validate(self, training: "LightningModule", batch: Any, number: int) -> None:
        """Update the validation metrics."""
        raise NotImplementedError

    def optimizers(self, training: "LightningModule") -> Any:
        """Optimizers and schedules, in a form that Lightning takes."""
        raise NotImplementedError
