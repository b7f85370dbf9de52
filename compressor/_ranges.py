"""Ranges of the values that no constructor holds: seeds, folders, the machine, the cache.

A method's own options are its constructor's business. These have none, or one that is made late or
in every member of a sweep: they are checked with the command, before torch is imported.
"""

from __future__ import annotations

import math
from typing import Any

from compressor.errors import UsageError

# key: the least value, and what to type instead.
_LEAST: dict[str, tuple[float, str]] = {
    "seed": (0, "give a whole number such as 0"),
    "noise.seed": (0, "give a whole number such as 0"),
    "machine.threads": (1, "give a number of CPU threads, or null for torch's choice"),
    "machine.workers": (0, "0 loads the images in the main process"),
    "machine.log_every": (1, "give a number of steps, such as 10"),
    "machine.eval_batch_size": (1, "give a number of images, such as 256"),
    "machine.latency_batch_size": (1, "give a number of images, such as 1"),
    "machine.latency_seconds": (0, "0 leaves latency unmeasured"),
    "recalibrate.images": (2, "one image has no variance"),
    "recalibrate.batch_size": (2, "one image has no variance"),
    "distill.label_weight": (0, "0 leaves the labels out of the loss"),
}
_MOST: dict[str, tuple[float, str]] = {
    # what numpy's and torch's generators take
    "seed": (2**63 - 1, "give a smaller whole number"),
    "noise.seed": (2**63 - 1, "give a smaller whole number"),
    # torch makes them all at once, and the machine may not have room for their stacks
    "machine.threads": (4096, "give the number of cores at most"),
}
FOLDERS = (
    "paths.outputs",
    "paths.data",
    "paths.cache",
    "cache.dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
)
KEYS = (*_LEAST, "cache.lease_seconds", *FOLDERS)


def check(key: str, value: Any) -> None:
    """Raise UsageError when a value of this key is outside its range; other keys pass.

    A value of another type than the key's is not looked at: that is told elsewhere.
    """
    if key in FOLDERS and isinstance(value, str) and not value.strip():
        raise UsageError(f"{key}= is empty: name a folder, or leave it out for the default")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value) and key in KEYS:
        raise UsageError(f"{key}={value} is no length or size: give a finite number")
    if key == "cache.lease_seconds" and value <= 0:
        raise UsageError(f"{key}={value} must be above 0: give seconds, such as 60")
    if key in _LEAST and value < _LEAST[key][0]:
        least, remedy = _LEAST[key]
        raise UsageError(f"{key}={value} must be at least {least}: {remedy}")
    if key in _MOST and value > _MOST[key][0]:
        most, remedy = _MOST[key]
        raise UsageError(f"{key}={value} must be at most {most}: {remedy}")
