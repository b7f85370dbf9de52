"""What the kinds of label noise share: checked options, the choice of samples, one warning."""

import warnings
from typing import Literal

import numpy as np

Mode = Literal["exact", "bernoulli"]


def choose(rng: np.random.Generator, n: int, rate: float, mode: str) -> np.ndarray:
    """Positions among n: exactly round(rate * n) of them, or each with probability `rate`."""
    if mode == "bernoulli":
        return np.flatnonzero(rng.random(n) < rate)
    return rng.permutation(n)[: round(rate * n)]


def choose_in_classes(
    rng: np.random.Generator, labels: np.ndarray, rate: float, mode: str, classes: np.ndarray
) -> np.ndarray:
    """The same within every one of `classes`. labels: (n,). Returns positions among the n."""
    chosen = [np.empty(0, dtype=np.int64)]
    for label in classes:
        members = np.flatnonzero(labels == label)
        chosen.append(members[choose(rng, len(members), rate, mode)])
    return np.concatenate(chosen)


def warn_if_drowned(changed: float, limit: float, rate: float) -> None:
    """From `limit` on the true class is no longer the most frequent label of its samples."""
    if changed >= limit:
        warnings.warn(
            f"noise.rate={rate} changes {changed:.3g} of a class's labels: from {limit:.3g} on the "
            "true one is no longer the most frequent",
            stacklevel=3,
        )
