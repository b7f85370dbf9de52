"""What a class's results can depend on in code: its file, and the files of its own that it imports.

Digests are of the syntax: comments, blank lines and docstrings change none. Nothing is imported
here; imports are read from the text, those inside functions too, and `import_module("a.name")`.
"""

import ast
import functools
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

_FORMAT = 2  # of the remembered file: raise it when a digest is made in another way
_MOST = 5000  # files remembered, those of the last digests
_SETTLED = 2 * 10**9  # nanoseconds after its last change
_known: dict[str, "_File"] = {}
_unsaved: set[str] = set()  # of _known, since the file was written
_loaded: set[Path] = set()


class _File(NamedTuple):
    """What is remembered of a file. imports: dotted names as they stand, dots of relative ones.

    ctime: an archive may set a file's mtime, but not this one.
    """

    size: int
    mtime: int
    ctime: int
    digest: str
    imports: tuple[str, ...]


class _Reach(NamedTuple):
    """What was reached before, as long as no file of it changed."""

    stamps: dict[Path, tuple[int, int, int] | None]
    digests: dict[str, str]


_reached: dict[tuple[str, ...], _Reach] = {}


def reached(module: str, files: Iterable[Path | str]) -> dict[str, str]:
    """Digests of the files of one's own that these reach by importing, themselves included.

    module: the dotted name under which a class was imported. files: those that it comes from. What
    lies in another distribution, in the standard library or in this package is not followed; of an
    installed package, what lies outside it. Else the class's own folder counts, those on PYTHONPATH
    and the one that one stands in. Returns {path relative to the folder that is on sys.path:
    SHA-256}, with "/".
    """
    given = [Path(file) for file in files]
    root = _root(given[0], module) if given else Path()
    roots = _roots(root)
    asked = (module, *map(str, (*given, *roots)))
    known = _reached.get(asked)
    if known is not None and all(
        stamp is not None and _stamp(path) == stamp for path, stamp in known.stamps.items()
    ):
        return dict(known.digests)
    found: dict[str, str] = {}
    own = module.split(".")[0] if _is_installed(root) else ""
    todo = [(path, root) for path in (*given, *_files(root, module, own))]
    seen = set()
    while todo:
        path, home = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        facts = _facts(path)
        within = path.is_relative_to(home)
        found[(path.relative_to(home) if within else Path(path.name)).as_posix()] = facts.digest
        if within:
            package = path.relative_to(home).parent.parts
            for name in facts.imports:
                absolute = _absolute(name, package)
                hits = ((place, _files(place, absolute, own)) for place in roots)
                place, more = next((hit for hit in hits if hit[1]), (home, []))
                todo += [(each, place) for each in more]
    _remember()
    found = dict(sorted(found.items()))
    _reached[asked] = _Reach({path: _stamp(path) for path in seen}, found)
    return dict(found)


def syntax(text: str) -> str:
    """One line for what a module does, equal for all versions of Python that parse it alike."""
    return _canonical(_without_docstrings(ast.parse(text)))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports, and for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            joint = "" if base.endswith(".") else "."
            yield from (f"{base}{joint}{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


def _absolute(name: str, package: tuple[str, ...]) -> str:
    """A name as imported by a module of `package`; "" of one that climbs out."""
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    kept = len(package) - dots + 1
    return ".".join([*package[:kept], name[dots:]]).rstrip(".") if kept > 0 else ""


def _files(root: Path, name: str, own: str) -> list[Path]:
    """The files that importing this runs, as far as they lie under `root`.

    own: of an installed package its name: beside it lie other distributions.
    """
    parts = name.split(".")
    if not name or parts[0] == "compressor" or (own and parts[0] != own):
        return []
    found = []
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        candidates = [place / "__init__.py", place.with_suffix(".py")]
        candidates += [place.with_name(place.name + suffix) for suffix in EXTENSION_SUFFIXES]
        found += [path for path in candidates if path.is_file()][:1]
    return found


def _root(file: Path, module: str) -> Path:
    """The folder from which `module` is imported: as many levels above its file as it has dots."""
    parts = module.split(".")
    for depth in range(len(parts), 0, -1):
        tail = Path(*parts[:depth])
        for path in (tail.with_suffix(".py"), tail / "__init__.py"):
            if file.parts[-len(path.parts) :] == path.parts:
                return file.parents[len(path.parts) - 1]
    return next((Path(p) for p in sys.path if p and file.is_relative_to(p)), file.parent)


def _roots(root: Path) -> list[Path]:
    """Folders in which a class of `root` finds modules of one's own, in the order of sys.path."""
    if _is_installed(root):
        return [root]
    words = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    places = [Path(word).absolute() for word in (*words, os.getcwd())]
    places = [place for place in dict.fromkeys(places) if not _is_installed(place)]
    return places if root in places else [root, *places]


@functools.cache
def _is_installed(root: Path) -> bool:
    """Whether distributions lie in there; with `pip install --target` it may be any folder."""
    if {"site-packages", "dist-packages"} & set(root.parts):
        return True
    return root.is_relative_to(sysconfig.get_path("stdlib")) or any(root.glob("*.dist-info"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Size and times of the last change; None of a file that is gone or may still change unseen."""
    try:
        status = path.stat()
    except OSError:
        return None
    if time.time_ns() - status.st_mtime_ns <= _SETTLED:
        return None
    return _times(status)


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


# -- one file -------------------------------------------------------------------------------------


def _facts(path: Path) -> _File:
    status = path.stat()
    known = _remembered().get(str(path))
    if known is not None and known[:3] == _times(status):
        return known
    content = path.read_bytes()
    names: tuple[str, ...] = ()
    if path.suffix == ".py":
        with suppress(SyntaxError, ValueError):  # then its bytes stand for it
            tree = ast.parse(content)
            names = tuple(sorted(set(imports(tree))))
            content = _canonical(_without_docstrings(tree)).encode()
    digest = hashlib.sha256(content).hexdigest()
    fresh = _File(*_times(status), digest, names)
    # a file of just now may change once more without a change of its time
    if time.time_ns() - status.st_mtime_ns > _SETTLED:
        _known[str(path)] = fresh
        _unsaved.add(str(path))
    return fresh


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    del node.body[0]
    return tree


def _canonical(node: object) -> str:
    # ast.dump lists fields that only some versions of Python have, and empty ones in some
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in ("kind", "type_comment")
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


# -- remembered from run to run -------------------------------------------------------------------


def _store() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "."), ".cache")
    return Path(base, "compressor", "code.json")


def _remembered() -> dict[str, _File]:
    path = _store()
    if path not in _loaded:
        _loaded.add(path)
        with suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept.get("format") == _FORMAT:
                for name, (*stamp, digest, names) in kept["files"].items():
                    _known.setdefault(name, _File(*stamp, digest, tuple(names)))
    return _known


def _remember() -> None:
    """A file that only saves time: one that cannot be written is passed over."""
    if not _unsaved:
        return
    _unsaved.clear()
    path = _store()
    files = dict(list(_known.items())[-_MOST:])
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.write_text(json.dumps({"format": _FORMAT, "files": files}), encoding="utf-8")
        os.replace(new, path)
