"""Which channels stay: ranks every group and keeps as many as it is told.

No artefacts and no configuration here; the compress stage wraps these functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.prune import Ranking, Selector
from compressor.seeding import generator
from compressor.stages._statistics import mine
from compressor.surgery import Group


@dataclass(frozen=True, eq=False)
class Selection:
    """keep: group -> sorted class ids; groups that lose nothing are not in it."""

    keep: dict[str, Tensor]
    rankings: dict[str, Ranking]
    residual: dict[str, float] = field(default_factory=dict)
    """Group -> ||y - X_S w||^2 / ||y||^2 after rescaling, the largest over its consumers."""


def judge(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    statistics: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Ranking]:
    """Rank every group. net: the network whose weights are judged."""
    weights = tensors(net)
    return {g.name: rank(g, selector, mine(g, statistics), weights, seed) for g in groups}


def prefixes(
    groups: Sequence[Group], rankings: Mapping[str, Ranking], counts: Mapping[str, int]
) -> Selection:
    """The first counts[group.name] channels of every ranking."""
    keep = {}
    for group in groups:
        if counts[group.name] < group.size:
            keep[group.name] = rankings[group.name].keep(counts[group.name])
    return Selection(keep, dict(rankings))


def tensors(net: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, those too that are saved with no network."""
    named = [
        *net.named_buffers(remove_duplicate=False), *net.named_parameters(remove_duplicate=False)
    ]  # fmt: skip
    return {name: tensor.detach() for name, tensor in named}


def rank(
    group: Group,
    selector: Selector,
    statistics: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    seed: int,
) -> Ranking:
    if not all(value.isfinite().all() for value in statistics.values()):
        raise RunError(
            f"{type(selector).__name__} ranked '{group.name}' by sums that are not finite; "
            "look for NaN in the network's activations or weights"
        )
    private = generator(seed, "rank", group.name)
    ranking = selector.rank(group, statistics, weights, private)
    if not torch.equal(ranking.order.cpu().sort().values, torch.arange(group.size)):
        raise RunError(
            f"{type(selector).__name__} ranked '{group.name}' with something other than an order "
            f"of its {group.size} channels; look for NaN in the network's activations or weights"
        )
    return ranking
