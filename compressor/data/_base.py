"""What every image source shares: options, split, loader and fingerprint."""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compressor.data._auto import AUTO
from compressor.data._order import EpochSampler, GroupedBatches
from compressor.data._pixels import LUMA
from compressor.data._preprocess import Preprocess, normalise
from compressor.data._reading import some
from compressor.data._source import Augment, Draw, Source, split_by_content
from compressor.errors import UsageError
from compressor.options import BelowOne, Count, Fields, Range, Seed, checked, held
from compressor.seeding import generator

PARTS = ("train", "val", "test")
_SPLIT = 11  # tag that keeps the split's stream apart from other uses of the same small seed
_FORMAT = 1  # part of every fingerprint: raise it when the same options give other pixels

MOST_SIDE = 8192  # pixels: one image of three channels is then 800 MB as float32

# Options that all data sets take; what is fixed by the data has no other number of classes.
Side = Annotated[int, Range(1, MOST_SIDE, remedy="give pixels, height = width")]
Classes = Annotated[int, Range(2)]
Channels = Literal[1, 3]
HeldOut = BelowOne
Transforms = Annotated[Mapping, Fields(Augment)]

Damage = Callable[[Tensor, Tensor, int], Tensor]  # images, positions, epoch -> images


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows that are split off, both sorted.

    labels: (n,) int64. Exactly round(fraction * n) rows are split off, shared out over the classes
    by largest remainder; a class gives its last row only when no other row is left to give.
    """
    values = labels.numpy()
    total = round(fraction * len(values))
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    take = np.floor(counts * fraction).astype(int)
    remainder = counts * fraction - take
    order = np.lexsort((-remainder, take + 1 >= counts))
    take[order[: total - take.sum()]] += 1
    rng = np.random.default_rng([seed, _SPLIT])
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    off = [rng.permutation(rows)[:n] for rows, n in zip(members, take, strict=True)]
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.concatenate(off)] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


class _Part(Dataset):
    """One part of a source, fetched by whole batches of (epoch, index) pairs."""

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        targets: Tensor | None,
        mean: Tensor,
        std: Tensor,
        seed: int | None,
        damage: Damage | None,
    ) -> None:
        self.source = source
        self.rows = rows
        self.targets = targets  # None: the source's own
        self.mean = mean
        self.std = std
        self.seed = seed  # None: no augmentation
        self.damage = damage

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pair: tuple[int, int]) -> tuple[Tensor, Any, Tensor]:
        image, target, index = self.__getitems__([pair])
        return image[0], target[0], index[0]

    def __getitems__(self, pairs: list[tuple[int, int]]) -> tuple[Tensor, Any, Tensor]:
        epoch = pairs[0][0]
        index = torch.tensor([i for _, i in pairs])
        draw = None if self.seed is None else Draw(self.seed, epoch, index)
        rows = self.rows[index]
        image = normalise(self.source.images(rows, draw), self.mean, self.std)
        if self.damage is not None:
            image = self.damage(image, index, epoch)
        own = self.targets is None
        return image, self.source.targets(rows, draw) if own else self.targets[index], index


def _unheard(line: str) -> None:
    pass


def _all(source: Source) -> Tensor:
    return torch.arange(len(source.labels))


def _identity(batch: tuple[Tensor, Any, Tensor]) -> tuple[Tensor, Any, Tensor]:
    return batch


class ImageData(ABC):
    """Labelled images in three parts: train, val (split off train, stratified, where the source has
    none of its own) and test (fixed).

    A source's class stores its own options and answers `_read`; all else is here.
    """

    name: str
    class_names: tuple[str, ...] = ()  # where the source has names; the position is the label
    superclasses: tuple[int, ...] = ()  # of each class, where the source groups them
    notices: tuple[str, ...] = ()  # what was found in the files and may not be meant, a line each
    skipped: tuple[str, ...] = ()  # names of images that are left out
    measures = False  # whether `_read` can say what an `auto` stands for
    # key -> (value, why) of what was `auto`; known once prepared
    resolved: Mapping[str, tuple[int | float, str]] = MappingProxyType({})

    @checked("dataset")
    def __init__(
        self,
        *,
        image_size: Side | Literal["auto"],
        num_classes: Classes | None,
        channels: Channels,
        validation: HeldOut,
        split_seed: Seed,
        augment: Transforms,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self._image_size = image_size if image_size == AUTO else int(image_size)
        self.channels = int(channels)
        self.validation = float(validation)
        self.split_seed = int(split_seed)
        self._augment = _augment(augment)
        if AUTO in (image_size, self._augment.scale) and not self.measures:
            raise UsageError(
                f"dataset.image_size and dataset.augment.scale of {self.name} cannot be auto: give "
                "numbers"
            )
        if image_size != AUTO:
            self._check_crop()
        self._asked_classes = None if num_classes is None else int(num_classes)
        self._mean, self._std = mean, std
        self._note: Callable[[str], None] = _unheard
        self._raw: dict[str, Source] | None = None
        self._parts: dict[str, tuple[Source, Tensor]] | None = None

    @abstractmethod
    def _read(self) -> tuple[int, dict[str, Source]]:
        """The number of classes and the sources "train" and "test", at their own size.

        A source "val" is the validation part; without one it is split off train. Where an option
        is `auto` it sets `_image_size`, `_augment` and `resolved` too.
        """

    @property
    def image_size(self) -> int:
        """Pixels, height = width."""
        if self._image_size == AUTO:
            self.prepare()
        return self._image_size

    @property
    def augment(self) -> Augment:
        """Training transforms."""
        if self._augment.scale == AUTO:
            self.prepare()
        return self._augment

    @property
    def num_classes(self) -> int:
        if self._asked_classes is None:
            self.prepare()
        return self._asked_classes

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of a batch's images."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of pixels in [0, 1]."""
        return self._per_channel(self._mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of pixels in [0, 1]."""
        return self._per_channel(self._std)

    def _per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) == 1:
            return values * self.channels
        if self.channels == 1:
            return (sum(a * b for a, b in zip(LUMA, values, strict=True)),)
        return values

    @property
    def preprocess(self) -> Preprocess:
        """How an image file becomes the network's input, as the test part's images did."""
        self.prepare()
        return self._raw["test"].preprocess(self.input_size, self.mean, self.std)

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for each label, in their order; the label's number where the source has none."""
        names = tuple(map(str, self.class_names or range(self.num_classes)))
        if len(names) != self.num_classes:
            raise UsageError(
                f"{self.name} has {self.num_classes} classes and {len(names)} class_names: give "
                "one name a class, in the labels' order"
            )
        return names

    def prepare(self, note: Callable[[str], None] | None = None) -> None:
        """Read, check, resize and split, once; downloads only where the options ask for it.

        note: told how far a reading is that takes long, a line each.
        """
        if self._parts is not None:
            return
        if note is not None:
            self._note = note
        if self._raw is None:
            found, raw = self._read()
            if self._asked_classes not in (None, found):
                raise UsageError(
                    f"dataset.num_classes={self._asked_classes} but {self.name} has {found} "
                    f"classes: type dataset.num_classes={found} or leave it out"
                )
            self._asked_classes = found
            self._raw = raw
            self._check_crop()
        sized = {
            part: source.sized(self.image_size, self.channels, self.augment)
            for part, source in self._raw.items()
        }
        self._parts = {name: (source, _all(source)) for name, source in sized.items()}
        if "val" not in sized:
            train, val = self._split(sized["train"])
            self._parts |= {"train": (sized["train"], train), "val": (sized["train"], val)}

    def _split(self, source: Source) -> tuple[Tensor, Tensor]:
        """Rows of train and val; equal images, where there are any, are in the same of the two."""
        contents = source.contents
        if self.validation and contents is not None and len(set(contents)) < len(contents):
            return split_by_content(source.labels, contents, self.validation, self.split_seed)
        return stratified_split(source.labels, self.validation, self.split_seed)

    def _check_crop(self) -> None:
        if self._augment.crop > self._image_size:
            raise UsageError(
                f"dataset.augment.crop={self._augment.crop} is more than the image: give at most "
                f"dataset.image_size={self._image_size} pixels"
            )

    def resized(self, image_size: int) -> "ImageData":
        """A copy that gives the same images at another size; what was read is shared."""
        new = copy.copy(self)
        new._image_size = int(held(Side, "image_size", image_size))
        if new.image_size != self.image_size:
            new._parts = None
        return new

    def fingerprint(self, *sources: str) -> str:
        """Digest of what the batches depend on: content, split, size and transforms.

        sources: "train" (and the val part, of its own or split off it) or "test"; by default both.
        """
        self.prepare()
        own_val = "val" in self._raw
        names = [*(sources or ("train", "test"))]
        names += ["val"] if own_val and "train" in names else []
        facts = {
            "format": _FORMAT,
            "content": {name: self._raw[name].digest() for name in names},
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "split": None if own_val else [self.validation, self.split_seed],
            "augment": asdict(self.augment),
            "normalise": [self.mean, self.std],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def size(self, part: str) -> int:
        """Number of images of "train", "val" or "test"."""
        return len(self._part(part)[1])

    def labels(self, part: str) -> Tensor:
        """(n,) int64 clean labels in the order of the part."""
        source, rows = self._part(part)
        return source.labels[rows]

    def targets(self, part: str, index: Tensor) -> Any:
        """What a network is to answer to un-augmented images: (m, ...), by default their labels.

        index: (m,) positions within the part.
        """
        source, rows = self._part(part)
        return source.targets(rows[index], None)

    def absences(self) -> list[str]:
        """A line on classes of which the test or the validation part has no image, if there are."""
        found = []
        for part, word in (("test", "test"), ("val", "validation")):
            counts = torch.bincount(self.labels(part), minlength=self.num_classes).tolist()
            names = [name for name, n in zip(self.classes, counts, strict=True) if not n]
            if names and self.size(part):
                found.append(f"no image of {some(names)} in the {word} part")
        if not found:
            return []
        left = "recall of each class and balanced accuracy leave such classes out"
        return [f"{self.name}: {', '.join(found)}: {left}"]

    def rows(self, part: str) -> Tensor:
        """(n,) int64: the images' places in the source's own list, before a part was split off."""
        source, rows = self._part(part)
        return rows if source.places is None else source.places[rows]

    def listed(self, part: str) -> int:
        """Number of images in the source's own list that the part comes from."""
        source, _ = self._part(part)
        return len(source.labels) if source.listed is None else source.listed

    def pixels(self, part: str, index: Tensor) -> Tensor:
        """Un-augmented images as bytes, to be looked at.

        index: (m,) positions within the part. Returns (m, C or 1, H, W) uint8.
        """
        source, rows = self._part(part)
        return source.images(rows[index], None)

    def loader(
        self,
        part: str,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        targets: Tensor | None = None,
        indices: Tensor | None = None,
        damage: Damage | None = None,
        groups: Tensor | None = None,
        per_group: int = 1,
        classes: Tensor | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> DataLoader:
        """Batches of (image, target, index) of one part.

        seed: order and augmentation depend on (seed, epoch, index); the epoch is set through
        `loader.sampler.set_epoch`. targets: (n, ...) replaces the targets of the whole part.
        indices: (m,) positions within the part, visited instead of all. damage: (images, index,
        epoch) -> images, done to normalised images in the loader. groups: (n,) int64; every batch
        then holds `per_group` or more samples of each of some groups, see GroupedBatches. classes:
        (n,) int64; each of them then comes equally often, see EpochSampler.
        """
        source, rows = self._part(part)
        n = len(rows)
        targets = None if targets is None else torch.as_tensor(targets)
        if targets is not None and len(targets) != n:
            raise UsageError(
                f"{len(targets)} targets for the {part} part of {self.name}: give {n}, one an image"
            )
        indices = torch.arange(n) if indices is None else torch.as_tensor(indices).long()
        if len(indices) and not (0 <= int(indices.min()) and int(indices.max()) < n):
            raise UsageError(
                f"indices {int(indices.min())}..{int(indices.max())} leave the {part} part of "
                f"{self.name}: give positions in [0, {n})"
            )
        data = _Part(
            source,
            rows,
            targets,
            torch.tensor(self.mean),
            torch.tensor(self.std),
            seed if augment else None,
            damage,
        )
        if groups is not None:
            kept = torch.full_like(groups, -1)
            kept[indices] = groups[indices]
            return DataLoader(
                data,
                batch_sampler=GroupedBatches(
                    kept, batch_size, per_group, seed=seed, rank=rank, world=world
                ),
                collate_fn=_identity,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=torch.cuda.is_available(),
                generator=generator(seed, "loader"),
            )
        sampler = EpochSampler(
            indices,
            seed=seed,
            shuffle=shuffle,
            pad=part == "train",
            classes=None if classes is None else classes[indices],
            rank=rank,
            world=world,
        )
        return DataLoader(
            data,
            batch_size=int(held(Count, "batch_size", batch_size)),
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_identity,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # its own generator: the loader would otherwise draw from, and advance, the global one
            generator=generator(seed, "loader"),
        )

    def _part(self, part: str) -> tuple[Source, Tensor]:
        if part not in PARTS:
            raise UsageError(f"part '{part}' does not exist: give one of {', '.join(PARTS)}")
        self.prepare()
        return self._parts[part]


def _augment(options: Mapping) -> Augment:
    known = Augment.__dataclass_fields__
    for key in options:
        if key not in known:
            raise UsageError(f"dataset.augment.{key} is unknown: give {', '.join(known)}")
    return Augment(**options)
