"""The command line against the YAML files: every override is checked before torch is imported.

Hydra composes; this module says beforehand, in one line, which override cannot work and what to
type instead: unknown options and keys with the near ones, values of another type than the YAML's or
out of their range (`_ranges`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override, Sweep
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from compressor import _ranges, launching, objective, starting
from compressor._menu import (
    SEVERAL,
    Command,
    Menu,
    config_dir,
    either,
    listed,
    parse,
    read_command,
)
from compressor.automatic import AUTO, STAGES
from compressor.errors import UsageError
from compressor.options import Declared, shown
from compressor.verdicts import one_line

__all__ = [
    "Command",
    "Menu",
    "check",
    "check_multirun",
    "check_single",
    "compose",
    "config_dir",
    "idle",
    "job_text",
    "plain",
    "read_command",
]

# A dictionary of this name takes any key: it is passed on to a class that we do not know.
OPEN = "arguments"
_PARAMS = "hydra.sweeper.params"


def check(command: Command, menu: Menu) -> list[str]:
    """Raise UsageError for the first override that cannot work; the overrides for Hydra otherwise.

    Keys below an open dictionary come back with the `++` that Hydra wants to see.
    """
    texts = [alone for text in command.overrides for alone in _alone(text)]
    overrides = [menu.without_globs(parse(text)) for text in texts]
    groups, values = _checked_groups(overrides, command, menu)
    _check_hydra([o for o in overrides if o.is_hydra_override() and o not in groups], groups, menu)
    handed = {override.input_line: override.input_line for override in overrides}
    for selection in _selections(groups) if values else ():
        base = menu.composed(selection)
        _check_one_target(values, base)
        _check_start(groups, values, base)
        for override in values:
            handed[override.input_line] = _checked_value(override, base, menu)
    return [handed[override.input_line] for override in overrides]


def compose(overrides: Iterable[str], menu: Menu) -> DictConfig:
    """The configuration of checked overrides; of a sweep, that of its first choices."""
    parsed = [parse(text) for text in overrides]
    groups = [override for override in parsed if menu.is_group(override)]
    config = menu.compose(next(_selections(groups)))
    values = [o for o in parsed if o not in groups and not o.is_sweep_override()]
    menu.apply(values, config)
    for key, value in _written(config):
        _ranges.hold(key, value, config)
    _check_needs(config, _swept(parsed, config, menu))
    return config


def _written(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, dictionaries included, but for values that are made of others.

    Of Hydra's own keys folders alone: their names may hold a time, which is not to be read off
    before the run starts.
    """
    for name in node:
        key = f"{prefix}{name}"
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        hydras = key.partition(".")[0] == "hydra"
        if key in _ranges.FOLDERS or not hydras:
            yield key, list(value) if isinstance(value, ListConfig) else value
        above = not hydras or any(each.startswith(f"{key}.") for each in _ranges.FOLDERS)
        if above and isinstance(value, DictConfig):
            yield from _written(value, f"{key}.")


def check_multirun(config: DictConfig, overrides: Iterable[str], menu: Menu) -> None:
    """Raise UsageError for what only a sweep can have wrong, in config as `compose` gave it."""
    typed = [parse(text) for text in overrides]
    params = config.hydra.sweeper.get("params") or {}
    searched = [parse(f"{key}={value}") for key, value in params.items()]
    for override in (*typed, *searched):
        if override.is_interval_sweep() and not launching.searches(config.hydra):
            raise UsageError(
                f"{override.input_line} needs a search that draws values: add hydra/sweeper=optuna"
            )
    groups = [override for override in (*typed, *searched) if menu.is_group(override)]
    for override in searched:
        if menu.is_group(override):
            menu.check_options(override)
    open_keys = _swept([*typed, *searched], config, menu)
    own = [o for o in typed if o not in groups and not o.is_sweep_override()]
    for selection in _selections(groups):
        base = menu.compose(selection)
        menu.apply([o for o in own if _stands(o.key_or_group, base)], base)
        _check_needs(base, open_keys)
    values = [override for override in searched if override not in groups]
    for selection in _selections(groups) if values else ():
        base = menu.composed(selection)
        for override in values:
            _checked_value(override, base, menu)
    for override in typed:
        if override.key_or_group == "objective" and override.is_sweep_override():
            for value in _raw_values(override):
                objective.names(value, launching.figures_of(config))
    name = OmegaConf.to_container(config.hydra.sweep)["subdir"]
    swept = any(o.is_sweep_override() for o in typed if not o.is_hydra_override())
    if "${" not in str(name) and (swept or searched):
        raise UsageError(
            f"hydra.sweep.subdir={name} is one folder for all members: leave it out, or name what "
            "tells them apart, as in hydra.sweep.subdir='seed_${seed}'"
        )
    launching.check(config)


def check_single(config: DictConfig, overrides: Iterable[str]) -> None:
    """Raise UsageError for a single run that holds a search, or a wrong objective.

    One member of the search is a single run: its command names a value of everything searched.
    """
    params = config.hydra.sweeper.get("params") or {}
    typed = {parse(text).key_or_group for text in overrides}
    left = [f"{key}={value}" for key, value in params.items() if key not in typed]
    if left:
        raise UsageError(f"{' '.join(left)} is a search: add -m to run it")
    objective.names(launching.objective_of(config), launching.figures_of(config))


def _swept(overrides: Iterable[Override], config: DictConfig, menu: Menu) -> set[str]:
    """Keys that get a value in every member alone, by a sweep or a search; no groups."""
    found = [override for override in overrides if override.is_sweep_override()]
    found += [parse(f"{key}=null") for key in config.hydra.sweeper.get("params") or {}]
    return {override.key_or_group for override in found if not menu.is_group(override)}


def _stands(key: str, config: DictConfig) -> bool:
    """Whether a composed configuration has this key: another option of its group may not."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    return isinstance(node, DictConfig) and name in list(node)


def idle(config: DictConfig, overrides: Iterable[str], menu: Menu) -> list[str]:
    """A line about each group that is `none` throughout and had options of it typed."""
    typed = [parse(text) for text in overrides]
    # a sweep over the group, or a search, has other members too
    chosen = {o.key_or_group for o in typed if menu.is_group(o) and o.is_sweep_override()}
    chosen |= set(config.hydra.sweeper.get("params") or {})
    notes: dict[str, str] = {}
    for override in typed:
        group, _, option = override.key_or_group.partition(".")
        choice = config.hydra.runtime.choices.get(group)
        if not option or choice != "none" or group in chosen or group in notes:
            continue
        if menu.sets(group, "none", option.partition(".")[0]):
            continue
        others = [name for name in menu.options(group) if name != "none"]
        notes[group] = (
            f"{override.input_line} does nothing beside {group}=none; choose {group}="
            f"{'|'.join(others)}"
        )
    return list(notes.values())


def job_text(command: Command, menu: Menu) -> str:
    """What `--cfg job` prints: the composed configuration as YAML.

    Checks and composes once, where asking Hydra after the check would compose twice.
    """
    overrides = [parse(text) for text in command.overrides]
    groups, values = _checked_groups(overrides, command, menu)
    config = menu.compose(next(_selections(groups)))
    _check_one_target(values, config)
    _check_start(groups, values, config)
    handed = [parse(_checked_value(override, config, menu)) for override in values]
    hydras = [o for o in overrides if o.is_hydra_override() and o not in groups]
    menu.apply([*handed, *hydras], config)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return OmegaConf.to_yaml(config)


def _checked_groups(
    overrides: list[Override], command: Command, menu: Menu
) -> tuple[list[Override], list[Override]]:
    """The overrides that choose options, which exist, and those that set values of ours."""
    for override in overrides:
        _check_sweep(override, command.multirun, menu)
    groups = [override for override in overrides if menu.is_group(override)]
    menu.check_once(groups)
    for override in groups:
        menu.check_options(override)
    menu.check_hidden_files(groups)
    return groups, [o for o in overrides if o not in groups and not o.is_hydra_override()]


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, every interpolation resolved."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or one_line(error).rsplit(" ", 1)[-1]
        raise UsageError(f"{key} has no value: type {key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{error.full_key} cannot be resolved: {one_line(error)}; give it a value of its own"
        ) from None


def _check_sweep(override: Override, multirun: bool, menu: Menu) -> None:
    if not override.is_sweep_override() or multirun:
        return
    text, key = override.input_line or "", override.key_or_group
    if override.is_choice_sweep() and "," in text and "(" not in text:
        _, _, values = text.partition("=")
        if key in _ranges.FOLDERS:
            both = f"""; a name with a comma is {key}='"{values}"'"""
        elif menu.files.group_exists(key) and key not in SEVERAL:
            both = ""
        else:
            both = f"; one value that is a list is {key}='[{values}]'"
        raise UsageError(f"{text} is one run for each value: add -m to run them all{both}")
    raise UsageError(f"{text} is a sweep: add -m to run it")


def _alone(text: str) -> list[str]:
    """What is typed below `hydra.sweeper.params` as the sweeps that it means: `prune=a,b`.

    The sweepers read both alike, but Hydra cannot set a key below the null that stands there.
    """
    if not text.lstrip("+").startswith(_PARAMS):
        return [text]
    below = text.lstrip("+").removeprefix(_PARAMS)
    if below.startswith("."):
        return [below[1:]]
    params = parse(text).value()
    if not isinstance(params, dict):
        return [text]
    for key, value in params.items():
        if isinstance(value, Sweep):
            raise UsageError(
                f"{text}: a sweep in braces needs quotes, "
                f'{{{key}:"interval(0.2,0.8)"}}, or stands alone: {key}=interval(0.2,0.8)'
            )
    return [f"{key}={shown(value)}" for key, value in params.items()]


def _selections(groups: list[Override]) -> Iterator[list[str]]:
    """The first choice of every group, then every further choice of one group at a time.

    All combinations would cost a product; a key belongs to one group, so the sum finds it.
    """
    choices = []
    for override in groups:
        if override.is_sweep_override():
            words = [*override.sweep_string_iterator()] if override.is_discrete_sweep() else []
            choices.append([f"{override.get_key_element()}={word}" for word in words])
        else:
            choices.append([override.input_line or ""])
    choices = [words for words in choices if words]
    first = [words[0] for words in choices]
    yield first
    for place, words in enumerate(choices):
        for word in words[1:]:
            yield [*first[:place], word, *first[place + 1 :]]


def _checked_value(override: Override, base: DictConfig, menu: Menu) -> str:
    """The override as Hydra wants it: with `++` when its key lies in an open dictionary."""
    key, text = override.key_or_group, override.input_line or ""
    if override.package is not None:
        raise UsageError(f"{text}: there is no group '{key}'")
    parts = key.split(".")
    if OPEN in parts and not override.is_delete():
        return f"++{text.lstrip('+')}"
    node: Any = base
    for depth, part in enumerate(parts):
        if isinstance(node, ListConfig):
            return text
        # `in` would deny a key whose value is still missing
        if not isinstance(node, DictConfig) or part not in list(node) or part == "hydra":
            raise UsageError(_unknown_key(override, base, parts[:depth], part))
        node = _value(node, part)
    if override.is_delete():
        raise UsageError(f"{text} takes away what a run needs; give {key} a value")
    for value in _raw_values(override):
        declared = _ranges.declared(key, base)
        whole = type(node) is int if declared is None else declared.kinds == {int}
        if whole and type(value) is float and override.is_interval_sweep():
            raise UsageError(f"{text} draws fractions: write {key}=int({text.partition('=')[2]})")
        _check_type(key, value, node, base)
        _ranges.check(key, value, base)
    return text


def _check_hydra(overrides: list[Override], groups: list[Override], menu: Menu) -> None:
    """Keys of Hydra's own that are not there; `+` and `++` add some that a plugin may know."""
    base = menu.composed(next(_selections(groups))) if overrides else OmegaConf.create()
    for override in overrides:
        node: Any = base
        adds = override.is_add() or override.is_force_add()
        parts = [] if adds else override.key_or_group.split(".")
        for depth, part in enumerate(parts):
            if not isinstance(node, DictConfig) or part not in list(node):
                raise UsageError(_unknown_key(override, base, parts[:depth], part))
            node = _value(node, part)
        for value in _raw_values(override):
            _ranges.check(override.key_or_group, value)


def _check_one_target(values: list[Override], base: DictConfig) -> None:
    """A typed ratio beside a typed budget: once composed, a default is no longer told from it.

    No pruning reads neither, which `idle` tells.
    """
    if base.hydra.runtime.choices.get("prune") == "none":
        return
    told: dict[str, str] = {}
    for override in values:
        key, line = override.key_or_group, override.input_line or ""
        if key == "prune.ratio":
            told["ratio"] = line
        elif key.startswith("prune.budget"):
            name = key.rpartition(".")[2]
            given = [
                v.items() if isinstance(v, dict) else [(name, v)] for v in _raw_values(override)
            ]
            told |= {n: line for pairs in given for n, value in pairs if value is not None}
    lines = dict.fromkeys(told.values())
    if len(lines) > 1:
        raise UsageError(f"{' and '.join(lines)} both say how much goes: give one of them")


def _check_needs(config: DictConfig, open_keys: set[str]) -> None:
    """Files and names without which an option of a composed configuration is nothing."""
    _ranges.check_needs(config, open_keys)
    tree = _start_tree(config)
    if tree and "start.path" not in open_keys:
        starting.of({"start": tree}).check()


def _start_tree(config: DictConfig) -> dict[str, Any]:
    """The group `start` as plain values; empty where it is not there, or cannot be resolved yet."""
    if "start" not in config:
        return {}
    try:
        return OmegaConf.to_container(config.start, resolve=True)
    except OmegaConfBaseException:
        return {}  # `plain` tells what is wrong when the run begins


def _check_start(groups: list[Override], values: list[Override], base: DictConfig) -> None:
    """What the walk begins with, against the typed stages and a typed model.

    Before any value is checked by itself: what has another type is told there.
    """
    typed: dict[str, list[Any]] = {}
    for override in values:
        typed.setdefault(override.key_or_group, []).extend(_raw_values(override))
    tree = _start_tree(base)
    for path in typed.get("start.path", [None]):
        late = "${" in str(path)  # it is looked at when it is composed
        given = {"path": path} if "path" in tree and path and not late else {}
        start = starting.of({"start": {**tree, **given}})
        own = [list(base.stages)] if "stages" in base else []
        for stages in typed.get("stages", own):
            if isinstance(stages, list):
                _ranges.check("stages", stages)
                starting.check_stages(start, stages)
        if late or "start.path" not in typed:  # `_check_needs` looks at the composed one
            continue
        start.check()
        chosen = any(override.key_or_group == "model" for override in groups)
        target = str(OmegaConf.select(base, "model._target_") or "") if chosen else ""
        options = {k[len("model.") :]: v[0] for k, v in typed.items() if k.startswith("model.")}
        start.check_model(target, options)


def _raw_values(override: Override) -> Iterator[Any]:
    if not override.is_sweep_override():
        yield override.value()
    elif override.is_choice_sweep() or override.is_range_sweep():
        for value in override.sweep_iterator():
            yield Override._convert_value(value)
    elif override.is_interval_sweep():
        yield override._value.start
        yield override._value.end


def _value(node: DictConfig, key: str) -> Any:
    """A value with its interpolation resolved where that is possible, None where it is not."""
    try:
        return None if OmegaConf.is_missing(node, key) else node[key]
    except OmegaConfBaseException:
        return None


def _check_type(key: str, value: Any, default: Any, base: DictConfig) -> None:
    """Refuse a value of another type than the key's.

    default: the key's value in `base`, the composed configuration; it says the type of what nothing
    declares.
    """
    if (isinstance(value, str) and "${" in value) or value == "???":
        return
    declared = _ranges.declared(key, base)
    if isinstance(default, DictConfig) and isinstance(value, dict):
        return _check_entries(key, value, default, base)
    if declared is None or not declared.kinds:
        if default is None or _alike(value, default):
            return
    elif value == AUTO and default != AUTO and key.partition(".")[0] in STAGES:
        pass  # the numbers of a recipe that has some are not made from the data
    elif declared.fits(value) or (value is None and default is None):
        return
    if default is None:
        _ranges.check(key, value, base)  # it may know what to type instead
    raise UsageError(_other_type(key, value, default, declared))


def _alike(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default that says alone what is meant."""
    if isinstance(default, ListConfig):
        return isinstance(value, list)
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _other_type(key: str, value: Any, default: Any, declared: Declared | None) -> str:
    text = f"{key}={shown(value)}"
    if isinstance(default, DictConfig):
        return (
            f"{text}: {key} is not a value but has {listed(_visible(default))} "
            f"below it; write {key}.NAME=VALUE"
        )
    if isinstance(default, ListConfig):
        return (
            f"{text}: a list is expected, as in {key}='[{shown(value)}]'; "
            f"the default is {shown(OmegaConf.to_container(default))}"
        )
    if declared is not None and (default is None or default in declared.words):
        written = f"[{shown(value)}]" if declared.kinds == {list} else "{NAME: VALUE}"
        example = f", as in {key}='{written}'" if declared.kinds <= {list, dict} else ""
        return f"{text}: {declared.kind} is expected{example}{declared.others(key)}"
    if declared is None or type(default) in declared.kinds:
        declared = Declared.of(type(default))
    quoted = "" if not isinstance(default, str) or value is None else f""" or {key}='"{value}"'"""
    return (
        f"{text}: {declared.kind} is expected, such as the default {key}={shown(default)}{quoted}"
    )


def _check_entries(key: str, value: dict[Any, Any], default: DictConfig, base: DictConfig) -> None:
    if OPEN in key.split("."):
        return
    for name, entry in value.items():
        if name not in default:
            near = difflib.get_close_matches(str(name), _visible(default), n=3)
            hint = f"; did you mean {either(near)}?" if near else ""
            raise UsageError(f"{key} has no key '{name}', it has {listed(_visible(default))}{hint}")
        _check_type(f"{key}.{name}", entry, _value(default, str(name)), base)


def _unknown_key(override: Override, base: DictConfig, above: list[str], part: str) -> str:
    path = ".".join(above)
    node = OmegaConf.select(base, path) if path else base
    text = override.input_line or ""
    if path and not isinstance(node, DictConfig):
        return f"{text}: {path} is a single value ({shown(node)}) and has nothing below it"
    here = [name for name in _visible(node) if name != "hydra"]
    prefix = f"{path}." if path else ""
    everywhere = [name for name in _paths(base) if not name.startswith("hydra.")]
    key = override.key_or_group
    near = [name for name in everywhere if name.rsplit(".", 1)[-1] == part]
    near.sort(key=lambda name: name.count("."))  # stages before what lies deep in a group
    if not near:
        near = [f"{prefix}{name}" for name in difflib.get_close_matches(part, here, n=3)]
    if not near:
        near = difflib.get_close_matches(key, everywhere, n=3, cutoff=0.75)
    hint = f"did you mean {either(near[:4])}? " if near else ""
    if not path:
        return f"{text}: there is no group or key '{part}'; {hint}there are {listed(here)}"
    choice = base.hydra.runtime.choices.get(above[0])
    whose = f"{path} ({above[0]}={choice})" if choice is not None else path
    if not here:
        return f"{text}: {whose} is empty; another {above[0]}=OPTION fills it"
    return f"{text}: {whose} has no key '{part}'; {hint}it has {listed(here)}"


def _visible(node: DictConfig) -> list[str]:
    return [str(key) for key in node if not str(key).startswith("_")]


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in _visible(node):
        yield f"{prefix}{key}"
        child = _value(node, key)
        if isinstance(child, DictConfig):
            yield from _paths(child, f"{prefix}{key}.")
