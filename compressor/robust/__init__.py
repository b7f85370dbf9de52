"""Remedies: what training does about wrong labels. One file each, named by the method.

Run: compress-run robust=gce noise=symmetric
A plain loss overrides `Remedy.loss` and nothing else; the other hooks are for methods that keep
something for every sample, change the training set, or train a second network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.options import Range

if TYPE_CHECKING:
    from compressor.robust._store import LabelStore

# Of out-of-sample predictions: trainings, and epochs of each; null: as many as the training has.
Folds = Annotated[int, Range(2)]
EstimateEpochs = Annotated[int | None, Range(1, remedy="or null")]


@dataclass(frozen=True)
class Phase:
    """One fit of a training: a run of epochs with one loss and one learning-rate schedule."""

    epochs: int
    loss: "Remedy"
    lr_scale: float = 1.0  # factor on the stage's learning rate
    schedule: str | None = None  # None: the stage's own
    milestones: tuple[float, ...] | None = None  # None: the stage's own; of schedule "step"
    gamma: float | None = None  # None: the stage's own; the factor at each milestone


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a remedy may know of the training set before the training begins; never the truth.

    targets: (n,) int64, given labels. index: (m,) positions that are trained on, None for all.
    transition: (K, K), the realised matrix of injected noise, None where it is unknown.
    noise_rate: the share of wrong labels that it made, None where it is unknown.
    probabilities: (folds, epochs) -> (n, K), of networks trained with cross-entropy: those of a
    fold's samples come from a network that has not seen them; with one fold from one that has.
    """

    targets: Tensor
    num_classes: int
    batch_size: int
    epochs: int
    index: Tensor | None = None
    transition: Tensor | None = None
    noise_rate: float | None = None
    probabilities: Callable[[int, int], Tensor] | None = None

    @property
    def rows(self) -> Tensor:
        """(m,) positions that are trained on."""
        import torch

        return torch.arange(len(self.targets)) if self.index is None else self.index


DROPPED = -1  # among corrected labels: the image is not trained on


@dataclass(frozen=True)
class Change:
    """A training set as a remedy wants it. None leaves a part as it was.

    corrected: (n,) int64, what the method takes the labels to be, DROPPED where it trusts none;
    notes: figures for the report.
    """

    targets: Tensor | None = None
    index: Tensor | None = None
    corrected: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Remedy:
    """The criterion of a training, chosen by the config group `robust`.

    is_none: whether it is plain cross-entropy, smoothed or not.
    corrects: the forms of corrected labels that it leaves behind, of "soft" and "hard".
    train_only: whether `finetune.robust=same` makes no sense with it. needs_known: whether it needs
    the transition matrix of injected noise. twofold: whether it trains two networks at once.
    optimizer: the train.optimizer that its paper counts on, if any.
    per_sample: whether its loss is the mean of `losses`, so that class weights can enter. shares:
    whether it counts on how often each label is given, so that no class may be given more weight.
    store: per-sample rows, a sidecar of the checkpoint. content: digest of a file that its options
    name: another file under the same name is another training.
    """

    is_none: bool = False
    corrects: tuple[str, ...] = ()
    train_only: bool = False
    needs_known: bool = False
    twofold: bool = False
    optimizer: str | None = None
    per_sample: bool = False
    shares: bool = False
    store: "LabelStore | None" = None
    content: str = ""

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        """Scalar. outputs: the task's; targets: given labels; index: positions in the part."""
        raise NotImplementedError

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        """(B,) of each sample, whose mean is `loss`; asked for where `per_sample`."""
        raise NotImplementedError

    def after_backward(self, index: Tensor) -> None:
        """Update per-sample state."""

    def before_epoch(self, epoch: int) -> None:
        """epoch: 0-based, over all phases."""

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        """How the epochs of a training are shared out."""
        return (Phase(epochs, self),)

    def cautions(self, epochs: int, schedule: str, num_classes: int) -> list[str]:
        """What an author may not have meant, a line each. epochs, schedule: of the training."""
        return []

    def follows(self, noise_rate: float | None) -> list[str]:
        """What the method takes from the share of wrong labels, a line each; None: unknown."""
        return []

    def rehearsals(self, images: int, epochs: int) -> tuple[int, float]:
        """Trainings that `begin` asks for, and their length in epochs of all `images`.

        epochs: the training's own. Refuses what so many images do not allow.
        """
        return 0, 0.0

    def begin(self, samples: Samples) -> Change | None:
        """Called once, before the training: estimates and cleaning happen here."""
        return None

    def open(self, folder: Path, saved: Path | None) -> None:
        """Make the per-sample state in `folder`, from the sidecar `saved` of a killed training."""

    def networks(self, net: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        """The module to train. build: makes another network like `net`, freshly initialised."""
        return net

    def chosen(self, net: nn.Module) -> nn.Module:
        """The network that goes on, of what `networks` made."""
        return net

    def figures(
        self, targets: Tensor, clean: Tensor | None, index: Tensor | None = None
    ) -> dict[str, float]:
        """Columns of the epoch's row in history.csv. targets, clean: (n,), given and true; index:
        positions that are trained on, None for all.
        """
        return {}

    def corrected(self, path: Path) -> bool:
        """Write what became of the labels as a .npy, (n, K) soft or (n,) hard, the latter with
        DROPPED for images that were left out; whether it did.
        """
        return False


def listed(T: Tensor) -> dict[str, Any]:
    """A transition matrix as a note, where it is small enough to be read."""
    return {"transition": T.tolist()} if len(T) <= 20 else {}


def folds_within(folds: int, images: int) -> int:
    """folds, refused where a fold would hold no image."""
    if folds > images:
        raise UsageError(f"robust.folds={folds} is more than the {images:,} images: give 4, say")
    return folds


def with_auxiliary(outputs: Mapping[str, object], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """`loss` of the logits plus that of every auxiliary head, by the head's own weight.

    outputs["logits"]: (B, K); outputs["aux"], if present: (weight, logits) pairs. loss: gives a
    scalar, or (B,) values.
    """
    total = loss(outputs["logits"].float())
    for weight, logits in outputs.get("aux", ()):
        total = total + weight * loss(logits.float())
    return total
