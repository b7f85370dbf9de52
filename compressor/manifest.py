"""The list of a folder's files with their sizes and checksums: what is not in it is not trusted.

`manifest.json` carries a checksum of itself, so that no byte of a sealed folder can change, be lost
or be cut off without being noticed.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from compressor.errors import RunError, UsageError, foreign

FORMAT = 2
NAME = "manifest.json"
# A description is text that a person could read; anything larger is not one of ours. As values in
# memory it may take twenty times as much.
MAX_JSON_BYTES = 16 * 2**20
_MAX_FILES = 10_000
_MAX_NAME = 1000  # characters of a file's path inside its folder


class OtherVersion(UsageError):
    """A sealed folder that another version of this package wrote."""


def seal(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of all files below `folder`: from here on a changed byte is noticed.

    about: plain values that say what the folder is.
    """
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() != NAME
    }
    body = {"format": FORMAT, "about": dict(about or {}), "files": files}
    (folder / NAME).write_text(_signed(body), encoding="utf-8")
    # safetensors writes for its owner alone, whatever the umask: others share the cache
    mode = stat.S_IMODE((folder / NAME).stat().st_mode)
    for name in files:
        os.chmod(folder / name, mode)


def verify(folder: Path) -> frozenset[str]:
    """The folder's files as paths relative to it, each compared with the manifest.

    Raises RunError when the folder is damaged, UsageError when it is none of ours, OtherVersion
    when another version wrote it.
    """
    files = listing(folder)
    for name, entry in files.items():
        check(folder, name, entry)
    return frozenset(files)


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries by path relative to the folder; no file but the manifest is read.

    The folder itself may be no symbolic link; those above it are the user's own affair. Raises as
    `verify` does.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link: give the folder that it leads to")
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the model/ folder of a finished run")
    path = folder / NAME
    if path.is_symlink() or not path.is_file():
        link = path if path.is_symlink() else None
        why = absent(path, link) if link or path.exists() else f"it has no {NAME}"
        raise UsageError(f"{folder} is no artefact ({why}): give the model/ folder of a run")
    body = read_json(path)
    if isinstance(body, dict) and body.get("format") != FORMAT and "files" in body:
        raise OtherVersion(
            f"{path} has format {foreign(body.get('format'))}, this version reads {FORMAT}: "
            "use the version of compressor that wrote it"
        )
    files = body.get("files") if isinstance(body, dict) else None
    sound = isinstance(files, dict) and len(files) <= _MAX_FILES
    if not sound or not all(_is_entry(entry) for entry in files.values()):
        raise RunError(f"{path} is damaged: restore the folder or make it again")
    for name in files:
        _check_name(name, path)
    try:
        signed = _signed({key: body[key] for key in body if key != "sha256"})
        whole = signed == path.read_text("utf-8")
    except (OSError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged (its checksum differs): restore it or make it again")
    return files


def check(folder: Path, name: str, entry: Mapping[str, Any], most: float = math.inf) -> None:
    """Compare one file with its entry in the manifest: kind and size first, then the checksum.

    most: bytes that it may have.
    """
    path = folder / name
    parts = (name, *PurePosixPath(name).parents)
    try:
        link = next((folder / part for part in parts if (folder / part).is_symlink()), None)
        if link is not None or not path.is_file():
            raise RunError(f"{absent(path, link)}: restore the folder or make it again")
        size = path.stat().st_size
        if size > most:
            raise RunError(f"{path} has {size:,} bytes, more than one of its kind: not read")
        whole = size == entry["bytes"] and digest(path) == entry["sha256"]
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): ask its owner") from None
    if not whole:
        raise RunError(
            f"{path} is damaged (its size or checksum differs): restore it or make it again"
        )


def absent(path: Path, link: Path | None = None) -> str:
    """Why there is no regular file at `path`. link: the symbolic one on the way to it."""
    if link is not None:
        return f"{link} is a symbolic link, which is not followed"
    return f"{path} is {'no regular file' if path.exists() else 'missing'}"


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
    )


def _check_name(name: str, where: Path) -> None:
    path = PurePosixPath(name)
    outside = name in ("", ".") or path.is_absolute() or ".." in path.parts
    if outside or len(name) > _MAX_NAME or not name.isprintable():
        raise UsageError(
            f"{where} names '{foreign(name)}', which lies outside its folder or is no file name: "
            "not loaded"
        )


def about(folder: Path) -> dict[str, Any]:
    """What the manifest says the folder is; {} where there is none that can be read."""
    try:
        body = read_json(folder / NAME)
    except RunError:
        return {}
    found = body.get("about") if isinstance(body, dict) else None
    return found if isinstance(found, dict) else {}


def read_json(path: Path) -> Any:
    """The values of a description, or RunError with its path."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RunError(f"{path} is no file: restore the folder or make it again")
        if status.st_size > MAX_JSON_BYTES:
            raise RunError(f"{path} is too large for a description: not read")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({foreign(error)}): restore it or make it again"
        ) from None


def text_of(data: Any) -> str:
    """A JSON file's text, as `write_json` writes it."""
    return json.dumps(data, indent=1) + "\n"


def write_json(path: Path, data: Any) -> None:
    path.write_text(text_of(data), encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11 on
            return hashlib.file_digest(file, "sha256").hexdigest()
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
        return sha.hexdigest()


def _signed(body: Mapping[str, Any]) -> str:
    """The manifest's text: its values and the checksum of them, written in one way only."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    signed = {**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return json.dumps(signed, indent=1) + "\n"
