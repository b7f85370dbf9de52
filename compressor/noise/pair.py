"""Pair noise: in every class a share of the samples gets the label of the next class.

Han et al. Co-teaching. NeurIPS 2018, arXiv:1804.06872, section 4 ("pair flipping").
Run: compress-run noise=pair noise.rate=0.2
"""

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import Noise, Part
from compressor.noise._drawing import (
    choose_in_classes,
    fraction,
    one_mode,
    warn_if_drowned,
    whole_seed,
)

_TAG = 2  # this kind's stream under the noise seed


class Pair(Noise):
    """Class k becomes (k + 1) mod K for a share `rate` of every class, exact or drawn."""

    injects = True

    def __init__(
        self, rate: float = 0.4, mode: str = "exact", seed: int = 0, **shared: object
    ) -> None:
        self.rate = fraction(rate)
        self.mode = one_mode(mode)
        self.seed = whole_seed(seed)

    def corrupt(self, part: Part) -> Tensor:
        if part.num_classes < 2:
            raise UsageError(f"noise=pair needs 2 classes, not {part.num_classes}: type noise=none")
        warn_if_drowned(self.rate, 0.5, self.rate)
        rng = np.random.default_rng([self.seed, _TAG])
        clean = part.labels.numpy()
        chosen = choose_in_classes(rng, clean, self.rate, self.mode, np.unique(clean))
        given = clean.copy()
        given[chosen] = (clean[chosen] + 1) % part.num_classes
        return torch.from_numpy(given)
