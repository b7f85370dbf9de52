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
from compressor.instantiation import Chosen
from compressor.noise import Noise, Part, transition
from compressor.options import hold
from compressor.schema import DataKeys

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
    chosen: Chosen[Noise],
    data: ImageData,
    data_key: str,
    cache: Cache,
    labelled: tuple[float, int] = (1.0, 0),
    *,
    keep: bool = True,
) -> Labels:
    """Damage the train part as the noise group says.

    chosen: the kind of noise, and the sub-tree by which keys know it.
    labelled: the fraction of the train part whose labels may be read, and the seed of the choice.
    keep: False writes nothing into the cache.
    """
    noise = chosen.method
    clean = data.labels("train")
    part = _part(data)
    if noise.reads_images:
        given = _remembered(chosen.tree, data_key, cache, lambda: noise.corrupt(part), keep)
    else:
        given = noise.corrupt(part)
    key, damage = CLEAN, noise.damage if noise.damages else None
    if not noise.known:
        clean = given
    if damage is not None or not torch.equal(given, data.labels("train")):
        # by content: two ways to the same labels are one
        digest = hashlib.sha256(given.numpy()).hexdigest()
        pixels = dict(chosen.tree) if damage is not None else None
        key = key_of(stage="noise", given=digest, pixels=pixels, data=data_key)
    read = _labelled(clean, *labelled)
    rows = slice(None) if read is None else read
    matrix = transition(clean[rows], given[rows], data.num_classes)
    if key != CLEAN and keep:

        def make_labels(folder: Path) -> None:
            tensors = {"clean": clean.clone(), "given": given}
            save_file(tensors, folder / "labels.safetensors")

        cache.obtain(key, "noise", make_labels)
    clean_key, images_key = CLEAN, CLEAN if damage is None else key
    if read is not None:
        digest = hashlib.sha256(read.numpy()).hexdigest()
        key, clean_key = (key_of(labels=each, labelled=digest) for each in (key, CLEAN))
    return Labels(
        key=key,
        clean=clean,
        given=given,
        transition=matrix,
        known=noise.known,
        injected=noise.injects and noise.known,
        clean_key=clean_key,
        images_key=images_key,
        labelled=read,
        damage=damage,
    )


def _labelled(clean: Tensor, fraction: float, seed: int) -> Tensor | None:
    """The positions of a stratified share, None for all of them."""
    hold(DataKeys, "dataset", {"labelled_fraction": fraction})
    if fraction == 1:
        return None
    chosen = stratified_split(clean, fraction, seed)[1]
    if not len(chosen):
        raise UsageError(
            f"dataset.labelled_fraction={fraction} leaves no label of {len(clean)}: raise it"
        )
    return chosen


def _part(data: ImageData) -> Part:
    """The train part as a kind of noise sees it."""
    return Part(
        labels=data.labels("train"),
        num_classes=data.num_classes,
        dataset=data.name,
        class_names=data.class_names,
        superclasses=torch.tensor(data.superclasses) if data.superclasses else None,
        rows=data.rows("train"),
        listed=data.listed("train"),
        images=lambda index: _images(data, index),
    )


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
