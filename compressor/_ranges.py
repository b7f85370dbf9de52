"""What each key that can be typed may hold: from declarations, before torch is imported.

A key below a class (`_target_`) is declared by its constructor, whose file is read and not imported
(`_signatures`), any other by `schema`. A key without a declaration has the type of its value in the
YAML file, and no range.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compressor.errors import UsageError
from compressor.options import Declared, declarations

# Groups whose shared options are those of one of their classes.
_SHARED = {
    "noise": "compressor.noise.symmetric.Symmetric",
    "scale": "compressor.scale.multiplier.Multiplier",
}
FOLDERS = (
    "dataset.root",
    "paths.outputs",
    "paths.data",
    "paths.cache",
    "cache.dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
)
# Class of an option -> the keys of which it needs one, and how they are typed.
_NEEDED = {
    "compressor.noise.file.File": (
        ("noise.file",),
        "noise=file needs the file of labels: type noise.file=labels.csv",
    ),
    "compressor.noise.matrix.Matrix": (
        ("noise.matrix", "noise.file"),
        "noise=matrix needs noise.matrix='[[...],...]' or noise.file=T.csv",
    ),
}
# Of distill.teacher.source: likewise.
_TEACHERS = {
    "artefact": ("distill.teacher.path", "outputs/runs/.../model"),
    "callable": ("distill.teacher.function", "my_package.predict"),
    "model": ("distill.teacher.model", "resnet56"),
}
# Terms that learn without a teacher; of a class of a user's own it is not known here.
_TEACHERLESS = ("compressor.distill.collaborative.", "compressor.distill.ensemble_net.")
# Options `none` that take what the others of their group are swept over, and read none of it.
_UNREAD = re.compile(r"compressor\.(prune|noise|scale)\.none\.")


def declared(key: str, config: Any = None) -> Declared | None:
    """What a key may hold; None where nothing declares it.

    config: the composed configuration, whose `_target_`s say which constructors are asked.
    """
    from compressor.schema import RunKeys  # the help needs neither it nor `_signatures`

    fields, node, found, unread = declarations(RunKeys), config, None, False
    for depth, part in enumerate(key.split(".")):
        target = _target(node)
        unread = unread or _UNREAD.match(target) is not None
        found = _below(fields, part, target)
        node = node.get(part) if isinstance(node, Mapping) and part in node else None
        fields = (found.fields if found else None) or {}
        if not depth and part in _SHARED:
            fields = _taken(_SHARED[part])
    return replace(found, rules=()) if found and unread else found


def _target(node: Any) -> str:
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return target if isinstance(target, str) else ""


def _taken(target: str) -> Mapping[str, Declared | None]:
    """What the constructor with this dotted name takes; "" stands for none."""
    from compressor._signatures import constructor

    return constructor(target) if target else {}


def _below(fields: Mapping[str, Declared | None], name: str, target: str) -> Declared | None:
    """A name's declaration by its group and by the class of this dotted name, where it has one."""
    shared, own = fields.get(name), _taken(target)
    if name not in own:
        return shared
    mine = own[name]
    if mine and shared and target.startswith("compressor."):
        return replace(mine, rules=tuple(dict.fromkeys((*mine.rules, *shared.rules))))
    return mine


def check(key: str, value: Any, config: Any = None) -> None:
    """Raise UsageError when a value of this key, or one below it, is outside its range.

    config: as for `declared`. Keys without a declaration pass.
    """
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check(f"{key}.{name}", entry, config)
    hold(key, value, config)


def hold(key: str, value: Any, config: Any = None) -> None:
    """`check` of the key alone, whatever stands below it."""
    empty = isinstance(value, str) and not value.strip()
    if key in FOLDERS and empty and not _is_foreign(key, config):
        raise UsageError(f"{key}= is empty: name a folder, or leave it out for the default")
    found = declared(key, config)
    for rule in found.rules if found else ():
        rule.check(key, value)


def _is_foreign(key: str, config: Any) -> bool:
    """Whether the key's group is a class of the user's own."""
    group = config.get(key.partition(".")[0]) if isinstance(config, Mapping) else None
    return not f"{_target(group)}.".startswith(("compressor.", "."))


def check_needs(groups: Mapping[str, Any], open_keys: Collection[str] = ()) -> None:
    """Raise UsageError when an option lacks the file, or the name, without which it is nothing.

    groups: the composed configuration, `noise` and `distill` of which are looked at, as plain
    values. open_keys: keys that get their values later, each of which is compared by itself.
    """
    target = (groups.get("noise") or {}).get("_target_")
    if target in _NEEDED:
        keys, line = _NEEDED[target]
        _check_given(groups, keys, line, open_keys)
    distill = groups.get("distill") or {}
    source = (distill.get("teacher") or {}).get("source")
    named = [str((term or {}).get("_target_")) for term in (distill.get("terms") or {}).values()]
    taught = any(
        name.startswith("compressor.distill.") and not name.startswith(_TEACHERLESS)
        for name in named
    )
    if taught and source in _TEACHERS and "distill.teacher.source" not in open_keys:
        key, example = _TEACHERS[source]
        line = f"distill.teacher.source={source} needs {key}, such as {example}"
        _check_given(groups, (key,), line, open_keys)


def _check_given(
    groups: Mapping[str, Any], keys: Sequence[str], line: str, open_keys: Collection[str]
) -> None:
    for key in keys:
        if any(key == each or key.startswith(f"{each}.") for each in open_keys):
            return
        node: Any = groups
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node:
            return
    raise UsageError(line)
