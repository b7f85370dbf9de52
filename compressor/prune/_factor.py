"""Cholesky factors of matrices that are sums of squares but for rounding.

A sum of squares has no negative eigenvalue. One that is computed can have some: where columns are
linear combinations of others its least eigenvalues are nothing but rounding, of either sign, and
which sign depends on the processor. Every factorisation of this package is made here.
"""

import torch
from torch import Tensor

from compressor.errors import RunError

# Of a column's own square: what float64 cannot tell from a combination of the other columns after
# some thousand steps, each of which rounds.
LEAST = 1e-10
_UNEVEN = 0.1  # negative eigenvalues above this share do not come from each column's own rounding


def rounding(rows: float, width: int, dtype: torch.dtype) -> float:
    """What rounding can move an eigenvalue of X^T X by, as a share of the squares on its diagonal.

    X: (rows, width), summed in dtype. Every entry is wrong by at most rows * eps of the roots of
    its two squares, and a symmetric matrix of such independent errors has a norm of less than
    2 sqrt(width) times that.
    """
    return 2 * width**0.5 * rows * torch.finfo(dtype).eps


def factor(matrix: Tensor, least: float = LEAST) -> Tensor:
    """Lower triangular L with L L^T = matrix, for any symmetric finite matrix.

    matrix: (..., D, D). Where a column has less than the share `least` of its square outside the
    span of the columns before it, or less than none, L is the factor of the nearest matrix whose
    eigenvalues, in units of the columns' squares, are at least `least` and at least twice what the
    negative ones show of the errors that are in it. It is invertible in every case.
    """
    lower, info = torch.linalg.cholesky_ex(matrix)
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    # false for NaN as well
    sound = (pivots > least * matrix.diagonal(dim1=-2, dim2=-1)).all(-1) & (info == 0)
    if not sound.all():
        lower[~sound] = torch.stack([_repaired(one, least) for one in matrix[~sound]])
    return lower


def solve(matrix: Tensor, right: Tensor, least: float = LEAST) -> Tensor:
    """matrix^-1 right through `factor`. matrix: (..., D, D); right: (..., D, K)."""
    return torch.cholesky_solve(right, factor(matrix, least))


def _repaired(matrix: Tensor, least: float) -> Tensor:
    """(D, D) what `factor` promises where plain Cholesky fails."""
    if not matrix.isfinite().all():
        raise RunError(
            "the sums over a layer's inputs hold NaN or infinity; look for NaN in the network's "
            "activations or weights"
        )
    own = matrix.diagonal().clamp(min=0)
    # Rounding errs in proportion to the columns. Other errors may be of one size everywhere, and
    # drown the small columns: in units of these they would look larger than the matrix.
    units, values, vectors = _eigen(matrix, own)
    if values[0] < -_UNEVEN:
        other = _eigen(matrix, own.mean().expand_as(own))
        if other[1][0] > values[0]:
            units, values, vectors = other
    values = values.clamp(min=max(least, -2 * float(values[0])))
    upper = torch.linalg.qr((vectors * values.sqrt()).mT * units, mode="r").R
    return (upper * torch.where(upper.diagonal() < 0, -1.0, 1.0)[:, None]).mT


def _eigen(matrix: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Units (D,), and in these the matrix's eigenvalues (D,), rising, and -vectors (D, D)."""
    units = torch.where(squares > 0, squares, 1.0).sqrt()
    try:
        return units, *torch.linalg.eigh(matrix / units[:, None] / units)
    except torch.linalg.LinAlgError:
        raise RunError(
            "the eigenvalues of the sums over a layer's inputs were not found; raise prune.ridge, "
            "or leave the layer out with prune.skip"
        ) from None
