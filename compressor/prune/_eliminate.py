"""Greedy removal of blocks of inputs from least squares, everything that stays being refitted.

Optimal Brain Surgeon (Hassibi and Stork, NIPS 1993) over blocks, as in ZipLM (Kurtic et al. 2023,
arXiv:2302.04089): with W the solution and P the inverse of its matrix, the objective grows by
sum over outputs of W_c (P_cc)^-1 W_c^T when block c goes and all else is solved again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINK = 0.85  # share of blocks that is left when the arrays are made smaller


@dataclass(eq=False)
class Problem:
    """One consumer: the inverse P (G, C n, C n) and the solution W (G, F, C n), block by block.

    Columns that belong to no block are left out: they are refitted, but never go. scale: what one
    unit of this objective is worth beside the other consumers'.
    """

    inverse: Tensor
    weight: Tensor
    scale: float = 1.0


def problem(matrix: Tensor, cross: Tensor, blocks: Tensor, scale: float) -> Problem:
    """matrix: (G, D, D); cross: (G, F, D); blocks: (C, n) columns of every block."""
    columns = blocks.flatten().to(matrix.device)
    factor = torch.linalg.cholesky(matrix)
    weight = torch.cholesky_solve(cross.transpose(1, 2), factor).transpose(1, 2)
    inverse = torch.cholesky_inverse(factor)
    if not torch.equal(columns, torch.arange(matrix.shape[1], device=columns.device)):
        inverse, weight = inverse[:, columns][:, :, columns], weight[:, :, columns]
    return Problem(inverse, weight.contiguous(), scale)


def eliminate(problems: list[Problem], size: int) -> tuple[Tensor, Tensor]:
    """All of `size` blocks in the order removed, and what the objectives grow by at each removal.

    Of equals the lowest goes first. Changes the problems' tensors.
    """
    alive = torch.arange(size)  # the blocks that the arrays still hold
    gone = torch.zeros(size, dtype=torch.bool)  # of these
    order, costs = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.float64)
    for step in range(size):
        cost = torch.zeros(len(alive), dtype=torch.float64)
        for one in problems:
            cost += one.scale * _cost(one, len(alive)).cpu()
        cost[gone] = torch.inf
        i = int(cost.argmin())
        order[step], costs[step] = alive[i], cost[i].clamp(min=0)
        gone[i] = True
        for one in problems:
            _remove(one, i, len(alive))
        if gone.sum() > (1 - _SHRINK) * len(alive):
            for one in problems:
                _shrink(one, ~gone)
            alive, gone = alive[~gone], gone[~gone]
    return order, costs


def _cost(one: Problem, count: int) -> Tensor:
    """(count,) sum over outputs of W_c (P_cc)^-1 W_c^T."""
    groups, width = one.inverse.shape[:2]
    n = width // count
    weight = one.weight.unflatten(2, (count, n))
    if n == 1:
        own = one.inverse.diagonal(dim1=1, dim2=2)
        return (weight[..., 0].square().sum(1) / own).sum(0)
    own = one.inverse.view(groups, count, n, count, n).diagonal(dim1=1, dim2=3)
    factor = torch.linalg.cholesky(own.permute(0, 3, 1, 2).contiguous())
    solved = torch.linalg.solve_triangular(factor, weight.permute(0, 2, 3, 1), upper=False)
    return solved.square().sum(dim=(0, 2, 3))


def _remove(one: Problem, i: int, count: int) -> None:
    """W -= W_c P_cc^-1 P_c,: and P -= P_:,c P_cc^-1 P_c,:; block i itself becomes the identity."""
    n = one.inverse.shape[1] // count
    block = slice(i * n, (i + 1) * n)
    rows = one.inverse[:, block].clone()
    solved = torch.linalg.solve(rows[:, :, block], rows)
    one.weight.baddbmm_(one.weight[:, :, block].clone(), solved, alpha=-1)
    one.inverse.baddbmm_(rows.transpose(1, 2), solved, alpha=-1)
    one.weight[:, :, block] = 0
    one.inverse[:, block] = 0
    one.inverse[:, :, block] = 0
    one.inverse[:, block, block] = torch.eye(n, dtype=rows.dtype, device=rows.device)


def _shrink(one: Problem, stays: Tensor) -> None:
    n = one.inverse.shape[1] // len(stays)
    columns = stays.repeat_interleave(n).nonzero()[:, 0].to(one.inverse.device)
    one.inverse = one.inverse[:, columns][:, :, columns]
    one.weight = one.weight[:, :, columns].contiguous()
