"""Latency of a whole sweep: the networks of all members, timed together when they are done.

Members that measured for themselves would each have met another moment of the machine. Reads the
members' reports and the networks that the cache holds, and writes the figures into the reports.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compressor import artefact, manifest, members, models
from compressor.artefact import Artefact
from compressor.cache import Cache
from compressor.errors import RunError, UsageError
from compressor.latency import LIMIT, NOTHING, Clock, Conditions, Subject, dense_of
from compressor.report import run as run_report

_Caches = dict[tuple[Path, bool], Cache]  # by their folder, and whether others' entries are used


@dataclass
class _Member:
    """A finished member: its report, and its networks by point."""

    folder: Path
    report: dict[str, Any]
    cache: Cache
    trust: tuple[str, ...]
    conditions: Conditions
    keys: dict[str, str]  # of its points' networks in the cache
    subjects: dict[str, Subject] = field(default_factory=dict)


def complete(sweep_dir: Path, note: Callable[[str], None] = lambda line: None) -> None:
    """Time what the members of a sweep left, and write it into their reports.

    What was steady before is taken from the cache; a member whose networks are gone keeps what its
    report says.
    """
    found: list[_Member] = []
    caches: _Caches = {}
    for path in _reports(sweep_dir):
        try:
            member = _member(path, caches, note, None)
            if member.conditions.seconds:
                member.subjects = _subjects(member)
                found.append(member)
        except (UsageError, RunError) as error:
            note(f"latency: {error}")
    _time(found, note, fresh=False)


def again(
    sweep_dir: Path, note: Callable[[str], None] = lambda line: None, trust: Sequence[str] = ()
) -> None:
    """Time the networks of a finished sweep, or of one run, anew; what was known is replaced.

    trust: dotted names of classes of the user's own that may be built: a report's word for them is
    not enough. UsageError where nothing is done or members still run, RunError where a network is
    gone; then no report is changed.
    """
    busy = [folder for folder in members.folders(sweep_dir) if _runs(folder)]
    if busy:
        raise UsageError(
            f"{busy[0]} still runs: latency is measured when all members are done; the sweep does "
            "it at its end"
        )
    caches: _Caches = {}
    found = [_member(path, caches, note, tuple(trust)) for path in _reports(sweep_dir)]
    if not found:
        raise UsageError(f"{sweep_dir} holds no finished member: there is nothing to measure")
    for member in found:
        if not member.conditions.seconds:
            raise UsageError(
                f"{member.folder} was run with machine.latency_seconds=0, which leaves latency "
                "unmeasured: run it again with some seconds"
            )
        member.subjects = _subjects(member)
    _time(found, note, fresh=True)


def _time(found: Sequence[_Member], note: Callable[[str], None], fresh: bool) -> None:
    clocks: dict[Conditions, Clock] = {}
    left = LIMIT
    for conditions in dict.fromkeys(member.conditions for member in found):
        group = [member for member in found if member.conditions == conditions]
        clock = Clock(conditions, group[0].cache, note, fresh, left)
        clock.measure(
            (dense_of(member.subjects), subject)
            for member in group
            for subject in member.subjects.values()
        )
        clocks[conditions] = clock
        left -= clock.spent
    for member in found:
        _write(member, clocks[member.conditions])


def _write(member: _Member, clock: Clock) -> None:
    dense = dense_of(member.subjects)
    points = member.report["points"]
    for name, point in points.items():
        point.update(clock.figures(dense, _subject(member, name)))
    names = {subject.name for subject in member.subjects.values()}
    member.report["latency_reused"] = not names & clock.timed
    text = json.dumps(member.report, indent=1) + "\n"
    path = member.folder / "report.json"
    if path.read_text(encoding="utf-8") == text:
        return
    fresh = path.with_suffix(".json.part")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
    run_report.write(member.folder, draw=(member.folder / "figures").is_dir())


def _subject(member: _Member, name: str) -> Subject:
    """The network of a point; where the list of stages lacks one, of the point that it repeats."""
    if name in member.subjects:
        return member.subjects[name]
    points = {
        each: {figure: value for figure, value in point.items() if figure not in NOTHING}
        for each, point in member.report["points"].items()
    }
    same = [each for each in member.subjects if points[each] == points[name]]
    return member.subjects[same[0] if same else "final"]


# -- members and their networks -------------------------------------------------------------------


def _reports(sweep_dir: Path) -> Iterator[Path]:
    for path in sorted(sweep_dir.rglob("report.json")):
        if members.read_status(path.parent).get("state") in (None, "done"):
            yield path


def _member(
    path: Path, caches: _Caches, note: Callable[[str], None], trust: tuple[str, ...] | None
) -> _Member:
    """The member of a report. trust: None takes the class that its config names."""
    report = run_report.read(path)
    try:
        options, model = dict(report["config"]["cache"]), report["config"]["model"]["_target_"]
        machine = report["config"]["machine"]
        threads = machine["threads"] or torch.get_num_threads()
        conditions = Conditions(machine["latency_batch_size"], threads, machine["latency_seconds"])
        # but for the pretext task's, which is no point
        stages, points = report["stages"], report["points"]
        keys = {each["point"]: each["key"] for each in stages if each["point"] in points}
        if "final" not in keys:
            raise KeyError("final")
        options["dir"] = _cache_folder(options["dir"], path.parent, keys["final"])
        place = (options["dir"] if options["enabled"] else path.parent, options["enabled"])
        if place not in caches:
            caches[place] = Cache.of(options, path.parent, note)
    except (KeyError, TypeError):
        raise RunError(
            f"{path} lacks its config or its points: run the command again, with this release"
        ) from None
    trust = models.trusted(model) if trust is None else trust
    return _Member(path.parent, report, caches[place], trust, conditions, keys)


def _runs(folder: Path) -> bool:
    status = members.read_status(folder)
    return status.get("state") == "running" and members.lives(status)


def _cache_folder(text: str, folder: Path, key: str) -> Path:
    """A member's cache, which is named as seen from where its command was typed.

    That is here, or above the member's folder; where there are several of the name it is the one
    that holds the entry `key`.
    """
    name = Path(text)
    if name.is_absolute():
        return name
    there = [at for at in (name, *(up / name for up in folder.absolute().parents)) if at.is_dir()]
    return next((place for place in there if (place / key).is_dir()), (there or [name])[0])


def _subjects(member: _Member) -> dict[str, Subject]:
    """The networks of a member by point: the cache's, or what its exported network tells."""
    found, gone = {}, {}
    for point, key in member.keys.items():
        try:
            made = _read(member.cache, key)
            _check_trust(made, member)
            found[point] = Subject.of(made, member.trust)
        except _Gone:
            gone[point] = key
    shipped = member.folder / "model"
    if gone and (shipped / manifest.NAME).is_file():
        made = artefact.read(shipped)
        _check_trust(made, member)
        exported = {
            "final": Subject.of(made, member.trust), "dense": Subject.dense(made, member.trust)
        }  # fmt: skip
        if (member.report.get("start") or {}).get("cut"):
            del exported["dense"]  # the member began with a cut network, whose form no file tells
        points = member.report["points"]
        for point in list(gone):
            # one that was not exported is known where it has the form of one that was
            same = [name for name in exported if _size(points[name]) == _size(points[point])]
            if point in exported or same:
                found[point] = exported[point if point in exported else same[0]]
                del gone[point]
    if gone:
        point, key = next(iter(gone.items()))
        raise RunError(
            f"the {point} network of {member.folder} (stage {key}) is no longer in "
            f"{member.cache.root}, where compress-cache may have pruned it: run the member's "
            "command again in another folder, or from where it was typed if the cache was moved"
        )
    return found


def _check_trust(made: Artefact, member: _Member) -> None:
    own = [name for name in models.trusted(made.spec.factory) if name not in member.trust]
    if own:
        raise UsageError(
            f"the network of {member.folder} is the class {own[0]}, none of this tool's: if you "
            f"trust it, add --trust {own[0]}"
        )


class _Gone(Exception):
    """The cache has no such entry."""


def _read(cache: Cache, key: str) -> Artefact:
    cache.session.uses(key)  # before the look: from here on nobody takes it away
    if not (cache.folder(key) / manifest.NAME).is_file():
        raise _Gone(key)
    # not compared with its checksums: a flipped bit of a weight changes no time
    return artefact.read(cache.folder(key), key, checked=True)


def _size(point: Mapping[str, Any]) -> tuple[Any, Any]:
    return point.get("macs"), point.get("params")
