"""The content-addressed store of finished stages.

A key is a digest of everything a stage can depend on. An entry is a folder named by its key; it is
written under another name and renamed when it is complete, so a folder that exists is complete.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor import artefact
from compressor.artefact import Artefact
from compressor.errors import RunError, UsageError


def key_of(**parts: Any) -> str:
    """The key of a stage: 20 hex digits of the digest of its parts (plain values only)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Cache:
    """Entries under one folder.

    reuse: False looks nothing up (every stage is computed), but still keeps what is made.
    """

    def __init__(self, root: Path, reuse: bool = True) -> None:
        self.root = root
        self.reuse = reuse
        self.notices: list[str] = []
        self._checked: set[str] = set()  # entries that this process has verified or made

    def folder(self, key: str) -> Path:
        return self.root / key

    def holds(self, key: str) -> bool:
        """Whether an undamaged entry is there; a damaged one is put aside and reported."""
        folder = self.folder(key)
        if not self.reuse or not folder.is_dir():
            return False
        if key in self._checked:
            return True
        try:
            artefact.verify(folder)
        except (RunError, UsageError) as error:
            self.notices.append(f"cache entry {key} is not used and will be made again: {error}")
            shutil.rmtree(folder, ignore_errors=True)
            return False
        self._checked.add(key)
        return True

    def read(self, key: str) -> Artefact:
        """The entry as an artefact; checked once a process."""
        return artefact.read(self.folder(key), key, checked=key in self._checked)

    @contextmanager
    def publish(self, key: str) -> Iterator[Path]:
        """A folder to write the entry into; it becomes the entry when the block ends well."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self.root))
        except OSError as error:
            raise RunError(
                f"cannot write to {self.root} ({error.strerror}): set cache.dir= or paths.outputs= "
                "to a folder that can be written"
            ) from None
        try:
            yield temporary
            artefact.seal(temporary)
            self._rename(temporary, self.folder(key))
            self._checked.add(key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _rename(self, temporary: Path, folder: Path) -> None:
        if not self.reuse:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            # mkdtemp makes folders private; entries are as readable as their surroundings
            temporary.chmod(0o777 & ~_umask())
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process published the same entry first
                raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
