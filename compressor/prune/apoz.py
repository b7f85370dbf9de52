"""APoZ: remove the channels whose activation is zero most often.

Hu, Peng, Tai, Tang. Network Trimming, 2016, arXiv:1607.03250, eq. (1).
Run: compress-run prune=apoz prune.ratio=0.5
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor.errors import RunError, UsageError
from compressor.options import Range, checked
from compressor.prune import Observer, Ranking, Selector, by_score
from compressor.surgery import Activation, Group
from compressor.taps import Tap

# Operators that send a whole half-line to exactly 0; relu6 and hardtanh are one operator.
_WITH_ZEROS = frozenset({"relu", "relu6", "hardtanh", "threshold", "clamp", "clamp_min"})


def apoz(activations: Tensor, eps: float | None = None, dim: int = 1) -> Tensor:
    """Average percentage of zeros per channel; high means prunable.

    activations: (N, C, *), after the nonlinearity and before any pooling; dim: where C stands.
    eps: count |a| < eps instead of exact zeros. Returns (C,) float64 in [0, 1].
    """
    zeros, count = _zeros(activations, eps, dim)
    return zeros / count


class APoZ(Selector):
    """Ranks by APoZ. eps: threshold for activations that are never exactly 0; None refuses them."""

    @checked("prune")
    def __init__(
        self, eps: Annotated[float | None, Range(0, above=True, remedy="or null")] = None
    ) -> None:
        self.eps = eps

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer, ...]:
        tap, classes, dim = self._tap(group, net)
        measure = partial(_observe, group=group, classes=classes, eps=self.eps, dim=dim)
        return (Observer("zeros", tap, measure),)

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        share = statistics["zeros/zeros"] / statistics["zeros/count"].clamp(min=1)
        return by_score(1 - share.cpu())

    def _tap(self, group: Group, net: nn.Module) -> tuple[Tap, Tensor, int]:
        """Where the first activation after the producer can be read.

        Also the class of every channel there, which a shuffle in between may have moved, and along
        which dimension the channels lie.
        """
        skip = f"leave it out with prune.skip=[{group.name}]"
        if group.kind == "stream":
            raise UsageError(
                f"prune=apoz needs an activation of its own behind '{group.name}', which feeds a "
                f"residual sum; use prune.scope=interior or {skip}"
            )
        if not group.activations:
            raise UsageError(f"prune=apoz finds no activation behind '{group.name}'; {skip}")
        first = group.activations[0]
        if self.eps is None and not _has_zeros(first, net):
            raise UsageError(
                f"prune=apoz counts exact zeros, and '{first.op}' in '{first.module}' behind "
                f"'{group.name}' has none; set prune.eps (say 0.01) or {skip}"
            )
        if first.leaf:
            return Tap(first.module, "output", first.call), first.classes, first.dim
        for slot in group.consumers:
            # A pooling in between would hide zeros, so only the operator itself may be last.
            reader = net.get_submodule(slot.callers[0])
            if slot.after == first.op and isinstance(reader, nn.Linear | _ConvNd):
                dim = -1 if isinstance(reader, nn.Linear) else 1
                return Tap(slot.callers[0], "input"), slot.classes, dim
        raise UsageError(
            f"prune=apoz cannot read the '{first.op}' that '{first.module}' calls as a function "
            f"behind '{group.name}'; make it a module, such as nn.ReLU(), or {skip}"
        )


def _has_zeros(activation: Activation, net: nn.Module) -> bool:
    if activation.op.rstrip("_") not in _WITH_ZEROS:
        return False
    module = net.get_submodule(activation.module)
    return not isinstance(module, nn.Hardtanh) or module.min_val == 0


def _zeros(activations: Tensor, eps: float | None, dim: int) -> tuple[Tensor, int]:
    """Zeros per channel (C,) float64, and how many values each channel has."""
    hit = activations == 0 if eps is None else activations.abs() < eps
    flat = hit.movedim(dim, 0).flatten(1)
    return flat.sum(1).double(), flat.shape[1]


def _observe(
    module: nn.Module,
    x: Tensor,
    generator: torch.Generator,
    *,
    group: Group,
    classes: Tensor,
    eps: float | None,
    dim: int,
) -> dict[str, Tensor]:
    zeros, count = _zeros(x, eps, dim)
    copies, rest = divmod(len(zeros), len(classes))
    if rest:
        raise RunError(
            f"a {type(module).__name__} behind '{group.name}' has {len(zeros)} channels where "
            f"{len(classes)} were traced; leave it out with prune.skip=[{group.name}]"
        )
    # a grouped convolution's weight speaks of one group's inputs
    classes = classes.repeat(copies).to(x.device)
    mine = classes >= 0
    sums = torch.zeros(2, group.size, dtype=torch.float64, device=x.device)
    values = torch.stack([zeros[mine], torch.full_like(zeros[mine], count)])
    sums.index_add_(1, classes[mine], values)
    return {"zeros": sums[0], "count": sums[1]}
