import functools
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from compressor import launching
from compressor.configuration import (
    Menu,
    check,
    check_multirun,
    check_single,
    compose,
    config_dir,
    idle,
    job_text,
    plain,
    read_command,
)
from compressor.errors import UsageError
from compressor.verdicts import one_line


@functools.cache
def menu_of(*flags: str) -> Menu:
    return Menu(read_command(flags))


def checked(*words: str) -> list[str]:
    command = read_command(words)
    own = any(word.startswith(("-c", "--config", "hydra.searchpath")) for word in words)
    return check(command, Menu(command) if own else menu_of())


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        checked(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_misspelt_option_is_answered_with_the_near_ones():
    message = refusal("prune=thinnet")
    assert "did you mean prune=thinet?" in message
    assert "apoz" in message


def test_the_menu_of_an_unknown_option_hides_what_only_other_files_inherit():
    assert "_base" not in refusal("prune=nothing_like_it")
    assert "auto" not in refusal("train=nothing_like_it")


def test_an_unknown_key_is_answered_with_the_keys_of_the_chosen_option():
    message = refusal("model=resnet50", "model.num_layers=3")
    assert "model (model=resnet50) has no key 'num_layers'" in message
    assert "width" in message and "depth" in message and "_target_" not in message


def test_a_misspelt_key_is_answered_with_the_near_one():
    assert "did you mean prune.ratio or prune.ratios" in refusal("prune.ration=0.5")


def test_a_key_without_its_group_is_answered_with_its_full_names():
    assert "did you mean pretrain.epochs or train.epochs or finetune.epochs or" in refusal(
        "epochs=3"
    )


def test_a_misspelt_group_is_answered_with_the_near_one():
    assert "did you mean prune?" in refusal("prun=thinet")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prune.ratio=abc", "a number is expected"),
        ("prune.ratio=true", "a number is expected"),
        ("prune.ratio=null", "a number is expected"),
        ("prune.ratio=[0.5]", "a number is expected"),
        ("train.epochs=2.5", "a whole number is expected"),
        ("train.epochs=true", "a whole number is expected"),
        ("seed=zero", "a whole number is expected"),
        ("machine.progress=1", "true or false is expected"),
        ("prune.scope=3", "text is expected"),
        ("stages=train", "a list is expected, as in stages='[train]'"),
        ("dataset.augment=3", "dataset.augment.NAME=VALUE"),
        ("dataset.augment={crop:wide}", "dataset.augment.crop=wide: a whole number"),
        ("dataset.augment={corp:1}", "did you mean crop?"),
        (
            "dataset=imagefolder dataset.image_size=null",
            "a whole number is expected, or dataset.im",
        ),
        (
            "dataset=imagefolder dataset.augment.scale=null",
            "a number is expected, or dataset.augme",
        ),
        ("prune.ratio.x=1", "prune.ratio is a single value (0.5)"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_type_that_is_expected(override, expected):
    assert expected in refusal(*override.split())


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=1",
        "prune.ratio=1e-1",
        "prune.round_to=8",
        "prune.round_to=null",
        "machine.threads=2",
        "export.enabled=true",
        "stages=[train,compress]",
        "paths.outputs=/tmp/elsewhere",
        "paths.outputs=${oc.env:HOME}",
        "dataset.augment={crop:2}",
        "++prune.ratio=0.3",
        "hydra.run.dir=/tmp/elsewhere",
        "distill=[kd]",
        "distill=[none]",
    ],
)
def test_a_value_of_the_right_type_is_handed_on_unchanged(override):
    assert checked(override) == [override]


@pytest.mark.parametrize(
    "words",
    [("prune.ratio=0.5", "prune.budget.macs=0.5"),
     ("prune.budget.latency=0.5", "prune.ratio=0.5"),
     ("prune.ratio=0.5", "prune.budget={params:0.3}"),
     ("prune.ratio=0.3,0.5", "prune.budget.macs=0.5,0.7", "-m")],
)  # fmt: skip
def test_a_typed_ratio_beside_a_budget_is_refused_the_default_too(words):
    assert "both say how much goes: give one of them" in refusal(*words)
    assert "both say how much goes" in refusal("prune=none,thinet", *words, "-m")


def test_no_pruning_takes_a_ratio_beside_a_budget_as_it_takes_any_option_that_it_does_not_read():
    words = ["prune=none", "prune.ratio=0.3", "prune.budget.macs=0.5"]
    assert checked(*words) == words
    [note] = idle(compose(words, menu_of()), words, menu_of())
    assert note.startswith("prune.ratio=0.3 does nothing beside prune=none; choose prune=")


def test_a_budget_of_nothing_may_stand_beside_a_ratio():
    checked("prune.ratio=0.5", "prune.budget.macs=null")
    checked("prune.budget.macs=0.5")


def test_every_value_of_a_sweep_is_checked():
    assert "prune.ratio=x" in refusal("-m", "prune.ratio=0.3,x")
    assert "thinnet" in refusal("-m", "prune=thinet,thinnet")


def test_a_key_is_checked_against_every_option_of_a_swept_group():
    assert "(prune=apoz) has no key 'samples'" in refusal(
        "-m", "prune=thinet,apoz", "prune.samples=3"
    )


def test_commas_without_m_are_answered_with_m():
    assert "add -m" in refusal("prune=thinet,apoz")
    assert "add -m" in refusal("prune.ratio=0.3,0.5")
    assert "add -m" in refusal("seed=range(3)")


def test_commas_of_distillers_name_the_list_as_well():
    assert "distill='[kd,none]'" in refusal("distill=kd,none")


def test_a_sweep_over_ranges_passes():
    words = ["seed=range(3)", "prune.ratio=choice(0.3,0.5)"]
    assert checked("-m", *words) == words


def swept(*words: str) -> None:
    """What the command does with -m before anything runs."""
    command = read_command(["-m", *words])
    overrides = check(command, menu_of())
    check_multirun(compose(overrides, menu_of()), overrides, menu_of())


def refused_sweep(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        swept(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["objective=final.acuracy"], "did you mean final.accuracy?"),
        (["objective=final.loss,final.macz"], "did you mean final.macs?"),
        (["objective=3"], "text is expected"),
        (["prune.ratio=interval(0.2,0.8)"], "add hydra/sweeper=optuna"),
        (["train.epochs=interval(1,5)"], "write train.epochs=int(interval(1,5))"),
        (["hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size=0 must be at least 1"),
        (["hydra.sweeper.batch=0"], "hydra.sweeper has no key 'batch'"),
        (['hydra.sweeper.params={prune:"thinet,thinnet"}'], "did you mean prune=thinet?"),
        (['hydra.sweeper.params={prune.ratio:"0.3,x"}'], "prune.ratio=x: a number is expected"),
        (["hydra.job.env_set.x.y=1"], "hydra.job.env_set"),
        (["hydra.sweeper.params={seed:choice(0,1)}"], "a sweep in braces needs quotes"),
    ],
)
def test_what_a_sweep_cannot_use_is_said_before_it_starts(words, expected):
    assert expected in refused_sweep(*words)


def test_what_is_typed_as_a_parameter_of_the_sweeper_is_a_sweep():
    words = ['hydra.sweeper.params={prune:"choice(thinet,apoz)",seed:3}']
    assert checked("-m", *words) == ["prune=choice(thinet,apoz)", "seed=3"]
    assert checked("-m", "+hydra.sweeper.params.seed=0,1") == ["seed=0,1"]


def test_workers_are_counted_from_one():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ["seed=0,1", "hydra/launcher=joblib"]
    assert "n_jobs=0 runs nothing" in refused_sweep(*joblib, "hydra.launcher.n_jobs=0")
    swept(*joblib, "hydra.launcher.n_jobs=-1")


def test_an_option_of_an_extra_names_the_package_to_install():
    for words, package in (
        (["hydra/launcher=ray"], "pip install hydra-ray-launcher"),
        (["hydra/launcher=joblib"], "pip install hydra-joblib-launcher"),
        (["hydra/launcher=submitit_slurm"], "pip install hydra-submitit-launcher"),
        (["hydra/sweeper=optuna"], "pip install hydra-optuna-sweeper 'sqlalchemy<2'"),
        (["experiment=search_ratio"], "pip install hydra-optuna-sweeper 'sqlalchemy<2'"),
    ):
        try:
            swept(*words)
        except UsageError as error:
            # where it is installed, there is something else to say, or nothing
            assert package in str(error) or "direction" in str(error)


def test_a_search_has_the_direction_of_each_objective():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=optuna", "prune.ratio=interval(0.2,0.8)"]
    assert "type hydra.sweeper.direction=maximize" in refused_sweep(*search)
    two = [*search, "objective=[final.accuracy,final.macs]"]
    wrong = refused_sweep(*two, "hydra.sweeper.direction=maximize")
    assert "type hydra.sweeper.direction='[maximize,minimize]'" in wrong
    swept(*two, "hydra.sweeper.direction=[maximize,minimize]")
    swept(*search, "objective=final.loss")


def test_a_search_on_another_task_looks_at_the_figures_of_that_task():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "prune.ratio=interval(0.2,0.8)"]
    words.append("task._target_=doubles.Segmentation")
    assert "there is no figure 'accuracy'; it is one of mean_iou" in refused_sweep(*words)
    words.append("objective=final.mean_iou")
    assert "type hydra.sweeper.direction=maximize" in refused_sweep(*words)
    swept(*words, "hydra.sweeper.direction=maximize")


def test_a_search_on_time_runs_its_members_one_after_another():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    timed = ["hydra/sweeper=optuna", "seed=0,1", "objective=final.latency_ms.median"]
    swept(*timed)
    assert "one after another" in refused_sweep(*timed, "hydra/launcher=joblib")


def test_a_search_without_m_is_refused_and_one_of_its_members_is_not():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["experiment=search_ratio"]
    with pytest.raises(UsageError, match="add -m"):
        check_single(compose(words, menu_of()), words)
    words += ["prune=apoz", "prune.ratio=0.3"]
    check_single(compose(words, menu_of()), words)


@pytest.mark.parametrize(
    ("words", "total"),
    [
        (["prune=none,thinet", "seed=range(3)"], 6),
        (["prune.ratio=choice(0.3,0.5)"], 2),
        (["prune=thinet"], 1),
        (["hydra/sweeper=optuna", "prune.ratio=interval(0.2,0.8)"], 20),
        (["experiment=search_ratio", "hydra.sweeper.n_trials=7"], 7),
    ],
)
def test_the_number_of_members_is_known_before_they_start(words, total):
    if "hydra" in words[0] or "experiment" in words[0]:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    config = menu_of().loader.load_configuration("run", words, RunMode.MULTIRUN)
    assert launching.members(config) == total


def test_members_side_by_side_have_one_thread_each_unless_the_user_says_otherwise():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

    def added(*words):
        return launching.additions(compose(words, menu_of()), words)[0]

    assert added("seed=0,1") == []
    assert added("seed=0,1", "hydra/launcher=joblib") == ["machine.threads=1"]
    assert added("hydra/launcher=joblib", "machine.threads=2") == []
    assert added("hydra/launcher=joblib", "machine.threads=null") == []
    threads, batch = added("hydra/launcher=submitit_local")
    assert batch.startswith("hydra.sweeper.max_batch_size=")
    assert added("hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=5") == [threads]


def test_a_glob_names_options_and_no_inherited_bases():
    assert checked("-m", "prune=glob([th*,ap*])") == ["prune=choice(apoz,thinet)"]
    assert "_base" not in checked("-m", "prune=glob(*)")[0]
    assert "fits no option" in refusal("-m", "prune=glob(x*)")


def test_taking_a_group_away_is_answered_with_none():
    assert "write prune=none" in refusal("~prune")
    assert "write prune=none" in refusal("prune=null")
    assert "takes away" in refusal("~prune.ratio")


def test_a_plus_does_not_smuggle_in_an_unknown_key():
    assert "no key 'foo'" in refusal("+prune.foo=3")


def test_keys_below_arguments_need_no_plus():
    words = ["model=custom", "model._target_=my.Net", "model.arguments.width=3"]
    assert checked(*words) == [*words[:2], "++model.arguments.width=3"]


def test_a_value_missing_from_the_file_can_be_given_and_is_asked_for():
    command = read_command(["model=custom"])
    config = Menu(command).compose(command.overrides)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    with pytest.raises(UsageError, match=r"model\._target_ has no value"):
        plain(config)


def test_flags_and_overrides_may_stand_in_any_order():
    command = read_command(["prune=thinet", "-m", "seed=0,1"])
    assert command.multirun
    assert command.overrides == ("prune=thinet", "seed=0,1")
    assert command.flags == ("-m",)


def test_an_unknown_flag_is_a_usage_error():
    with pytest.raises(UsageError, match="--mulitrun"):
        read_command(["--mulitrun", "seed=0,1"])


def test_what_cannot_be_parsed_is_quoted():
    assert "prune=[" in refusal("prune=[")


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    (tmp_path / "prune").mkdir()
    text = "defaults: [_base]\n_target_: mine.Mine\nknob: 3\n"
    (tmp_path / "prune" / "mine.yaml").write_text(text)
    return tmp_path


def test_a_users_folder_adds_an_option_whose_keys_are_checked(user_folder):
    flags = ["--config-dir", str(user_folder), "prune=mine"]
    assert checked(*flags, "prune.knob=4") == ["prune=mine", "prune.knob=4"]
    assert "has no key 'nob'" in refusal(*flags, "prune.nob=4")
    assert "whole number" in refusal(*flags, "prune.knob=x")


def test_a_users_own_class_is_checked_by_its_annotations_without_importing_it(tmp_path):
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune" / "mine.yaml").write_text(
        "defaults: [_base]\n_target_: own_room.mine.Mine\nshare: 0.5\nkind: near\n"
        "limit: null\nplain: 3   # null: none is needed, or a list\nmaybe: 3\nfree: null\n"
    )
    (tmp_path / "own_room").mkdir()
    (tmp_path / "own_room" / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    (tmp_path / "own_room" / "base.py").write_text(
        "import typing as t\nfrom compressor import options\n"
        "MOST = 1 - 0.25\nKind = t.Literal['near', 'far']\n"
        "class Base:\n"
        "    def __init__(self, share: t.Annotated[float, options.Range(0, MOST)] = 0.5, *,\n"
        "                 kind: Kind = 'near', limit: 'int | None' = None, plain: int = 3,\n"
        "                 maybe: int | None = 3, free: Tensor = None): ...\n"
    )
    (tmp_path / "own_room" / "mine.py").write_text(
        "import torch\nfrom .base import Base\nclass Mine(Base): ...\n"
    )
    script = (
        "import sys; from compressor.configuration import *\n"
        "from compressor.errors import UsageError\n"
        f"flags = ['--config-dir', {str(tmp_path)!r}, 'prune=mine']\n"
        "menu = Menu(read_command(flags))\n"
        "for word in sys.argv[1:]:\n"
        "    try: print(check(read_command([*flags, word]), menu)[1], 'passes')\n"
        "    except UsageError as error: print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    expected = {
        "prune.share=0.8": "prune.share=0.8 must be at most 0.75",
        "prune.kind=off": "prune.kind=off is not known: choose one of near, far",
        "prune.limit=x": "prune.limit=x: a whole number is expected, or prune.limit=null",
        "prune.limit=4": "prune.limit=4 passes",
        "prune.plain=null": "prune.plain=null: a whole number is expected, such as the default "
        "prune.plain=3",
        "prune.plain=[1]": "prune.plain=[1]: a whole number is expected, such as the default "
        "prune.plain=3",
        "prune.maybe=null": "prune.maybe=null passes",
        "prune.free=whatever": "prune.free=whatever passes",
        "prune.ratio=2": "prune.ratio=2 must be below 1: it is the fraction of channels removed; "
        "to remove nothing type prune=none",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *expected], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [*expected.values(), "False"], done.stderr


def test_a_searchpath_adds_an_option(user_folder):
    words = [f"hydra.searchpath=[{user_folder}]", "prune=mine", "prune.knob=4"]
    assert checked(*words) == words


def test_a_users_experiment_chooses_options_and_values(user_folder):
    (user_folder / "experiment").mkdir()
    (user_folder / "experiment" / "small.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /prune: mine\nseed: 7\n"
    )
    command = read_command(["--config-dir", str(user_folder), "experiment=small", "prune.knob=4"])
    config = OmegaConf.create(job_text(command, Menu(command)))
    assert (config.seed, config.prune._target_, config.prune.knob) == (7, "mine.Mine", 4)


def test_a_folder_that_is_not_there_is_a_usage_error():
    assert "/not/there" in refusal("hydra.searchpath=[/not/there]")
    assert "/not/there" in refusal("--config-dir", "/not/there")
    assert "--config-dir FOLDER" in refusal("--config-path", "conf")


def test_a_users_file_that_would_lose_to_a_built_in_one_is_refused(user_folder):
    (user_folder / "prune" / "thinet.yaml").write_text("_target_: mine.Mine\n")
    assert "my_thinet.yaml" in refusal("--config-dir", str(user_folder), "prune=thinet")


def test_cfg_job_prints_what_hydra_composes():
    words = ["prune.ratio=0.25", "model=resnet50", "machine.threads=1", "distill=kd"]
    command = read_command(["--cfg", "job", *words])
    config = OmegaConf.create(job_text(command, Menu(command)))
    loader = Menu(command).loader
    expected = OmegaConf.to_container(loader.load_configuration("run", words, RunMode.RUN))
    del expected["hydra"]
    assert OmegaConf.to_container(config) == expected
    assert config.prune.ratio == 0.25


def test_the_training_recipe_follows_the_data_and_the_model():
    recipes = config_dir() / "train"
    by_data = {path.stem for path in (recipes / "by_dataset").glob("*.yaml")}
    assert by_data, "no data set has a training recipe"
    for name in sorted(by_data):
        command = read_command([f"dataset={name}"])
        composed = Menu(command).compose(command.overrides).train
        for key, value in OmegaConf.load(recipes / "by_dataset" / f"{name}.yaml").items():
            both = recipes / "by_dataset_and_model" / f"{name}_resnet20.yaml"
            if not both.exists():
                assert composed[key] == value


def test_an_unresolved_interpolation_is_one_line():
    with pytest.raises(UsageError) as caught:
        plain(OmegaConf.create({"a": {"b": "${nowhere}"}}))
    assert "a.b" in str(caught.value) and "\n" not in str(caught.value)


def test_one_line_drops_the_notes_of_omegaconf():
    assert one_line(ValueError("first\n    full_key: a\n  second")) == "first second"


def test_checking_imports_no_torch():
    program = (
        "import sys; from compressor.configuration import *\n"
        "command = read_command(['prune.ratio=0.3']); check(command, Menu(command))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_hydras_parser_reads_what_the_documentation_shows():
    # the checks rest on this type's private parts; a new Hydra must not change them unseen
    override = OverridesParser.create().parse_override("prune.ratio=0.3,0.5")
    assert [*override.sweep_iterator()] == [0.3, 0.5]


# -- ranges, folders and Hydra's own keys ---------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=-1", "seed=-1 must be at least 0"),
        (f"seed={2**70}", "must be at most 9223372036854775807"),
        ("machine.latency_seconds=-1", "0 leaves latency unmeasured"),
        ("machine.latency_seconds=nan", "give a finite number"),
        ("machine.latency_seconds=601", "must be at most 600: give seconds"),
        ("machine.accelerator=foo", "is not known: choose one of auto, cpu, gpu, cuda, mps"),
        ("machine.strategy=foo", "is not known: choose one of auto, ddp, ddp_find"),
        ("machine.devices=0", "must not be 0: give a number of devices, or -1"),
        ("machine.devices=-5", "must be at least -1"),
        ("train.gamma=0", "must be above 0: each drop multiplies lr by it"),
        ("train.gamma=1.5", "must be at most 1"),
        ("model.width=65", "model.width=65 must be at most 64"),
        ("model.depth=65", "model.depth=65 must be at most 64"),
        ("stages=[]", "stages=[] must begin with train"),
        ("stages=[compress]", "must begin with train"),
        ("stages=[train,foo]", "hold only train, compress, recalibrate, finetune"),
        ("stages=[train,train]", "holds train or compress twice"),
        ("machine.workers=-1", "0 loads the images in the main process"),
        ("machine.eval_batch_size=0", "must be at least 1"),
        ("machine.threads=0", "must be at least 1"),
        ("cache.lease_seconds=-1", "must be above 0: give seconds"),
        ("cache.max_size=much", "cache.max_size=much: 'much' is no size: write 500M, 20G"),
        ("cache.max_size=-5", "cache.max_size=-5: -5 must be positive"),
        ("recalibrate.images=1", "must be at least 2"),
        ("recalibrate.batch_size=0", "must be at least 2"),
        ("cache.dir=", "cache.dir= is empty: name a folder"),
        ("paths.outputs=", "paths.outputs= is empty: name a folder"),
        ("hydra.run.dir=", "hydra.run.dir= is empty: name a folder"),
        ("dataset=imagefolder dataset.root=", "dataset.root= is empty: name a folder"),
        ("distill=[kd,kd]", "names kd twice"),
        ("prune=[thinet,apoz]", "takes one: write prune=apoz, or -m prune=thinet,apoz"),
        ("hydra.foo=1", "hydra has no key 'foo'"),
        ("hydra.job.chdri=true", "did you mean hydra.job.chdir?"),
        ("=3", "has no key before its ="),
        ("hydra.run.dir=/tmp/ü", """'hydra.run.dir="/tmp/ü"'"""),
    ],
)
def test_a_value_out_of_range_is_answered_with_what_to_type(override, expected):
    assert expected in refusal(*override.split())


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        (("distill=kd", "distill=pkt"), "distill=kd and distill=pkt: the last one alone would "
         "count; write one list: distill='[kd,pkt]'"),
        (("distill=[kd,pkt]", "distill=hints"), "distill='[kd,pkt,hints]'"),
        (("experiment=data_free", "experiment=search_ratio"), "experiment='[data_free,search_ra"),
        (("prune=apoz", "prune=thinet"), "write one of them, or -m prune=apoz,thinet for one run"),
        (("-m", "prune=apoz,l1", "prune=thinet"), "one word, as in -m prune=apoz,l1,thinet"),
    ],
)  # fmt: skip
def test_a_group_that_is_chosen_twice_is_refused_with_the_one_word_to_type(words, wish):
    assert wish in refusal(*words)


def test_the_same_choice_twice_drops_nothing():
    assert checked("prune=apoz", "prune=apoz") == ["prune=apoz", "prune=apoz"]


def test_every_value_of_a_sweep_is_compared_with_its_range():
    assert "seed=-1 must be at least 0" in refusal("-m", "seed=0,-1")
    assert "robust.q=2 must be at most 1" in refusal("-m", "robust=gce", "robust.q=0.5,2")
    # it is thinet that reads the ratio, in a later member
    assert "prune.ratio=1.5 must" in refusal("-m", "prune=none,thinet", "prune.ratio=0.5,1.5")
    assert "prune.ratio=1.0 must" in refusal("-m", "prune.ratio=range(0.5,2.5,0.5)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("robust=gce", "robust.q=0"), "robust.q=0 must be above 0"),
        (("train.optimizer=adam",), "train.optimizer=adam is not known: choose one of sgd, adamw"),
        (("distill=kd", "distill.terms.kd.temperature=0"), "kd.temperature=0 must be above 0"),
        (("train.milestones=[0.5,2]",), "train.milestones=2 must be below 1"),
        (("prune.budget={macs:2}",), "prune.budget.macs=2 must be below 1"),
        (("prune.budget={macs:0.5,params:0.4}",), "macs=0.5 and prune.budget.params=0.4 both say"),
        (("prune.budget.macs=0.5", "prune.budget.params=0.4"), "give one of them"),
        (("prune.keep_rates=[]",), "prune.keep_rates=[] is empty: give at least one number"),
        (("prune.keep_rates=[0.5,0.75]",), "must fall, as in prune.keep_rates='[0.75,0.5]'"),
        (("prune.sensitivity.ratios=[]",), "ratios=[] is empty"),
        (("prune.ratios={layer1: 1.0}",), "prune.ratios.layer1=1.0 must be below 1"),
        (("prune.ratios={layer1: -0.2}",), "prune.ratios.layer1=-0.2 must be at least 0"),
        (("scale=multiplier", "scale.width=1000"), "scale.width=1000 must be at most 64"),
        (("scale=multiplier", "scale.resolution=65"), "scale.resolution=65 must be at most 64"),
        (("distill=kd", "distill.teacher.model=foo"), "model=foo is not known: choose one of"),
        (("dataset.image_size=1000000",), "dataset.image_size=1000000 must be at most 8192"),
    ],
)
def test_a_methods_own_ranges_are_held_before_it_is_made(words, expected):
    assert expected in refusal(*words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("noise=file",), "noise=file needs the file of labels: type noise.file=labels.csv"),
        (("noise=matrix",), "noise=matrix needs noise.matrix="),
        (("distill=kd", "distill.teacher.source=artefact"), "source=artefact needs distill.teach"),
        (("distill=kd", "distill.teacher.source=callable"), "needs distill.teacher.function"),
    ],
)
def test_an_option_without_its_file_is_refused_with_the_command(words, expected):
    with pytest.raises(UsageError, match=expected):
        compose(checked(*words), menu_of())


def test_an_option_without_its_file_is_refused_in_a_later_member_too():
    def told(*words):
        handed = checked("-m", *words)
        check_multirun(compose(handed, menu_of()), handed, menu_of())

    with pytest.raises(UsageError, match="noise=file needs the file"):
        told("noise=symmetric,file", "noise.seed=1")
    with pytest.raises(UsageError, match="source=artefact needs"):
        told("distill=none,kd", "distill.teacher.source=artefact")
    told("noise=file", "noise.file=a.csv,b.csv")
    told("distill=kd,pkt", "distill.teacher.source=artefact", "distill.teacher.path=a,b")
    told("distill=none,collaborative", "distill.at=train", "distill.teacher.source=artefact")


def test_what_the_machine_lacks_by_name_is_refused_before_the_first_member_starts():
    assert "machine.accelerator=foo" in refusal("-m", "seed=0,1", "machine.accelerator=cpu,foo")
    assert "machine.strategy=foo" in refusal("-m", "machine.strategy=auto,ddp,foo")
    assert "machine.devices=0" in refusal("-m", "machine.devices=1,0")
    assert "stages=['train', 'foo']" in refusal("-m", "stages=[train],[train,foo]")


def test_one_budget_may_be_typed_twice_and_nothing_beside_another():
    checked("prune.budget={macs:0.5}", "prune.budget.macs=0.6")
    checked("prune.budget.macs=0.5", "prune.budget.params=null")
    assert "both say" in refusal("-m", "prune.budget.macs=0.5,0.6", "prune.budget.params=0.4")


def test_a_value_out_of_range_is_refused_without_torch():
    code = (
        "import sys; from compressor.run import main; "
        "print(main(['robust=gce', 'robust.q=2', 'seed=1']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"] and "robust.q=2" in done.stderr


def test_a_name_in_quotes_inside_the_shells_is_taken():
    assert checked('hydra.run.dir="/tmp/ü"') == ['hydra.run.dir="/tmp/ü"']


def test_a_value_of_a_file_is_compared_with_its_range_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: -2\n")
    menu = menu_of("--config-dir", str(tmp_path))
    with pytest.raises(UsageError, match="seed=-2 must be at least 0"):
        compose(["experiment=mine"], menu)


def test_what_hydra_cannot_merge_is_said_in_one_line_of_ours():
    with pytest.raises(UsageError, match="hydra.mode=FOO does not fit: .*MULTIRUN") as caught:
        compose(["hydra.mode=FOO"], menu_of())
    assert "\n" not in str(caught.value)


def test_members_may_not_share_one_folder():
    words = ["seed=0,1", "hydra.sweep.subdir=all"]
    with pytest.raises(UsageError, match="hydra.sweep.subdir=all is one folder for all members"):
        check_multirun(compose(words, menu_of()), words, menu_of())
    words[1] = "hydra.sweep.subdir=s${seed}"
    check_multirun(compose(words, menu_of()), words, menu_of())


def test_a_value_may_be_a_mapping_where_it_is_declared_so():
    words = ["noise=asymmetric", "noise.map={3: 5, 5: 3}"]
    assert compose(checked(*words), menu_of()).noise.map == {3: 5, 5: 3}
    assert "a number is expected" in refusal("noise=asymmetric", "noise.rate={3: 5}")


def test_options_of_what_is_none_get_a_line():
    def notes(*words):
        return idle(compose(words, menu_of()), words, menu_of())

    assert notes("robust=none", "robust.label_smoothing=0.1") == []  # which `none` itself has

    [note] = notes("noise.rate=0.4", "noise.mode=exact")
    assert note.startswith("noise.rate=0.4 does nothing beside noise=none; choose noise=")
    assert "symmetric" in note
    assert notes("noise.rate=0.4", "noise=symmetric") == []
    assert notes("prune=none,thinet", "prune.ratio=0.3,0.5") == []
    assert len(notes("prune=none", "prune.ratio=0.3,0.5", "distill=none", "distill.at=train")) == 2
