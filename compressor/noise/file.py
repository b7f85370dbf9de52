"""Labels from outside: a file that says which label each training image was given.

Run: compress-run noise=file noise.file=labels.csv
A .csv with a head line, or a .npz: the columns `index` (place in the data set's own training list,
from 0) and `label`. Without `index` the labels are those of the whole list, in its order.
"""

import csv
import hashlib
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import Part

# What a damaged archive raises beside the usual: at its table, in an entry, in an entry's head.
_BROKEN = (BadZipFile, zlib.error, NotImplementedError)


class File:
    """Given labels as somebody else gave them; those of validation images are left unused.

    known: true where the data set's own labels are the true ones, as with CIFAR-10N; false where
    nobody knows the truth: what asks for clean labels is then refused.
    """

    reads_images = False
    injects = True

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
        self.content = hashlib.sha256(Path(file).read_bytes()).hexdigest()

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
            if Path(self.file).suffix == ".npz":
                columns = _npz(self.file)
            else:
                columns = _csv(self.file, ("index", self.column))
        except (OSError, EOFError, ValueError, KeyError, csv.Error, *_BROKEN) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"noise.file={self.file} cannot be read ({reason}): give a .csv with the head "
                "index,label or a .npz with arrays of these names"
            ) from None
        if self.column not in columns:
            raise UsageError(
                f"noise.file={self.file} has no column '{self.column}', it has "
                f"{', '.join(columns)}: type noise.column=NAME"
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


def _npz(path: str) -> dict[str, np.ndarray]:
    # opened here: of a damaged one numpy leaves its own handle open
    with open(path, "rb") as handle:
        found = np.load(handle, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it holds one array without a name")
        with found as file:
            return {name: file[name] for name in file.files}


def _csv(path: str, read: Collection[str]) -> dict[str, np.ndarray]:
    """Every column by its name; those in `read` as numbers."""
    lines: list[tuple[int, list[str]]] = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for row in reader:
            words = [word.strip() for word in row]
            if any(words):
                lines.append((reader.line_num, words))
    if not lines:
        raise ValueError("it is empty")
    (_, head), *rows = lines
    if all(_whole(word) is not None for word in head):
        raise ValueError(f"its first line, {','.join(head)}, is no head")
    if len(head) == 1 and re.search(r"[;\t|]", head[0]):
        raise ValueError(f"its head is {head[0]!r}, where commas belong between the names")
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
