"""Makes the object that a config sub-tree names; the one place where Hydra meets the methods."""

import hashlib
import inspect
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from compressor.errors import RunError, UsageError

# it prints what it raises; we say it in one line
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)


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


def imported(name: str, told: str = "") -> Any:
    """What a dotted name stands for. told: how an error names it, where not by itself."""
    try:
        return get_object(name)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{told or name} cannot be imported ({reason}): check the name, and that its folder is "
            "on PYTHONPATH or the one you stand in"
        ) from error


def parameters(target: str) -> set[str]:
    """Names that the constructor of this class takes."""
    return set(inspect.signature(imported(target)).parameters)


def sources(tree: Any) -> dict[str, str]:
    """Digests of the files behind the classes of a user's own that a sub-tree names.

    They belong to a stage's key: an edited class must not be answered with its old results. Our own
    code is covered by the stages' versions.
    """
    found: dict[str, str] = {}
    for target in _targets(tree):
        if target.startswith("compressor."):
            continue
        file = Path(getattr(inspect.getmodule(imported(target)), "__file__", None) or "")
        code = file if file.is_file() else Path(sys.executable)  # built in, or in an archive
        found[target] = hashlib.sha256(code.read_bytes()).hexdigest()
    return found


def _targets(tree: Any) -> list[str]:
    if isinstance(tree, Mapping):
        below = [name for value in tree.values() for name in _targets(value)]
        return [tree["_target_"], *below] if isinstance(tree.get("_target_"), str) else below
    if isinstance(tree, list | tuple):
        return [name for value in tree for name in _targets(value)]
    return []
