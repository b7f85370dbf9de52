"""compress-run: compose the configuration, check it, hand it to the pipeline, own the exit code.

Exit codes: 0 done, 1 a failure while running, 2 the command or its configuration is wrong,
130 interrupted. Every failure is one line; HYDRA_FULL_ERROR=1 shows the traceback as well.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from compressor.errors import RunError, UsageError

FULL_ERROR = "HYDRA_FULL_ERROR"
_FOLDER_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC)


class _Failure:
    """What ended a single run; raised through Hydra it would be printed a second time."""

    error: Exception | None = None


class SweepFolder(Callback):
    """Remembers where the multirun of this process writes; Hydra tells only its callbacks."""

    path: Path | None = None
    started: float = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        SweepFolder.path = Path(config.hydra.sweep.dir).absolute()
        SweepFolder.started = time.time()


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code; prints at most one line about a failure."""
    with _hydra_raises() as wants_traceback:
        try:
            code = _main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return code
        except BaseException as error:
            code, line = _verdict(error)
            if line is None:
                return code
            if wants_traceback:
                traceback.print_exc()
            elif code == 1:
                line += f" ({FULL_ERROR}=1 shows the traceback)"
            print(f"compress-run: {line}", file=sys.stderr)
            return code


def job(config: DictConfig) -> float:
    """One experiment, in the folder that Hydra made for it. Returns the final headline metric.

    A failing member of a multirun is recorded and does not stop the others: NaN stands for it.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    member = settings.mode == RunMode.MULTIRUN
    if member:
        print(f"[member {settings.job.num}] {' '.join(settings.overrides.task)}", flush=True)
    try:
        report = _run_experiment(config, folder, member, _command(settings))
    except BaseException as error:
        _, line = _verdict(error)
        # a full disk must not hide what went wrong
        with suppress(OSError):
            _write_status(folder, {"state": "failed", "error": line})
        if not isinstance(error, Exception):
            raise
        if member:
            print(f"compress-run: member {settings.job.num} failed: {line}", file=sys.stderr)
        else:
            _Failure.error = error
        return float("nan")
    _write_status(folder, {"state": "done"})
    points = list((report or {}).get("points", {}).values())
    return float(points[-1]["accuracy"]) if points and "accuracy" in points[-1] else float("nan")


def _main(argv: list[str]) -> int:
    import hydra

    from compressor import _help, configuration

    command = configuration.read_command(argv)
    if command.wants_help:
        print(_help.help_text(configuration.Menu(command)))
        return 0
    overrides = list(command.overrides)
    if command.composes:
        menu = configuration.Menu(command)
        if command.shows_job:
            print(configuration.job_text(command, menu), end="")
            return 0
        overrides = configuration.check(command, menu)
    SweepFolder.path, _Failure.error = None, None
    with _arguments([*command.flags, *overrides]):
        app = hydra.main(
            config_path=str(configuration.config_dir()), config_name="run", version_base="1.3"
        )(job)
        if command.completes:
            print(_help.completions(app), end="")
        else:
            try:
                app()
            except OSError as error:
                # what a job raises does not come this way: it is Hydra that made no folder
                raise RunError(_folder_line(error)) from error
    if _Failure.error is not None:
        raise _Failure.error
    return 0 if SweepFolder.path is None else _finish_multirun(SweepFolder.path)


def _run_experiment(
    config: DictConfig, folder: Path, member: bool, command: str
) -> dict[str, Any] | None:
    from compressor.configuration import plain

    values = plain(config)
    # Idle threads that spin in wait of work slow a busy machine tenfold; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own, after everything installed
    from compressor.pipeline import run_experiment

    return run_experiment(values, folder, member, command)


def _finish_multirun(folder: Path) -> int:
    """Write and print the multirun's table; 1 when a member failed."""
    from rich.console import Console

    from compressor.report import sweep

    # the user may have named a folder that holds members of an earlier multirun
    statuses = {
        path.parent.relative_to(folder).as_posix(): json.loads(path.read_text())["state"]
        for path in sorted(folder.rglob("status.json"))
        if path.stat().st_mtime >= SweepFolder.started - 2
    }
    if any(folder.rglob("report.json")):
        Console().print(sweep.table(sweep.summarise(folder)))
    failed = [name for name, state in statuses.items() if state == "failed"]
    if failed:
        print(
            f"compress-run: {len(failed)} of {len(statuses)} members failed: {', '.join(failed)} "
            f"(status.json of each in {folder} says why)",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _verdict(error: BaseException) -> tuple[int, str | None]:
    """The exit code of an exception and its line; no line for an ordinary exit."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from compressor.configuration import one_line

    if _is_interrupt(error):
        return 130, "interrupted; finished stages are kept in the cache: the same command goes on"
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        if isinstance(cause, ImportError):
            return 2, f"a _target_ cannot be found: {one_line(cause)}"
        if not isinstance(cause, TypeError):
            # what a constructor said; Hydra only quotes it
            return _verdict(cause)
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
        return 1, _folder_line(error)
    return 1, f"{type(error).__name__}: {one_line(error)}"


def _folder_line(error: OSError) -> str:
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


def _write_status(folder: Path, status: dict[str, str | None]) -> None:
    (folder / "status.json").write_text(json.dumps(status) + "\n")


def _command(settings: DictConfig) -> str:
    """The command that repeats this run; of a multirun's member: its own sentence."""
    words = ["compress-run"]
    for source in settings.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    # extend: `+=` would make an OmegaConf list of it
    words.extend(settings.overrides.task)
    words += [word for word in settings.overrides.hydra if word.startswith("hydra.searchpath")]
    return shlex.join(words)


@contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Hydra prints and exits by itself unless the environment says not to; yields the user's wish.

    The exits are ours, so the variable is set while Hydra runs and put back afterwards.
    """
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield before == "1"
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before


@contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *argv]
    try:
        yield
    finally:
        sys.argv = before


if __name__ == "__main__":
    # `python -m` runs a second copy of this module; the callback lives in the importable one
    from compressor.run import main as importable_main

    sys.exit(importable_main())
