"""What the kinds of label noise share: checked options, the choice of samples, one warning."""

import numbers
import warnings

import numpy as np

from compressor.errors import UsageError


def fraction(rate: float) -> float:
    """`rate` as a float in [0, 1], or a usage error."""
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate <= 1:
        raise UsageError(
            f"noise.rate={rate} is out of range: give the fraction of samples, in [0, 1]"
        )
    return float(rate)


def one_mode(mode: str) -> str:
    if mode not in ("exact", "bernoulli"):
        raise UsageError(f"noise.mode={mode} is unknown: give exact or bernoulli")
    return mode


def whole_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise UsageError(f"noise.seed={seed} is no seed: give a whole number of at least 0")
    return int(seed)


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
