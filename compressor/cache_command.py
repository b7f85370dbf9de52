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
from pathlib import Path
from typing import NoReturn

from compressor import changed_code, manifest, sessions, sizes
from compressor.errors import RunError, UsageError
from compressor.eviction import Entry, entries, prune, read
from compressor.locks import KINDS, Locks

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_VALUED = ("--dir", "--lease-seconds", "--older-than", "--max-size")


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
    print(f"{len(found)} entries, {sizes.shown(total)} in {options.dir}")


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
            print(f"  {sizes.shown(path.stat().st_size):>9}  {path.relative_to(entry.folder)}")
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
    if not options.dry_run:
        _sweep(options.dir, options.lock, options.lease_seconds)
    _table(removed)
    verb = "would be removed" if options.dry_run else "removed"
    print(f"{len(removed)} entries {verb}, {sizes.shown(sum(entry.size for entry in removed))}")
    if kept:
        print(f"{len(kept)} entries are in use and stay: {', '.join(e.key for e in kept)}")


def _table(found: Iterable[Entry]) -> None:
    now = time.time()
    rows = [("key", "stage", "size", "made", "last used", "runs", "")]
    for entry in found:
        rows.append(
            (
                entry.key, entry.stage, sizes.shown(entry.size), _ago(now - entry.made),
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
    try:
        return sizes.read(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _refuse_negative(text: str) -> None:
    if text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text} must be positive")


def _ago(seconds: float) -> str:
    for unit, size in (("w", 7 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
