"""Random numbers that depend on names and positions, never on what ran before.

Every stage derives its own generators from the one `seed`; augmentation is a pure function of
(seed, epoch, index), so that a resumed, a reused and a recomputed training see the same images.
"""

import hashlib

import torch
from torch import Tensor

# Constants of the splitmix64 generator (Steele, Lea, Flood 2014), as signed 64-bit integers:
# int64 arithmetic wraps around, which is what the generator asks for.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_A = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_B = 0x94D049BB133111EB - (1 << 64)


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the place named by `path` under the run's `seed`."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator of its own for the place named by `path`."""
    return torch.Generator().manual_seed(derive(seed, *path))


def uniforms(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for every sample, a pure function of the arguments.

    index: (B,) int64, the samples' positions. Returns (B, count) float32.
    """
    start = derive(seed, "uniforms", epoch) - (1 << 62)
    counter = index.to(torch.int64)[:, None] * count + torch.arange(count)
    z = start + (counter + 1) * _GAMMA
    z = (z ^ _shift(z, 30)) * _MIX_A
    z = (z ^ _shift(z, 27)) * _MIX_B
    z = z ^ _shift(z, 31)
    return _shift(z, 40).to(torch.float32) / float(1 << 24)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift right: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
