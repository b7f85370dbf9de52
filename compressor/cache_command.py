"""compress-cache: what lies in the cache of finished stages, who used it, and how to make room.

Run: compress-cache list | compress-cache show KEY | compress-cache prune --older-than 30d
Exit codes: 0 done, 1 a failure, 2 the command is wrong.
"""

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from filelock import Timeout

from compressor import changed_code, manifest, sessions
from compressor.cache import entries, size_of
from compressor.errors import RunError, UsageError
from compressor.locks import KINDS, Locks

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_VALUED = ("--dir", "--lease-seconds", "--older-than", "--max-size")
_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


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


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code; prints one line about a failure."""
    try:
        words = _joined(list(sys.argv[1:] if argv is None else argv))
        options = _parser().parse_args(words)
        options.run(options)
        sys.stdout.flush()
        return 0
    except (UsageError, RunError) as error:
        print(f"compress-cache: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def read(root: Path, lock: str = "auto", lease_seconds: float = 60.0) -> list[Entry]:
    """Every entry of a cache, the longest unused first."""
    found = {}
    for key, folder in entries(root):
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
        if dry_run or _remove(root, entry, lock, lease_seconds):
            removed.append(entry)
        else:
            kept.append(entry)
    if not dry_run:
        _sweep(root, lock, lease_seconds)
    return removed, kept


def _remove(root: Path, entry: Entry, lock: str, lease_seconds: float) -> bool:
    """Take one entry away unless a process has come to use it meanwhile; whether it went."""
    holder = Locks(root / ".locks", lock, lease_seconds).make(entry.key)
    aside = root / ".part" / f"{entry.key}.removed-{os.getpid()}"
    try:
        aside.parent.mkdir(exist_ok=True)
        Path(holder.lock_file).parent.mkdir(exist_ok=True)
        holder.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise _unwritable(root, error) from None
    try:
        os.rename(entry.folder, aside)
        # whoever said so before this look gets the entry back; whoever comes later finds none
        using = sessions.read(root, lock, lease_seconds, key=entry.key)
        if any(session.alive for session in using):
            os.rename(aside, entry.folder)
            return False
        shutil.rmtree(aside, ignore_errors=True)
        return True
    except OSError as error:
        raise _unwritable(root, error) from None
    finally:
        holder.release()


def _sweep(root: Path, lock: str, lease_seconds: float) -> None:
    """Take away what dead processes left: unfinished entries, locks and records of nothing."""
    locks = Locks(root / ".locks", lock, lease_seconds)
    for part in (root / ".part").glob("*"):
        if not locks.is_held(part.name.split(".")[0]):
            shutil.rmtree(part, ignore_errors=True)
    # what diverged once is only known to the members of its sweep
    shutil.rmtree(root / ".failed", ignore_errors=True)
    left = {key for key, _ in entries(root)}
    changed_code.sweep(root, left)
    for session in sessions.read(root, lock, lease_seconds):
        if not session.alive and not session.keys & left:
            for name in (session.path, session.path.with_suffix(".lock")):
                with suppress(OSError):
                    name.unlink()


# -- the command -------------------------------------------------------------------------------


def _joined(words: list[str]) -> list[str]:
    """`--max-size -5G` as one word: argparse takes what begins with - for an option."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in _VALUED and re.match(r"-\.?\d", word):
            word = f"{found.pop()}={word}"
        found.append(word)
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise UsageError(f"{message}; compress-cache --help shows what can be typed")


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--dir", type=Path, default=Path("outputs/cache"), help="the cache (default: outputs/cache)"
    )
    shared.add_argument("--lock", choices=KINDS, default="auto", help="cache.lock of its runs")
    shared.add_argument(
        "--lease-seconds", type=float, default=60.0, help="cache.lease_seconds of its runs"
    )
    parser = _Parser(
        prog="compress-cache",
        description="Finished stages that runs share: list them, see who used them, make room.",
    )
    commands = parser.add_subparsers(required=True, metavar="list|show|prune")
    lists = commands.add_parser("list", parents=[shared], help="every entry, longest unused first")
    lists.set_defaults(run=_list)
    shows = commands.add_parser("show", parents=[shared], help="one entry: files, parents, users")
    shows.add_argument("key", help="the key, or the beginning of it")
    shows.set_defaults(run=_show)
    prunes = commands.add_parser("prune", parents=[shared], help="remove by age or by size")
    prunes.add_argument("--older-than", type=_age, metavar="AGE", help="unused for 12h, 30d, 4w")
    prunes.add_argument("--max-size", type=_size, metavar="SIZE", help="what may stay: 500M, 20G")
    prunes.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    prunes.set_defaults(run=_prune)
    return parser


def _list(options: argparse.Namespace) -> None:
    found = read(options.dir, options.lock, options.lease_seconds)
    _table(found)
    total = sum(entry.size for entry in found)
    print(f"{len(found)} entries, {_bytes(total)} in {options.dir}")


def _show(options: argparse.Namespace) -> None:
    found = read(options.dir, options.lock, options.lease_seconds)
    hits = [entry for entry in found if entry.key.startswith(options.key)]
    if len(hits) != 1:
        which = f"{len(hits)} entries begin with" if hits else "no entry begins with"
        raise UsageError(
            f"{which} '{options.key}' in {options.dir}: compress-cache list names them"
        )
    (entry,) = hits
    _table([entry])
    try:
        manifest.verify(entry.folder)
        print("whole: every file has its checksum")
    except (RunError, UsageError) as error:
        print(f"not whole: {error}")
    lineage = entry.folder / "lineage.json"
    if lineage.is_file():
        for role, key in manifest.read_json(lineage).items():
            if key:
                print(f"{role}: {key}")
    for path in sorted(entry.folder.rglob("*")):
        if path.is_file():
            print(f"  {_bytes(path.stat().st_size):>9}  {path.relative_to(entry.folder)}")
    for run in entry.runs:
        print(f"used by {run}")


def _prune(options: argparse.Namespace) -> None:
    if options.older_than is None and options.max_size is None:
        raise UsageError("prune what? give --older-than AGE or --max-size SIZE (or both)")
    removed, kept = prune(
        options.dir,
        older_than=options.older_than,
        max_size=options.max_size,
        dry_run=options.dry_run,
        lock=options.lock,
        lease_seconds=options.lease_seconds,
    )
    _table(removed)
    verb = "would be removed" if options.dry_run else "removed"
    print(f"{len(removed)} entries {verb}, {_bytes(sum(entry.size for entry in removed))}")
    if kept:
        print(f"{len(kept)} entries are in use and stay: {', '.join(e.key for e in kept)}")


def _table(found: Iterable[Entry]) -> None:
    now = time.time()
    rows = [("key", "stage", "size", "made", "last used", "runs", "")]
    for entry in found:
        rows.append(
            (
                entry.key, entry.stage, _bytes(entry.size), _ago(now - entry.made),
                _ago(now - entry.used), str(len(entry.runs)), "in use" if entry.held else "",
            )
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _age(text: str) -> float:
    hit = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    _refuse_negative(text)
    if not hit:
        raise argparse.ArgumentTypeError(f"'{text}' is no age: write 90m, 12h, 30d or 4w")
    return float(hit[1]) * _SECONDS[hit[2]]


def _size(text: str) -> int:
    hit = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.upper())
    _refuse_negative(text)
    if not hit:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no size: write 500M, 20G or a number of bytes"
        )
    return int(float(hit[1]) * _BYTES[hit[2]])


def _refuse_negative(text: str) -> None:
    if text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text} must be positive")


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}TB"


def _ago(seconds: float) -> str:
    for unit, size in (("w", 7 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def _unwritable(root: Path, error: Any) -> RunError:
    return RunError(f"cannot change {root} ({error.strerror or error}): it must be writable")


if __name__ == "__main__":
    sys.exit(main())
