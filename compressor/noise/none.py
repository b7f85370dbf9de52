"""No noise: the labels as they are.

Run: compress-run noise=none
"""

from compressor.noise import Noise


class NoNoise(Noise):
    """Given labels equal the clean ones.

    Takes the group's shared options and ignores them: the clean control of a sweep over rates.
    """

    def __init__(self, **shared: object) -> None:
        pass
