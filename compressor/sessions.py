"""Who uses a cache: one file a process, with a line for every entry that it used.

The file's lock is held as long as the process lives: an entry that a living one uses is not
removed. What dead ones wrote says who used an entry, and when.
"""

import atexit
import json
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from filelock import BaseFileLock

from compressor.locks import Locks


class Session:
    """This process's use of one cache. Nothing is written before the first entry is used."""

    _open: ClassVar[dict[tuple[int, str], "Session"]] = {}

    def __init__(self, root: Path, lock: str, lease_seconds: float) -> None:
        self.folder = root / ".sessions"
        self.locks = Locks(self.folder, lock, lease_seconds)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._lock: BaseFileLock | None = None
        self._used: set[str] = set()

    @classmethod
    def of(cls, root: Path, lock: str = "auto", lease_seconds: float = 60.0) -> "Session":
        """The one session of this process (not of a parent that it was forked from)."""
        place = (os.getpid(), str(root.absolute()))
        if place not in cls._open:
            cls._open[place] = cls(root.absolute(), lock, lease_seconds)
        return cls._open[place]

    def uses(self, key: str) -> None:
        """Tell others that this process reads the entry from now on."""
        if key not in self._used:
            self._used.add(key)
            self._write({"key": key})

    def record(self, key: str, event: str, stage: str, run: str) -> None:
        """event: made or reused."""
        self._write(
            {"key": key, "event": event, "stage": stage, "run": run, "time": round(time.time(), 3)}
        )

    def _write(self, line: dict[str, Any]) -> None:
        # a cache that can be read only serves what it has, without a record
        with suppress(OSError):
            if self._lock is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = self.locks.make(self.name)
                lock.acquire(timeout=0)
                self._lock = lock
                atexit.register(lock.release)
                header = {"pid": os.getpid(), "host": socket.gethostname(), "command": sys.argv}
                self._append(header)
            self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Used:
    """What one process wrote: its keys and the events, oldest first."""

    path: Path
    alive: bool
    command: list[str]
    keys: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)


def read(
    root: Path, lock: str = "auto", lease_seconds: float = 60.0, *, key: str | None = None
) -> list[Used]:
    """Every session that left a file, and whether its process still lives.

    key: only the sessions that use this entry. A lease must be watched for as long as it lasts:
    all are watched at once.
    """
    folder = root / ".sessions"
    locks = Locks(folder, lock, lease_seconds)
    found = [_parse(path) for path in sorted(folder.glob("*.jsonl"))]
    found = [used for used in found if key is None or key in used.keys]
    names = [used.path.stem for used in found]
    here = {name for name in names if locks.leases and _lives_here(name)}
    held = here | locks.held([name for name in names if name not in here])
    for used in found:
        used.alive = used.path.stem in held
    return found


def _parse(path: Path) -> Used:
    used = Used(path, False, [])
    with suppress(OSError):  # another process may have taken it away
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the process was killed while it wrote
            if not isinstance(entry, dict):
                continue
            if "key" in entry:
                used.keys.add(str(entry["key"]))
                if {"event", "time", "run"} <= entry.keys():
                    used.events.append(entry)
            else:
                used.command = [str(word) for word in entry.get("command", [])]
    return used


def _lives_here(name: str) -> bool:
    """Whether a session is of this machine and there is a process of its number.

    That may be a later one: then an entry stays that could go. The opposite is not believed, as
    containers of one name do not see each other's processes.
    """
    host, _, pid = name.rpartition("-")[0].rpartition("-")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
