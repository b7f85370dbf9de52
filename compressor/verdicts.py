"""How a command ends: the exit code of every exception, and the one line that is said about it."""

from __future__ import annotations

import errno
import os
import sys

from compressor.errors import RunError, UsageError

INTERRUPTED = "interrupted; finished stages are kept in the cache: the same command goes on"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FOLDER_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, *_FULL)


def verdict(error: BaseException) -> tuple[int, str | None]:
    """The exit code of an exception and its line; no line for an ordinary exit."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if _is_interrupt(error):
        return 130, INTERRUPTED
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        if isinstance(cause, ImportError):
            return 2, f"a _target_ cannot be found: {one_line(cause)}"
        if not isinstance(cause, TypeError):
            # what a constructor said; Hydra only quotes it
            return verdict(cause)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return code, error.code if isinstance(error.code, str) else None
    if isinstance(error, BrokenPipeError):
        # the reader of our output went away (`| head`): say nothing, and nothing at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, None
    if isinstance(error, (UsageError, HydraException, OmegaConfBaseException)):
        return 2, one_line(error)
    if isinstance(error, RunError):
        return 1, one_line(error)
    if isinstance(error, OSError) and error.errno in _FOLDER_ERRORS and error.filename:
        return 1, folder_line(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return 1, full_line("")
    if _is_out_of_memory(error):
        return 1, (
            f"out of memory ({one_line(error)[:200]}); lower train.batch_size, finetune.batch_size "
            "or machine.eval_batch_size, or run fewer members at once"
        )
    return 1, f"{type(error).__name__}: {one_line(error)}"


def _is_out_of_memory(error: BaseException) -> bool:
    # by name and text: torch is not imported for this, and raises RuntimeError on the CPU
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def full_line(folder: str) -> str:
    """folder: where something was to be written, "" where the system does not say."""
    disk = f"the disk of {folder} is" if folder else "a disk is"
    return (
        f"{disk} full: free some space, or set paths.outputs= or hydra.run.dir= to a folder on "
        "another one; finished stages are kept, and the same command goes on"
    )


def folder_line(error: OSError) -> str:
    if error.errno in _FULL:
        return full_line(str(error.filename))
    return (
        f"cannot write to '{error.filename}': {error.strerror}; choose another folder with "
        "paths.outputs=FOLDER (everything) or hydra.run.dir=FOLDER (this run)"
    )


def _is_interrupt(error: BaseException | None) -> bool:
    # Lightning answers Ctrl-C in a training with exit(1): the interrupt is that exit's context
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__ if isinstance(error, SystemExit) else None
    return False


def one_line(error: BaseException) -> str:
    """What an exception says, on one line, OmegaConf's notes on where it stood left out."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    cause = error.__cause__
    text = str(error)
    if isinstance(cause, OmegaConfBaseException) and isinstance(error, HydraException):
        text = f"{text}\n{cause}"
    lines = [line.strip() for line in text.splitlines()]
    notes = ("full_key:", "object_type=", "reference_type=")
    return (
        " ".join(line for line in lines if line and not line.startswith(notes))
        or type(error).__name__
    )
