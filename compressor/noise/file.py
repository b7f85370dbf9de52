"""Labels from outside: a file that says which label each training image was given.

Run: compress-run noise=file noise.file=labels.csv
A .csv with a head line, or a .npz: the columns `index` (place in the data set's own training list,
from 0) and `label`. Without `index` the labels are those of the whole list, in its order.
"""

import csv
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from torch import Tensor

from compressor.errors import UsageError, foreign
from compressor.noise import Noise, Part
from compressor.options import checked

# What a damaged archive raises beside the usual: at its table, in an entry, in an entry's head.
_BROKEN = (BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_MOST = 30_000_000  # labels: ImageNet-21k has 14 million
_LARGEST = 2**30  # bytes of an archive
_SHOWN = 100  # names of an archive's arrays


class File(Noise):
    """Given labels as somebody else gave them; those of validation images are left unused.

    known: true where the data set's own labels are the true ones, as with CIFAR-10N; false where
    nobody knows the truth: what asks for clean labels is then refused.
    """

    injects = True

    @checked("noise")
    def __init__(
        self,
        file: str | None = None,
        column: str = "label",
        known: bool = False,
        **shared: object,
    ) -> None:
        if file is None:
            raise UsageError("noise=file needs the file of labels: type noise.file=labels.csv")
        self.file = file
        self.column = column
        self.known = known
        self.index, self.labels = self._read()

    def corrupt(self, part: Part) -> Tensor:
        listed = part.listed or len(part.labels)
        rows = np.arange(listed) if part.rows is None else part.rows.numpy()
        index = self._checked_index(listed)
        unknown = np.flatnonzero((self.labels < 0) | (self.labels >= part.num_classes))
        if len(unknown):
            first = unknown[0]
            raise UsageError(
                f"noise.file={self.file} gives image {index[first]} the label "
                f"{self.labels[first]}{f' and {len(unknown) - 1} more such' * (len(unknown) > 1)}: "
                f"the data set's labels are 0 to {part.num_classes - 1}"
            )
        found = np.full(listed, -1, dtype=np.int64)
        found[index] = self.labels
        given = found[rows]
        missing = rows[given < 0]
        if len(missing):
            raise UsageError(
                f"noise.file={self.file} has no label for {len(missing)} of the {len(rows)} "
                f"training images (the first is index {missing[0]}): give one for each"
            )
        return torch.from_numpy(given)

    def _checked_index(self, listed: int) -> np.ndarray:
        if self.index is None:
            if len(self.labels) != listed:
                raise UsageError(
                    f"noise.file={self.file} has {len(self.labels)} labels for {listed} training "
                    "images: give one each, or a column 'index' with their places"
                )
            return np.arange(listed)
        unknown = self.index[(self.index < 0) | (self.index >= listed)]
        if len(unknown):
            raise UsageError(
                f"noise.file={self.file} has the unknown index {unknown[0]}: the data set lists "
                f"training images 0 to {listed - 1}"
            )
        places, counts = np.unique(self.index, return_counts=True)
        if (counts > 1).any():
            raise UsageError(
                f"noise.file={self.file} has index {places[counts > 1][0]} more than once: give "
                "each image one label"
            )
        return self.index

    def _read(self) -> tuple[np.ndarray | None, np.ndarray]:
        try:
            if Path(self.file).exists() and not Path(self.file).is_file():
                raise ValueError("it is no file")
            if Path(self.file).suffix == ".npz":
                columns = _npz(self.file, ("index", self.column))
            else:
                columns = _csv(self.file, ("index", self.column))
        except (OSError, EOFError, ValueError, KeyError, csv.Error, *_BROKEN) as error:
            reason = foreign((str(error).splitlines() or [type(error).__name__])[0])
            raise UsageError(
                f"noise.file={self.file} cannot be read ({reason}): give a .csv with the head "
                "index,label or a .npz with arrays of these names"
            ) from None
        if self.column not in columns:
            raise UsageError(
                f"noise.file={self.file} has no column '{self.column}', it has "
                f"{foreign(', '.join(columns))}: type noise.column=NAME"
            )
        index, labels = columns.get("index"), columns[self.column]
        for name, values in (("index", index), (self.column, labels)):
            if values is not None and (values.ndim != 1 or values.dtype.kind not in "iu"):
                raise UsageError(
                    f"noise.file={self.file}: '{name}' is no list of whole numbers: give classes "
                    "and places as numbers from 0"
                )
        if index is not None and len(index) != len(labels):
            raise UsageError(
                f"noise.file={self.file} has {len(index)} indices and {len(labels)} labels: give "
                "one label an index"
            )
        return index, labels.astype(np.int64)


def _npz(path: str, read: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays in `read`, and the names of the others as empty ones: those are not looked at."""
    columns = {}
    if Path(path).stat().st_size > _LARGEST:
        raise ValueError("it is far larger than a list of labels")
    with ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in list(entries)[:_SHOWN]:
            columns[foreign(name)] = np.empty(0, dtype=np.int64)
        for name in read:
            if name in entries:
                columns[name] = _array(archive, entries[name], name)
    return columns


def _array(archive: ZipFile, entry: ZipInfo, name: str) -> np.ndarray:
    """One array of whole numbers; what its head says is checked before anything is unpacked."""
    with archive.open(entry) as file:
        head = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
        version = read_magic(file)
        if version not in head:
            raise ValueError(f"'{name}' is no list of whole numbers")
        shape, _, kind = head[version](file)
        if len(shape) != 1 or kind.kind not in "iu":
            raise ValueError(f"'{name}' is no list of whole numbers")
        if shape[0] > _MOST:
            raise ValueError(f"'{name}' has {shape[0]:,} entries: at most {_MOST:,} are read")
        size = shape[0] * kind.itemsize
        if entry.file_size != file.tell() + size:
            raise ValueError(f"'{name}' is not of the size that its head says")
        content = file.read(size)
        if len(content) != size or file.read(1):
            raise ValueError(f"'{name}' is not of the size that its head says")
        return np.frombuffer(content, dtype=kind)


def _csv(path: str, read: Collection[str]) -> dict[str, np.ndarray]:
    """Every column by its name; those in `read` as numbers."""
    lines: list[tuple[int, list[str]]] = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        number = 1  # where the row begins: one with an open quote ends where the next quote is
        for row in reader:
            words = [word.strip() for word in row]
            if any(words):
                lines.append((number, words))
            number = reader.line_num + 1
    if not lines:
        raise ValueError("it is empty")
    (_, head), *rows = lines
    if all(_whole(word) is not None for word in head):
        raise ValueError(f"its first line, {','.join(head)}, is no head")
    if len(head) == 1 and re.search(r"[;\t|]", head[0]):
        raise ValueError(f"its head is {head[0]!r}, where commas belong between the names")
    twice = next((name for name in head if head.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"its head names {twice!r} twice")
    for number, row in rows:
        if len(row) != len(head):
            raise ValueError(f"line {number} has {len(row)} entries, the head {len(head)}")
    columns = {}
    for place, name in enumerate(head):
        if name not in read:
            columns[name] = np.array([row[place] for _, row in rows])
            continue
        found = [_whole(row[place]) for _, row in rows]
        if None in found:
            number, row = rows[found.index(None)]
            raise ValueError(f"line {number}: {name} '{row[place]}' is no whole number")
        columns[name] = np.array(found, dtype=np.int64)
    return columns


def _whole(word: str) -> int | None:
    """3 of "3", and of the "3.0" that a table with gaps was written with; None of others."""
    return int(word.partition(".")[0]) if re.fullmatch(r"-?\d{1,18}(\.0*)?", word) else None
