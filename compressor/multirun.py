"""What a multirun needs around its members: what a kept one must share, and how a sweep ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressor import members
from compressor.errors import RunError, UsageError
from compressor.verdicts import verdict

DATA: dict[str, dict[str, str]] = {}
_told: set[str] = set()


def begin() -> None:
    """Forget what an earlier command of this process had read and told."""
    DATA.clear()
    _told.clear()


def news(notices: Sequence[str]) -> list[str]:
    """Those that no member of this process has told.

    A sweep as a whole makes no plan: that takes every member's data, which its process may have no
    need to read. So a notice comes with the first member that it is about.
    """
    found = [notice for notice in notices if notice not in _told]
    _told.update(found)
    return found


def own_sources(values: Mapping[str, Any]) -> dict[str, str]:
    """Versions, and digests of the user's own code, which a kept member must share."""
    admit_users_folder()
    from compressor import starting
    from compressor.instantiation import sources
    from compressor.plan import versions

    function = ((values.get("distill") or {}).get("teacher") or {}).get("function")
    named = {"_target_": function} if function else {}
    return {**sources([values, named]), **starting.of(values).sources(), **versions()}


def has_same_data(report: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a done member's data are those that lie there now, as far as they can be read."""
    try:
        return report.get("data") == _data_now(values)
    except (UsageError, RunError) as error:
        # data that were moved away since make no result wrong
        print(f"its data are not compared: {error}", flush=True)
        return True


def _data_now(values: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a member's data, read once for all members that share it."""
    shared = [values.get(group) for group in ("task", "scale", "model")]
    # which labels may be read follows the seed and is no part of the keys
    dataset = (values.get("dataset") or {}).items()
    shared.append({key: value for key, value in dataset if not key.startswith("labelled_")})
    # of noise the keys hold a class of the user's own and a file from outside alone
    noise = values.get("noise") or {}
    shared.append([noise.get("_target_"), noise.get("file")])
    name = json.dumps(shared, sort_keys=True)
    if name not in DATA:
        from compressor.experiment import data_keys

        DATA[name] = data_keys(values)
    return DATA[name]


def admit_users_folder() -> None:
    """Classes of the user's own, after everything installed; worker processes inherit the path."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def in_the_same_folder(overrides: list[str], folder: Path) -> list[str]:
    kept = [word for word in overrides if not word.lstrip("+").startswith("hydra.sweep.dir=")]
    return [*kept, quoted("hydra.sweep.dir", folder)]


def quoted(key: str, folder: Path) -> str:
    """The override that sets a folder, whatever its name holds."""
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{text}'"


def finish(progress: members.Progress, wants_traceback: bool) -> int:
    """Write and print the multirun's table; 1 when a member failed."""
    from rich.console import Console

    from compressor.report import sweep

    folder = progress.folder
    _measure_latency(folder)
    if any(folder.rglob("report.json")):
        Console().print(sweep.table(sweep.summarise(folder)))
    tally = progress.tally()
    with suppress(OSError):
        members.end_sweep(folder, "failed" if tally.failed else "done")
    if not tally.failed:
        return 0
    if wants_traceback:
        for name in tally.failed:
            print(members.read_status(folder / name).get("traceback", ""), file=sys.stderr)
    print(
        f"compress-run: {len(tally.failed)} of {tally.finished} members failed: "
        f"{', '.join(tally.failed)} (status.json of each in {folder} says why; the same command "
        "with hydra.sweep.dir= that folder runs only those again)",
        file=sys.stderr,
    )
    return 1


def _measure_latency(folder: Path) -> None:
    """Time the members' networks together, now that nothing else of the sweep runs."""
    from compressor import sweep_latency

    try:
        sweep_latency.complete(folder, lambda line: print(line, flush=True))
    except Exception as error:
        # without them the table still has every other figure
        _, line = verdict(error)
        print(f"compress-run: latency was not measured: {line}", file=sys.stderr)
