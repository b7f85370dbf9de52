"""Every image file looked at before training: its header, its end, its size and its content."""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from compressor.data import _decode
from compressor.data._decode import Refused
from compressor.data._ending import TAIL

_THREADS = 8  # looking waits for the disk more than for the processor
_TASK = 64  # files of one task of a thread
_FORMAT = 3  # of the remembered facts: raise it when a file is looked at for more than before
_PATIENCE = 3.0  # seconds between two lines of progress


class Facts(NamedTuple):
    """size in bytes; changed: time of the content's change in ns, which an archive may set;
    touched: that of the file's, which nobody can; digest: sha256 of the content; mode as in
    `_decode.MODES`; width, height in pixels.
    """

    size: int
    changed: int
    touched: int
    digest: str
    mode: str
    width: int
    height: int


def look(
    root: Path,
    paths: Sequence[str],
    refused: Mapping[str, str],
    max_pixels: int,
    cache: str | None,
    note: Callable[[str], None],
) -> list[Facts | str]:
    """The facts of every file in `paths` (relative to `root`), or why it is not read.

    refused: absolute paths that are not to be opened, with the reason. Facts are remembered under
    `cache` by path, size and times of change; the file there only saves time, so that one which is
    unreadable or cannot be written is passed over. note: told how far it is, every few seconds.
    """
    store = None
    known: Mapping[str, Facts] = {}
    if cache is not None:
        store = beside(cache, root, ".json")
        known = _remembered(store)

    def one(path: str) -> Facts | str:
        place = os.path.join(root, path)
        if place in refused:
            return refused[place]
        try:
            return _facts(place, known.get(path), max_pixels)
        except Refused as error:
            return str(error)
        except OSError as error:
            return _decode.reason(error)

    def some(start: int) -> list[Facts | str]:
        return [one(path) for path in paths[start : start + _TASK]]

    found: list[Facts | str] = []
    told = time.monotonic()
    # the filters are the process's: entered once, they hold in every thread
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")
        for part in pool.map(some, range(0, len(paths), _TASK)):
            found += part
            if time.monotonic() - told > _PATIENCE:
                told = time.monotonic()
                note(f"checked {len(found):,} of {len(paths):,} images in {root}")
    facts = {p: f for p, f in zip(paths, found, strict=True) if isinstance(f, Facts)}
    if store is not None and facts != known:
        _remember(store, facts)
    return found


def beside(cache: str, root: Path, ending: str) -> Path:
    """A file under `cache` that belongs to the images of one folder."""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(cache, ".fingerprints", f"{name}{ending}")


def _facts(path: str, known: Facts | None, max_pixels: int) -> Facts:
    status = os.stat(path)
    _decode.check_regular(status)
    _decode.check_length(status.st_size, max_pixels)
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if known is None or known[:3] != stamp:
        with _decode.open_regular(path) as file:
            digest, tail = hashlib.sha256(), b""
            while block := file.read(1 << 20):
                digest.update(block)
                tail = (tail + block[-TAIL:])[-TAIL:]
            file.seek(0)
            header = _decode.header(file, tail, max_pixels)
        known = Facts(*stamp, digest.hexdigest(), *header)
    _decode.check_pixels(known.width, known.height, max_pixels)
    return known


def _remembered(store: Path) -> dict[str, Facts]:
    try:
        stored = json.loads(store.read_text())
        entries = stored["files"].items() if stored["format"] == _FORMAT else ()
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}
    kinds = tuple(Facts.__annotations__.values())
    return {
        path: Facts(*entry)
        for path, entry in entries
        if isinstance(entry, list) and tuple(map(type, entry)) == kinds
    }


def _remember(store: Path, facts: Mapping[str, Facts]) -> None:
    temporary = store.with_suffix(f".{os.getpid()}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"format": _FORMAT, "files": facts}))
        temporary.replace(store)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
