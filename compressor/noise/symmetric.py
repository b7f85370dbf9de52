"""Symmetric label noise: a share of the samples gets a label drawn uniformly.

As in PENCIL's experiments (Yi, Wu. CVPR 2019, arXiv:1903.07788, section 4).
Run: compress-run noise=symmetric noise.rate=0.4
"""

import numbers
import warnings

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import transition

_TAG = 1  # this kind's stream under the noise seed


class Symmetric:
    """A share `rate` of the samples is selected and relabelled, uniformly over the other classes.

    With `include_true` uniformly over all classes, as PENCIL's release does it: the share whose
    label changes is then rate * (K - 1) / K, so that its "40 %" of 10 classes changes 36 %.
    """

    def __init__(
        self,
        rate: float = 0.4,
        mode: str = "exact",
        include_true: bool = False,
        stratified: bool = False,
        seed: int = 0,
    ) -> None:
        if not isinstance(rate, numbers.Real) or not 0 <= rate <= 1:
            raise UsageError(
                f"noise.rate={rate} is out of range: give the fraction of samples, in [0, 1]"
            )
        if mode not in ("exact", "bernoulli"):
            raise UsageError(f"noise.mode={mode} is unknown: give exact or bernoulli")
        if stratified and mode == "bernoulli":
            raise UsageError(
                "noise.stratified=true fixes the count in every class, which noise.mode=bernoulli "
                "draws: type noise.mode=exact"
            )
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
            raise UsageError(f"noise.seed={seed} is no seed: give a whole number of at least 0")
        self.rate = float(rate)
        self.mode = mode
        self.include_true = include_true
        self.stratified = stratified
        self.seed = int(seed)

    def flip_rate(self, num_classes: int) -> float:
        """Expected share of labels that change."""
        return self.rate * (num_classes - 1) / num_classes if self.include_true else self.rate

    def corrupt(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Given labels (n,) int64 and the realised transition matrix (K, K).

        labels: (n,) int64, clean, in canonical order. A function of labels and options alone.
        """
        if num_classes < 2:
            raise UsageError(f"noise=symmetric needs 2 classes, not {num_classes}: type noise=none")
        limit = (num_classes - 1) / num_classes
        if self.flip_rate(num_classes) >= limit:
            warnings.warn(
                f"noise.rate={self.rate} changes {self.flip_rate(num_classes):.3g} of the labels: "
                f"from {limit:.3g} on the true class is no longer the most frequent one",
                stacklevel=2,
            )
        rng = np.random.default_rng([self.seed, _TAG])
        clean = labels.numpy()
        chosen = self._select(rng, clean)
        given = clean.copy()
        if self.include_true:
            given[chosen] = rng.integers(num_classes, size=len(chosen))
        else:
            # 1 .. K - 1 steps round the circle of classes reach every other class equally often
            step = rng.integers(1, num_classes, size=len(chosen))
            given[chosen] = (clean[chosen] + step) % num_classes
        given = torch.from_numpy(given)
        return given, transition(labels, given, num_classes)

    def _select(self, rng: np.random.Generator, clean: np.ndarray) -> np.ndarray:
        """Positions to relabel."""
        if self.mode == "bernoulli":
            return np.flatnonzero(rng.random(len(clean)) < self.rate)
        if not self.stratified:
            return rng.permutation(len(clean))[: round(self.rate * len(clean))]
        chosen = [np.empty(0, dtype=np.int64)]
        for label in np.unique(clean):
            members = np.flatnonzero(clean == label)
            chosen.append(rng.permutation(members)[: round(self.rate * len(members))])
        return np.concatenate(chosen)
