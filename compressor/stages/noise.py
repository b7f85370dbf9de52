"""Labels as an artefact: the clean ones, the given ones, and the realised transition matrix.

Drawn once per data set and noise options, on the train part only, never inside a loader.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compressor.cache import Cache, key_of
from compressor.data import ImageData
from compressor.instantiation import make

CLEAN = "clean"


@dataclass(frozen=True)
class Labels:
    """clean, given: (n,) int64 of the train part. transition: (K, K), rows = clean classes."""

    key: str
    clean: Tensor
    given: Tensor
    transition: Tensor

    @property
    def flip_rate(self) -> float:
        """Fraction of the labels that were changed."""
        return (self.clean != self.given).double().mean().item()


def labels(options: Mapping[str, Any], data: ImageData, data_key: str, cache: Cache) -> Labels:
    """Damage the train part's labels as the noise group says."""
    clean = data.labels("train")
    given, transition = make(options).corrupt(clean, data.num_classes)
    if torch.equal(given, clean):
        return Labels(CLEAN, clean, clean, transition)
    key = key_of(stage="noise", options=dict(options), data=data_key)

    def make_labels(folder: Path) -> None:
        tensors = {"clean": clean, "given": given, "transition": transition.contiguous()}
        save_file(tensors, folder / "labels.safetensors")

    cache.obtain(key, "noise", make_labels)
    return Labels(key, clean, given, transition)
