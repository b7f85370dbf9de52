import pytest

from compressor import objective
from compressor.errors import RunError, UsageError
from compressor.tasks.classification import Classification

REPORT = {
    "points": {
        "dense": {"accuracy": 0.9, "latency_ms": None},
        "round2/compressed": {"accuracy": 0.5},
        "final": {
            "accuracy": 0.875,
            "macs": 100,
            "latency_ms": {"median": 2.5, "steady": True},
            "latency_ratio": {"median": 0.5, "steady": False},
        },
    },
    "seconds": 12.0,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("final.accuracy", 0.875),
        ("final.macs", 100.0),
        ("final.latency_ms.median", 2.5),
        ("round2/compressed.accuracy", 0.5),
        ("seconds", 12.0),
    ],
)
def test_a_dotted_name_is_a_figure_of_the_report(name, expected):
    assert objective.value(REPORT, objective.names(name)) == (expected,)


def test_several_names_are_several_figures_in_their_order():
    names = objective.names(["final.macs", "final.accuracy"])
    assert objective.value(REPORT, names) == (100.0, 0.875)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("final.acuracy", "did you mean final.accuracy?"),
        ("finl.loss", "did you mean final.loss?"),
        ("accuracy", "there is no point 'accuracy'"),
        ("final", "there is no figure ''"),
        ("round1/dense.loss", "there is no point 'round1/dense'"),
        ([], "names no figure"),
        ([1], "names no figure"),
    ],
)
def test_an_unknown_objective_is_answered_with_the_near_one(wrong, hint):
    with pytest.raises(UsageError, match="objective=") as caught:
        objective.names(wrong)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_what_was_not_measured_is_no_value():
    for name in ("dense.latency_ms.median", "compressed.accuracy"):
        with pytest.raises(RunError, match="was not measured in this run"):
            objective.value(REPORT, [name])
    with pytest.raises(RunError):
        objective.value({"points": {"final": {"loss": float("nan")}}}, ["final.loss"])


def test_a_search_does_not_decide_by_an_unsteady_latency():
    with pytest.raises(RunError, match="objective=final.latency_ratio.median is unsteady"):
        objective.value(REPORT, objective.names("final.latency_ratio.median"))


def test_of_accuracy_more_is_better_and_of_costs_less():
    assert objective.more_is_better("final.accuracy")
    assert not objective.more_is_better("final.macs")
    assert not objective.more_is_better("seconds")


def test_the_figures_of_a_classification_are_those_of_its_task():
    figures = {name: way == "max" for name, way in Classification.figures.items()}
    assert objective.METRICS == figures


def test_another_task_has_figures_and_directions_of_its_own():
    known = objective.figures({"_target_": "doubles.Segmentation"})
    assert objective.names("final.mean_iou", known) == ["final.mean_iou"]
    assert objective.more_is_better("final.mean_iou", known)
    assert not objective.more_is_better("final.loss", known)
    with pytest.raises(UsageError, match="there is no figure 'accuracy'; it is one of mean_iou"):
        objective.names("final.accuracy", known)
