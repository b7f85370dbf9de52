"""What `auto` stands for where the images of a folder have to say it.

image_size: the median of the train images' shorter sides, to the nearest multiple of 32, which the
strides of most networks divide; 32 at least, 224 at most (ImageNet's, arXiv:1512.03385).

scale, the least share of the area in a random resized crop, which asks much of few or small images:

    train images   pixels   scale
    100,000        160      0.08   GoogLeNet's on ImageNet (arXiv:1409.4842)
    10,000         96       0.35   between the two, a choice of this project
    fewer          smaller  0.64   128 of 160 pixels on each side, as BiT crops (arXiv:1912.11370)

Both numbers of a row are to be reached.
"""

from collections.abc import Sequence
from statistics import median

AUTO = "auto"

_STEP, _LEAST, _MOST = 32, 32, 224
_SCALES = ((100_000, 160, 0.08), (10_000, 96, 0.35), (0, 0, 0.64))


def image_size(short_sides: Sequence[int]) -> tuple[int, str]:
    """Pixels, and why. short_sides: of the train images, in pixels, at least one."""
    middle = median(short_sides)
    size = min(_MOST, max(_LEAST, _STEP * int(middle / _STEP + 0.5)))
    return size, f"the shorter side of the train images is {middle:g} pixels in the median"


def least_area(images: int, size: int) -> tuple[float, str]:
    """The scale, and why. images: of the train list; size: pixels they are fetched at."""
    scale = next(s for least, pixels, s in _SCALES if images >= least and size >= pixels)
    return scale, f"{images:,} train images at {size} pixels"
