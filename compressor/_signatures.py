"""What a constructor takes, read from the file of its dotted name, which is not imported.

A method imports torch; its options are checked before that. An annotation is worked out from the
syntax tree where it is made of built-in types, of `typing`'s and `compressor.options`' names, of
numbers, and of constants and dataclasses of the same file or of one that it imports from. Any other
annotation declares nothing: then the value in the YAML file says what type is meant.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import operator
import os
import sys
import typing
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compressor import options
from compressor.options import Declared

# Modules whose names are taken as they are: importing them runs nothing that is not loaded.
_LOADED = MappingProxyType(
    {"typing": typing, "collections.abc": collections.abc, "compressor.options": options}
)
_TYPES = frozenset({"bool", "int", "float", "str", "list", "dict", "tuple", "set", "object"})
_OPERATORS = MappingProxyType(
    {
        ast.BitOr: operator.or_,
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: operator.pow,
    }
)
# What reading somebody's file may end in: it then declares nothing, and its import says why.
_UNREADABLE = (ImportError, LookupError, TypeError, ValueError, AttributeError, SyntaxError,
               OSError, RecursionError)  # fmt: skip

Found = Mapping[str, Declared | None]


def constructor(target: str) -> Found:
    """Parameter -> what it may hold, of the class or function with this dotted name.

    None: it has no annotation, or none that can be worked out. Empty where the name stands for
    nothing that can be read.
    """
    # where Python would look for it, and the folder that the user stands in
    return _constructor(target, (*sys.path, os.getcwd()))


@functools.cache
def _constructor(target: str, folders: tuple[str, ...]) -> Found:
    try:
        name, _, attribute = target.rpartition(".")
        return MappingProxyType(_parameters(*_definition(_module(name), attribute)))
    except _UNREADABLE:
        return MappingProxyType({})


class _Module:
    """A file's top-level names. `names`: those it binds; where twice, the last one counts."""

    def __init__(self, name: str, path: Path) -> None:
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.names: dict[str, ast.AST] = {}
        for node in _top_level(ast.parse(path.read_bytes()).body):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.names[node.name] = node
            elif isinstance(node, ast.Assign):
                for each in node.targets:
                    if isinstance(each, ast.Name):
                        self.names[each.id] = node.value
            elif (
                isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name)
            ):
                self.names[node.target.id] = node.value
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    self.names[alias.asname or alias.name] = node

    def source(self, node: ast.ImportFrom) -> str:
        """The module of a `from ... import`, whose dots are counted from this one."""
        if not node.level:
            return node.module or ""
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
        return ".".join([*above, *filter(None, [node.module])])


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those below `if TYPE_CHECKING:` and `try:` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _top_level([*node.body, *node.orelse])


def _module(name: str) -> _Module:
    """LookupError where no file of Python's has the name. Packages above it are not imported."""
    first, *parts = name.split(".")
    spec = _spec(first, None) or PathFinder.find_spec(first, [os.getcwd()])
    for part in parts:
        first = f"{first}.{part}"
        spec = _spec(first, list(spec.submodule_search_locations or ())) if spec else None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise LookupError(name)
    return _parsed(name, spec.origin, os.stat(spec.origin).st_mtime_ns)


@functools.cache
def _parsed(name: str, path: str, changed: int) -> _Module:
    return _Module(name, Path(path))


def _spec(name: str, folders: list[str] | None) -> ModuleSpec | None:
    found = (finder.find_spec(name, folders) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _definition(module: _Module, name: str) -> tuple[_Module, ast.AST]:
    """Where a name of a module is defined: there, or where it is imported from."""
    node = module.names[name]
    if isinstance(node, ast.ImportFrom):
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        return _definition(_module(module.source(node)), original)
    return module, node


def _parameters(module: _Module, node: ast.AST) -> dict[str, Declared | None]:
    if isinstance(node, ast.FunctionDef):
        return _arguments(module, node)
    if not isinstance(node, ast.ClassDef):
        raise LookupError("neither a class nor a function")
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            found = _arguments(module, each)
            found.pop(next(iter(found)))  # self
            return found
    if _is_dataclass(node):
        return _fields(module, node)
    for base in node.bases:
        try:
            return _parameters(*_definition(module, ast.unparse(base)))
        except LookupError:  # of another library: it may have none
            continue
    return {}


def _arguments(module: _Module, node: ast.FunctionDef) -> dict[str, Declared | None]:
    every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return {each.arg: _declared(module, each.annotation) for each in every}


def _fields(module: _Module, node: ast.ClassDef) -> dict[str, Declared | None]:
    found: dict[str, Declared | None] = {}
    for base in node.bases:
        found |= _fields(*_definition(module, ast.unparse(base)))  # type: ignore[arg-type]
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found[each.target.id] = _declared(module, each.annotation)
    return found


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def _declared(module: _Module, hint: ast.expr | None) -> Declared | None:
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        hint = ast.parse(hint.value, mode="eval").body
    try:
        return None if hint is None else Declared.of(_value(module, hint))
    except _UNREADABLE:
        return None


def _value(module: _Module, node: ast.AST) -> Any:
    """What an expression stands for; LookupError for one that would have to be run."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _named(module, node.id)
    if isinstance(node, ast.Attribute):  # typing.Literal, options.Range
        return getattr(_LOADED[_imported(module, ast.unparse(node.value))], node.attr)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(module, each) for each in node.elts)
    if isinstance(node, ast.Subscript):
        return _value(module, node.value)[_value(module, node.slice)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(module, node.operand)
    if isinstance(node, ast.BinOp):
        known = _OPERATORS[type(node.op)]
        return known(_value(module, node.left), _value(module, node.right))
    if isinstance(node, ast.Call):
        made = _value(module, node.func)
        if not (isinstance(made, type) and made.__module__ == options.__name__):
            raise LookupError(ast.unparse(node))
        given = (_value(module, each) for each in node.args)
        return made(*given, **{str(e.arg): _value(module, e.value) for e in node.keywords})
    raise LookupError(ast.unparse(node))


def _named(module: _Module, name: str) -> Any:
    node = module.names.get(name)
    if node is None and name in _TYPES:
        return getattr(builtins, name)
    if isinstance(node, ast.ImportFrom) and module.source(node) in _LOADED:
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        return getattr(_LOADED[module.source(node)], original)
    module, node = _definition(module, name)
    if isinstance(node, ast.ClassDef) and _is_dataclass(node):
        return type(node.name, (), {"declared": MappingProxyType(_fields(module, node))})
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Import):
        raise LookupError(name)
    return _value(module, node)


def _imported(module: _Module, name: str) -> str:
    """The dotted name of a module by its name in another one."""
    node = module.names[name]
    (alias,) = (a for a in node.names if (a.asname or a.name) == name)  # type: ignore[attr-defined]
    if isinstance(node, ast.ImportFrom):
        return f"{module.source(node)}.{alias.name}"
    return alias.name
