"""Sizes on a disk as they are typed and shown: 500M, 20GB or a number of bytes."""

import re
from typing import Any

from compressor.errors import UsageError

_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TYPED = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)B?")


def read(typed: Any) -> int:
    """Bytes of what was typed: a number, or text such as 500M, 20G or 20GB (powers of 1000).

    UsageError: it is no size.
    """
    text = str(typed)
    if text.startswith("-"):
        raise UsageError(f"{text} must be positive")
    hit = None if isinstance(typed, bool) else _TYPED.fullmatch(text.upper())
    if not hit:
        raise UsageError(f"'{text}' is no size: write 500M, 20G or a number of bytes")
    return int(float(hit[1]) * _BYTES[hit[2]])


def shown(count: float) -> str:
    """Bytes with a unit, three digits or four: 1.2GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}TB"
