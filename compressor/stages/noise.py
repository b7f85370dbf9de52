"""Labels as an artefact: the clean ones, the given ones, and the realised transition matrix.

Drawn once per data set and noise options, on the train part only, never inside a loader.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compressor.cache import Cache, key_of
from compressor.data import ImageData, stratified_split
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.noise import Part, transition
from compressor.options import hold
from compressor.schema import Data

CLEAN = "clean"
_BATCH = 256  # images a batch of a kind that looks at them


@dataclass(frozen=True)
class Labels:
    """clean, given: (n,) int64 of the train part. transition: (K, K), rows = clean classes, of
    those that may be read.

    known: whether `clean` is the truth; where nobody knows it, it equals `given`. injected:
    whether a kind of label noise was asked for, so that its matrix is known. clean_key: digest of
    what a stage on clean labels reads, images_key: of what one without labels does. labelled:
    positions whose labels a supervised stage may read, None for all. damage: done to the images
    of the training.
    """

    key: str
    clean: Tensor
    given: Tensor
    transition: Tensor
    known: bool = True
    injected: bool = False
    clean_key: str = CLEAN
    images_key: str = CLEAN
    labelled: Tensor | None = None
    damage: Callable[[Tensor, Tensor, int], Tensor] | None = None

    @property
    def flip_rate(self) -> float | None:
        """Fraction of the labels in use that were changed, None where the truth is unknown."""
        if not self.known:
            return None
        rows = slice(None) if self.labelled is None else self.labelled
        return (self.clean != self.given)[rows].double().mean().item()

    @property
    def injected_rate(self) -> float | None:
        """The flip rate where a kind of label noise made it, None where nobody knows of any."""
        return self.flip_rate if self.injected else None

    @property
    def noisy(self) -> bool:
        """Whether a report has something to say about the labels."""
        return not self.known or not torch.equal(self.clean, self.given)


def labels(
    options: Mapping[str, Any],
    data: ImageData,
    data_key: str,
    cache: Cache,
    labelled: tuple[float, int] = (1.0, 0),
    *,
    keep: bool = True,
) -> Labels:
    """Damage the train part as the noise group says.

    labelled: the fraction of the train part whose labels may be read, and the seed of the choice.
    keep: False writes nothing into the cache.
    """
    noise = make(options)
    clean = data.labels("train")
    part = Part(
        clean,
        data.num_classes,
        data.name,
        data.class_names,
        torch.tensor(data.superclasses) if data.superclasses else None,
        data.rows("train"),
        data.listed("train"),
        lambda index: _images(data, index),
    )
    if noise.reads_images:
        given = _remembered(options, data_key, cache, lambda: noise.corrupt(part), keep)
    else:
        given = noise.corrupt(part)
    key, damage = CLEAN, getattr(noise, "damage", None)
    if not noise.known:
        clean = given
    if damage is not None or not torch.equal(given, data.labels("train")):
        # by content: two ways to the same labels are one
        digest = hashlib.sha256(given.numpy()).hexdigest()
        pixels = dict(options) if damage is not None else None
        key = key_of(stage="noise", given=digest, pixels=pixels, data=data_key)
    chosen = _labelled(clean, *labelled)
    rows = slice(None) if chosen is None else chosen
    matrix = transition(clean[rows], given[rows], data.num_classes)
    if key != CLEAN and keep:

        def make_labels(folder: Path) -> None:
            tensors = {"clean": clean.clone(), "given": given}
            save_file(tensors, folder / "labels.safetensors")

        cache.obtain(key, "noise", make_labels)
    clean_key, images_key = CLEAN, CLEAN if damage is None else key
    if chosen is not None:
        digest = hashlib.sha256(chosen.numpy()).hexdigest()
        key, clean_key = (key_of(labels=each, labelled=digest) for each in (key, CLEAN))
    injected = noise.injects and noise.known
    return Labels(
        key, clean, given, matrix, noise.known, injected, clean_key, images_key, chosen, damage
    )


def _labelled(clean: Tensor, fraction: float, seed: int) -> Tensor | None:
    """The positions of a stratified share, None for all of them."""
    hold(Data, "dataset", {"labelled_fraction": fraction})
    if fraction == 1:
        return None
    chosen = stratified_split(clean, fraction, seed)[1]
    if not len(chosen):
        raise UsageError(
            f"dataset.labelled_fraction={fraction} leaves no label of {len(clean)}: raise it"
        )
    return chosen


def _images(data: ImageData, index: Tensor) -> Iterator[Tensor]:
    for images, _, _ in data.loader("train", _BATCH, indices=index):
        yield images


def _remembered(
    options: Mapping[str, Any],
    data_key: str,
    cache: Cache,
    draw: Callable[[], Tensor],
    keep: bool,
) -> Tensor:
    """What costs a pass over the images is drawn once for all runs."""
    key = key_of(stage="noise", options=dict(options), data=data_key)
    if not (keep or cache.holds(key)):
        return draw()
    cache.obtain(
        key, "noise", lambda folder: save_file({"given": draw()}, folder / "given.safetensors")
    )
    return load_file(cache.folder(key) / "given.safetensors")["given"]
