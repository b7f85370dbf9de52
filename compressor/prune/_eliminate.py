"""Greedy removal of blocks of inputs from least squares, everything that stays being refitted.

Optimal Brain Surgeon (Hassibi and Stork, NIPS 1993) over blocks, as in ZipLM (Kurtic et al. 2023,
arXiv:2302.04089): with W the solution and P the inverse of its matrix, the objective grows by
sum over outputs of W_c (P_cc)^-1 W_c^T when block c goes and all else is solved again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.prune._factor import factor

_SHRINK = 0.8  # share of blocks that is left when the arrays are made smaller
# Removals change a wide inverse by a narrow product each, which moves all of it through memory: so
# many columns of these products are gathered and taken off at once.
_PENDING = 128


@dataclass(eq=False)
class Problem:
    """One consumer: the inverse P (G, C n, C n) and the solution W (G, F, C n), block by block.

    Both are in units of the columns, in which the diagonal of P^-1 is one: the costs are the same.
    Columns that belong to no block are left out: they are refitted, but never go. scale: what one
    unit of this objective is worth beside the other consumers'.
    """

    inverse: Tensor
    weight: Tensor
    scale: float = 1.0


def problem(matrix: Tensor, cross: Tensor, blocks: Tensor, scale: float) -> Problem:
    """matrix: (G, D, D); cross: (G, F, D); blocks: (C, n) columns of every block."""
    columns = blocks.flatten().to(matrix.device)
    lower = factor(matrix)
    units = lower.square().sum(2).sqrt()
    lower.div_(units[:, :, None])
    weight = torch.cholesky_solve((cross / units[:, None]).mT, lower).mT
    inverse = torch.cholesky_inverse(lower)
    if not torch.equal(columns, torch.arange(matrix.shape[1], device=columns.device)):
        inverse, weight = inverse[:, columns][:, :, columns], weight[:, :, columns]
    return Problem(inverse, weight.contiguous(), scale)


def eliminate(problems: list[Problem], size: int) -> tuple[Tensor, Tensor]:
    """All of `size` blocks in the order removed, and what the objectives grow by at each removal.

    Of equals the lowest goes first. Changes the problems' tensors.
    """
    solutions = [_Solution(one, size) for one in problems]
    alive = torch.arange(size)  # the blocks that the arrays still hold
    gone = torch.zeros(size, dtype=torch.bool)  # of these
    order, costs = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.float64)
    for step in range(size):
        cost = torch.zeros(len(alive), dtype=torch.float64)
        for one in solutions:
            cost += one.costs().cpu()
        cost[gone] = torch.inf
        i = int(cost.argmin())
        order[step], costs[step] = alive[i], cost[i].clamp(min=0)
        gone[i] = True
        for one in solutions:
            one.remove(i)
        if gone.sum() > (1 - _SHRINK) * len(alive):
            for one in solutions:
                one.shrink(~gone)
            alive, gone = alive[~gone], gone[~gone]
    return order, costs


class _Solution:
    """Where a problem stands: W^T (G, C, n, F) and P, of which the diagonal blocks (G, C, n, n)
    are kept up to date and the rest is `inverse` less U U^T, U (G, C n, m) the pending columns.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self.scale, self.inverse = problem.scale, problem.inverse
        self.weight = problem.weight.mT.contiguous().unflatten(1, (count, -1))
        n = self.weight.shape[2]
        own = self.inverse.unflatten(1, (count, n)).unflatten(3, (count, n))
        self.diagonal = own.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()
        self.pending = self.inverse[:, :, :0]

    def costs(self) -> Tensor:
        """(C,) what W_c (P_cc)^-1 W_c^T sums to over the outputs, times the scale."""
        if self.weight.shape[2] == 1:
            # one over what is left of a square of one: only rounding makes it less than one
            own = self.diagonal[:, :, 0, 0].clamp(min=1)
            return self.scale * (self.weight[:, :, 0].square().sum(2) / own).sum(0)
        square = self.weight @ self.weight.mT
        solved = torch.cholesky_solve(square, factor(self.diagonal))
        return self.scale * solved.diagonal(dim1=2, dim2=3).sum((0, 2))

    def remove(self, i: int) -> None:
        """W -= W_c P_cc^-1 P_c,: and P -= P_:,c P_cc^-1 P_c,:; block i is never looked at again."""
        n = self.weight.shape[2]
        block = slice(i * n, (i + 1) * n)
        columns = self.inverse[:, :, block] - self.pending @ self.pending[:, block].mT
        lower = factor(self.diagonal[:, i])
        # P_:,c P_cc^-1 P_c,: = U U^T
        columns = torch.linalg.solve_triangular(lower, columns.mT, upper=False).mT.contiguous()
        mine = torch.linalg.solve_triangular(lower, self.weight[:, i], upper=False)
        self.weight.flatten(1, 2).baddbmm_(columns, mine, alpha=-1)
        own = columns.unflatten(1, (-1, n))
        self.diagonal -= own @ own.mT
        self.weight[:, i] = 0
        self.diagonal[:, i] = torch.eye(n, dtype=own.dtype, device=own.device)
        self.pending = torch.cat([self.pending, columns], 2)
        if self.pending.shape[2] >= _PENDING:
            self._settle()

    def shrink(self, stays: Tensor) -> None:
        count, n = self.weight.shape[1:3]
        stays = stays.nonzero()[:, 0].to(self.inverse.device)
        rows = self.inverse.unflatten(1, (count, n)).index_select(1, stays).flatten(1, 2)
        both = rows.unflatten(2, (count, n)).index_select(2, stays)
        self.inverse = both.flatten(2)
        self.pending = self.pending.unflatten(1, (count, n)).index_select(1, stays).flatten(1, 2)
        self._settle()
        self.weight, self.diagonal = self.weight[:, stays], self.diagonal[:, stays]

    def _settle(self) -> None:
        self.inverse.baddbmm_(self.pending, self.pending.mT, alpha=-1)
        self.pending = self.pending[:, :, :0]
