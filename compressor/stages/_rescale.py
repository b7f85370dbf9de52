"""ThiNet's own repair: one least-squares factor for every kept input channel of a consumer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.prune import thinet
from compressor.prune._rows import of_one_group
from compressor.stages._statistics import mine
from compressor.surgery import Group, Slot


def apply_rescale(
    net: nn.Module,
    groups: Sequence[Group],
    keep: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
) -> dict[str, float]:
    """Multiply the consumers' input weights of the CUT network by ThiNet's least-squares factors.

    groups: those of the dense network; statistics: `collect`'s with reconstruct="rescale".
    Returns each group's residual energy, as in `Selection.residual`.
    """
    factors: dict[tuple[str, int], Tensor] = {}
    alive: dict[tuple[str, int], Tensor] = {}
    rest: dict[str, float] = {}
    for group in groups:
        if group.name not in keep:
            continue
        kept = keep[group.name].cpu()
        for slot in group.consumers:
            place = (slot.parameter, slot.dim)
            classes = slot.classes
            here = torch.isin(classes, kept)
            factor = factors.setdefault(place, torch.ones(len(classes), dtype=torch.float64))
            alive.setdefault(place, torch.ones(len(classes), dtype=torch.bool))
            alive[place] &= stays(slot, kept)
            by_class, left = factors_of(group, slot, kept, mine(group, statistics))
            rest[group.name] = max(left, rest.get(group.name, 0.0))
            factor[here] = by_class[classes[here]]
    for (parameter, dim), factor in factors.items():
        scale(net, parameter, dim, factor[alive[parameter, dim]])
    return rest


def factors_of(
    group: Group, slot: Slot, kept: Tensor, statistics: Mapping[str, Tensor]
) -> tuple[Tensor, float]:
    """(group.size,) rescale factor by class (1 where removed), and the residual energy."""
    key = f"rows:{slot.parameter}/gram"
    if key not in statistics:
        if any(name.startswith("rows:") for name in statistics):
            # a head that only runs in training was never seen beside the consumers that were
            return torch.ones(group.size, dtype=torch.float64), 0.0
        raise RunError(
            f"no rows of '{slot.module}' were collected; collect with reconstruct='rescale'"
        )
    w = thinet.rescale(statistics[key], kept)
    factors = torch.ones(group.size, dtype=torch.float64)
    factors[kept] = w.cpu()
    return factors, thinet.residual(statistics[key], kept, w)


@torch.no_grad()
def scale(net: nn.Module, parameter: str, dim: int, factors: Tensor) -> None:
    weight = net.get_parameter(parameter)
    if weight.shape[dim] != len(factors):
        raise RunError(
            f"'{parameter}' has {weight.shape[dim]} inputs where the plan leaves {len(factors)}; "
            "rescale the network that this plan has cut"
        )
    shape = [1] * weight.dim()
    shape[dim] = -1
    weight.mul_(factors.to(weight).view(shape))


def columns_left(slot: Slot, kept: Tensor, gram: Tensor) -> Tensor:
    """(D,) bool: of the columns of a layer's normal equations those that a cut leaves.

    gram: (G, D + 1, D + 1) of the G groups of the convolution that reads the slot.
    """
    left = of_one_group(slot, stays(slot, kept), len(gram))
    return left.repeat((gram.shape[1] - 1) // len(left))


def stays(slot: Slot, kept: Tensor) -> Tensor:
    """(len(slot.classes),) bool: positions that a cut to these classes leaves."""
    return (slot.classes < 0) | torch.isin(slot.classes, kept)
