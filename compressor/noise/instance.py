"""Instance-dependent noise: whether a label is wrong, and which one it becomes, is in the image.

Xia et al. Part-dependent label noise. NeurIPS 2020, arXiv:2006.07836, algorithm 2.
Run: compress-run noise=instance noise.rate=0.3
"""

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from compressor.noise import Noise, Part
from compressor.noise._drawing import warn_if_drowned
from compressor.options import Fraction, Positive, Seed, checked

_TAG = 4  # this kind's stream under the noise seed


def truncated_normal(uniform: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Normal numbers within [0, 1] by inversion. uniform: (n,) in [0, 1). Returns (n,)."""
    low, high = ndtr((0 - mean) / deviation), ndtr((1 - mean) / deviation)
    return np.clip(mean + deviation * ndtri(low + uniform * (high - low)), 0, 1)


def distribution(features: Tensor, projection: Tensor, label: int, q: Tensor) -> Tensor:
    """Probability of every given label, for images of one class.

    features: (m, S); projection: (S, K); label: their true class; q: (m,) probability of a flip.
    Returns (m, K), rows sum to 1: q * softmax of the scores of the other classes, 1 - q on `label`.
    """
    scores = features @ projection
    scores[:, label] = -torch.inf
    flipped = q[:, None] * scores.softmax(dim=1)
    flipped[:, label] = 1 - q
    return flipped


class Instance(Noise):
    """Each image has its own flip rate q ~ N(rate, deviation^2) within [0, 1].

    The truncation lifts the mean of q where `rate` is within two deviations of 0: at 0.1 it is
    0.129. rate=0 changes nothing. Labels are drawn independently, whatever `mode` says.
    """

    reads_images = True
    injects = True

    @checked("noise")
    def __init__(
        self, rate: Fraction = 0.4, deviation: Positive = 0.1, seed: Seed = 0, **shared: object
    ) -> None:
        self.rate = float(rate)
        self.deviation = float(deviation)
        self.seed = int(seed)

    def corrupt(self, part: Part) -> Tensor:
        if self.rate == 0:
            return part.labels.clone()
        warn_if_drowned(self.rate, 0.5, self.rate)
        rng = np.random.default_rng([self.seed, _TAG])
        n, k = len(part.labels), part.num_classes
        uniform, draws = rng.random(n), torch.from_numpy(rng.random(n))
        q = torch.from_numpy(truncated_normal(uniform, self.rate, self.deviation))
        given = part.labels.clone()
        # class by class: one projection of S x K numbers at a time
        for label in part.labels.unique().tolist():
            members = torch.nonzero(part.labels == label).flatten()
            projection, first = None, 0
            for images in part.images(members):
                features = images.flatten(1).double()
                if projection is None:
                    own = np.random.default_rng([self.seed, _TAG, label])
                    projection = torch.from_numpy(own.standard_normal((features.shape[1], k)))
                rows = members[first : first + len(features)]
                first += len(features)
                likely = distribution(features, projection, label, q[rows]).cumsum(dim=1)
                # the clamp: a sum of K rounded numbers may end below a draw just under 1
                place = (draws[rows, None] >= likely).sum(dim=1).clamp(max=k - 1)
                given[rows] = place
        return given
