"""Weight sum: keep the filters with the largest sum of absolute weights.

Li, Kadav, Durdanovic, Samet, Graf. ICLR 2017, arXiv:1608.08710, section 3.1.
Run: compress-run prune=weight_sum prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.prune import Observer, Ranking, by_score
from compressor.surgery import Group, Slot

# Names that torchvision, timm and this package give to the projection on a residual shortcut.
_SHORTCUT = ("downsample", "shortcut")


def weight_sum(weight: Tensor) -> Tensor:
    """Sum of absolute kernel weights of every filter, s_j in section 3.1; low means prunable.

    weight: (out, ...). Returns (out,) float64. No bias and no batch norm enter.
    """
    return weight.detach().abs().flatten(1).sum(1, dtype=torch.float64)


class WeightSum:
    """Scores on the full weights ("independent" in the paper), layer by layer."""

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer, ...]:
        return ()

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        filters = [slot for slot in group.producers if weights[slot.parameter].dim() > 1]
        if not filters:
            raise UsageError(
                f"prune=weight_sum finds no filter that makes the channels of '{group.name}'; "
                f"add prune.skip=[{group.name}]"
            )
        if group.kind == "stream":
            # Section 3.3: where a stage's output is pruned, its projection shortcut decides.
            judged = [slot for slot in filters if _is_shortcut(slot.module)] or filters
        else:
            # Later producers are gates (squeeze-and-excitation), which follow what they multiply.
            judged = filters[:1]
        scores = [_by_class(slot, weights, group.size) for slot in judged]
        return by_score(torch.stack(scores).mean(0).cpu())


def _is_shortcut(module: str) -> bool:
    return any(part.startswith(_SHORTCUT) for part in module.split("."))


def _by_class(slot: Slot, weights: Mapping[str, Tensor], size: int) -> Tensor:
    """(size,) mean score over the positions of each class, such as those of a grouped conv."""
    score = weight_sum(weights[slot.parameter].movedim(slot.dim, 0)).cpu()
    mine = slot.classes.cpu() >= 0
    classes = slot.classes.cpu()[mine]
    total = torch.zeros(size, dtype=torch.float64).index_add_(0, classes, score[mine])
    return total / torch.bincount(classes, minlength=size).clamp(min=1)
