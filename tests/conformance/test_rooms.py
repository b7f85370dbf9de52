"""Imports go one way through the rooms, and heavy packages stay out of the start-up."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "compressor"
METHODS = ("prune", "robust", "regularize", "distill", "noise", "scale", "pretrain")
# What a room may import of this package, beside itself and what everyone may.
ALLOWED = {
    "sizes": set(),
    "options": {"sizes"},
    "schema": set(),
    "durations": set(),
    "surgery": set(),
    "taps": set(),
    "measure": set(),
    "timing": set(),
    "models": set(),
    "data": set(),
    "prune": {"surgery", "taps"},
    "robust": set(),
    "loop": set(),
    "regularize": set(),
    "distill": {"taps", "loop"},
    "noise": set(),
    "pretrain": set(),
    "scale": {"models"},
    "tasks": {"taps", "loop", "distill", "regularize", "robust"},
    "export": {"artefact", "manifest", "surgery", "data", "tasks"},
    "explain": {"artefact", "cache", "manifest", "instantiation", "data", "tasks"},
    "automatic": {"data"},
    "report": {"automatic"},
    "manifest": set(),
    "locks": set(),
    "sessions": {"locks"},
    "artefact": {"manifest", "rebuilding", "surgery", "models", "data"},
    "rebuilding": {"artefact", "manifest", "surgery", "models"},
    "eviction": {"locks", "manifest", "sessions"},
    "cache": {"artefact", "eviction", "locks", "manifest", "sessions", "sizes"},
    "source_code": set(),
    "brought": set(),
    "instantiation": {"source_code"},
    "changed_code": {"cache", "manifest"},
    "latency": {
        *("artefact", "cache", "environment", "instantiation", "locks", "manifest", "measure"),
        *("surgery", "timing", "stages"),  # the last one for a type alone
    },
    "run_latency": {"artefact", "experiment", "latency"},
    "sweep_latency": {"artefact", "cache", "latency", "manifest", "members", "models", "report"},
    "starting": {"artefact", "data", "instantiation", "manifest", "models", "surgery"},
    "checks": {"instantiation", "stages", "starting"},
    "experiment": {
        *("checks", "instantiation", "stages", "tasks", "models", "data", "noise", "robust"),
        *("regularize", "artefact", "automatic", "brought", "cache", "changed_code", "manifest"),
        *("export", "explain", "starting", "surgery"),
    },
    "plan": {
        "experiment",
        "instantiation",
        "stages",
        "robust",
        "artefact",
        "cache",
        "changed_code",
        "starting",
    },
}
EVERYONE = {"errors", "seeding", "options", "schema", "durations"}


def files(room):
    place = PACKAGE / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [PACKAGE / f"{room}.py"]


def imported(path):
    """Dotted names that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    for path in files(room):
        for name in imported(path):
            if name.startswith("compressor."):
                other = name.split(".")[1]
                assert other in {room, *EVERYONE, *ALLOWED[room]}, f"{path.name} imports {name}"


@pytest.mark.parametrize("room", METHODS)
def test_methods_know_neither_hydra_nor_lightning(room):
    for path in files(room):
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"hydra", "omegaconf", "pytorch_lightning"}, path.name


def test_only_the_stages_and_the_edge_meet_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        names = {name for name in imported(path) if name.startswith("compressor.run.")}
        names -= {name for name in names if name.startswith("compressor.run_folder")}
        assert not names or path.name == "run.py", f"{path.name} imports {names}"
