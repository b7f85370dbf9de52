"""What a stage's or method's version stands for: a digest of the code that it reaches in its room.

Run: .venv/bin/python tests/conformance/digests.py    records the digests as they are now.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

import compressor
from compressor import source_code

PACKAGE = Path(compressor.__file__).parent
CONFIGS = Path(__file__).parents[2] / "configs"
FILE = Path(__file__).with_name("digests.json")
ROOMS = ("prune", "distill", "noise", "robust", "regularize", "scale", "pretrain", "tasks")


def digests() -> dict[str, dict[str, int | str]]:
    """Dotted name of a stage's or method's module -> its version and digest."""
    return {
        name: {"version": version(name), "digest": digest(name)}
        for name in sorted({*stages(), *methods()})
    }


def stages() -> Iterator[str]:
    """Every module with a version of its own outside the rooms of methods."""
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        if room not in ROOMS and any(True for _ in _versions(path)):
            yield _name(path)


def methods() -> Iterator[str]:
    """The module of every `_target_` that the YAML files of the rooms name."""
    for path in CONFIGS.glob("*/*.yaml"):
        for target in _targets(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if target.startswith("compressor.") and target.split(".")[1] in ROOMS:
                yield target.rpartition(".")[0]


def digest(name: str) -> str:
    """Of the syntax of the module and of all that it imports, in turn, from its own room."""
    room = name.split(".")[1]
    todo, seen = [_file(name)], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for other in source_code.imports(ast.parse(path.read_text(encoding="utf-8"))):
            if other.split(".")[:2] == ["compressor", room] and (found := _file(other)):
                todo.append(found)
    text = "\n".join(
        f"{_name(path)} {source_code.syntax(path.read_text(encoding='utf-8'))}"
        for path in sorted(seen)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version(name: str) -> int:
    return next(_versions(_file(name)), 1)


def _versions(path: Path) -> Iterator[int]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in ("VERSION", "MEASURE_VERSION"):
                yield ast.literal_eval(node.value)


def _targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)


def _file(name: str) -> Path | None:
    place = PACKAGE.joinpath(*name.split(".")[1:])
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["compressor", *(part for part in parts if part != "__init__")])


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=1) + "\n", encoding="utf-8")
