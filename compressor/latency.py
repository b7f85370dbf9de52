"""Latency of networks: measured on this machine, in turns, and remembered for it.

It is no part of a stage's artefact: its key holds the machine. What is measured is the ratio to the
dense network that takes its turns beside; a ratio that the machine's noise hides is said to be
unsteady and not remembered. The networks of a run are measured at its end (`run_latency`), those of
a sweep together when all are done (`sweep_latency`).
"""

import math
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressor import environment, manifest, measure, timing
from compressor.artefact import Artefact
from compressor.cache import Cache, key_of
from compressor.errors import RunError
from compressor.instantiation import builders, sources
from compressor.locks import Locks
from compressor.surgery import EMPTY_PLAN

if TYPE_CHECKING:
    from compressor.stages import Machine

VERSION = 3
TRIES = 3  # sessions of a network, until its ratio is steady
MOST = 16  # networks in a session, the dense one among them
BYTES = 2e9  # of weights in a session; the dense network and one other are always taken
LIMIT = 600.0  # seconds for all sessions together
NOTHING: Mapping[str, Any] = {"latency_ms": None, "latency_ratio": None}


@dataclass(frozen=True)
class Conditions:
    """How networks are timed. seconds: of a session of two; each network more takes half of it."""

    batch_size: int
    threads: int
    seconds: float


@dataclass(frozen=True)
class Subject:
    """A network to be timed. Those of one name are equal work, whichever channels were kept."""

    name: str
    size: tuple[int, int, int]
    bytes: int
    build: Callable[[], nn.Module]

    @classmethod
    def of(cls, made: Artefact, trust: tuple[str, ...]) -> "Subject":
        return cls._of(made, made.shapes(), trust, lambda: made.network(trust))

    @classmethod
    def dense(cls, made: Artefact, trust: tuple[str, ...]) -> "Subject":
        """The network before any cut, with whatever weights."""
        net = made.spec.build(trust)
        shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        uncut = replace(made, plan=EMPTY_PLAN)
        return cls._of(uncut, shapes, trust, lambda: made.spec.build(trust).eval())

    @classmethod
    def _of(
        cls,
        made: Artefact,
        shapes: Mapping[str, tuple[int, ...]],
        trust: tuple[str, ...],
        build: Callable[[], nn.Module],
    ) -> "Subject":
        # Tensors of equal sizes are equal work: one measurement serves the stages of a run, and
        # the criteria and seeds of a sweep that keep as many channels. A cut is in the sizes, and a
        # mask changes no work; what else was done to the network is told by its operation.
        operations = [each.to_json() for each in made.plan.operations if not each.in_sizes]
        name = key_of(
            spec=made.spec.to_json(),
            # An edited class of the user's own is another network. One that is not trusted is not
            # imported to look at its file: building it is refused.
            code=sources({"_target_": made.spec.factory}) if made.spec.factory in trust else {},
            libraries=builders(made.spec.factory),
            shapes=shapes,
            operations=operations,
        )
        numbers = sum(math.prod(shape) for shape in shapes.values())
        return cls(name, made.spec.input_size, 4 * numbers, build)


Pair = tuple[Subject, Subject]  # the dense network, and one that came of it


def dense_of(subjects: Mapping[str, Subject]) -> Subject:
    """The dense network among those of a run, by point; a run that only trains ends with it."""
    return subjects.get("dense", subjects["final"])


class Clock:
    """Times networks in sessions and remembers what was steady.

    cache: where earlier measurements are looked up and steady ones kept; fresh: all is measured
    anew and replaces them, as far as the time suffices. limit: seconds inside forwards, of all
    sessions together.

    A session holds the dense network and at most 15 others; more networks make more sessions, which
    the ratio to the dense network joins: milliseconds are that ratio times the dense network's, of
    which there is one measurement alone. Where several dense networks meet (two models of a sweep),
    these are timed in a session of their own first.
    """

    def __init__(
        self,
        conditions: Conditions,
        cache: Cache,
        note: Callable[[str], None],
        fresh: bool = False,
        limit: float = LIMIT,
    ) -> None:
        self.conditions, self.cache, self.note, self.fresh = conditions, cache, note, fresh
        self.limit = limit
        self.spent = 0.0
        self.timed: set[str] = set()  # names of networks that were timed by this very clock
        self._store = cache.forgetful() if fresh else cache
        self._base: dict[str, dict[str, Any]] = {}  # milliseconds of dense networks, by name
        self._ratios: dict[tuple[str, str], dict[str, Any]] = {}

    def figures(self, dense: Subject, subject: Subject) -> dict[str, Any]:
        """A point's figures; NOTHING where the time did not suffice."""
        base = self._base.get(dense.name)
        found = _ITSELF if subject.name == dense.name else self._ratios.get(_pair(dense, subject))
        if base is None or found is None:
            return dict(NOTHING)
        median = base["median"]
        low, high = found["spread"] or (base["low"] / median, base["high"] / median)
        return {
            "latency_ms": {
                "median": found["median"] * median,
                "low": low * median,
                "high": high * median,
                "batch_size": self.conditions.batch_size,
                "threads": self.conditions.threads,
                "steady": base["steady"] and found["steady"],
            },
            "latency_ratio": {name: found[name] for name in ("median", "low", "high", "steady")},
        }

    def measure(self, pairs: Iterable[Pair]) -> None:
        """See to it that the figures of all pairs are there, as far as the time suffices."""
        pairs = list({(_pair(*pair)): pair for pair in pairs}.values())
        if not self._missing(pairs):
            return
        with alone(self.note):
            # another process may have measured them meanwhile
            missing = self._missing(pairs)
            if missing:
                self._measure(missing)

    # -- sessions ---------------------------------------------------------------------------------

    def _missing(self, pairs: Sequence[Pair]) -> list[Pair]:
        for dense, subject in pairs:
            if dense.name not in self._base and (base := self._recall(dense, dense)):
                self._base[dense.name] = base
            pair = _pair(dense, subject)
            if subject.name == dense.name or pair in self._ratios:
                continue
            if found := self._recall(dense, subject):
                self._ratios[pair] = found
        return [pair for pair in pairs if self.figures(*pair) == NOTHING]

    def _measure(self, missing: Sequence[Pair]) -> None:
        denses = {dense.name: dense for dense, _ in missing}
        known = [dense for dense in denses.values() if dense.name in self._base]
        first = known[0] if known else next(iter(denses.values()))
        plan = self._plan(missing, first, denses)
        self._announce(plan)
        asked = [self._seconds(1 + len(part)) for _, part in plan]
        # half of the time at most for the first tries: the rest is for what was unsteady
        scale = min(1.0, max(self.limit, 0.0) / 2 / sum(asked))
        for place, (dense, part) in enumerate(plan):
            if self.spent >= self.limit:
                break
            self._session(dense, part, scale, self.limit - scale * sum(asked[place + 1 :]))
            self._join(first, list(denses.values()))
        lost = len(self._missing(missing))
        self.fresh = False  # what was measured before is still better than nothing
        self._missing(missing)
        if lost:
            self.note(
                f"latency: {lost} networks were left out, as {LIMIT / 60:.0f} minutes are over"
            )

    def _plan(
        self, missing: Sequence[Pair], first: Subject, denses: Mapping[str, Subject]
    ) -> list[tuple[Subject, list[Subject]]]:
        """The sessions: a dense network, and those that take turns with it."""
        unknown = [d for d in denses.values() if d is not first and d.name not in self._base]
        plan = [(first, part) for part in _parts(first, unknown)]
        for dense in denses.values():
            others = [
                subject
                for its, subject in missing
                if its.name == dense.name != subject.name
                and _pair(its, subject) not in self._ratios
            ]
            plan += [(dense, part) for part in _parts(dense, others)]
        if first.name not in self._base and not any(dense is first for dense, _ in plan):
            plan.append((first, []))
        return plan

    def _announce(self, plan: Sequence[tuple[Subject, list[Subject]]]) -> None:
        networks = len({each.name for dense, part in plan for each in (dense, *part)})
        if networks <= 2:
            return  # a run of its own: a few seconds
        seconds = min(LIMIT, sum(self._seconds(1 + len(part)) for _, part in plan))
        most = max(dense.bytes + sum(each.bytes for each in part) for dense, part in plan)
        self.note(
            f"latency: {networks} networks take turns in {len(plan)} "
            f"session{'' if len(plan) == 1 else 's'}, about {math.ceil(seconds)} s (on a busy "
            f"machine up to {LIMIT / 60:.0f} minutes) and {most / 1e9:.2f} GB of weights"
        )

    def _seconds(self, networks: int) -> float:
        return self.conditions.seconds * max(1.0, networks / 2)

    def _session(self, dense: Subject, part: Sequence[Subject], scale: float, until: float) -> None:
        """Time networks beside a dense one, up to `TRIES` times those that stay unsteady.

        until: a further try begins and ends before so many seconds of all sessions.
        """
        left = list(part)
        for attempt in range(TRIES):
            if attempt and self.spent >= until:
                break
            nets = {each.name: each for each in (dense, *left)}
            times, spent = measure.rounds(
                {name: each.build() for name, each in nets.items()},
                {name: each.size for name, each in nets.items()},
                self.conditions.batch_size,
                threads=self.conditions.threads,
                seconds=scale * self._seconds(len(nets)),
                limit=self.limit - self.spent,
            )
            self.spent += spent
            self.timed |= nets.keys()
            self._keep_base(dense, timing.milliseconds(times[dense.name]))
            for each in left:
                self._keep_ratio(dense, each, _compared(times[each.name], times[dense.name]))
            left = [each for each in left if not self._ratios[_pair(dense, each)]["steady"]]
            if not left:
                break

    def _join(self, first: Subject, denses: Sequence[Subject]) -> None:
        """Milliseconds of further dense networks, by their ratio to the first one."""
        base = self._base[first.name]
        for dense in denses:
            found = self._ratios.get(_pair(first, dense))
            if found is not None and dense.name not in self._base:
                joined = {
                    "median": found["median"] * base["median"],
                    "low": found["spread"][0] * base["median"],
                    "high": found["spread"][1] * base["median"],
                    "steady": base["steady"] and found["steady"],
                }
                self._keep_base(dense, joined)

    # -- what is remembered -----------------------------------------------------------------------

    def _keep_base(self, dense: Subject, found: dict[str, Any]) -> None:
        """A dense network has one figure: the first steady one, else the first."""
        before = self._base.get(dense.name)
        if before is None or (found["steady"] and not before["steady"]):
            self._base[dense.name] = found
            if found["steady"]:
                self._remember(dense, dense, found)

    def _keep_ratio(self, dense: Subject, subject: Subject, found: dict[str, Any]) -> None:
        self._ratios[_pair(dense, subject)] = found
        if found["steady"]:
            self._remember(dense, subject, found)

    def _key(self, dense: Subject, subject: Subject) -> str:
        return key_of(
            stage="latency",
            dense=dense.name,
            network=subject.name,
            batch_size=self.conditions.batch_size,
            seconds=self.conditions.seconds,
            threads=self.conditions.threads,
            **_here(),
        )

    def _recall(self, dense: Subject, subject: Subject) -> dict[str, Any]:
        """What an earlier measurement found steady; empty without one."""
        if self.fresh:
            return {}
        key = self._key(dense, subject)
        self.cache.session.uses(key)  # before the look: from here on nobody takes it away
        if not self.cache.holds(key):
            return {}
        self.cache.session.record(key, "reused", "latency", self.cache.run)
        return manifest.read_json(self.cache.folder(key) / "latency.json")

    def _remember(self, dense: Subject, subject: Subject, found: Mapping[str, Any]) -> None:
        def write(folder: Path) -> None:
            manifest.write_json(folder / "latency.json", dict(found))

        self._store.obtain(self._key(dense, subject), "latency", write)


_ITSELF = {"median": 1.0, "low": 1.0, "high": 1.0, "steady": True, "spread": None}


def _pair(dense: Subject, subject: Subject) -> tuple[str, str]:
    return dense.name, subject.name


def _compared(ours: Sequence[float], dense: Sequence[float]) -> dict[str, Any]:
    """The paired ratio, and the network's own spread in the dense network's medians."""
    own, base = timing.milliseconds(ours), timing.milliseconds(dense)["median"]
    return {**timing.ratio(ours, dense), "spread": [own["low"] / base, own["high"] / base]}


def _parts(dense: Subject, others: Sequence[Subject]) -> list[list[Subject]]:
    """The others in as few sessions as hold them beside the dense network."""
    parts: list[list[Subject]] = []
    for each in others:
        full = not parts or len(parts[-1]) + 2 > MOST
        if full or dense.bytes + each.bytes + sum(o.bytes for o in parts[-1]) > BYTES:
            parts.append([])
        parts[-1].append(each)
    return parts


# -- a budget of latency --------------------------------------------------------------------------


def in_turns(
    dense: nn.Module,
    small: nn.Module,
    input_size: tuple[int, int, int],
    machine: "Machine",
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Median milliseconds a batch of two networks on the CPU, and the steady ratio of the two.

    Returns {"dense", "small": milliseconds, "share": their paired ratio, "interval"}. RunError
    when it is unsteady after `TRIES` tries: nothing is decided by chance.
    """
    nets = {"dense": dense, "small": small}
    with alone(note):
        for _ in range(TRIES):
            times, _ = measure.rounds(
                nets,
                dict.fromkeys(nets, input_size),
                machine.latency_batch_size,
                threads=torch.get_num_threads(),
                seconds=machine.latency_seconds,
                limit=LIMIT / TRIES,
            )
            found = timing.ratio(times["small"], times["dense"])
            if found["steady"]:
                break
    if not found["steady"]:
        raise RunError(
            f"prune.budget.latency cannot be decided: {found['median']:.3f} of the dense latency "
            f"has a 95 % interval of {found['low']:.3f} to {found['high']:.3f} after {TRIES} "
            "tries, as this machine is busy: run again when it is idle, give "
            "machine.latency_seconds more, or take prune.budget.macs"
        )
    return {
        **{name: timing.milliseconds(each)["median"] for name, each in times.items()},
        "share": found["median"],
        "interval": [found["low"], found["high"]],
    }


def facts(machine: "Machine") -> dict[str, Any]:
    """What a decision by latency depends on beside the networks; plain values, for a key."""
    return {
        **_here(),
        "threads": torch.get_num_threads(),
        "batch_size": machine.latency_batch_size,
        "seconds": machine.latency_seconds,
    }


@contextmanager
def alone(note: Callable[[str], None] = lambda line: None):
    """No two processes of one user measure at the same time on one machine."""
    folder = Path(tempfile.gettempdir()) / f"compressor-{os.getuid()}"
    remedy = (
        "latency is measured by one process at a time, which takes a lock there; set TMPDIR to a "
        "folder that can be written, or machine.latency_seconds=0"
    )
    locks = Locks(folder, "lock", remedy=remedy)
    with locks.hold("latency", lambda: note("latency: another process is measuring; waiting")):
        yield


def _here() -> dict[str, Any]:
    """Parts of a key: how is measured, on what, by which runtime."""
    return {
        "timing": VERSION,
        "machine": {
            "host": socket.gethostname(),
            "processor": environment.processor(),
            "cores": os.cpu_count(),
            "platform": platform.machine(),
        },
        "runtime": {"name": "torch eager", "version": torch.__version__},
    }
