"""ThiNet: keep the channels that best rebuild the next layer's output.

Luo, Wu, Lin. ICCV 2017, arXiv:1707.06342, eq. (6), algorithm 1; the variant `forward` is that of
the authors' later code (TPAMI 2019). Both need the rows only through their Gram matrix.
Run: compress-run prune=thinet prune.ratio=0.5
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.options import Count, checked
from compressor.prune import Observer, Ranking, Selector, part
from compressor.prune._eliminate import Problem, eliminate, problem
from compressor.prune._factor import LEAST, solve
from compressor.prune._product import groups_of, require_readable
from compressor.prune._rows import Rows, by_class, contributions, draw, gram, of_one_group
from compressor.surgery import Group
from compressor.taps import Tap

__all__ = [
    "Rows", "ThiNet", "contributions", "draw", "gram", "observe", "observers", "rescale",
    "select_backward", "select_forward",
]  # fmt: skip

Variant = Literal["backward", "forward", "rescale_aware"]
# Of every channel's own square: keeps the least squares stable where channels repeat each other.
# Rounding can do less to float64 sums over ten million rows of 2,048 channels.
_RIDGE = 1e-6
_NUMBERS = 1 << 20  # of a layer's input handled at a time: 4 MB


def select_backward(gram: Tensor, n_keep: int) -> Tensor:
    """Greedy removal: next goes the channel whose joining keeps || sum of removed x ||^2 least.

    gram: (C, C). Returns (C - n_keep,) class ids in the order removed; of equals the lowest goes
    first. Every prefix is the answer to a larger n_keep.
    """
    return _backward(gram, _checked(gram, n_keep))[0]


def select_forward(gram: Tensor, n_keep: int) -> Tensor:
    """Greedy picking: next comes the channel that alone fits the residual best, then all refit.

    gram: (C, C). Returns (n_keep,) class ids in the order picked: argmax of (x_j.r)^2 / (x_j.x_j)
    with r = y - X_S w_S; of equals the highest index first. Every prefix answers a smaller n_keep.
    """
    return _forward(gram, _checked(gram, n_keep))[0]


def rescale(gram: Tensor, kept: Tensor) -> Tensor:
    """w = argmin || y - X_S w ||^2 for the kept set S: factors of the consumer's input channels.

    gram: (C, C); kept: (n,). Returns (n,) float64. A channel that never spoke keeps 1.
    """
    kept = kept.to(gram.device)
    w = torch.ones(len(kept), dtype=torch.float64, device=gram.device)
    alive = gram.diagonal()[kept] > 0
    chosen = kept[alive]
    if len(chosen):
        matrix = gram[chosen][:, chosen].double()
        w[alive] = solve(_steady(matrix), gram[chosen].double().sum(1)[:, None])[:, 0]
    return w


def residual(gram: Tensor, kept: Tensor, w: Tensor) -> float:
    """|| y - X_S w ||^2 / || y ||^2: what the kept channels cannot rebuild; 0 where y is 0."""
    full = torch.ones(len(gram), dtype=torch.float64, device=gram.device)
    rest = full.clone()
    rest[kept.to(gram.device)] -= w
    energy = float(full @ gram @ full)
    return max(float(rest @ gram @ rest), 0.0) / energy if energy > 0 else 0.0


def observe(
    module: nn.Module,
    x: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
    classes: Tensor,
    size: int,
) -> dict[str, Tensor]:
    """The Gram matrix of `samples` fresh rows an image, and the energy sum y^2 of these rows."""
    # A few images at a time: the rows are the same, and what is read of x stays in the cache.
    numbers = max(x[0].numel(), samples * len(classes))
    parts, energy = [], torch.zeros((), dtype=torch.float64, device=x.device)
    for images in x.split(max(1, (_NUMBERS << 6 if x.is_cuda else _NUMBERS) // numbers)):
        columns = contributions(module, images, draw(module, images, samples, generator))
        energy += columns.sum(1).double().square().sum()
        parts.append(by_class(columns, classes, size))
    return {"gram": gram(torch.cat(parts)), "energy": energy}


def observers(group: Group, net: nn.Module, samples: int = 10) -> tuple[Observer, ...]:
    """One per layer that reads the group; the key is "rows:" and the weight that it reads with.

    Layers that share a weight have one key: their rows add up.
    """
    found = []
    for slot in group.consumers:
        require_readable(net, slot, group.name)
        for path in slot.callers:
            classes = of_one_group(slot, slot.classes, groups_of(net.get_submodule(path)))
            measure = partial(observe, samples=samples, classes=classes, size=group.size)
            found.append(Observer(f"rows:{slot.parameter}", Tap(path, "input"), measure))
    return tuple(found)


def rescale_problem(sums: Mapping[str, Tensor]) -> Problem | None:
    """One consumer's least squares over the factors of its input channels, all of them at first.

    sums: `observe`'s. Scaled by the consumer's energy; None where it was never seen to run.
    """
    if not sums:
        return None
    matrix, energy = sums["gram"].cpu().double(), float(sums["energy"])
    columns = torch.arange(len(matrix))[:, None]
    scale = 1 / energy if energy > 0 else 1.0
    return problem(_steady(matrix)[None], matrix.sum(1)[None, None], columns, scale)


class ThiNet(Selector):
    """variant: "backward" (ICCV paper), "forward" (TPAMI) or "rescale_aware".

    samples: rows drawn per image. The last variant is backward elimination under the rescale: of
    the channels that are left, the one goes whose loss the others' factors make up for best.
    """

    @checked("prune")
    def __init__(self, variant: Variant = "backward", *, samples: Count = 10) -> None:
        self.variant, self.samples = variant, samples

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer, ...]:
        return observers(group, net, self.samples)

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        """cost: in units of the energy of the consumers' outputs, so layers can be compared."""
        # A head that only runs in training is a consumer without statistics.
        seen = [part(statistics, f"rows:{slot.parameter}/") for slot in group.consumers]
        seen = [sums for sums in seen if sums]
        if self.variant == "rescale_aware":
            order, cost = eliminate([rescale_problem(sums) for sums in seen], group.size)
            return Ranking(order.flip(0), cost.flip(0))
        # Several consumers: rows divided by the rms of their y, so that none dominates.
        total = torch.zeros(group.size, group.size, dtype=torch.float64)
        for sums in seen:
            total += sums["gram"].cpu() / (float(sums["energy"]) or 1.0)
        if self.variant == "forward":
            return Ranking(*_forward(total, group.size))
        order, cost = _backward(total, 0)
        return Ranking(order.flip(0), cost.flip(0))


def _checked(gram: Tensor, n_keep: int) -> int:
    if not 0 <= n_keep <= len(gram):
        raise UsageError(f"n_keep={n_keep} of {len(gram)} channels; give 0 to {len(gram)}")
    return n_keep


def _steady(matrix: Tensor) -> Tensor:
    """A Gram matrix with the ridge on its diagonal, and ones for channels that never spoke."""
    own = matrix.diagonal()
    return matrix + torch.diag(torch.where(own > 0, _RIDGE * own, 1.0 - own))


def _backward(gram: Tensor, n_keep: int) -> tuple[Tensor, Tensor]:
    """Removal order and the growth of || sum of removed x ||^2 at each removal."""
    matrix = gram.cpu().double().numpy()
    count = len(matrix) - n_keep
    # growth_j = 2 x_j . x_T + x_j . x_j: removing i adds 2 G[i, j]. NumPy, because its calls on a
    # few hundred numbers cost a third of torch's, and there are two for every channel.
    twice = 2 * matrix
    growth = matrix.diagonal().copy()
    order, cost = np.empty(count, np.int64), np.empty(count)
    for step in range(count):
        i = growth.argmin()
        order[step], cost[step] = i, growth[i]
        growth += twice[i]
        growth[i] = np.inf
    return torch.from_numpy(order), torch.from_numpy(cost)


def _forward(gram: Tensor, n_keep: int) -> tuple[Tensor, Tensor]:
    """Pick order and the fall of || y - X_S w_S ||^2 at each pick, by incremental Cholesky."""
    matrix = gram.cpu().double().numpy()
    width = len(matrix)
    own = matrix.diagonal().copy()  # x_j . x_j
    free = own.copy()  # || x_j ||^2 outside the span of the picked channels
    toward = matrix.sum(1)  # x_j . r, at first x_j . y
    factor = np.zeros((n_keep, width))  # row k: unit vector of pick k times every x_j
    gain = np.empty(width)
    left = np.ones(width, bool)
    order, cost = np.empty(n_keep, np.int64), np.empty(n_keep)
    error = LEAST  # share of x_j . x_j that nothing can be told from
    step = 0
    while step < n_keep:
        # What lies in the span already fits nothing more; silence comes last.
        np.divide(toward * toward, own, out=gain, where=own > 0)
        gain[free <= error * own] = 0.0
        gain[own <= 0] = -1.0
        gain[~left] = -2.0
        j = width - 1 - int(gain[::-1].argmax())
        if gain[j] > 0:
            scale = np.sqrt(free[j])
            row = (matrix[j] - factor[:step, j] @ factor[:step]) / scale
            rest = free - row * row
            # No channel has less than nothing outside the span: what falls below zero is the size
            # of the errors. Where it is as large as what x_j has left, x_j is in the span as well.
            seen = left & (own > 0)
            below = 4 * max(0.0, -float((rest[seen] / own[seen]).min()))
            if below * own[j] > free[j]:
                free[j] = 0.0
                continue
            error = max(error, below)
            share = toward[j] / scale
            factor[step], free = row, rest
            toward -= share * row
            cost[step] = share * share
        else:
            cost[step] = 0.0
        order[step] = j
        left[j] = False
        step += 1
    return torch.from_numpy(order), torch.from_numpy(cost)
