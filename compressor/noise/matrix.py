"""Noise by a transition matrix: T[i, j] is the share of class i that is given label j.

Patrini et al. CVPR 2017, arXiv:1609.03683, section 3.
Run: compress-run noise=matrix noise.file=T.csv
"""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import Noise, Part
from compressor.noise._drawing import Mode
from compressor.options import Seed, checked

_TAG = 5  # this kind's stream under the noise seed


def stochastic(matrix: object, name: str, source: str) -> np.ndarray:
    """`matrix` as (K, K) float64 whose rows sum to 1, or a usage error that names the row."""
    try:
        values = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={source} holds something that is no number") from None
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise UsageError(f"{name}={source} has shape {values.shape}: give as many rows as columns")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UsageError(f"{name}={source} has an entry below 0 or none at all: give probabilities")
    sums = values.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > 1e-4)
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"{name}={source}: row {row} sums to {sums[row]:.6g}, not to 1: each row holds the "
            "shares of one true class"
        )
    return values / sums[:, None]


def read_matrix(path: str, name: str) -> np.ndarray:
    """The matrix in a .npy, or in a .csv without a head."""
    try:
        if Path(path).suffix == ".npy":
            with open(path, "rb") as handle:  # of a damaged one numpy leaves its own open
                values = np.load(handle, allow_pickle=False)
        else:
            values = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{name}={path} cannot be read ({reason}): give a .npy or a .csv of numbers"
        ) from None
    return stochastic(values, name, path)


class Matrix(Noise):
    """mode=exact: T[i, j] * N_i samples, rounded by largest remainder; bernoulli: drawn."""

    injects = True

    @checked("noise")
    def __init__(
        self,
        matrix: Sequence[Sequence[float]] | None = None,
        file: str | None = None,
        mode: Mode = "exact",
        seed: Seed = 0,
        **shared: object,
    ) -> None:
        if (matrix is None) == (file is None):
            both = "" if matrix is None else ", not both"
            raise UsageError(
                f"noise=matrix needs noise.matrix='[[...],...]' or noise.file=T.csv{both}"
            )
        self.matrix = (
            read_matrix(file, "noise.file")
            if matrix is None
            else stochastic(matrix, "noise.matrix", "[[...]]")
        )
        self.mode = mode
        self.seed = int(seed)

    def corrupt(self, part: Part) -> Tensor:
        k = part.num_classes
        if len(self.matrix) != k:
            raise UsageError(
                f"noise=matrix has {len(self.matrix)} classes, the data set {k}: give {k} rows"
            )
        rng = np.random.default_rng([self.seed, _TAG])
        clean = part.labels.numpy()
        given = clean.copy()
        for label in np.unique(clean):
            members = np.flatnonzero(clean == label)
            row = self.matrix[label]
            if self.mode == "bernoulli":
                given[members] = rng.choice(k, size=len(members), p=row)
            else:
                given[rng.permutation(members)] = np.repeat(np.arange(k), shares(row, len(members)))
        return torch.from_numpy(given)


def shares(row: np.ndarray, n: int) -> np.ndarray:
    """n shared out by the probabilities of `row` (K,), by largest remainder. Returns (K,) int."""
    counts = np.floor(row * n).astype(np.int64)
    order = np.argsort(counts - row * n, kind="stable")
    counts[order[: n - counts.sum()]] += 1
    return counts
