"""Which weights of a group are its filters, and what the positions of one class make together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.surgery import Group, Slot


def judged(group: Group, weights: Mapping[str, Tensor], option: str) -> list[Slot]:
    """The filters by which a group's channels are judged. option: of `prune`, for the refusal."""
    filters = [slot for slot in group.producers if weights[slot.parameter].dim() > 1]
    if not filters:
        raise UsageError(
            f"prune={option} finds no filter that makes the channels of '{group.name}'; "
            f"add prune.skip=[{group.name}]"
        )
    if group.kind == "stream":
        # Li et al., section 3.3: where a stage's output is pruned, its projection shortcut decides.
        return [slot for slot in filters if slot.shortcut] or filters
    # Later producers are gates (squeeze-and-excitation), which follow what they multiply.
    return filters[:1]


def rows(slot: Slot, weights: Mapping[str, Tensor]) -> Tensor:
    """(size of the slot's dimension, everything else): one row per index of the dimension."""
    weight = weights[slot.parameter].detach().movedim(slot.dim, 0)
    return weight.reshape(len(weight), -1)


def vectors(slot: Slot, weights: Mapping[str, Tensor], size: int) -> Tensor:
    """(size, copies * width) float64: all of a class's rows, such as those of a grouped conv."""
    classes = slot.classes.cpu()
    order = torch.argsort(classes, stable=True)[int((classes < 0).sum()) :]
    return rows(slot, weights).cpu()[order].double().reshape(size, -1)


def total(score: Tensor, slot: Slot, size: int) -> Tensor:
    """(size,) float64 sum of a score over the positions of each class."""
    classes = slot.classes.cpu()
    mine = classes >= 0
    found = torch.zeros(size, dtype=torch.float64)
    return found.index_add_(0, classes[mine], score.cpu().double()[mine])


def mean(score: Tensor, slot: Slot, size: int) -> Tensor:
    """(size,) float64 mean of a score over the positions of each class."""
    classes = slot.classes.cpu()
    return total(score, slot, size) / torch.bincount(classes[classes >= 0], minlength=size)
