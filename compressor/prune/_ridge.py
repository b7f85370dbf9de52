"""Normal equations of a layer, summed over sampled positions, and the ridge regression from them.

With A the patches of a layer's input at these positions, a column of ones behind them, and Y the
outputs that it should give, A^T A and Y^T A add up over batches, in float64: with the rounding of
float32 their least eigenvalues would have any sign. The ridge pulls towards the weights that are
there, not towards zero; the mean is not pulled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.prune._factor import rounding, solve
from compressor.prune._rows import Rows, fan_in, gram, patches

# Inputs of one filter: 8192 make a matrix of half a gigabyte. The first linear layer of an ImageNet
# VGG has 25,088.
WIDEST = 8192
# Of an input's square: activations are rounded to float32, which moves a constant by up to 1e-7 of
# itself. What moves by less than 3e-5 of itself is taken for a constant.
_STILL = 1e-9
_NUMBERS = 1 << 22  # of the patches held at a time: 16 MB, and twice that in float64


@dataclass(frozen=True, eq=False)
class System:
    """Minimise over W: || Y - A W^T ||^2 + || (W - W0) L^(1/2) ||^2, L = diag(lambda), for G
    convolution groups at once.

    matrix: (G, D, D) A^T A + L; cross: (G, F, D) Y^T A + W0 L; square: (G, F) sums of y^2;
    inputs, outputs: means of A (G, D) and of Y (G, F), which are taken off the sums before.
    ridge: (G, D) lambda; start: (G, F, D) W0.
    """

    matrix: Tensor
    cross: Tensor
    square: Tensor
    inputs: Tensor
    outputs: Tensor
    ridge: Tensor
    start: Tensor

    def solve(self) -> Tensor:
        """(G, F, D) float64."""
        return solve(self.matrix, self.cross.mT).mT

    def intercept(self, weight: Tensor) -> Tensor:
        """(G, F) what to add so that the means agree."""
        return self.outputs - (weight @ self.inputs[:, :, None])[:, :, 0]

    def residual(self, weight: Tensor) -> float:
        """|| Y - A W^T ||^2 / || Y ||^2; 0 where Y is constant."""
        pull = self.ridge[:, None]
        plain = (weight * (weight @ self.matrix - pull * weight)).sum()
        cross = (weight * (self.cross - pull * self.start)).sum()
        energy = float(self.square.sum())
        return max(float(plain - 2 * cross) + energy, 0.0) / energy if energy > 0 else 0.0


def fits(module: nn.Module) -> bool:
    """Whether the matrix of this layer's inputs is of a size to be had."""
    return fan_in(module) <= WIDEST


def observe(module: nn.Module, x: Tensor, rows: Rows, y: Tensor | None) -> dict[str, Tensor]:
    """The sums over these rows of the layer with input x; y: (R, F) outputs that it should give.

    Returns "gram" (G, D + 1, D + 1) and, with y, "cross" (G, F, D + 1) and "square" (G, F).
    """
    width = fan_in(module)
    total: dict[str, Tensor] = {}
    counts = torch.bincount(rows.image, minlength=len(x))
    images = max(1, _NUMBERS // max(1, width * int(counts.max())))
    start = 0
    for first in range(0, len(x), images):
        stop = start + int(counts[first : first + images].sum())
        part = Rows(
            *(value[start:stop] for value in (rows.image - first, rows.filter, rows.location))
        )
        read = patches(module, x[first : first + images], part)
        a = read.new_ones(len(read), read.shape[1], width + 1, dtype=torch.float64)
        a[:, :, :-1] = read
        sums = {"gram": torch.stack([gram(one) for one in a])}
        if y is not None:
            mine = y[start:stop].double().unflatten(1, (len(a), -1)).transpose(0, 1)
            sums["cross"], sums["square"] = mine.mT @ a, mine.square().sum(1)
        total = {key: total[key] + value for key, value in sums.items()} if total else sums
        start = stop
    return total


def system(
    sums: Mapping[str, Tensor],
    start: Tensor,
    ridge: float,
    *,
    intercept: bool,
    by_input: bool = False,
) -> System:
    """sums: `observe`'s, added up; start: (G, F, D) present weights, in the order of `kernel`.

    ridge: lambda as a fraction of the mean diagonal; by_input: of each input's own, which makes the
    objective the same whatever the inputs' scales, and lets inputs that never move count for
    nothing. Without "cross" the layer is its own target. No lambda is below what rounding can do
    to these sums, at the precision that they come in.
    """
    gram, start = sums["gram"].double(), start.double()
    count = gram[:, -1:, -1]
    inputs = gram[:, -1, :-1] / count
    matrix = gram[:, :-1, :-1]
    if intercept:
        matrix = matrix - count[:, :, None] * inputs[:, :, None] * inputs[:, None, :]
    else:
        matrix = matrix.clone()
        inputs = torch.zeros_like(inputs)
    if "cross" in sums:
        cross = sums["cross"].double()[:, :, :-1]
        outputs = sums["cross"].double()[:, :, -1] / count if intercept else 0 * sums["square"]
        cross = cross - count[:, :, None] * outputs[:, :, None] * inputs[:, None, :]
        square = sums["square"].double() - count * outputs.square()
    else:
        cross = start @ matrix
        outputs = (start @ inputs[:, :, None])[:, :, 0]
        square = (start * cross).sum(2)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    spread = diagonal.clamp(min=0)
    noise = rounding(float(count.max()), matrix.shape[1], sums["gram"].dtype)
    floor = max(_STILL, noise) * gram.diagonal(dim1=1, dim2=2)[:, :-1].clamp(min=0)
    # Inputs that hardly move are left to rounding: they stay where they are.
    pull = ridge * (spread if by_input else spread.mean(1, keepdim=True)) + floor
    if by_input:
        moves = (spread > floor)[:, None]
        start, cross = start * moves, cross * moves
    # Inputs that never spoke leave a row of zeros: any pull solves it.
    pull = torch.where(pull > 0, pull, 1.0)
    diagonal += pull
    return System(matrix, cross + pull[:, None] * start, square, inputs, outputs, pull, start)
