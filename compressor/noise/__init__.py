"""Noise: what is wrong with the data that training is given. One file each, named by the kind.

Run: compress-run noise=symmetric noise.rate=0.4
Callers corrupt the train part only, once, before training; validation and test stay clean.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The train part as a kind of noise sees it, in canonical order.

    labels: (n,) int64, clean. rows: (n,) int64, the images' places in the data set's own training
    list of `listed` images, before validation was split off it; None: the part is the whole list.
    superclasses: (K,) int64, where the data set groups its classes.
    images: positions (m,) -> batches of un-augmented normalised images, in that order.
    """

    labels: Tensor
    num_classes: int
    dataset: str = ""
    class_names: tuple[str, ...] = ()
    superclasses: Tensor | None = None
    rows: Tensor | None = None
    listed: int | None = None
    images: Callable[[Tensor], Iterator[Tensor]] | None = None


class Noise:
    """Chosen by the config group `noise`. What a kind does not override does nothing.

    reads_images: whether `corrupt` costs a pass over the images, so that its answer is kept.
    injects: whether labels are changed, in a way whose matrix is then known.
    known: whether the data set's own labels are the true ones.
    damages: whether images are changed, by `damage`. content: digest of a file that the options
    name: another file under the same name gives other labels.
    """

    reads_images: bool = False
    injects: bool = False
    known: bool = True
    damages: bool = False
    content: str = ""

    def corrupt(self, part: Part) -> Tensor:
        """The given labels (n,) int64, a function of the options and the part alone."""
        return part.labels.clone()

    def damage(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Damaged images, in the loader of the training alone.

        images: (B, C, H, W) normalised; index: (B,) positions within the part.
        """
        return images


def transition(clean: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """Realised transition matrix: entry [i, j] is the share of class i that was given label j.

    clean, given: (n,) int64. Returns (K, K) float64, whose rows sum to 1; the row of a class
    without samples is that of the identity.
    """
    pairs = torch.bincount(clean * num_classes + given, minlength=num_classes**2)
    counts = pairs.view(num_classes, num_classes).to(torch.float64)
    of_class = counts.sum(dim=1, keepdim=True)
    identity = torch.eye(num_classes, dtype=torch.float64)
    return torch.where(of_class > 0, counts / of_class.clamp(min=1), identity)
