"""The content-addressed store of finished stages, shared by runs, processes and machines.

A key is a digest of everything a stage can depend on. An entry is a folder named by its key; it is
written under another name and renamed when it is complete, so a folder that exists is complete.
One process makes an entry while the others that want it wait; when the maker dies, a waiting one
goes on from what it left. Damaged entries are noticed by their checksums and made again.

    KEY/            an entry, with manifest.json
    .part/          entries in the making
    .locks/         a lock for each key that was ever made
    .failed/        trainings that diverged, for the other members of the same sweep
    .sessions/      which process used which entries, a line each
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from compressor import eviction, manifest, sizes
from compressor.errors import Diverged, RunError, UsageError
from compressor.locks import Locks, check_held
from compressor.sessions import Session

if TYPE_CHECKING:
    from compressor.artefact import Artefact

FORMAT = 2  # part of every key: raise it when entries of the same key change their form
# What a maker needs to go on after it was killed; it lies in the unfinished entry and is dropped
# from the finished one.
RESUME = "resume"
_LITTLE = 1 << 20  # bytes left on a disk that is called full


def key_of(**parts: Any) -> str:
    """The key of a stage: 20 hex digits of the digest of its parts (plain values only)."""
    text = json.dumps(
        {"format": FORMAT, **parts}, sort_keys=True, separators=(",", ":"), allow_nan=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Cache:
    """Entries under one folder.

    reuse: False looks nothing up (every stage is computed), but still keeps what is made.
    lock, lease_seconds: as in `Locks`. run: the run folder that entries are used for.
    sweep: the multirun that this is for: what diverged in one member is not tried in another.
    max_size: bytes that finished entries may take together, None without a bound: after each one
    that is made the longest unused go, but none that a running process uses.
    say: told of damaged entries and of waiting, a line each.
    """

    def __init__(
        self,
        root: Path,
        reuse: bool = True,
        *,
        lock: str = "auto",
        lease_seconds: float = 60.0,
        run: str = "",
        sweep: str = "",
        max_size: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.root = root
        self.reuse = reuse
        self.run = run
        self.sweep = sweep
        self.max_size = max_size
        self.say = say
        self.lock = lock
        self.locks = Locks(root / ".locks", lock, lease_seconds)
        self.session = Session.of(root, lock, lease_seconds)
        self._checked: set[str] = set()  # entries that were verified or made here
        self._reported: set[str] = set()
        self._told: set[str] = set()

    @classmethod
    def of(cls, options: Mapping[str, Any], run_dir: Path, say: Callable[[str], None]) -> "Cache":
        """The shared cache, or one inside the run's own folder where nothing is reused.

        options: the `cache` part of a config.
        """
        root = Path(options["dir"]) if options["enabled"] else run_dir / "stages"
        most = options["max_size"] if options["enabled"] else None
        return cls(
            root,
            options["enabled"],
            lock=options["lock"],
            lease_seconds=options["lease_seconds"],
            run=str(run_dir),
            sweep=_sweep_of(run_dir),
            max_size=None if most is None else sizes.read(most),
            say=say,
        )

    def forgetful(self) -> "Cache":
        """The same cache, but nothing of others is looked up: what is made replaces it."""
        return Cache(
            self.root,
            reuse=False,
            lock=self.lock,
            lease_seconds=self.locks.lease_seconds,
            run=self.run,
            sweep=self.sweep,
            max_size=self.max_size,
            say=self.say,
        )

    def folder(self, key: str) -> Path:
        return self.root / key

    def holds(self, key: str) -> bool:
        """Whether an undamaged entry is there; a damaged one is reported."""
        # without reuse nothing of others is looked up; what this very run has made is its own
        if not (self.reuse or key in self._checked) or not self.folder(key).is_dir():
            return False
        if key not in self._checked:
            try:
                manifest.verify(self.folder(key))
            except (RunError, UsageError) as error:
                if key not in self._reported:
                    self._reported.add(key)
                    self.say(f"cache entry {key} is not used and will be made again: {error}")
                return False
            self._checked.add(key)
        return True

    def obtain(self, key: str, stage: str, make: Callable[[Path], None]) -> bool:
        """See to it that the entry is there; whether it was there already.

        make: writes the entry into the folder that it is given; called by one process at a time.
        The folder is empty, or holds what a killed maker left if that had begun a RESUME folder.
        """
        self.session.uses(key)  # before the look: from here on nobody takes it away
        reused = self.holds(key)
        if not reused:
            with self.locks.hold(key, lambda: self._wait(stage, key)) as lock:
                reused = self.holds(key)  # another process may have made it meanwhile
                if not reused:
                    self._refuse_failed(key)
                    self._make(key, stage, make, lock)
        self.session.record(key, "reused" if reused else "made", stage, self.run)
        if not reused:
            self._make_room()
        return reused

    def reserve(self, keys: Iterable[str]) -> None:
        """See to it that no process takes these entries away as long as this one runs."""
        for key in keys:
            self.session.uses(key)

    def drop(self, key: str) -> None:
        """Take away an entry that this process alone uses and needs no longer; else it stays."""
        self._checked.discard(key)
        with suppress(RunError):  # a cache that cannot be changed keeps it
            eviction.remove(
                self.root, key, self.lock, self.locks.lease_seconds, own=self.session.name
            )

    def read(self, key: str) -> "Artefact":
        """The entry as an artefact; compared with its manifest once."""
        from compressor import artefact

        return artefact.read(self.folder(key), key, checked=key in self._checked)

    # -- making -----------------------------------------------------------------------------------

    def _wait(self, stage: str, key: str) -> None:
        self.say(f"{stage}: another process is making {key}; waiting for it")

    def _make(self, key: str, stage: str, make: Callable[[Path], None], lock: Any) -> None:
        # a damaged entry, or one that a cache without reuse replaces
        shutil.rmtree(self.folder(key), ignore_errors=True)
        if self.folder(key).exists():
            raise RunError(
                f"{self.folder(key)} is damaged and cannot be taken away: ask its owner to remove "
                "it, or set cache.dir= to another folder"
            )
        with self._unfinished(key) as folder:
            try:
                make(folder)
            except Diverged as error:
                self._remember(key, error)
                raise
            check_held(lock)
            shutil.rmtree(folder / RESUME, ignore_errors=True)
            manifest.seal(folder, {"stage": stage})
            os.rename(folder, self.folder(key))
        self._checked.add(key)
        self._reported.discard(key)

    def _make_room(self) -> None:
        """Prune to `max_size`. What cannot be pruned is told, and is no reason to end a run."""
        if self.max_size is None:
            return
        bound = f"cache.max_size={sizes.shown(self.max_size)}"
        try:
            if eviction.fits(self.root, self.max_size):
                return
            went, left = eviction.prune(
                self.root,
                max_size=self.max_size,
                lock=self.lock,
                lease_seconds=self.locks.lease_seconds,
            )
        except (RunError, UsageError) as error:
            self._say_once(f"{bound} is not kept to: {error}")
            return
        if went:
            size = sizes.shown(sum(entry.size for entry in went))
            named = ", ".join(f"{entry.key} ({entry.stage})" for entry in went)
            self.say(f"{bound}: removed {size} that was unused for longest: {named}")
        if left:
            self._say_once(f"{bound} is exceeded: running commands use what is left in {self.root}")

    def _say_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.say(line)

    def _remember(self, key: str, error: Diverged) -> None:
        if self.sweep:
            with suppress(OSError):
                (self.root / ".failed").mkdir(exist_ok=True)
                note = {"sweep": self.sweep, "error": str(error)}
                manifest.write_json(self.root / ".failed" / f"{key}.json", note)

    def _refuse_failed(self, key: str) -> None:
        """A command started anew tries again: it is another sweep."""
        path = self.root / ".failed" / f"{key}.json"
        if not self.sweep or not path.is_file():
            return
        try:
            note = manifest.read_json(path)
        except RunError:
            return
        if isinstance(note, dict) and note.get("sweep") == self.sweep:
            raise Diverged(f"{note.get('error')} (tried by another member of this sweep)")

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[Path]:
        """A folder of this maker's own: a maker that was taken for dead no longer finds its."""
        parts = self.root / ".part"
        folder = parts / f"{key}.{uuid4().hex[:8]}"
        try:
            parts.mkdir(parents=True, exist_ok=True)
            self._adopt(key, folder)
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write to {self.root} ({error.strerror}): set cache.dir= or paths.outputs= "
                "to a folder that can be written"
            ) from None
        try:
            yield folder
        except BaseException as error:
            # what would fail in the same way again is no start for a next try
            if isinstance(error, (RunError, UsageError)) or not (folder / RESUME).is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, Exception) and is_full(error, self.root):
                raise RunError(
                    f"the disk of {self.root} is full: free some space or set cache.dir= to "
                    "another one; finished stages are kept, and the same command goes on"
                ) from error
            raise

    def _adopt(self, key: str, folder: Path) -> None:
        """Take over what a dead maker left, if there is something to go on from."""
        for left in sorted((self.root / ".part").glob(f"{key}.*"), key=_modified, reverse=True):
            if (left / RESUME).is_dir() and not folder.exists():
                with suppress(OSError):
                    os.rename(left, folder)
                    continue
            shutil.rmtree(left, ignore_errors=True)


def is_full(error: Exception, folder: Path) -> bool:
    """Whether an error comes of a full disk, `folder` being where was written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # writers in other languages raise errors of their own kind
    try:
        return shutil.disk_usage(folder).free < _LITTLE
    except OSError:
        return False


def _sweep_of(run_dir: Path) -> str:
    """The multirun that a running member's status.json names; "" of a single run."""
    try:
        status = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    running = isinstance(status, dict) and status.get("state") == "running"
    return str(status.get("sweep") or "") if running else ""


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
