"""The members of a multirun, known by their files alone: whatever process or machine ran them.

A member's status.json holds its `state` (running, done, failed, interrupted; planned where the plan
alone was asked for), the `sweep` (the command that started it), and what a reader wants to know:
pid, host and start while it runs, the seconds it took, whether it was `kept` from an earlier
command, the `error` of a failed one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from compressor.durations import duration

STATUS = "status.json"
SWEEP = "sweep.json"
# Groups and keys that change no figure of a member's report.
NO_RESULT = ("machine", "paths", "cache", "objective")


# -- status files -------------------------------------------------------------------------------


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """Replace status.json in one step: no reader ever sees half of it."""
    _replace(folder / STATUS, status)


def read_status(folder: Path) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    return _read(folder / STATUS)


def running(sweep: str | None, attempt: int) -> dict[str, Any]:
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "state": "running",
        **_process(),
        "started": started,
        "attempt": attempt,
        "sweep": sweep,
    }


def write_sweep(
    folder: Path,
    command: Sequence[str],
    state: str,
    *,
    flags: Sequence[str] = (),
    members: int | None = None,
) -> None:
    """Note in the sweep's own folder which command it is of, and its state.

    command: the overrides; flags: what else was typed. members: how many the command has, None
    where that is not known beforehand.
    """
    noted = {"command": list(command), "flags": list(flags), "members": members, "state": state}
    _replace(folder / SWEEP, {**noted, **_process()})


def end_sweep(folder: Path, state: str) -> None:
    """Note how a sweep ended, beside what its start has noted."""
    _replace(folder / SWEEP, {**_read(folder / SWEEP), "state": state, **_process()})


def unfinished(outputs: Path, command: Sequence[str]) -> Path | None:
    """The folder of the last sweep of this command, where that did not end well."""
    for path in sorted(outputs.glob(f"multiruns/*/*/{SWEEP}"), reverse=True):
        sweep = _read(path)
        if sweep.get("command") != list(command):
            continue
        return None if sweep.get("state") == "done" or lives(sweep) else path.parent
    return None


def lives(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status is another than this and still there.

    Of another machine's nothing can be known: it counts as gone.
    """
    pid = status.get("pid")
    if status.get("host") != socket.gethostname() or pid in (None, os.getpid()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return status.get("birth") == _birth(pid)


def gone(status: Mapping[str, Any]) -> bool:
    """Whether a status says "running" of a process of this machine that is no longer there."""
    here = status.get("host") == socket.gethostname() and status.get("pid") != os.getpid()
    return status.get("state") == "running" and here and not lives(status)


def _process() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "birth": _birth(pid), "host": socket.gethostname()}


def _birth(pid: int) -> str | None:
    """When a process was started, which tells it from a later one of its number (Linux)."""
    try:
        # the name, in brackets, may hold anything
        after_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # a killed child that nobody waited for still has a number
    return None if after_the_name[0] == "Z" else after_the_name[19]


def folders(sweep_dir: Path) -> Iterator[Path]:
    """The folders of members that started, at any depth; what lies inside one is not looked at."""
    for folder, below, files in os.walk(sweep_dir):
        if STATUS in files and Path(folder) != sweep_dir:
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def holds_results(folder: Path) -> bool:
    """Whether a run, or members of a sweep, were or are at work in there; a plan is no result."""
    return any(
        (place / "report.json").is_file()
        or read_status(place).get("state") in ("done", "running", "failed", "interrupted")
        for place in (folder, *folders(folder))
    )


def kept_report(
    folder: Path, config: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any] | None:
    """The report of a member that is done with this very config and version; None otherwise.

    sources: digests of the files behind the user's own classes, as its status recorded them.
    """
    from compressor import version
    from compressor.automatic import unresolved

    status = read_status(folder)
    if status.get("state") != "done" or status.get("sources", {}) != sources:
        return None
    report = _read(folder / "report.json")
    made_by = (report.get("environment") or {}).get("compressor")
    made_of = unresolved(report.get("config") or {}, report.get("resolved") or {})
    if made_by != version.__version__ or _decisive(made_of) != _decisive(config):
        return None
    return report


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(dict(config)))
    return {key: value for key, value in plain.items() if key not in NO_RESULT}


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(new, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Whatever this process prints goes to a file, what was bound to the streams before included.

    The descriptors are turned, not the Python objects: loggers keep the stream of their first use.
    """
    with path.open("a", encoding="utf-8") as log:
        saved = []
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            saved.append(os.dup(number))
            os.dup2(log.fileno(), number)
        try:
            yield
        finally:
            for stream, number, before in ((sys.stdout, 1, saved[0]), (sys.stderr, 2, saved[1])):
                stream.flush()
                os.dup2(before, number)
                os.close(before)


# -- progress -----------------------------------------------------------------------------------


@dataclass
class Tally:
    """How far the members of one command are."""

    total: int | None
    done: int = 0
    kept: int = 0
    running: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        return self.done + len(self.failed)

    def line(self, elapsed: float) -> str:
        """elapsed: seconds since the first member started."""
        of = "" if self.total is None else f" of {self.total}"
        kept = f" ({self.kept} kept)" if self.kept else ""
        text = f"[sweep] {self.done}{of} members done{kept}, {self.running} running"
        if self.failed:
            text += f", {len(self.failed)} failed"
        fresh = self.finished - self.kept
        if self.total is not None and fresh and self.total > self.finished:
            # those that run are counted whole: rather too long than too short
            left = (self.total - self.finished) * elapsed / fresh
            text += f"; about {duration(left, rough=True)} left"
        return text


class Progress:
    """Watches a sweep's folder from the command that started it, and prints how far it is.

    beside: members run in other processes; a thread then looks every `EVERY` seconds and keeps one
    line up to date on a terminal, or prints one at most every `SPARSE` seconds elsewhere. Members
    of this process have `show` called at their end.
    """

    EVERY = 1.0
    SPARSE = 30.0

    def __init__(self, folder: Path, sweep: str, total: int | None, beside: bool) -> None:
        self.folder, self.sweep, self.total, self.beside = folder, sweep, total, beside
        self.started = time.monotonic()
        self._final: dict[Path, dict[str, Any]] = {}
        self._told: set[str] = set()
        self._printed: tuple[str, float] = ("", 0.0)
        self._live = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.beside:
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread and says how it ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.show()
            if self._live:
                print(flush=True)

    def outlast(self) -> bool:
        """Wait for the members that still run on this machine.

        True when some were left unfinished by processes that are gone; False when some may run on
        another machine, of which nothing is known.
        """
        while True:
            found = [read_status(folder) for folder in folders(self.folder)]
            running = [s for s in found if s.get("sweep") == self.sweep and s["state"] == "running"]
            if any(status["host"] != socket.gethostname() for status in running):
                return False
            if not any(lives(status) for status in running):
                return bool(running)
            time.sleep(self.EVERY)

    def tally(self) -> Tally:
        """Counted from the members' files; those of other commands do not count."""
        found = Tally(self.total)
        for folder in folders(self.folder):
            status = self._final.get(folder) or read_status(folder)
            if status.get("sweep") != self.sweep:
                continue
            state = status.get("state")
            if state in ("done", "planned", "failed"):
                self._final[folder] = status
            found.done += state in ("done", "planned")
            found.kept += state == "done" and bool(status.get("kept"))
            found.running += state == "running"
            if state == "failed":
                found.failed[folder.relative_to(self.folder).as_posix()] = str(status.get("error"))
        return found

    def interrupted(self) -> None:
        """Note it of members whose processes went with the command's own."""
        for folder in folders(self.folder):
            status = read_status(folder)
            if status.get("sweep") == self.sweep and gone(status):
                write_status(folder, {**status, "state": "interrupted", "error": "interrupted"})

    def show(self, sparse: bool = False) -> None:
        tally = self.tally()
        terminal = self.beside and sys.stdout.isatty()
        for name in sorted(tally.failed.keys() - self._told):
            self._told.add(name)
            _print(
                f"compress-run: member {name} failed: {tally.failed[name]}", sys.stderr, terminal
            )
        line = tally.line(time.monotonic() - self.started)
        before, when = self._printed
        # the time left runs on by itself: only counts are news
        if terminal:
            # a line that wraps cannot be written over
            columns = shutil.get_terminal_size().columns
            sys.stdout.write(f"\r\x1b[2K{line[: columns - 1]}")
            sys.stdout.flush()
            self._live = True
        elif line.split(";")[0] == before or (sparse and time.monotonic() - when < self.SPARSE):
            return
        else:
            _print(line, sys.stdout)
        self._printed = (line.split(";")[0], time.monotonic())

    def _watch(self) -> None:
        while not self._stop.wait(self.EVERY):
            # a folder that is not readable just now is read the next time
            with suppress(OSError):
                self.show(sparse=True)


def _print(line: str, stream: TextIO, clear: bool = False) -> None:
    print(f"\r\x1b[2K{line}" if clear else line, file=stream, flush=True)
