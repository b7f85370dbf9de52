"""Names the edited file where a stage that was done before has to be made again because of it.

`.code/NAME.json` in the cache: for all that a stage depends on but code, the key that it had when
it was last made or reused, and the digests of the user's own files behind it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor import manifest
from compressor.cache import Cache, key_of
from compressor.errors import RunError

FOLDER = ".code"


@dataclass(frozen=True)
class Origin:
    """name: a key of all but code. files: digests of the code behind a stage and its ancestors."""

    name: str
    files: Mapping[str, str] = field(default_factory=dict)


class Origins:
    """Where the keys of one plan come from. `made` is told of each key before what builds on it."""

    def __init__(self) -> None:
        self._of: dict[str, Origin] = {}

    def add(
        self,
        key: str,
        files: Mapping[str, str],
        above: Mapping[str, str],
        data: Origin,
        others: Mapping[str, Any],
    ) -> str:
        """Note the origin of `key` and return the key.

        files: digests of the code that it names itself. above: role -> key of what it is made
        from; a key that is not known stands for itself. data: the origin of what it reads. others:
        all else that it depends on, plain values.
        """
        origins = {role: self._of.get(name, Origin(name)) for role, name in above.items()}
        name = key_of(
            above={role: origin.name for role, origin in origins.items()}, data=data.name, **others
        )
        inherited = [origin.files for origin in (data, *origins.values())]
        self._of[key] = Origin(
            name, {k: v for part in (*inherited, files) for k, v in part.items()}
        )
        return key

    def remember(self, cache: Cache, key: str) -> None:
        """Note in the cache that `key` is there. A note that cannot be written is none."""
        origin = self._of[key]
        if not origin.files:
            return
        with suppress(OSError):
            (cache.root / FOLDER).mkdir(exist_ok=True)
            note = {"key": key, "files": dict(origin.files)}
            manifest.write_json(cache.root / FOLDER / f"{origin.name}.json", note)

    def changed(self, cache: Cache, key: str) -> list[str]:
        """Files that changed since this stage was done with all else equal; [] if it never was."""
        origin = self._of[key]
        path = cache.root / FOLDER / f"{origin.name}.json"
        if not origin.files or not path.is_file():
            return []
        try:
            note = manifest.read_json(path)
            before, known = dict(note["files"]), str(note["key"])
        except (RunError, OSError, KeyError, TypeError, ValueError):
            return []
        if known == key:
            return []
        edited = [n for n, digest in origin.files.items() if before.get(n, digest) != digest]
        # with nothing edited, a file came or went by itself
        return sorted(edited or {*before} ^ {*origin.files})


def sweep(root: Path, left: set[str]) -> None:
    """Take away the notes of entries that are gone. left: keys of those that are still there."""
    for path in (root / FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, AttributeError):
            if json.loads(path.read_text(encoding="utf-8")).get("key") not in left:
                path.unlink()
