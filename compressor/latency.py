"""Latency of a run's networks: measured on this machine, serially, and remembered for it.

It is no part of a stage's artefact: its key holds the machine. In a sweep whose members run side by
side it is measured when they are done.
"""

import json
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressor import environment, manifest, measure, models
from compressor.artefact import Artefact
from compressor.cache import Cache, key_of
from compressor.instantiation import sources
from compressor.locks import Locks

if TYPE_CHECKING:
    from compressor.experiment import Experiment
    from compressor.stages import Machine

VERSION = 2


def of_run(
    experiment: "Experiment", artefacts: Iterable[Artefact]
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Milliseconds a batch of every distinct network of a run, measured in turns, by its key.

    And whether another run measured them before.
    """
    machine = experiment.machine
    if not machine.latency_seconds:
        return {}, False
    return _measure(
        list(artefacts),
        experiment.cache,
        experiment.trust,
        batch_size=machine.latency_batch_size,
        threads=torch.get_num_threads(),
        seconds=machine.latency_seconds,
        note=experiment.note,
    )


def _measure(
    artefacts: list[Artefact],
    cache: Cache,
    trust: tuple[str, ...],
    *,
    batch_size: int,
    threads: int,
    seconds: float,
    note: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], bool]:
    # Tensors of equal sizes are equal work, whichever channels were kept: one measurement serves
    # the stages of a run, and the criteria and seeds of a sweep that keep as many of them.
    shapes = {made.key: key_of(shapes=made.shapes()) for made in artefacts}
    first = {shapes[made.key]: made for made in reversed(artefacts)}
    key = key_of(
        stage="latency",
        version=VERSION,
        shapes=sorted(first),
        spec=artefacts[0].spec.to_json(),
        # an edited class of the user's own is another network
        code=sources({"_target_": artefacts[0].spec.factory}),
        batch_size=batch_size,
        seconds=seconds,
        threads=threads,
        machine=_machine(),
    )

    def take(folder: Path) -> None:
        nets: Mapping[str, nn.Module] = {s: made.network(trust) for s, made in first.items()}
        size = artefacts[0].spec.input_size
        with alone(note):
            measured = measure.latency(
                nets, size, batch_size=batch_size, threads=threads, seconds=seconds
            )
        manifest.write_json(folder / "latency.json", measured)

    reused = cache.obtain(key, "latency", take)
    measured = manifest.read_json(cache.folder(key) / "latency.json")
    return {name: measured[shape] for name, shape in shapes.items()}, reused


def in_turns(
    dense: nn.Module,
    small: nn.Module,
    input_size: tuple[int, int, int],
    machine: "Machine",
    note: Callable[[str], None],
) -> dict[str, float]:
    """Median milliseconds a batch of two networks on the CPU, {"dense", "small"}."""
    with alone(note):
        measured = measure.latency(
            {"dense": dense, "small": small},
            input_size,
            batch_size=machine.latency_batch_size,
            threads=torch.get_num_threads(),
            seconds=machine.latency_seconds,
        )
    return {name: spread["median"] for name, spread in measured.items()}


def facts(machine: "Machine") -> dict[str, Any]:
    """What a decision by latency depends on beside the networks; plain values, for a key."""
    return {
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "batch_size": machine.latency_batch_size,
        "seconds": machine.latency_seconds,
    }


def complete(sweep_dir: Path, note: Callable[[str], None] = lambda line: None) -> None:
    """Measure what the members of a sweep left, one after another, into their reports."""
    from compressor.report import run as run_report

    for path in sorted(sweep_dir.rglob("report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        config = report["config"]
        seconds = config["machine"]["latency_seconds"]
        if not seconds or all(point.get("latency_ms") for point in report["points"].values()):
            continue
        cache = Cache.of(config["cache"], path.parent, note)
        found, reused = _measure(
            [cache.read(stage["key"]) for stage in report["stages"]],
            cache,
            models.trusted(config["model"]["_target_"]),
            batch_size=config["machine"]["latency_batch_size"],
            threads=config["machine"]["threads"] or torch.get_num_threads(),
            seconds=seconds,
            note=note,
        )
        by_point = {stage["point"]: found[stage["key"]] for stage in report["stages"]}
        for name, point in report["points"].items():
            point["latency_ms"] = by_point.get(name, by_point["final"])
        report["latency_reused"] = reused
        fresh = path.with_suffix(".json.part")
        fresh.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, path)
        run_report.write(path.parent, draw=(path.parent / "figures").is_dir())


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


def _machine() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "processor": environment.processor(),
        "cores": os.cpu_count(),
        "platform": platform.machine(),
        "torch": torch.__version__,
    }
