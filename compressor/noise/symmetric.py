"""Symmetric label noise: a share of the samples gets a label drawn uniformly.

As in PENCIL's experiments (Yi, Wu. CVPR 2019, arXiv:1903.07788, section 4).
Run: compress-run noise=symmetric noise.rate=0.4
"""

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import Noise, Part
from compressor.noise._drawing import (
    Mode,
    choose,
    choose_in_classes,
    warn_if_drowned,
)
from compressor.options import Fraction, Seed, checked

_TAG = 1  # this kind's stream under the noise seed


class Symmetric(Noise):
    """A share `rate` of the samples is selected and relabelled, uniformly over the other classes.

    With `include_true` uniformly over all classes, as PENCIL's release does it: the share whose
    label changes is then rate * (K - 1) / K, so that its "40 %" of 10 classes changes 36 %.
    """

    injects = True

    @checked("noise")
    def __init__(
        self,
        rate: Fraction = 0.4,
        mode: Mode = "exact",
        include_true: bool = False,
        stratified: bool = False,
        seed: Seed = 0,
    ) -> None:
        self.rate = float(rate)
        self.mode = mode
        if stratified and mode == "bernoulli":
            raise UsageError(
                "noise.stratified=true fixes the count in every class, which noise.mode=bernoulli "
                "draws: type noise.mode=exact"
            )
        self.include_true = include_true
        self.stratified = stratified
        self.seed = int(seed)

    def flip_rate(self, num_classes: int) -> float:
        """Expected share of labels that change."""
        return self.rate * (num_classes - 1) / num_classes if self.include_true else self.rate

    def corrupt(self, part: Part) -> Tensor:
        k = part.num_classes
        if k < 2:
            raise UsageError(f"noise=symmetric needs 2 classes, not {k}: type noise=none")
        warn_if_drowned(self.flip_rate(k), (k - 1) / k, self.rate)
        rng = np.random.default_rng([self.seed, _TAG])
        clean = part.labels.numpy()
        if self.stratified:
            chosen = choose_in_classes(rng, clean, self.rate, self.mode, np.unique(clean))
        else:
            chosen = choose(rng, len(clean), self.rate, self.mode)
        given = clean.copy()
        if self.include_true:
            given[chosen] = rng.integers(k, size=len(chosen))
        else:
            # 1 .. K - 1 steps round the circle of classes reach every other class equally often
            step = rng.integers(1, k, size=len(chosen))
            given[chosen] = (clean[chosen] + step) % k
        return torch.from_numpy(given)
