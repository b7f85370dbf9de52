"""Makes the object that a config sub-tree names; the one place where Hydra meets the methods."""

import copy
import functools
import hashlib
import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from compressor.errors import RunError, UsageError
from compressor.source_code import reached

# it prints what it raises; we say it in one line
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)


Method = TypeVar("Method")
_LIBRARIES = ("torch", "torchvision", "timm")


def make(tree: Mapping[str, Any]) -> Any:
    """`_target_` called with the sub-tree's other entries.

    A refusal of the constructor comes out as it was raised; a name that cannot be imported and an
    option that it does not take are usage errors.
    """
    try:
        return instantiate(dict(tree), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (UsageError, RunError)):
            raise cause from None
        reason = str(cause or error).splitlines()[0]
        raise UsageError(f"{tree.get('_target_')} cannot be made: {reason}") from error


def made(tree: Mapping[str, Any], interface: type[Method]) -> Method:
    """`make(tree)`, refused where it is none of the interface's kind."""
    found = make(tree)
    if not isinstance(found, interface):
        name = f"{interface.__module__}.{interface.__qualname__}"
        raise UsageError(
            f"{tree.get('_target_')} is no {name}: let the class inherit from it, whose empty "
            "hooks say what may be overridden"
        )
    return found


@dataclass(frozen=True)
class Chosen(Generic[Method]):
    """A method that a config group names, made once, beside the sub-tree by which keys know it."""

    method: Method
    tree: Mapping[str, Any]

    def fresh(self) -> Method:
        """A copy for one training: what a method learns in there is no part of the next one."""
        return copy.deepcopy(self.method)


def imported(name: str, told: str = "") -> Any:
    """What a dotted name stands for. told: how an error names it, where not by itself."""
    try:
        return get_object(name)
    except Exception as error:
        # Hydra's own words say where it happened; what happened is the cause
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if not isinstance(cause, ImportError):
            reason = f"{type(cause).__name__}: {reason}"
        raise UsageError(
            f"{told or name} cannot be imported ({reason}): check the name, and that its folder is "
            "on PYTHONPATH or the one you stand in"
        ) from error


def parameters(target: str) -> set[str]:
    """Names that the constructor of this class takes."""
    return set(inspect.signature(imported(target)).parameters)


def sources(tree: Any) -> dict[str, str]:
    """Digests of the code behind the classes that a sub-tree names, for the key of a stage.

    Of a user's own class: all files that it reaches in its own package or folder, on PYTHONPATH or
    in the folder that one stands in, by their path in there. An edited helper must not be answered
    with old results. Of ours: "version N" of a method that changed its figures since the first
    (`VERSION` in its module). Of torch, torchvision and timm: major and minor version.
    """
    found: dict[str, str] = {}
    for target in _targets(tree):
        module = inspect.getmodule(imported(target))
        if target.startswith("compressor."):
            version = vars(module).get("VERSION", 1)
            if version != 1:
                found[target] = f"version {version}"
            continue
        found.update(_code_behind(target, module))
    return found


def libraries(*names: str) -> dict[str, str]:
    """Major and minor version of each package, as they stand in keys: "2.11" of 2.11.3."""
    return {name: _release(name) for name in names}


def builders(factory: str) -> dict[str, str]:
    """Releases of the libraries that a network comes from, for a key. factory: dotted name."""
    return libraries("torch", *(["timm"] if factory == "compressor.models.timm" else []))


@functools.cache
def _release(name: str) -> str:
    return ".".join(metadata.version(name).split(".")[:2])


def _code_behind(target: str, module: ModuleType | None) -> dict[str, str]:
    package = target.split(".")[0]
    if package in _LIBRARIES:
        return libraries(package)
    file = Path(getattr(module, "__file__", None) or "")
    if module is None or not file.is_file():  # built in, or in an archive
        return {target: hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest()}
    return reached(module.__name__, [file, *_on_the_way(target)])


def _on_the_way(target: str) -> list[Path]:
    """Files of the modules that the dotted name itself goes through: they may re-export it."""
    parts = target.split(".")
    modules = [sys.modules.get(".".join(parts[:depth])) for depth in range(1, len(parts))]
    files = [Path(getattr(module, "__file__", None) or "") for module in modules if module]
    return [file for file in files if file.is_file()]


def _targets(tree: Any) -> list[str]:
    if isinstance(tree, Mapping):
        below = [name for value in tree.values() for name in _targets(value)]
        return [tree["_target_"], *below] if isinstance(tree.get("_target_"), str) else below
    if isinstance(tree, list | tuple):
        return [name for value in tree for name in _targets(value)]
    return []
