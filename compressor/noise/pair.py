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
    Mode,
    choose_in_classes,
    warn_if_drowned,
)
from compressor.options import Fraction, Seed, checked

_TAG = 2  # this kind's stream under the noise seed


class Pair(Noise):
    """Class k becomes (k + 1) mod K for a share `rate` of every class, exact or drawn."""

    injects = True

    @checked("noise")
    def __init__(
        self, rate: Fraction = 0.4, mode: Mode = "exact", seed: Seed = 0, **shared: object
    ) -> None:
        self.rate = float(rate)
        self.mode = mode
        self.seed = int(seed)

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
