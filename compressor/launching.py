"""What a multirun's launcher, sweeper and objective need, checked before anything runs.

Works on the composed configuration, without torch and without the plugins' own packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from compressor import objective
from compressor.errors import UsageError

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_SUBMITIT_LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
# The least value of what counts something; a plugin without the key has nothing to check.
_LEAST = (
    ("launcher.timeout_min", 1),
    ("sweeper.n_trials", 1),
    ("sweeper.n_jobs", 1),
    ("sweeper.max_batch_size", 1),
)


def side_by_side(hydra: DictConfig) -> bool:
    """Whether members run in other processes than the command's own."""
    return hydra.launcher.get("_target_", BASIC_LAUNCHER) != BASIC_LAUNCHER


def searches(hydra: DictConfig) -> bool:
    """Whether the sweeper looks at what members return."""
    return hydra.sweeper.get("_target_", BASIC_SWEEPER) != BASIC_SWEEPER


def searches_latency(hydra: DictConfig, config: DictConfig) -> bool:
    """Whether the sweeper looks at a latency of every member, as soon as it ends."""
    return searches(hydra) and any(
        map(objective.is_latency, objective.names(objective_of(config), figures_of(config)))
    )


@contextmanager
def composing_once() -> Iterator[None]:
    """Hydra composes a member to see whether it can be, and again to run it: the first one serves.

    A sixth of a second a member. What ran is not given out again: a batch may hold it twice.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.plugins.sweeper import Sweeper

    compose, validate = ConfigLoaderImpl.load_sweep_config, Sweeper.validate_batch_is_legal
    checked: dict[tuple[str, ...], DictConfig] = {}
    checking = False

    def load(self: Any, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        words = tuple(sweep_overrides)
        if not checking and words in checked:
            return checked.pop(words)
        config = compose(self, master_config, sweep_overrides)
        if checking:
            checked[words] = config
        return config

    def check_batch(self: Any, batch: Any) -> None:
        nonlocal checking
        checking = True
        try:
            validate(self, batch)
        finally:
            checking = False

    ConfigLoaderImpl.load_sweep_config = load
    Sweeper.validate_batch_is_legal = check_batch
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config = compose
        Sweeper.validate_batch_is_legal = validate


def objective_of(config: DictConfig) -> Any:
    """The key `objective` as plain values; a primary file of the user's own may lack it."""
    return _plain(config.get("objective", "final.accuracy"))


def figures_of(config: DictConfig) -> dict[str, bool]:
    """What an objective may name. The default one stands in runs of any task: none looks at it."""
    return {**_measured(config), **objective.FIGURES}


def _measured(config: DictConfig) -> dict[str, bool]:
    return objective.figures(_plain(config.get("task")))


def check(config: DictConfig) -> None:
    """Raise UsageError for settings of a multirun that cannot work."""
    hydra = config.hydra
    for key, least in _LEAST:
        number = OmegaConf.select(hydra, key)
        if isinstance(number, int) and number < least:
            raise UsageError(f"hydra.{key}={number} must be at least {least}")
    if hydra.launcher.get("n_jobs") == 0:
        raise UsageError("hydra.launcher.n_jobs=0 runs nothing: give a number, or -1 for all cores")
    names = objective.names(objective_of(config), figures_of(config))
    if not searches(hydra):
        return
    measured = _measured(config)
    names = objective.names(names, measured)
    timed = [name for name in names if objective.is_latency(name) or name == objective.SECONDS]
    if timed and side_by_side(hydra):
        raise UsageError(
            f"objective={timed[0]} tells nothing while members run beside each other; leave out "
            "hydra/launcher to run them one after another"
        )
    if "direction" in hydra.sweeper:
        _check_directions(names, _plain(hydra.sweeper.direction), measured)


def additions(config: DictConfig, typed: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides that a multirun gets besides what was typed, and a line about each that matters."""
    hydra, extra, notes = config.hydra, [], []
    keys = {text.lstrip("+").partition("=")[0] for text in typed}
    if side_by_side(hydra):
        threads = OmegaConf.select(config, "machine.threads")
        if "machine.threads" not in keys and threads is None:
            extra.append("machine.threads=1")
            notes.append("members run side by side: machine.threads=1 for each, unless you set it")
        one_by_one = hydra.sweeper.get("max_batch_size", 0) is None
        if hydra.launcher.get("_target_") == _SUBMITIT_LOCAL and one_by_one:
            cores = _cores()
            extra.append(f"hydra.sweeper.max_batch_size={cores}")
            notes.append(
                f"submitit_local starts a whole batch at once: hydra.sweeper.max_batch_size={cores}"
                ", the cores here, unless you set it"
            )
    sampler = hydra.sweeper.get("sampler")
    if sampler is not None and "seed" in sampler and sampler.seed is None:
        # equal config and seed, equal numbers: also the order in which a search tries things
        extra.append(f"hydra.sweeper.sampler.seed={config.seed}")
    return extra, notes


def members(config: DictConfig) -> int | None:
    """How many members the sweeper will start; None where only it knows."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    sweeper = config.hydra.sweeper
    trials = sweeper.get("n_trials")
    words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    words += list(config.hydra.overrides.task)
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        [all_at_once] = BasicSweeper.split_arguments(overrides, None)
        product = len(all_at_once)
    except Exception:
        product = None  # an interval, or a glob of the user's own files
    if not searches(config.hydra):
        return product
    grid = "Grid" in str(OmegaConf.select(sweeper, "sampler._target_"))
    return min(trials, product) if grid and trials and product else trials


def _check_directions(names: list[str], given: Any, figures: Mapping[str, bool]) -> None:
    given = given if isinstance(given, list) else [given]
    directions = [str(getattr(each, "name", each)) for each in given]
    wanted = [
        "maximize" if objective.more_is_better(name, figures) else "minimize" for name in names
    ]
    shown = wanted[0] if len(wanted) == 1 else f"'[{','.join(wanted)}]'"
    if directions != wanted:
        raise UsageError(
            f"objective={','.join(names)} is searched with "
            f"hydra.sweeper.direction={','.join(directions)}: type hydra.sweeper.direction={shown}"
        )


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
