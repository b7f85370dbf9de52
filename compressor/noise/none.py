"""No noise: the labels as they are.

Run: compress-run noise=none
"""

from torch import Tensor

from compressor.noise import Part


class NoNoise:
    """Given labels equal the clean ones.

    Takes the group's shared options and ignores them: the clean control of a sweep over rates.
    """

    reads_images = False
    injects = False
    known = True

    def __init__(self, **shared: object) -> None:
        pass

    def corrupt(self, part: Part) -> Tensor:
        return part.labels.clone()
