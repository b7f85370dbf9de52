import pytest
from test_pipeline import plan

from compressor.artefact import Spec
from compressor.notices import collapsed, notices
from compressor.report import sentences
from compressor.stages import compress
from compressor.stages._blank import blank
from compressor.stages._pruning import Pruning
from compressor.tasks.classification import Classification

PENCIL = ("robust=pencil", "train.schedule=constant")
FREE = ("distill=data_free", "prune=weight_sum", "stages=[train,compress,finetune]")
SGD = ("train.optimizer=sgd", "train.weight_decay=1e-4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize(
    "words, line",
    [
        (["prune=none", "finetune=scratch_b"], "the dense network is trained twice"),
        (["prune=none", "finetune=rewind"], "the dense training is run again from epoch 0 on"),
        (["prune=none", "distill=kd"], "distill=kd: nothing is cut, so the network begins as its"),
        (["prune=bn_scale"], "prune=bn_scale works, but its paper trains the network with regul"),
        (["noise=pair", "noise.include_true=true"], "noise.include_true=true does nothing beside"),
        (["noise=instance", "noise.mode=bernoulli"], "noise.mode=bernoulli does nothing beside n"),
        (["noise=pixels", "noise.rate=0.1"], "noise.rate=0.1 does nothing beside noise=pixels"),
        (
            ["prune.scope=all", "prune.skip=[layer1]"],
            "prune.skip=[layer1] also leaves 'conv1', whose channels run through 'layer1' (they",
        ),
        (
            ["prune.normalize=lamp"],
            "prune.normalize=lamp does nothing beside prune.allocation=",
        ),
        (
            [*PENCIL, "train.epochs=1", *SGD],
            "leaves the phases of this remedy 0, 0, 1 epochs",
        ),
        ([*PENCIL, "train.epochs=40"], "its paper counts on train.optimizer=sgd"),
        ([*PENCIL, "train.epochs=20", *SGD], "labels in 8 of these epochs, which may be too few"),
        (["robust=co_teaching"], "robust.forget=0.4 is a guess: how many labels are wrong is unkn"),
        (
            ["robust=co_teaching", "noise=symmetric", "noise.rate=0.2"],
            "robust.forget=0.2 is the share of labels that the noise changed",
        ),
        (["train.optimizer=sgd"], "train.weight_decay=0.05 is far above what sgd is used with"),
        (["robust=gce", "robust.k=0.4"], "robust.k=0.4 does nothing beside robust.truncated=false"),
        (
            ["robust=forward", "noise=symmetric", "robust.folds=3"],
            "robust.folds=3 does nothing beside robust.transition=known",
        ),
        (["distill=kd", "finetune.epochs=0"], "distill=kd does nothing: distill.at=finetune, and"),
        (["distill=kd", "stages=[train,compress]"], "distill=kd does nothing: distill.at=finetune"),
        (
            ["distill=kd", "distill.label_weight=0", "distill.terms.kd.weight=0"],
            "so that the network learns nothing",
        ),
        ([*FREE, "distill.sampler=class_uniform"], "class_uniform does nothing: distill=data_free"),
        ([*FREE, "dataset.sampler=balanced"], "dataset.sampler=balanced does nothing"),
        ([*FREE, "finetune.class_weights=balanced"], "class_weights does nothing beside distill=d"),
        (
            ["distill=mimic", "finetune.class_weights=balanced"],
            "finetune.class_weights does nothing beside distill=mimic: it weighs the loss of the",
        ),
        (["distill=data_free", "distill.terms.data_free.beside=true"], "does nothing beside disti"),
        (["dataset.validation=0.006"], "digits: no image of '2', '8' in the validation part"),
        (["scale=multiplier", "scale.width=0.0001"], "every value up to about 0.28 gives this"),
    ],
)
def test_what_may_not_be_meant_is_said_in_one_line(folder, words, line):
    (notice,) = notices(plan(folder, *words))
    assert line in notice and "\n" not in notice


@pytest.mark.parametrize(
    "words",
    [
        ["finetune=scratch_b"],
        ["distill=kd"],
        ["prune=none", "distill=kd", "distill.teacher.source=model", "model.width=1.0"],
        ["prune=bn_scale", "regularize=slimming"],
        ["noise=pair", *PENCIL, "train.epochs=40", *SGD],
        ["noise=instance", "noise.seed=3"],
        ["prune.normalize=lamp", "prune.allocation=global"],
        ["prune=none", "prune.normalize=lamp"],
        ["robust=gce", "scale=multiplier", "scale.width=2"],
    ],
)
def test_what_is_meant_is_passed_over(folder, words):
    assert notices(plan(folder, *words)) == []


@pytest.mark.parametrize("least, width", [(1, "1 channel "), (2, "2 channels ")])
def test_a_budget_that_leaves_layers_next_to_nothing_is_told(least, width):
    # a group may be several layers, which the report lists each
    widths = {"a": (16, 1), "b": (16, 2), "c": (16, 3)}
    cut = {"widths": widths, "least": least, "budget": {"latency": 0.3}, "decided": ""}
    (line,) = collapsed(cut)
    assert line.startswith(f"prune.budget.latency=0.3 takes {least} of 3 layers to the least width")
    assert width in line
    assert not collapsed({**cut, "decided": "global"})  # these are not the widths yet
    assert not collapsed({**cut, "budget": None})  # a ratio says itself what every layer keeps
    assert not collapsed({**cut, "widths": {"a": (16, 3)}})


def test_the_plan_and_the_report_count_the_same_layers_at_their_least_width():
    net = Spec("compressor.models.resnet20", {"width": 0.5}, (3, 16, 16), 10, "classification")
    options = {"_target_": "compressor.prune.weight_sum.WeightSum", "scope": "all"}
    pruning = Pruning.read({**options, "budget": {"macs": 0.02}})
    cut = compress.preview(blank(net, (), Classification()), pruning)
    (line,) = collapsed(cut)
    report = {"budget": cut["budget"], "widths": cut["widths"], "points": {}}
    assert "takes 7 of 21 layers" in line
    assert "took 7 of 21 layers" in sentences.budget(report)
