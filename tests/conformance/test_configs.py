"""Every YAML file of a config group, by existing, is held to what the command line promises."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from compressor.configuration import (
    Menu,
    check,
    check_multirun,
    compose,
    config_dir,
    read_command,
)

FILES = sorted(config_dir().glob("*/*.yaml"))
RECIPES = sorted(config_dir().glob("*/by_*/*.yaml"))
ALL_FILES = [config_dir() / "run.yaml", *FILES, *RECIPES]
# what the pipeline knows and hands to a network's builder
GIVEN = {"num_classes", "input_size"}
KEY = re.compile(r"\s*(?!_target_)[\w.]+:(?:\s|$)")


def name(path: Path) -> str:
    return path.relative_to(config_dir()).with_suffix("").as_posix()


def own(path: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(path)) or {}


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary with a `_target_`, at any depth."""
    if isinstance(node, dict):
        if node.get("_target_", "???") != "???":
            yield node
        for child in node.values():
            yield from targets(child)


def inherited(path: Path) -> dict[str, Any]:
    """The options that all files of the group share."""
    base = path.parent / "_base.yaml"
    options = own(base) if base.exists() else {}
    return {key: value for key, value in options.items() if key != "defaults"}


def normal(value: Any) -> Any:
    """Tuples and mapping proxies, the immutable defaults of constructors, as YAML holds them."""
    if isinstance(value, Mapping):
        return {key: normal(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [normal(child) for child in value]
    return value


METHODS = [path for path in FILES if not path.stem.startswith("_") and list(targets(own(path)))]


@pytest.mark.parametrize("path", METHODS, ids=name)
def test_a_files_keys_and_values_are_its_constructors(path):
    for node in targets(own(path)):
        signature = inspect.signature(get_object(node["_target_"]))
        parameters = {
            key: parameter.default
            for key, parameter in signature.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        written = {key: value for key, value in node.items() if key not in ("_target_", "defaults")}
        shared = inherited(path)
        # what a group shares may be its stage's business: such keys are no constructor's
        strangers = written.keys() - parameters.keys() - shared.keys()
        assert not strangers, f"{node['_target_']} does not take {sorted(strangers)}"
        missing = parameters.keys() - written.keys() - shared.keys() - GIVEN
        assert not missing, f"{name(path)}.yaml has no line for {sorted(missing)}"
        for key, value in {**shared, **written}.items():
            if key not in parameters or (isinstance(value, str) and "${" in value):
                continue
            if parameters[key] is inspect.Parameter.empty:
                assert value == "???", f"'{key}' has no default in {node['_target_']}"
            else:
                assert normal(value) == normal(parameters[key]), f"the defaults of '{key}' differ"


@pytest.mark.parametrize("path", [config_dir() / "run.yaml", *FILES], ids=name)
def test_every_key_has_a_comment(path):
    assert uncommented(path) == []


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_no_line_is_longer_than_a_hundred_columns(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_sets_what_its_group_explains_and_names_its_source(path):
    base = Menu(read_command([])).compose([])[path.parent.parent.name]
    assert own(path).keys() <= set(base)
    assert path.read_text(encoding="utf-8").startswith("# ")


def uncommented(path: Path) -> list[str]:
    """The lines with a key and a value but no word about them."""
    found, inside_defaults = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        inside_defaults = line.startswith("defaults:") or (inside_defaults and line[:1] in " -")
        opens_a_block = line.split("#")[0].rstrip().endswith(":")
        if KEY.match(line) and not inside_defaults and "#" not in line and not opens_a_block:
            found.append(line)
    return found


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_no_key_is_written_twice(path):
    for node in _mappings(yaml.compose(path.read_text(encoding="utf-8"))):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys))


CHOICES = [path for path in FILES if not path.stem.startswith("_")]


@pytest.mark.parametrize("path", CHOICES, ids=name)
def test_every_option_composes_and_has_what_its_group_shares(path):
    needs_a_plugin(path)
    command = read_command([f"{path.parent.name}={path.stem}"])
    config = Menu(command).compose(command.overrides)
    assert inherited(path).keys() <= set(config.get(path.parent.name, {}))


EXPERIMENTS = [path for path in CHOICES if path.parent.name == "experiment"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_opens_with_its_command_which_is_sound(path):
    needs_a_plugin(path)
    head = path.read_text(encoding="utf-8").split("defaults:")[0]
    (words,) = re.findall(r"^# Run: compress-run (.*?)(?:   .*)?$", head, re.MULTILINE)
    assert f"experiment={path.stem}" in words
    assert re.search(r"\d+ (?:s|min|h)\b", head), "the time it takes"
    command = read_command(words.split())
    menu = Menu(command)
    overrides = check(command, menu)
    check_multirun(compose(overrides, menu), overrides, menu)


def needs_a_plugin(path: Path) -> None:
    if "/hydra/sweeper: optuna" in path.read_text(encoding="utf-8"):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")


def test_there_is_a_file_of_every_method_and_a_test():
    package = config_dir().parent / "compressor"
    if not package.is_dir():
        package = config_dir().parent
    for room in ("prune", "robust", "regularize", "noise", "distill", "scale", "pretrain"):
        methods = {p.stem for p in (package / room).glob("[a-z]*.py")}
        options = {p.stem for p in (config_dir() / room).glob("[a-z]*.yaml")}
        assert methods <= options, f"methods of {room} without a YAML file"
        tests = Path(__file__).parents[1] / room
        assert methods <= {p.stem.removeprefix("test_") for p in tests.glob("test_*.py")}


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, child in node.value:
            yield from _mappings(child)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _mappings(child)
