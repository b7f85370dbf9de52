"""Every key of the YAML files is declared once: the schema or a constructor says type and range."""

import dataclasses
import inspect
from collections.abc import Mapping

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from compressor import _ranges, schema
from compressor._signatures import constructor
from compressor.configuration import Menu, check, config_dir, read_command
from compressor.errors import UsageError
from compressor.options import declarations
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._pruning import Pruning
from compressor.stages._schedule import Schedule

# What the pipeline hands to a network's builder, and the stages to a file-less noise.
GIVEN = {"num_classes", "input_size"}
# Keys whose value in YAML is made of another key's, or stands for none until it is typed.
MADE = {"dataset.labelled_seed", "finetune.clean_seed", "noise.seed", "cache.dir", "paths.data",
        "paths.cache"}  # fmt: skip
MENU = Menu(read_command([]))
OPTIONS = [
    (group, option)
    for group in MENU.groups()
    for option in MENU.options(group)
    if group != "experiment"
]


def merged(path):
    """A file and those that it inherits from, as Hydra puts them together."""
    own = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    tree = {}
    for name in own.pop("defaults", ()):
        if isinstance(name, str) and name != "_self_":
            group, _, option = name.partition("@")[0].rpartition("/")
            folder = config_dir() / group.lstrip("/") if group else path.parent
            tree |= merged(folder / f"{option}.yaml")
    return {**tree, **own}


def composed(group, option):
    """The group of a run with this option; of `distill` with what run.yaml has for all of them."""
    own = merged(config_dir() / group / f"{option}.yaml")
    shared = merged(config_dir() / "run.yaml").get(group, {})
    return {group: {**shared, **own}}


def normal(value):
    """Tuples, mapping proxies and dataclasses, the defaults in Python, as YAML holds them."""
    if dataclasses.is_dataclass(value):
        return normal(vars(value))
    if isinstance(value, Mapping):
        return {key: normal(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [normal(child) for child in value]
    return value


def written(tree, prefix=""):
    """key -> value of everything that can be typed below a composed group."""
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if str(name).startswith("_"):
            continue
        found[key] = value
        inner = isinstance(value, dict) and name not in ("arguments", "terms")
        if inner and not key.endswith(".augment"):
            found |= written(value, f"{key}.")
        elif name == "terms":
            for term, own in value.items():
                found |= written(own, f"{key}.{term}.")
    return found


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_every_key_of_an_option_is_declared_and_its_value_is_of_that_kind(group, option):
    config = composed(group, option)
    for key, value in written(config[group], f"{group}.").items():
        if key.endswith(".arguments"):
            continue  # handed on to a class that is not known here
        found = _ranges.declared(key, config)
        assert found is not None, f"{key} is declared nowhere"
        if value == "???" or (isinstance(value, str) and "${" in value):
            continue
        assert found.fits(value), f"{key}={value} in YAML, declared as {found.kind}"
        if key != "prune.budget":
            found.hold(key, value)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_a_file_is_read_as_its_class_declares_it_once_imported(group, option):
    """The syntax tree says what the annotations of the imported constructor say."""
    targets = [composed(group, option)[group]]
    targets += [*(targets[0].get("terms") or {}).values()]
    for node in targets:
        name = node.get("_target_", "???")
        if name == "???":
            continue
        made = get_object(name)
        function = made.__init__ if inspect.isclass(made) else made
        if function is object.__init__:
            continue
        taken = [
            key
            for key, each in inspect.signature(made).parameters.items()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        imported = declarations(inspect.unwrap(function))
        early = constructor(name)
        assert set(early) == set(taken)
        for key in set(taken) - GIVEN:
            assert early[key] is not None, f"{name} says no type of {key}"
            assert early[key] == imported[key]


@pytest.mark.parametrize(
    ("group", "file", "kind"),
    [
        ("train", "_base", schema.TrainingKeys),
        ("finetune", "_base", schema.FinetuningKeys),
        ("prune", "_base", schema.PruningKeys),
        ("dataset", "_base", schema.DataKeys),
        ("export", "default", schema.ExportKeys),
        ("explain", "none", schema.ExplainKeys),
        ("machine", "default", schema.MachineKeys),
        ("paths", "default", schema.FolderKeys),
    ],
)
def test_the_fields_of_the_schema_and_their_defaults_are_those_of_the_yaml(group, file, kind):
    compare(group, merged(config_dir() / group / f"{file}.yaml"), kind())


def test_the_options_of_the_prune_stage_are_the_keys_of_the_schema_with_their_defaults():
    keys = vars(schema.PruningKeys())
    parts = [Schedule(), WidthOptions(), RepairOptions()]
    found = {name: value for part in parts for name, value in vars(part).items()}
    own = {f.name: f.default for f in dataclasses.fields(Pruning) if f.name in keys}
    found |= {**own, "sensitivity": vars(own["sensitivity"])}
    assert found.keys() == keys.keys()
    assert found.pop("budget") is None and not any(vars(keys["budget"]).values())
    for name, value in found.items():
        assert (normal(value) or None) == (normal(keys[name]) or None), f"the defaults of {name}"


def test_pretraining_adds_to_a_training_what_its_yaml_adds():
    own = merged(config_dir() / "pretrain" / "_base.yaml")
    added = {"pretext": own["pretext"], "frozen": own["frozen"]}
    compare("pretrain", {**merged(config_dir() / "train" / "_base.yaml"), **added},
            schema.PretrainingKeys())  # fmt: skip


def test_run_yaml_is_the_schema_too():
    yaml, run = merged(config_dir() / "run.yaml"), vars(schema.RunKeys())
    del yaml["hydra"]
    assert yaml.keys() <= run.keys() <= yaml.keys() | set(MENU.groups())
    for group in ("recalibrate", "distill", "cache"):
        compare(group, yaml.pop(group), run[group])
    for key, value in yaml.items():
        assert normal(run[key]) == value, f"the defaults of {key} differ"


def compare(group, yaml, declared):
    here = normal(vars(declared))
    assert here.keys() == yaml.keys()
    for key, value in yaml.items():
        if f"{group}.{key}" not in MADE:
            assert here[key] == value, f"the defaults of {group}.{key} differ"


def test_a_key_that_a_constructor_shares_with_its_group_has_one_kind():
    for group, option in OPTIONS:
        own = constructor(composed(group, option)[group].get("_target_", ""))
        shared = declarations(schema.RunKeys).get(group)
        for name in own.keys() & ((shared and shared.fields) or {}).keys():
            assert own[name].kinds == shared.fields[name].kinds, f"{group}.{name}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prune.round_to=abc"], "a whole number is expected, or prune.round_to=null"),
        (["prune.keep_rates=0.75"], "a list is expected, as in prune.keep_rates='[0.75]'"),
        (["prune.round_finetune=3"], "a mapping is expected"),
        (["prune.ratios=0.3"], "prune.ratios=0.3 names nothing"),
        # three that comments of other keys and of other files once let through
        (["prune.sensitivity.ratios=null"], "a list is expected"),
        (["distill=collaborative", "distill.terms.collaborative.split_at=null"], "a list is exp"),
        (["dataset=fake", "dataset.num_classes=null"], "a whole number is expected"),
        (["train.epochs=auto"], "a whole number is expected, such as the default train.epochs=20"),
    ],
)
def test_null_and_other_types_are_refused_by_the_declaration(words, expected):
    with pytest.raises(UsageError) as caught:
        check(read_command(words), MENU)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["machine.devices=auto"],
        ["dataset=imagefolder", "train.epochs=auto", "finetune.lr=3"],
        ["dataset.num_classes=null"],
        ["distill=attention", "distill.terms.attention.teacher_layers=stages"],
        ["dataset=imagefolder", "dataset.fingerprint_cache=null"],
        ["prune=none", "prune.ratio=7", "prune.budget={macs: 2}"],
        ["noise=none", "noise.rate=7"],
    ],
)
def test_what_the_declarations_allow_passes(words):
    assert check(read_command(words), MENU) == words
