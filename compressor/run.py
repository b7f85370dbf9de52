"""compress-run: compose the configuration, check it, hand it to the pipeline, own the exit code.

Exit codes: 0 done, 1 a failure while running, 2 the command or its configuration is wrong,
130 interrupted: by Ctrl-C, or by SIGTERM or SIGHUP as a scheduler or a closed terminal sends them.
Every failure is one line; HYDRA_FULL_ERROR=1 shows the traceback as well.
"""

from __future__ import annotations

import functools
import gc
import io
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from compressor import launching, members, multirun, objective
from compressor.errors import RunError
from compressor.verdicts import INTERRUPTED, folder_line, verdict

FULL_ERROR = "HYDRA_FULL_ERROR"
# what joblib, concurrent.futures and submitit raise for a worker that was killed
_LOST_WORKER = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError")
_OUTPUT = "output.log"  # what a member printed that ran in a process of its own


class _Failure:
    """What ended a single run; raised through Hydra it would be printed a second time."""

    error: Exception | None = None


class Sweep(Callback):
    """Learns where the multirun of this process writes; Hydra tells only its callbacks.

    `current` is the command's own: in a worker's process it stays None. What members must know
    (`sweep`, the name of the command that started them) travels in their configuration.
    """

    current: members.Progress | None = None
    command: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def __init__(self, sweep: str) -> None:
        self.sweep = sweep

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # it takes our None of a failed member as such, and then says so twice
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").setLevel(logging.CRITICAL)
        if Sweep.current is None:
            folder = Path(config.hydra.sweep.dir).absolute()
            beside = launching.side_by_side(config.hydra)
            Sweep.current = members.Progress(folder, self.sweep, launching.members(config), beside)
        # Hydra makes of an error in here a warning; it meets the same folder next and fails
        with suppress(OSError):
            members.write_sweep(
                Sweep.current.folder,
                Sweep.command,
                "running",
                flags=Sweep.flags,
                members=Sweep.current.total,
            )
        Sweep.current.start()


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code; prints at most one line about a failure."""
    with _interrupts(), _hydra_raises() as wants_traceback:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # a file or pipe gets each line when it is said, as a terminal does
            sys.stdout.reconfigure(line_buffering=True)
        try:
            code = _main(list(sys.argv[1:] if argv is None else argv), wants_traceback)
            sys.stdout.flush()
            return code
        except BaseException as error:
            code, line = verdict(error)
            if line is None:
                return code
            if line == INTERRUPTED:
                line = _interrupted_line()
                _leave_true_states()
            if code == 1 and not wants_traceback:
                line += f" ({FULL_ERROR}=1 shows the traceback)"
            with suppress(OSError):  # the terminal may be what went away
                if wants_traceback:
                    traceback.print_exc()
                print(f"compress-run: {line}", file=sys.stderr, flush=True)
            return code


def job(config: DictConfig) -> float | tuple[float, ...] | None:
    """One experiment, in the folder that Hydra made for it. Returns the objective's figures.

    A failing member of a multirun is recorded and does not stop the others: None stands for it,
    which a search takes as a failed trial where it would die of a NaN.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    if settings.mode == RunMode.MULTIRUN:
        return _member(config, settings, folder)
    try:
        report = _run_experiment(config, settings, folder)
    except BaseException as error:
        _record_failure(folder, error, {})
        if not isinstance(error, Exception):
            raise
        _Failure.error = error
        return None
    members.write_status(folder, {"state": _ended(report)})
    return _figures(report, config, needed=False)


def _member(
    config: DictConfig, settings: DictConfig, folder: Path
) -> float | tuple[float, ...] | None:
    callback = settings.callbacks.get("sweep") or {}
    sweep = callback.get("sweep")
    title = f"[member {settings.job.num}] {_own_words(settings)}"
    before = members.read_status(folder)
    again = before.get("sweep") == sweep  # this very command lost the process that it ran in
    if again and before.get("state") == "failed":
        return None
    try:
        with _output(folder), _alone(folder, again and before.get("state") == "running"):
            print(title, flush=True)
            attempt = before.get("attempt", 1) + 1 if again else 1
            report = _run_member(config, settings, folder, sweep, attempt)
            return _figures(report, config, needed=launching.searches(settings))
    except BaseException as error:
        _record_failure(folder, error, {"sweep": sweep})
        if not isinstance(error, Exception):
            raise
        return None
    finally:
        # frames of a failed member and cycles of a finished one hold on to tensors
        gc.collect()
        if Sweep.current is not None and not Sweep.current.beside:
            Sweep.current.show()


def _ended(report: Mapping[str, Any] | None) -> str:
    """The state that a run ends in: with plan_only there is a plan, and no result."""
    return "planned" if "plan" in (report or {}) else "done"


def _own_words(settings: DictConfig) -> str:
    """The overrides of a member without those that the whole sweep has, where these are known."""
    common = {word.lower() for word in Sweep.command}
    words = [word for word in settings.overrides.task if word.lower() not in common]
    return " ".join(words or settings.overrides.task)


def _run_member(
    config: DictConfig, settings: DictConfig, folder: Path, sweep: str | None, attempt: int
) -> Mapping[str, Any] | None:
    from compressor.configuration import plain

    values = plain(config)
    sources = multirun.own_sources(values)
    if members.lives(members.read_status(folder)):
        print("another process still runs this member: waiting for it", flush=True)
        while members.lives(members.read_status(folder)):
            time.sleep(1)
    report = members.kept_report(folder, values, sources)
    if report is not None and not multirun.has_same_data(report, values):
        print("done before, but with other data: again", flush=True)
        report = None
    done = {"state": "done", "sweep": sweep, "sources": sources}
    if report is not None:
        own = members.read_status(folder)
        kept = own.get("kept", False) if own.get("sweep") == sweep else True
        print("kept: done before with this configuration", flush=True)
        members.write_status(folder, {**own, **done, "kept": kept})
        return report
    if attempt > 2:
        raise RunError(
            "its process was ended from outside, twice (killed for want of memory?); run fewer "
            "members at once or lower train.batch_size and machine.eval_batch_size"
        )
    members.write_status(folder, members.running(sweep, attempt))
    # an old one beside a new status would be taken for this member's
    (folder / "report.json").unlink(missing_ok=True)
    start = time.monotonic()
    report = _run_experiment(config, settings, folder)
    done["state"] = _ended(report)
    members.write_status(folder, {**done, "seconds": round(time.monotonic() - start, 3)})
    return report


def _main(argv: list[str], wants_traceback: bool) -> int:
    from compressor import _help, configuration

    command = configuration.read_command(argv)
    if command.wants_help:
        print(_help.help_text(configuration.Menu(command)))
        return 0
    overrides = list(command.overrides)
    pinned, plan = [], None
    if command.composes:
        menu = configuration.Menu(command)
        if command.shows_job:
            print(configuration.job_text(command, menu), end="")
            return 0
        multirun.admit_users_folder()
        overrides = configuration.check(command, menu)
        if not command.shows:
            pinned, plan = _prepare(command, menu, overrides)
    with nullcontext() if plan is None else _passing(plan):
        return _launch(command, overrides, pinned, wants_traceback)


def _launch(command: Any, overrides: list[str], pinned: list[str], wants_traceback: bool) -> int:
    from compressor import _help

    Sweep.current, _Failure.error = None, None
    Sweep.command, Sweep.flags = command.overrides, command.flags
    multirun.begin()
    if command.completes:
        with _arguments([*command.flags, *overrides]):
            print(_help.completions(_application()), end="")
        return 0
    while True:
        try:
            with _arguments([*command.flags, *overrides, *pinned]), launching.composing_once():
                _application()()
            break
        except OSError as error:
            # what a job raises does not come this way: it is Hydra that made no folder
            if error.filename is None:
                raise
            raise RunError(folder_line(error)) from error
        except Exception as error:
            progress = Sweep.current
            if progress is None:
                raise
            if type(error).__name__ in _LOST_WORKER and progress.outlast():
                # a worker is gone, of joblib the whole pool: the members that it ran are taken up
                # once more, and what was done is found done
                overrides = multirun.in_the_same_folder(overrides, progress.folder)
                print("compress-run: a worker process was killed; its members run once more")
                continue
            if not progress.tally().finished:
                raise
            progress.stop()
            failed = multirun.finish(progress, wants_traceback)
            if failed and not progress.tally().done:
                return 1  # nothing to look for among failed members: that has been said
            raise
        finally:
            if Sweep.current is not None:
                Sweep.current.stop()
    if _Failure.error is not None:
        raise _Failure.error
    if Sweep.current is None:
        return 0
    return multirun.finish(Sweep.current, wants_traceback)


def _application() -> Any:
    import hydra

    from compressor.configuration import config_dir

    return hydra.main(config_path=str(config_dir()), config_name="run", version_base="1.3")(job)


def _prepare(command: Any, menu: Any, overrides: list[str]) -> tuple[list[str], Path | None]:
    """Check what is left to check, and say what a multirun gets besides what was typed.

    Returns overrides to add, and the folder of a plan that is made beside results.
    """
    from hydra.types import RunMode

    from compressor import configuration

    config = configuration.compose(overrides, menu)
    for note in configuration.idle(config, overrides, menu):
        print(f"compress-run: {note}", flush=True)
    if not (command.multirun or OmegaConf.select(config, "hydra.mode") == RunMode.MULTIRUN):
        configuration.check_single(config, overrides)
        plan = _beside_results(config, config.hydra.run)
        return ([] if plan is None else [multirun.quoted("hydra.run.dir", plan)]), plan
    configuration.check_multirun(config, overrides, menu)
    extra, notes = launching.additions(config, overrides)
    plan = _beside_results(config, config.hydra.sweep)
    if plan is not None:
        extra.append(multirun.quoted("hydra.sweep.dir", plan))
    if not any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in overrides):
        left = members.unfinished(Path(str(config.paths.outputs)), command.overrides)
        if left is not None:
            notes.append(
                f"a sweep of this command was not finished; stop this one and add hydra.sweep.dir="
                f"{left} to run only its missing and failed members"
            )
    for note in notes:
        print(f"compress-run: {note}", flush=True)
    sweep = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    extra.append(f"++hydra.callbacks.sweep={{_target_:{__name__}.Sweep,sweep:'{sweep}'}}")
    return extra, plan


def _beside_results(config: DictConfig, place: DictConfig) -> Path | None:
    """A plan asked for in a folder of results gets one of its own in there: they stay as they are.

    Hydra writes into a run's folder too, so it is the folder that has to be another.
    """
    named = str(OmegaConf.to_container(place)["dir"])
    # a name with a time in it is a new folder, and the time is not to be read before the run does
    asked = config.get("plan_only") and "${now" not in named
    if not asked or not members.holds_results(Path(place.dir)):
        return None
    plan = Path(place.dir).absolute() / f".plan-{os.getpid()}"
    print(f"compress-run: {place.dir} holds results, which the plan leaves as they are", flush=True)
    return plan


@contextmanager
def _passing(plan: Path) -> Iterator[None]:
    """What is printed is all of a plan; what it could not print here stays to be read."""
    try:
        yield
    finally:
        if any(plan.rglob(_OUTPUT)):
            print(f"compress-run: the plans are in {plan}, an {_OUTPUT} each", flush=True)
        else:
            shutil.rmtree(plan, ignore_errors=True)


def _run_experiment(
    config: DictConfig, settings: DictConfig, folder: Path
) -> dict[str, Any] | None:
    from hydra.types import RunMode

    from compressor.configuration import plain

    values = plain(config)
    member = settings.mode == RunMode.MULTIRUN
    if member and Sweep.current is None:
        values["machine"]["progress"] = False  # bars of many processes on one terminal
    # Idle threads that spin in wait of work slow a busy machine tenfold; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    multirun.admit_users_folder()
    _import_once()
    from compressor.pipeline import run_experiment

    # a sweep's networks are timed together, but for a search that has to know at once
    later = member and not launching.searches_latency(settings, config)
    report = run_experiment(values, folder, member, _command(settings), times_later=later)
    _check_finite(report)
    return report


@functools.cache
def _import_once() -> None:
    """Load what every run needs and keep it out of the collector's way.

    A collection walks all that torch and Lightning made, a third of a second a member of a sweep.
    """
    import compressor.pipeline  # noqa: F401

    gc.collect()
    gc.freeze()


def _check_finite(report: Mapping[str, Any] | None) -> None:
    """A cut may break a network that recovers; what was trained may not end as NaN."""
    points = (report or {}).get("points") or {}
    for name, remedy in (("dense", "train.lr"), ("final", "finetune.lr or train.lr")):
        loss = points.get(name, {}).get("loss")
        if loss is not None and loss != loss:
            begun = ((report or {}).get("start") or {}).get("path")
            if begun and name == "dense" and "train" not in report["config"]["stages"]:
                raise RunError(f"the loss of the network of {begun} is NaN: choose another start")
            raise RunError(f"the loss of the {name} network is NaN: training broke; lower {remedy}")


def _figures(
    report: Mapping[str, Any] | None, config: DictConfig, needed: bool
) -> float | tuple[float, ...] | None:
    """The objective of a member, None where nobody looks at it and it was not measured."""
    names = objective.names(launching.objective_of(config), launching.figures_of(config))
    try:
        values = objective.value(report or {}, names)
    except RunError:
        if needed:
            raise
        return None
    return values[0] if len(values) == 1 else values


def _output(folder: Path) -> Any:
    """A member in a process of its own prints into its folder: the terminal is the progress's."""
    return nullcontext() if Sweep.current is not None else members.output_to(folder / _OUTPUT)


def _alone(folder: Path, lost: bool) -> Any:
    """Members whose process was lost are taken up one at a time: one of them may want it all."""
    if not lost:
        return nullcontext()
    from filelock import FileLock

    return FileLock(folder.parent / ".taken_up_again.lock")


def _record_failure(folder: Path, error: BaseException, status: dict[str, Any]) -> None:
    code, line = verdict(error)
    if code == 130 and status:
        line = "interrupted"  # the sweep says once what to do
    status = {"state": "interrupted" if code == 130 else "failed", "error": line, **status}
    if code == 1:
        status["traceback"] = "".join(traceback.format_exception(error))
    # a full disk must not hide what went wrong
    with suppress(OSError):
        members.write_status(folder, status)


def _interrupted_line() -> str:
    if Sweep.current is None or not Sweep.current.tally().done:
        return INTERRUPTED
    return (
        f"{INTERRUPTED}, with hydra.sweep.dir={Sweep.current.folder} without its finished members"
    )


def _leave_true_states() -> None:
    """Say of a sweep, and of those of its members whose processes went with it, that it is over."""
    progress = Sweep.current
    if progress is None:
        return
    with suppress(OSError):
        progress.interrupted()
        members.end_sweep(progress.folder, "interrupted")


@contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, instead of without a word and a record.

    The first one counts: what is noted on the way out is not to be cut short by the next. A signal
    that is ignored (nohup) or that somebody else handles stays so.
    """

    came, here = False, os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        nonlocal came
        if os.getpid() != here:  # a forked child, which has nothing to note
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # not by taking the handler away: Lightning puts back the one that it found
        elif not came:
            came = True
            raise KeyboardInterrupt

    # handlers belong to the main thread
    ours = threading.current_thread() is threading.main_thread()
    wanted = (signal.SIGTERM, signal.SIGHUP) if ours else ()
    taken = [each for each in wanted if signal.getsignal(each) == signal.SIG_DFL]
    try:
        for each in taken:
            signal.signal(each, interrupt)
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


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
