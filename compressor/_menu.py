"""The command line taken apart, and the groups and options that it can choose from."""

from __future__ import annotations

import argparse
import copy
import difflib
import itertools
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.default_element import GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compressor.errors import UsageError
from compressor.verdicts import one_line

# What an option of Hydra's own groups needs besides this project (the extras of pyproject.toml).
_SUBMITIT = "hydra-submitit-launcher"
_OPTUNA = "hydra-optuna-sweeper 'sqlalchemy<2'"
_PACKAGES = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "submitit_local": _SUBMITIT,
        "submitit_slurm": _SUBMITIT,
        "ray": "hydra-ray-launcher",
    },
    "hydra/sweeper": {"optuna": _OPTUNA},
    "hydra/sweeper/sampler": dict.fromkeys(("tpe", "random", "cmaes", "nsgaii", "grid"), _OPTUNA),
}
# Groups of which several options can stand together; two of another would overwrite each other.
SEVERAL = ("distill", "explain", "experiment")


def config_dir() -> Path:
    """The folder of YAML files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


@dataclass(frozen=True)
class Command:
    """A command line taken apart. `flags` keeps what is no override, as typed."""

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool
    config_name: str
    config_path: str
    config_dir: str | None
    wants_help: bool
    completes: bool
    composes: bool
    shows: bool
    shows_job: bool


def read_command(argv: Iterable[str]) -> Command:
    """Flags and overrides may be mixed in any order: `prune=thinet -m seed=0,1`."""
    from hydra._internal.utils import get_args_parser

    def fail(message: str) -> NoReturn:
        raise UsageError(f"{message}; compress-run --help shows what can be typed")

    parser = get_args_parser()
    parser.error = fail
    argv = list(argv)
    try:
        args = parser.parse_intermixed_args(argv)
    except argparse.ArgumentError as error:
        fail(str(error))
    shows = {"--cfg": args.cfg is not None, "--info": args.info is not None}
    for flag in [flag for flag, given in shows.items() if given and (args.multirun or args.run)]:
        fail(f"{flag} shows one run's configuration and starts nothing: drop --multirun or --run")
    words = list(args.overrides)
    flags = []
    for word in argv:
        if word in words:
            words.remove(word)
        else:
            flags.append(word)
    special = args.hydra_help or args.shell_completion or args.experimental_rerun is not None
    return Command(
        flags=tuple(flags),
        overrides=tuple(args.overrides),
        multirun=args.multirun
        or any(word.lstrip("+") == "hydra.mode=MULTIRUN" for word in args.overrides),
        config_name=args.config_name or "run",
        config_path=args.config_path or str(config_dir()),
        config_dir=args.config_dir,
        wants_help=args.help,
        completes=args.shell_completion and "query" in "".join(args.overrides),
        composes=not special,
        shows=any(shows.values()),
        shows_job=args.cfg == "job" and not args.package and not args.resolve,
    )


class Menu:
    """The groups and options that a command can choose from, its own folders included."""

    def __init__(self, command: Command) -> None:
        from hydra import version
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.utils import create_config_search_path
        from hydra.core.config_search_path import SearchPathQuery

        version.setbase("1.3")
        path = command.config_path
        if "://" not in path and not (Path(path).is_absolute() and Path(path).is_dir()):
            raise UsageError(
                f"--config-path {path} is not the absolute path of a folder; to add files to the "
                "built-in ones use --config-dir FOLDER"
            )
        search = create_config_search_path(path)
        if command.config_dir is not None:
            folder = Path(command.config_dir).absolute()
            if not folder.is_dir():
                raise UsageError(f"--config-dir {command.config_dir} is not a folder")
            search.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        self.name = command.config_name
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self.loader = ConfigLoaderImpl(search)
        self.searchpath = [o for o in command.overrides if o.startswith("hydra.searchpath=")]
        with warnings.catch_warnings():
            # a folder that is not there is an error below, where Hydra only warns
            warnings.simplefilter("ignore")
            try:
                _, self.files = self.loader._parse_overrides_and_create_caching_repo(
                    self.name, self.searchpath
                )
            except (HydraException, OmegaConfBaseException) as error:
                raise UsageError(one_line(error)) from None
        for source in self.files.get_sources():
            if source.provider.startswith("hydra.searchpath") and not source.available():
                raise UsageError(
                    f"hydra.searchpath names {source.scheme()}://{source.path}, which is not there"
                )

    def groups(self) -> list[str]:
        """The groups at the top level, Hydra's own left out."""
        names = self.files.get_group_options("", ObjectType.GROUP)
        return [name for name in names if name != "hydra" and not name.startswith("_")]

    def options(self, group: str, hidden: bool = False) -> list[str]:
        """A group's options; inherited bases and recipes that choose themselves are `hidden`."""
        names = self.files.get_group_options(group, ObjectType.CONFIG)
        if hidden:
            return names
        return [name for name in names if not name.startswith(("_", "by_")) and name != "auto"]

    def default(self, group: str) -> str | None:
        """The option that the primary file chooses for a group."""
        primary = self.files.load_config(self.name)
        for item in (primary and primary.defaults_list) or ():
            if isinstance(item, GroupDefault) and item.group == group:
                return str(item.value)
        return None

    def is_group(self, override: Override) -> bool:
        """Whether an override chooses a group's option, as Hydra decides it."""
        chosen = not override.is_sweep_override() and isinstance(override.value(), dict)
        return not chosen and self.files.group_exists(override.key_or_group)

    def without_globs(self, override: Override) -> Override:
        """`prune=glob(*)` as the options it names: Hydra would count inherited bases among them."""
        if override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            return override
        group = override.key_or_group
        names = override._value.filter(self.options(group))
        if not names:
            has = listed(self.options(group))
            raise UsageError(f"{override.input_line} fits no option of {group}, which has {has}")
        return parse(f"{override.get_key_element()}=choice({','.join(names)})")

    def compose(self, selection: Iterable[str]) -> DictConfig:
        """The configuration of these choices, before any value is overridden; the caller's own."""
        return copy.deepcopy(self.composed(selection))

    def composed(self, selection: Iterable[str]) -> DictConfig:
        """The same to be read alone: it is made once, and shared."""
        overrides = (*self.searchpath, *(o for o in selection if o not in self.searchpath))
        if overrides not in self._composed:
            try:
                made = self.loader.load_configuration(self.name, [*overrides], RunMode.RUN)
            except (HydraException, OmegaConfBaseException) as error:
                raise UsageError(_missing_package(one_line(error)) or one_line(error)) from None
            self._composed[overrides] = made
        return self._composed[overrides]

    def apply(self, overrides: list[Override], config: DictConfig) -> None:
        """Set values in a composed configuration, in place, as Hydra does."""
        for override in overrides:
            try:
                self.loader._apply_overrides_to_config([override], config)
            except (HydraException, OmegaConfBaseException) as error:
                # Hydra's own line only repeats the override; OmegaConf's says what is wrong
                reason = one_line(error.__cause__ or error)
                raise UsageError(
                    f"{override.input_line} does not fit: {reason}; compress-run --hydra-help and "
                    "--cfg hydra show what does"
                ) from None
            except AssertionError:  # OmegaConf's, for a key below null
                above, _, key = override.key_or_group.rpartition(".")
                raise UsageError(
                    f"{override.input_line}: {above} is null and has nothing below it; write "
                    f"{above}='{{{key}:...}}'"
                ) from None

    def check_options(self, override: Override) -> None:
        group = override.key_or_group
        if override.is_delete():
            remedy = f"{group}=none" if "none" in self.options(group) else f"another {group}=OPTION"
            raise UsageError(f"{override.input_line} takes away what a run needs; write {remedy}")
        known = self.options(group, hidden=True)
        for choices in elements(override):
            twice = next((each for each in choices if choices.count(each) > 1), None)
            if twice is not None:
                raise UsageError(f"{override.input_line} names {twice} twice: give it once")
            if len(choices) > 1 and group not in SEVERAL and not group.startswith("hydra/"):
                each = ",".join(map(str, choices))
                raise UsageError(
                    f"{override.input_line} chooses {len(choices)} options of {group}, which takes "
                    f"one: write {group}={choices[-1]}, or -m {group}={each} for one run each"
                )
        for choice in itertools.chain.from_iterable(elements(override)):
            if choice is None and "none" not in known:
                continue
            if choice not in known:
                raise UsageError(self._unknown_option(group, choice))

    def check_once(self, groups: Iterable[Override]) -> None:
        """Refuse a group that is chosen twice: Hydra would take the last one and say nothing."""
        words: dict[str, list[Override]] = {}
        for override in groups:
            words.setdefault(override.key_or_group, []).append(override)
        for group, found in words.items():
            texts = list(dict.fromkeys(override.input_line or "" for override in found))
            if len(texts) < 2 or group.startswith("hydra/"):
                continue
            values = [text.partition("=")[2].strip("[]") for text in texts]
            every = ",".join(dict.fromkeys(",".join(values).split(",")))
            if any(override.is_sweep_override() for override in found):
                wish = f"one word, as in -m {group}={every}"
            elif group in SEVERAL:
                wish = f"one list: {group}='[{every}]'"
            else:
                wish = f"one of them, or -m {group}={every} for one run each"
            raise UsageError(f"{' and '.join(texts)}: the last one alone would count; write {wish}")

    def check_hidden_files(self, groups: Iterable[Override]) -> None:
        """A chosen file of the user's that has the name of one of ours would silently lose."""
        ours = config_dir()
        for source in self.files.get_sources():
            folder = Path(source.path)
            if source.scheme() != "file" or source.provider == "main" or folder == ours:
                continue
            for override in groups:
                for choice in itertools.chain.from_iterable(elements(override)):
                    name = f"{override.key_or_group}/{choice}.yaml"
                    mine, built_in = folder / name, ours / name
                    if not (mine.is_file() and built_in.is_file()):
                        continue
                    if mine.read_bytes() != built_in.read_bytes():
                        raise UsageError(
                            f"{mine} would lose to the built-in {name}; give it another name, "
                            f"such as {override.key_or_group}/my_{choice}.yaml"
                        )

    def sets(self, group: str, option: str, key: str) -> bool:
        """Whether the option's own file has the key, not one that it inherits from."""
        line = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
        paths = [
            Path(source.path) / group / f"{option}.yaml"
            for source in self.files.get_sources()
            if source.scheme() == "file"
        ]
        return any(p.is_file() and line.search(p.read_text(encoding="utf-8")) for p in paths)

    def _unknown_option(self, group: str, choice: Any) -> str:
        menu = self.options(group)
        text = "null" if choice is None else str(choice)
        if choice is None:
            return f"{group}=null leaves a hole; write {group}=none"
        near = difflib.get_close_matches(text, menu, n=3)
        package = _missing_package(f"'{group}/{text}'")
        if package:
            return package
        hint = f"did you mean {either(f'{group}={n}' for n in near)}? " if near else ""
        if not menu:
            return f"{group}={text}: {group} has no options; set its keys, {group}.KEY=VALUE"
        return f"{group}={text}: {group} has no option '{text}'; {hint}it has {listed(menu)}"


def _missing_package(error: str) -> str | None:
    """What to install where an error quotes 'hydra/launcher/joblib' and the like."""
    for group, options in _PACKAGES.items():
        for option, package in options.items():
            if f"'{group}/{option}'" in error:
                return f"{group}={option} needs a package: pip install {package}"
    return None


def parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = one_line(error)
    else:
        if override.key_or_group:
            return override
        raise UsageError(f"'{text}' has no key before its =: write key=value or group=option")
    quoted = _quoted(text)
    if quoted is not None:
        raise UsageError(
            f"cannot read '{text}': {reason}; as a text it needs quotes inside the shell's: "
            f"{quoted}"
        )
    raise UsageError(
        f"cannot read '{text}': {reason}; write key=value or group=option, "
        "and quote what the shell or a list would split"
    )


def _quoted(text: str) -> str | None:
    """The same override with its value as a quoted text, as a shell takes it, if that is one."""
    key, equals, value = text.partition("=")
    # what begins as a list, a mapping or a function was meant as one
    if not (equals and value) or value[0] in "[{\"'" or re.match(r"\w+\(", value):
        return None
    quoted = f"""{key}="{value}\""""
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return None
    return shlex.quote(quoted)


def elements(override: Override) -> Iterator[list[Any]]:
    """Each value of a (sweep) override, a list of options for the groups that take several."""
    if override.is_interval_sweep():
        return
    if not override.is_sweep_override():
        values: Iterable[Any] = [override.value()]
    else:
        values = (Override._convert_value(value) for value in override.sweep_iterator())
    for value in values:
        yield list(value) if isinstance(value, list) else [value]


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def either(names: Iterable[str]) -> str:
    return " or ".join(names)
