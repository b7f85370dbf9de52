"""Normal equations of a layer, summed over sampled positions, and the ridge regression from them.

With A the patches of a layer's input at these positions, a column of ones behind them, and Y the
outputs that it should give, A^T A and Y^T A add up over batches. The ridge pulls towards the
weights that are there, not towards zero; the mean is not pulled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.prune._rows import Rows, fan_in, gram, patches

# Inputs of one filter: 8192 make a matrix of half a gigabyte. The first linear layer of an ImageNet
# VGG has 25,088.
WIDEST = 8192
_ROUNDING = 1e-9
_NUMBERS = 1 << 22  # of the patches held at a time: 16 MB


@dataclass(frozen=True, eq=False)
class System:
    """Minimise over W: || Y - A W^T ||^2 + lambda || W - W0 ||^2, for G convolution groups at once.

    matrix: (G, D, D) A^T A + lambda I; cross: (G, F, D) Y^T A + lambda W0; square: (G, F) sums of
    y^2; inputs, outputs: means of A (G, D) and of Y (G, F), which are taken off the sums before.
    ridge: (G,) lambda; start: (G, F, D) W0.
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
        factor = torch.linalg.cholesky(self.matrix)
        return torch.cholesky_solve(self.cross.transpose(1, 2), factor).transpose(1, 2)

    def columns(self, kept: Tensor) -> "System":
        """The same rows where only these inputs are left."""
        kept = kept.to(self.matrix.device)
        return System(
            self.matrix[:, kept][:, :, kept], self.cross[:, :, kept], self.square,
            self.inputs[:, kept], self.outputs, self.ridge, self.start[:, :, kept],
        )  # fmt: skip

    def intercept(self, weight: Tensor) -> Tensor:
        """(G, F) what to add so that the means agree."""
        return self.outputs - (weight @ self.inputs[:, :, None])[:, :, 0]

    def residual(self, weight: Tensor) -> float:
        """|| Y - A W^T ||^2 / || Y ||^2; 0 where Y is constant."""
        pull = self.ridge[:, None, None]
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
        a = patches(module, x[first : first + images], part)
        shift = a.mean(1, keepdim=True)
        a = torch.cat([a - shift, a.new_ones(*a.shape[:2], 1)], 2)
        # The products are float32's: around the mean, so that their rounding does not count where
        # the mean is far above the spread. What that leaves out comes back in float64.
        back = torch.cat([shift, shift.new_zeros(len(a), 1, 1)], 2).double()
        own = torch.stack([gram(one) for one in a])
        ones = own[:, :, -1:] @ back
        sums = {"gram": own + ones + ones.mT + own[:, -1:, -1:] * back.mT @ back}
        if y is not None:
            mine = y[start:stop].unflatten(1, (len(a), -1)).transpose(0, 1)
            middle = mine.mean(1, keepdim=True)
            cross = ((mine - middle).mT @ a).double()
            middle = middle.double().mT
            # sums of a around its mean, the ones last, and of y
            sums["cross"] = (
                cross + cross[:, :, -1:] @ back + middle @ (own[:, -1:] + own[:, -1:, -1:] * back)
            )
            sums["square"] = mine.double().square().sum(1)
        total = {key: total[key] + value for key, value in sums.items()} if total else sums
        start = stop
    return total


def system(sums: Mapping[str, Tensor], start: Tensor, ridge: float, *, intercept: bool) -> System:
    """sums: `observe`'s, added up; start: (G, F, D) present weights, in the order of `kernel`.

    ridge: lambda as a fraction of the mean diagonal. Without "cross" the layer is its own target.
    """
    gram, start = sums["gram"].double(), start.double()
    count = gram[:, -1:, -1]
    inputs = gram[:, -1, :-1] / count
    matrix = gram[:, :-1, :-1]
    if intercept:
        matrix = matrix - count[:, :, None] * inputs[:, :, None] * inputs[:, None, :]
    else:
        inputs = torch.zeros_like(inputs)
    if "cross" in sums:
        cross = sums["cross"][:, :, :-1]
        outputs = sums["cross"][:, :, -1] / count if intercept else 0 * sums["square"]
        cross = cross - count[:, :, None] * outputs[:, :, None] * inputs[:, None, :]
        square = sums["square"] - count * outputs.square()
    else:
        cross = start @ matrix
        outputs = (start @ inputs[:, :, None])[:, :, 0]
        square = (start * cross).sum(2)
    pull = ridge * matrix.diagonal(dim1=1, dim2=2).mean(1)
    # Inputs that hardly move are left to rounding: they stay where they are.
    pull = pull + _ROUNDING * gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1)
    # Inputs that never spoke leave a matrix of zeros: any pull solves it.
    pull = torch.where(pull > 0, pull, torch.ones_like(pull))
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return System(
        matrix + pull[:, None, None] * eye, cross + pull[:, None, None] * start, square,
        inputs, outputs, pull, start,
    )  # fmt: skip
