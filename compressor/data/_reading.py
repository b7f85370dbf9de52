"""What lies in a data set's folders: listed, looked at, and what there is to say about it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressor.data import _decode, _listing
from compressor.data._decode import shown
from compressor.data._folder import FolderImages, Rules
from compressor.data._headers import Facts, beside, look
from compressor.data._listing import Listing, Walk
from compressor.data._source import Source
from compressor.errors import RunError, UsageError

_NAMED = 100  # unreadable files that one message names
_SEVERAL = 0.01  # share of the images in several class folders at which labels are not one each


@dataclass(frozen=True)
class Found:
    """What a folder holds. sources: "train", "test" and, where it has files of its own, "val".

    skipped: images that are left out, relative to dataset.root, and folders, which end in a slash.
    notices: a line each.
    """

    classes: tuple[str, ...]
    sources: dict[str, Source]
    skipped: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The readable files of one listing: their places in it, labels and facts."""

    listing: Listing
    places: list[int]
    facts: list[Facts]

    @property
    def labels(self) -> Tensor:
        return torch.tensor([self.listing.files[place][1] for place in self.places])

    def source(self, rules: Rules, rows: Iterable[int] | None = None) -> "FolderImages":
        """The images in `rows`, all by default."""
        rows = range(len(self.places)) if rows is None else list(rows)
        places = [self.places[row] for row in rows]
        return FolderImages(
            self.listing.root,
            tuple(self.listing.files[place][0] for place in places),
            torch.tensor([self.listing.files[place][1] for place in places]),
            tuple(self.facts[row] for row in rows),
            torch.tensor(places),
            len(self.listing.files),
            rules,
        )


class Reading:
    """The listings of one data set's parts, and what there is to say about them."""

    def __init__(self, name: str, base: Path, walk: Walk, rules: Rules) -> None:
        self.name = name
        self.base = base
        self.walk = walk
        self.rules = rules
        self.classes: tuple[str, ...] = ()
        self.listings: dict[str, Listing] = {}
        self.skipped: list[str] = []
        self._notices: list[str] = []

    def say(self, line: str) -> None:
        self._notices.append(f"{self.name}: {line}")

    def add(self, part: str, folder: Path, linked: bool) -> None:
        """List one part; the first one says which classes there are."""
        names, files = self.walk.inside(folder)
        self.check_loose(folder, names, files)
        if part == "train":
            _listing.check_names(names, folder)
            self.classes = tuple(names)
            for group in _listing.alike(names):
                self.say(
                    f"the classes {some(group)} differ in case, blanks or accents' coding alone; "
                    "they stay classes of their own"
                )
        for name in names:
            if name not in self.classes:
                raise UsageError(self._unknown(folder / name))
        labels = {name: label for label, name in enumerate(self.classes) if name in set(names)}
        self.listings[part] = _listing.list_classes(self.walk, folder, linked, labels)

    def _unknown(self, folder: Path) -> str:
        groups = _listing.alike([*self.classes, folder.name])
        near = next((group[0] for group in groups if folder.name in group), None)
        hint = "" if near is None else f"rename it if it is the class '{shown(near)}', "
        return (
            f"'{shown(folder)}' is a class that the train part has not: {hint}remove it, or add "
            f"images of '{shown(folder.name)}' to the train folder"
        )

    def check_loose(self, folder: Path, names: Sequence[str], files: Sequence[str]) -> None:
        """Files beside the class folders: a data set of another kind, or images of no class."""
        images = [name for name in files if name.lower().endswith(_decode.ENDINGS)]
        if not names:
            tables = [name for name in files if name.lower().endswith(_listing.NOTES)]
            if images:
                beside = f" beside {some(tables)}" if tables else ""
                raise UsageError(
                    f"'{shown(folder)}' holds {count(len(images))}{beside} and no class folders: "
                    "an image has one class here, the name of its folder, and several labels an "
                    "image are not supported; put the images of each class into a folder of its own"
                )
            raise UsageError(
                f"'{shown(folder)}' has no class folders: put one folder of images per class there"
            )
        if images:
            self.say(
                f"left out, since no class folder holds it: {count(len(images))} such as "
                f"'{shown(folder / images[0])}'"
            )
        for name in set(files) - set(images):
            self.walk.passed[os.path.splitext(name)[1].lower()] += 1

    def read(self, note: Callable[[str], None]) -> dict[str, Part]:
        """Look at every file. Raises RunError for those that cannot be read, all at once."""
        rules, parts = self.rules, {}
        refused, modes = dict(self.walk.refused), Counter()
        for part, listing in self.listings.items():
            paths = [path for path, _ in listing.files]
            facts = look(
                listing.root, paths, self.walk.refused, rules.max_pixels, rules.cache, note
            )
            refused |= {
                os.path.join(listing.root, path): fact
                for path, fact in zip(paths, facts, strict=True)
                if isinstance(fact, str)
            }
            places = [place for place, fact in enumerate(facts) if isinstance(fact, Facts)]
            parts[part] = Part(listing, places, [facts[place] for place in places])
            modes.update(fact.mode for fact in parts[part].facts)
        passed = _listing.passed_over(self.walk.passed)
        if passed:
            self.say(f"passed over, no images: {passed}")
        self._tell_unreadable(refused)
        self._tell_modes(modes)
        for made in parts.values():
            self._check_labels(made)
        return parts

    def found(self, sources: dict[str, Source]) -> Found:
        return Found(self.classes, sources, tuple(self.skipped), tuple(self._notices))

    def _tell_unreadable(self, refused: dict[str, str]) -> None:
        if not refused:
            return
        # a folder by a slash, since how many images it holds is not known
        names = {
            path: shown(os.path.relpath(path, self.base)) + "/" * (path in self.walk.folders)
            for path in sorted(refused)
        }
        lines = [f"'{name}' ({refused[path]})" for path, name in names.items()]
        text = f"{unread(list(names.values()))} in {shown(self.base)} cannot be read"
        if self.rules.unreadable == "refuse" and len(lines) == 1:
            ((path, why),) = refused.items()
            if path in self.walk.folders:
                raise RunError(
                    f"the folder '{shown(path)}' cannot be read ({why}): repair or remove it, or "
                    "type dataset.unreadable=skip"
                )
            raise RunError(
                f"the image '{shown(path)}' cannot be decoded ({why}): repair or delete that file, "
                "or type dataset.unreadable=skip"
            )
        if self.rules.unreadable == "refuse":
            raise RunError(
                f"{text}: {self._listed(lines)}; repair or delete what is listed, or type "
                "dataset.unreadable=skip"
            )
        self.skipped = list(names.values())
        self.say(f"left out, since {text}: {self._listed(lines)}")

    def _listed(self, lines: Sequence[str]) -> str:
        """All of them; of very many the first ones, and the file that names them all."""
        if len(lines) <= _NAMED or self.rules.cache is None:
            return ", ".join(lines)
        # each folder has its own: another run may read other images meanwhile
        file = beside(self.rules.cache, self.base, "-unreadable.txt").absolute()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n")
        except OSError:
            return ", ".join(lines)
        return f"{', '.join(lines[:_NAMED])} and the others in {file}"

    def _tell_modes(self, modes: Counter) -> None:
        words = [
            f"{n:,} of mode {mode}{f' ({_decode.MODES[mode]})' if _decode.MODES[mode] else ''}"
            for mode, n in modes.most_common()
            if mode != "RGB"
        ]
        if words:
            self.say(f"images converted to RGB of 8 bits: {', '.join(words)}")

    def _check_labels(self, part: Part) -> None:
        """One label an image, and an image for every class that has a folder."""
        folder, labels = part.listing.root, part.labels.tolist()
        left = {label for _, label in part.listing.files} - set(labels)
        if left:
            names = some([self.classes[label] for label in sorted(left)])
            raise RunError(
                f"no image of {names} in '{shown(folder)}' can be read: repair them or remove "
                "the folder"
            )
        first: dict[str, int] = {}
        several: dict[str, set[int]] = {}
        for row, (fact, label) in enumerate(zip(part.facts, labels, strict=True)):
            before = labels[first.setdefault(fact.digest, row)]
            if before != label:
                several.setdefault(fact.digest, {before}).add(label)
        if not several:
            return
        digest, found = next(iter(several.items()))
        path = folder / part.listing.files[part.places[first[digest]]][0]
        names = some([self.classes[label] for label in sorted(found)])
        text = (
            f"{len(several):,} of the {len(first):,} different images in '{shown(folder)}' lie "
            f"in several class folders, as '{shown(path)}' in those of {names}"
        )
        # a single image in all folders says nothing about how the set was made
        if self.rules.single or len(first) == 1 or len(several) < _SEVERAL * len(first):
            self.say(f"{text}; at most one of its labels is right")
            return
        raise UsageError(
            f"{text}: that is a data set of several labels an image, and here an image has one; "
            "keep each image in one folder, or make a class of every combination that matters"
        )


def count(number: int) -> str:
    """So many images, in words."""
    return "1 image" if number == 1 else f"{number:,} images"


def unread(names: Sequence[str]) -> str:
    """So many images and folders, in words. names: of a folder with a slash at its end."""
    folders = sum(name.endswith("/") for name in names)
    words = [count(len(names) - folders)] if len(names) > folders else []
    words += [f"{folders:,} folder{'s' * (folders > 1)}"] if folders else []
    return " and ".join(words)


def some(names: Sequence[str]) -> str:
    """The first few of the names, quoted, and how many more there are."""
    few = ", ".join(f"'{shown(name)}'" for name in names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"
