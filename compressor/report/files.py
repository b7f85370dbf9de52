"""Writing files that others may be reading: a reader sees the old one or the new one, whole."""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from compressor.errors import RunError


def publish(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then put it in its place in one step."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"cannot write {path}: the disk is full; free some space and type the same again"
            ) from None
        raise RunError(
            f"cannot write {path} ({error.strerror}): make the folder writable, or copy it to a "
            "place that is and report that copy"
        ) from None
