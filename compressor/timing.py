"""What rounds of milliseconds say of a network: its ratio to another one, and how sure that is.

Pure functions of plain numbers. Networks that take turns share a machine's busy spells, so that the
ratio of two networks, taken round by round, is steady where their milliseconds are not.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

STEADY = 0.15  # an interval that ends further from its median, in parts of it, is unsteady
_BLOCKS = 6  # the fewest blocks whose medians make an interval: six of them span 97 %
_LEVEL = 0.95


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """How many times as long `ours` took as `theirs`, paired by round.

    ours, theirs: (R,) milliseconds. Returns {"median", "low", "high": the 95 % interval of the
    median, "steady"}.
    """
    return _judged(np.asarray(ours, dtype=float) / np.asarray(theirs, dtype=float))


def milliseconds(times: Sequence[float]) -> dict[str, Any]:
    """Median of (R,) milliseconds, "low" and "high" the 10th and 90th percentile.

    "steady": of the median's 95 % interval, which says what another session would find.
    """
    low, high = np.quantile(np.asarray(times, dtype=float), (0.1, 0.9)).tolist()
    return {**_judged(np.asarray(times, dtype=float)), "low": low, "high": high}


def interval(values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the median of (R,) values that come one after another.

    Order statistics make one without any assumption on how values are spread, but take neighbours
    for independent, which a busy machine's are not. So the medians of blocks of 1, 3, 7 ... values
    make one each, down to six blocks, and the widest ends count: between blocks longer than a busy
    spell little is left in common. With 200 values it holds for neighbours that correlate by 0.9;
    with 18 by 0.5 (tried on autoregressive noise).
    """
    low = high = float(np.median(values))
    for length in _lengths(len(values)):
        count = len(values) // length
        blocks = np.median(values[: count * length].reshape(count, length), axis=1)
        blocks.sort()
        outside = _outside(count)
        low = min(low, float(blocks[outside]))
        high = max(high, float(blocks[count - 1 - outside]))
    return low, high


def _judged(values: np.ndarray) -> dict[str, Any]:
    median = float(np.median(values))
    low, high = interval(values)
    near = max(median - low, high - median) <= STEADY * median
    return {"median": median, "low": low, "high": high, "steady": near and len(values) >= _BLOCKS}


def _lengths(count: int) -> list[int]:
    """Lengths of blocks that `count` values are cut into: odd, as a median of two is a mean."""
    longest = max(1, count // _BLOCKS - (count // _BLOCKS + 1) % 2)
    lengths = [2**power - 1 for power in range(1, longest.bit_length() + 1)]
    return [length for length in lengths if length < longest] + [longest]


def _outside(count: int) -> int:
    """How many of `count` sorted values may be left out at each end of a 95 % interval."""
    chance = left = 0
    while True:
        chance += math.comb(count, left)
        if chance > (1 - _LEVEL) / 2 * 2**count:
            return max(0, left - 1)
        left += 1
