"""Where the transition matrix of loss correction comes from, for forward and backward alike.

Patrini et al. CVPR 2017, arXiv:1609.03683: section 3 (correction), 4 (estimation from anchors).
T[i, j] = P(given = j | true = i), rows sum to 1.
"""

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.robust import EstimateEpochs, Folds, Samples, folds_within
from compressor.robust.confident import confident_joint, estimated_joint

SOURCES = ("known", "anchor", "confident")
FOLDS = 4
_PERCENTILE = 0.97  # of p_i over the samples: the anchor of class i; the release's
_MANY = 100  # classes from which on the release takes the largest p_i instead


def anchors(probabilities: Tensor) -> Tensor:
    """T from anchor points: row i is the answer at the sample that is most surely of class i.

    probabilities: (n, K), of a network trained on the given labels. Returns (K, K) float64.
    """
    p = probabilities.double()
    n, k = p.shape
    if k >= _MANY:
        rows = p.argmax(dim=0)
    else:
        # one row of the order holds the percentile's sample of every class
        rows = p.argsort(dim=0)[min(n - 1, int(_PERCENTILE * n))]
    return normalised(p[rows])


def from_joint(joint: Tensor) -> Tensor:
    """T of the joint distribution Q[given, true] of confident learning (arXiv:1911.00068)."""
    return normalised(joint.double().T)


def normalised(matrix: Tensor) -> Tensor:
    """Rows that sum to 1; the row of a class that nobody has is that of the identity."""
    sums = matrix.sum(dim=1, keepdim=True)
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    return torch.where(sums > 0, matrix / sums.clamp(min=1e-12), identity)


def read(path: str) -> Tensor:
    """The matrix in a .npy, or in a .csv without a head: rows = true classes."""
    try:
        if Path(path).suffix == ".npy":
            with open(path, "rb") as handle:  # of a damaged one numpy leaves its own open
                values = np.load(handle, allow_pickle=False)
        else:
            values = np.loadtxt(path, delimiter=",", ndmin=2)
        matrix = torch.from_numpy(np.asarray(values, dtype=np.float64))
    except (OSError, ValueError, TypeError, EOFError, MemoryError, BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"robust.transition={path} is neither {', '.join(SOURCES)} nor a matrix in a .npy or "
            f".csv ({reason})"
        ) from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not (matrix >= 0).all():
        raise UsageError(f"robust.transition={path} is no square matrix of probabilities")
    sums = matrix.sum(dim=1)
    if (sums - 1).abs().max() > 1e-2:
        row = int((sums - 1).abs().argmax())
        raise UsageError(
            f"robust.transition={path}: row {row} sums to {sums[row]:.6g}, not to 1: each row "
            "holds the shares of one true class"
        )
    return normalised(matrix)


class Source:
    """known: the realised matrix of injected noise; anchor, confident: estimated; or a file."""

    def __init__(self, transition: str, folds: Folds, epochs: EstimateEpochs) -> None:
        self.name = str(transition)
        self.folds = folds
        self.epochs = epochs
        self.read = None if self.name in SOURCES else read(self.name)
        self.content = ""
        if self.read is not None:
            self.content = hashlib.sha256(self.read.numpy().tobytes()).hexdigest()

    def rehearsals(self, images: int, epochs: int) -> tuple[int, float]:
        epochs = self.epochs or epochs
        if self.name == "anchor":
            return 1, epochs
        if self.name == "confident":
            folds = folds_within(self.folds, images)
            return folds, (folds - 1) * epochs
        return 0, 0.0

    def unread(self) -> list[str]:
        """Options that this way to a matrix does not read, a line each."""
        found = [f"robust.folds={self.folds}"] if self.folds != FOLDS else []
        if self.epochs is not None and self.name != "anchor":
            found.append(f"robust.estimate_epochs={self.epochs}")
        if self.name == "confident":
            return []
        return [f"{each} does nothing beside robust.transition={self.name}" for each in found]

    def matrix(self, samples: Samples) -> Tensor:
        """(K, K) float64."""
        if self.read is not None:
            if len(self.read) != samples.num_classes:
                raise UsageError(
                    f"robust.transition={self.name} has {len(self.read)} rows, the data set "
                    f"{samples.num_classes} classes: give one row each"
                )
            return self.read
        if self.name == "known":
            if samples.transition is None:
                raise UsageError(NO_MATRIX)
            return samples.transition.double()
        rows = samples.rows
        epochs = self.epochs or samples.epochs
        if self.name == "anchor":
            return anchors(samples.probabilities(1, epochs)[rows])
        p = samples.probabilities(self.folds, epochs)[rows]
        given = samples.targets[rows]
        return from_joint(estimated_joint(confident_joint(given, p), given))


NO_MATRIX = (
    "robust.transition=known: no noise was injected whose matrix would be known; type "
    "robust.transition=anchor or confident to estimate one, or robust.transition=T.csv"
)
