"""Which files of a folder are images, and of which class; nothing is opened.

Symbolic links are followed once, and only to what lies below dataset.root.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from compressor.data._decode import ENDINGS, Refused, check_regular, shown
from compressor.errors import UsageError

# what archives of macOS bring along besides hidden files
_JUNK_FOLDERS = ("__macosx",)
NOTES = (".txt", ".xml", ".json", ".csv")  # endings of files that say something of images


class Listing(NamedTuple):
    """files: path relative to `root` and label, in the order (class, then path) that label files
    count in.
    """

    root: Path
    files: list[tuple[str, int]]


class Walk:
    """Walks folders below `base`, dataset.root as it was typed, and counts what it passes over."""

    def __init__(self, base: Path) -> None:
        self._typed = os.path.abspath(base)
        self._real = os.path.realpath(base)
        self.refused: dict[str, str] = {}
        self.folders: set[str] = set()  # of those refused, what holds images and is none
        self.passed: Counter = Counter()

    def inside(self, folder: Path) -> tuple[list[str], list[str]]:
        """Sorted names of the folders in there, links to folders among them, and of the files."""
        folders, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not self._hidden(entry):
                        (folders if _leads_to_folder(entry) else files).append(entry.name)
        except OSError as error:
            raise UsageError(
                f"'{shown(folder)}' cannot be listed ({error.strerror}): change its rights"
            ) from error
        return sorted(folders), sorted(files)

    def check_folder(self, path: Path, linked: bool = False) -> bool:
        """Whether a link was followed to a folder. Raises UsageError for one that is not.

        linked: whether one was followed on the way to it.
        """
        if not path.is_symlink():
            return linked
        why = self._not_followed(str(path), linked)
        if why:
            raise UsageError(
                f"'{shown(path)}' is {why}, which is not followed: put the folder itself there, or "
                "type a dataset.root= that holds what it leads to"
            )
        return True

    def images(self, folder: Path, linked: bool) -> Iterator[str]:
        """Absolute paths of the image files below `folder`, those in `refused` among them.

        linked: whether a link was followed on the way to `folder`.
        """
        stack = [(str(folder), linked)]
        while stack:
            here, linked = stack.pop()
            try:
                with os.scandir(here) as found:
                    entries = list(found)
            except OSError as error:
                self.refused[here] = f"the folder cannot be listed: {error.strerror}"
                self.folders.add(here)
                continue
            for entry in entries:
                if self._hidden(entry):
                    continue
                if entry.is_symlink():
                    yield from self._link(entry, linked, stack)
                elif entry.is_dir(follow_symlinks=False):
                    stack.append((entry.path, linked))
                elif self._meant(entry.name):
                    if not entry.is_file(follow_symlinks=False):
                        self._refuse_special(entry.path)
                    yield entry.path

    def _hidden(self, entry: os.DirEntry) -> bool:
        """Whether it is hidden, as what editors and notebooks leave behind; it is counted."""
        folder, name = entry.is_dir(follow_symlinks=False), entry.name.lower()
        if not (name.startswith(".") or (folder and name in _JUNK_FOLDERS)):
            return False
        self.passed["hidden folder" if folder else "hidden file"] += 1
        return True

    def _meant(self, name: str) -> bool:
        """Whether a file's name has an image's ending; others are counted."""
        if name.lower().endswith(ENDINGS):
            return True
        self.passed[os.path.splitext(name)[1].lower()] += 1
        return False

    def _link(
        self, entry: os.DirEntry, linked: bool, stack: list[tuple[str, bool]]
    ) -> Iterator[str]:
        folder = _leads_to_folder(entry)
        if not folder and not self._meant(entry.name):
            return
        why = self._not_followed(entry.path, linked)
        if why:
            self.refused[entry.path] = f"it is {why}, which is not followed"
            if folder:
                self.folders.add(entry.path)
        elif folder:
            stack.append((entry.path, True))
        else:
            self._refuse_special(entry.path)
        if not folder:
            yield entry.path

    def _refuse_special(self, path: str) -> None:
        try:
            check_regular(os.stat(path))
        except Refused as error:
            self.refused[path] = str(error)
        except OSError as error:
            self.refused[path] = str(error.strerror)

    def _not_followed(self, path: str, linked: bool) -> str:
        """Why a link is not followed; empty for one that is."""
        place = os.path.realpath(os.path.dirname(path))
        first = os.path.normpath(os.path.join(place, os.readlink(path)))
        if _below(first, self._typed):
            first = self._real + first[len(self._typed) :]
        last = os.path.realpath(path)
        if not _below(last, self._real):
            return "a link out of dataset.root"
        if not os.path.exists(last):
            return "a link to nothing"
        if _below(place, last):
            return "a link to a folder that it lies in"
        if linked or first != last:
            return "a link behind a link"
        return ""


def list_classes(walk: Walk, root: Path, linked: bool, labels: Mapping[str, int]) -> Listing:
    """Every image below root/<class>/, in the fixed order.

    linked: whether a link was followed to `root`. labels: of the classes that are there, in order.
    Raises UsageError for a class folder without an image.
    """
    files: list[tuple[str, int]] = []
    start = len(os.path.join(root, ""))
    for name, label in labels.items():
        folder = root / name
        before, passed = len(files), walk.passed.copy()
        paths = walk.images(folder, walk.check_folder(folder, linked))
        files += sorted((path[start:].replace(os.sep, "/"), label) for path in paths)
        if len(files) == before:
            unlistable = walk.refused.get(str(folder))
            if unlistable:
                raise UsageError(f"'{shown(folder)}': {unlistable}")
            notes = sum((walk.passed - passed)[ending] for ending in NOTES)
            if notes:
                raise UsageError(
                    f"'{shown(folder)}' holds no image but {notes} file{'s' * (notes > 1)} "
                    f"such as {NOTES[0]} or {NOTES[1]}: what these say of the images is not read, "
                    "since each image has one class here, the name of its folder; put the images "
                    "of each class into a folder of its own and remove this one"
                )
            raise UsageError(
                f"'{shown(folder)}' holds no image ({', '.join(ENDINGS)}): add some or remove it"
            )
    return Listing(root, files)


def check_names(names: Iterable[str], folder: Path) -> None:
    """Raise UsageError for a class whose name is no text in one line."""
    for name in names:
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise UsageError(
                f"the class folder '{shown(folder / name)}' has a name that is no text in UTF-8 "
                "or holds a control character: rename it"
            )


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case, blanks or the coding of accents alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault("".join(plain.split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def passed_over(passed: Counter) -> str:
    """What was no image, in words; empty where nothing was passed over."""
    hidden = [
        f"{passed[kind]} {kind}{'s' * (passed[kind] > 1)}"
        for kind in ("hidden file", "hidden folder")
        if passed[kind]
    ]
    others = [(n, ending) for ending, n in passed.items() if not ending.startswith("hidden")]
    if others:
        total = sum(n for n, _ in others)
        kinds = ", ".join(f"{n} {shown(e) or 'bare'}" for n, e in sorted(others, reverse=True)[:8])
        word = "file" if total == 1 else "files"
        hidden.append(f"{total} {word} without an image's ending ({kinds})")
    return ", ".join(hidden)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _leads_to_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
