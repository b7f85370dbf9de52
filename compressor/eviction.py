"""How a cache of finished stages is kept small: which entries lie there, who uses them, which go.

An entry goes only where no living process has said that it uses it (`sessions`), and while its lock
is held, so that nobody makes it at the same time.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import Timeout

from compressor import manifest, sessions
from compressor.errors import RunError, UsageError
from compressor.locks import Locks


@dataclass
class Entry:
    """One finished entry: who uses it now, and who used it, oldest first."""

    key: str
    folder: Path
    stage: str
    size: int
    made: float
    used: float
    held: bool = False
    runs: list[str] = field(default_factory=list)


def entries(root: Path) -> Iterator[tuple[str, Path]]:
    """(key, folder) of every finished entry, damaged ones included.

    UsageError for a folder that is no cache: what lies there is not ours to list or to remove.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise UsageError(
            f"{root} cannot be read ({error.strerror}): give the cache's folder"
        ) from None
    if names and not {".locks", ".sessions", ".part"} & set(names):
        raise UsageError(
            f"{root} is no cache of finished stages: give the folder that cache.dir names"
        )
    for name in names:
        folder = root / name
        ours = re.fullmatch(r"[0-9a-f]{20}", name) or (folder / manifest.NAME).is_file()
        if ours and not name.startswith(".") and folder.is_dir() and not folder.is_symlink():
            yield name, folder


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def read(root: Path, lock: str = "auto", lease_seconds: float = 60.0) -> list[Entry]:
    """Every entry of a cache, the longest unused first."""
    found = {}
    for key, folder in entries(root):
        with suppress(FileNotFoundError):  # another process may have taken it away
            made = folder.stat().st_mtime
            stage = str(manifest.about(folder).get("stage", "damaged"))
            found[key] = Entry(key, folder, stage, size_of(folder), made, made)
    for session in sessions.read(root, lock, lease_seconds):
        for key in session.keys & found.keys():
            found[key].held |= session.alive
        for event in session.events:
            entry = found.get(event["key"])
            if entry is not None:
                entry.used = max(entry.used, float(event["time"]))
                if event["run"] not in entry.runs:
                    entry.runs.append(event["run"])
    return sorted(found.values(), key=lambda entry: entry.used)


def prune(
    root: Path,
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    dry_run: bool = False,
    lock: str = "auto",
    lease_seconds: float = 60.0,
) -> tuple[list[Entry], list[Entry]]:
    """Remove entries unused for `older_than` seconds, and the longest unused ones above `max_size`.

    max_size: bytes that may stay. What a running process uses stays in any case. Returns the
    removed entries and those that had to go but are in use.
    """
    now = time.time()
    found = read(root, lock, lease_seconds)
    total = sum(entry.size for entry in found)
    going = []
    for entry in found:
        old = older_than is not None and now - entry.used > older_than
        large = max_size is not None and total > max_size
        if (old or large) and not entry.held:
            total -= entry.size
        if old or large:
            going.append(entry)
    removed, kept = [], [entry for entry in going if entry.held]
    for entry in going:
        if entry.held:
            continue
        if dry_run or remove(root, entry.key, lock, lease_seconds):
            removed.append(entry)
        elif entry.folder.exists():  # else another process took it away
            kept.append(entry)
    return removed, kept


def fits(root: Path, max_size: int) -> bool:
    """Whether all entries together have at most so many bytes."""
    return sum(size_of(folder) for _, folder in entries(root)) <= max_size


def remove(root: Path, key: str, lock: str, lease_seconds: float, *, own: str = "") -> bool:
    """Take one entry away unless a process has come to use it meanwhile; whether it went.

    own: name of the session whose use of it does not count.
    """
    folder = root / key
    holder = Locks(root / ".locks", lock, lease_seconds).make(key)
    aside = root / ".part" / f"{key}.removed-{os.getpid()}"
    try:
        aside.parent.mkdir(exist_ok=True)
        Path(holder.lock_file).parent.mkdir(exist_ok=True)
        holder.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise unwritable(root, error) from None
    try:
        if not folder.exists():
            return False
        os.rename(folder, aside)
        # whoever said so before this look gets the entry back; whoever comes later finds none
        using = sessions.read(root, lock, lease_seconds, key=key)
        if any(session.alive and session.path.stem != own for session in using):
            os.rename(aside, folder)
            return False
        shutil.rmtree(aside, ignore_errors=True)
        return True
    except OSError as error:
        raise unwritable(root, error) from None
    finally:
        holder.release()


def unwritable(root: Path, error: OSError) -> RunError:
    """A cache that can be read only cannot be pruned."""
    return RunError(f"cannot change {root} ({error.strerror or error}): it must be writable")
