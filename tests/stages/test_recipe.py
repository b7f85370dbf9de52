"""The groups of the trainings and of the teaching, read once: what a run knows of them."""

from dataclasses import fields

import pytest
from test_pipeline import compose, plan, run

from compressor import instantiation
from compressor.cache import key_of
from compressor.distill.kd import KD
from compressor.errors import UsageError
from compressor.experiment import Experiment
from compressor.stages._distill.options import Teacher, Teaching
from compressor.stages._recipe import Pretraining, Recipe, Recipes, Recovery

METHODS = ("distill", "robust", "regularize", "noise", "pretrain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def test_each_method_is_made_once_in_a_run_however_many_trainings_read_it(folder, monkeypatch):
    """Trainings of every stage, of a teacher and of baselines, a plan, notices and a report."""
    made, read = [], []
    make, reads = instantiation.instantiate, Recipes.read

    def counted(tree, **more):
        made.append(tree["_target_"])
        return make(tree, **more)

    monkeypatch.setattr(instantiation, "instantiate", counted)
    monkeypatch.setattr(Recipes, "read", lambda config: read.append(config) or reads(config))
    run(
        folder, "once", "distill=[kd,attention]", "robust=gce", "noise=symmetric",
        "regularize=slimming", "pretrain=rotnet", "pretrain.epochs=1", "finetune.robust=same",
        "finetune.labels=given", "distill.teacher.source=model", "distill.teacher.model=resnet20",
        "distill.teacher.epochs=1", "baselines=true", "export.enabled=false", "train.epochs=1",
        "prune=none", "dataset.labelled_fraction=0.2", "machine.latency_seconds=0",
    )  # fmt: skip
    found = sorted(name for name in made if name.split(".")[1] in METHODS)
    assert found == [
        "compressor.distill.attention.Attention",
        "compressor.distill.kd.KD",
        "compressor.noise.symmetric.Symmetric",
        "compressor.pretrain.rotnet.RotNet",
        "compressor.regularize.slimming.Slimming",
        "compressor.robust.gce.GCE",
    ]
    assert len(read) == 1


def test_what_enters_a_key_is_what_the_config_says(folder):
    """Whatever is typed into objects: these dictionaries are on users' disks, as keys."""
    words = ("distill=kd", "robust=gce", "regularize=slimming", "dataset.sampler=balanced")
    config = compose(folder, *words, "pretrain=rotnet", "pretrain.frozen=true")
    coming = plan(folder, *words, "pretrain=rotnet", "pretrain.frozen=true")
    steps = {step.stage: step.options for step in coming.steps}
    own = dict(config["pretrain"])
    assert own.pop("frozen") and steps["pretrain"].in_key() == {"pretrain": own}
    none = {"label_weight": 1.0, "terms": {}}
    assert steps["train"].in_key() == {
        "train": config["train"], "robust": config["robust"], "distill": none,
        "sampler": "balanced", "frozen": True, "regularize": config["regularize"],
    }  # fmt: skip
    own = {**config["finetune"], "labels": "clean"}
    del own["rewind_epoch"], own["epoch_cap"]
    assert steps["finetune"].in_key() == {
        "finetune": own,
        "robust": {"_target_": "compressor.robust.none.CrossEntropy"},
        "distill": {"label_weight": 0.1, "terms": config["distill"]["terms"]},
        "sampler": "balanced",
    }
    for stage, options in steps.items():
        key_of(options=coming.in_key(stage, options))  # JSON holds it


def test_the_fields_of_a_recipe_are_the_keys_of_its_file(folder):
    config = compose(folder)
    recipe = set(Recipes.read(config).train.in_key())
    assert recipe == set(config["train"])
    own = {part.name for part in fields(Recovery)} - {"recipe"}
    assert recipe | own == set(config["finetune"])
    own = {part.name for part in fields(Pretraining)} - {"recipe", "tree"}
    assert recipe | own == set(config["pretrain"])
    own = {part.name for part in fields(Teacher)} - {"answers"}
    assert own == set(config["distill"]["teacher"])


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("lr", 0, "train.lr=0 must be above 0"),
        ("select", "worst", "train.select=worst is not known: choose one of best, last, clean"),
        ("patience", 0, "train.patience=0 must be at least 1, or null"),
    ],
)
def test_a_recipe_that_no_training_can_follow_is_refused_by_its_key(folder, key, value, line):
    with pytest.raises(UsageError, match=line):
        Recipe.read("train", {**compose(folder)["train"], key: value})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("clean_fraction", 0.0, "finetune.clean_fraction=0.0 must be above 0"),
        ("clean_fraction", 1.1, "finetune.clean_fraction=1.1 must be at most 1"),
        ("labels", "best", "finetune.labels=best is not known: choose one of auto, clean, given"),
        ("lr", -1.0, "finetune.lr=-1.0 must be above 0"),
    ],
)
def test_a_fine_tuning_out_of_its_ranges_is_refused_by_its_key(folder, key, value, line):
    with pytest.raises(UsageError, match=line):
        Recovery.read({**compose(folder)["finetune"], key: value})


def test_teaching_acts_in_its_own_stage_and_is_none_in_the_others(folder):
    teaching = Teaching.read(compose(folder, "distill=kd")["distill"])
    assert teaching.in_stage("finetune") is teaching and not teaching.is_none
    assert teaching.in_stage("train") == Teaching.none() and Teaching.none().is_none
    assert Teaching.none().reads_labels and not Teaching.none().needs_teacher


def test_what_a_term_learns_in_one_training_is_no_part_of_the_next():
    teaching = Teaching(terms={"kd": KD()})
    teaching.fresh().terms["kd"].temperature = 9.0
    assert teaching.terms["kd"].temperature == 4.0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("distill=kd", "distill.terms={kd: {_target_: doubles.Costly}}"), "distill.Term"),
        (("robust={_target_: doubles.Costly}",), "robust.Remedy"),
        (("regularize={_target_: doubles.Costly}",), "regularize.Regularizer"),
        (("noise={_target_: doubles.Costly}",), "noise.Noise"),
    ],
)
def test_a_class_that_is_no_method_of_its_group_is_refused_in_one_line(folder, words, line):
    config = compose(folder)
    for word in words:
        key, _, value = word.partition("=")
        if "{" in value:
            tree = {"_target_": "doubles.Costly"}
            group, _, below = key.partition(".")
            config[group] = {**config[group], "terms": {"kd": tree}} if below else tree
    with pytest.raises(UsageError, match=f"doubles.Costly is no compressor.{line}: let the"):
        Experiment(config)
