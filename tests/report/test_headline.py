"""The headline stands in report.json, and whatever a report says of it is read from there."""

import json

import pytest

from compressor.errors import RunError
from compressor.report import configurations, figures, label_figures, metrics, run, sentences
from compressor.report.headline import Headline, headline_of, tells_classes

ERROR = {"name": "mean_error", "direction": "min"}


def test_a_report_without_a_headline_is_of_a_classification():
    assert headline_of({}) == Headline("accuracy", "max") and tells_classes({})
    found = headline_of({"headline": ERROR})
    assert (found.words, found.higher, found.axis) == ("mean error", False, "mean error")
    assert Headline().axis == "accuracy (fraction correct)"


@pytest.mark.parametrize("headline", [3, {}, {"name": "x"}, {"name": "x", "direction": "up"}])
def test_a_damaged_headline_is_told_in_one_line(tmp_path, headline):
    path = tmp_path / "report.json"
    report = {"schema_version": 1, "points": {"final": {"x": 1}}, "headline": headline}
    path.write_text(json.dumps(report))
    with pytest.raises(RunError, match="is damaged .its headline is no metric.: run the command"):
        run.read(path)


def test_a_sweep_is_judged_by_the_headline_in_its_direction():
    members = [{"final.mean_error": 0.25, "final.accuracy": 0.5, "final.loss": 1.0}]
    found = metrics.choose(None, members, Headline(**ERROR))
    assert found.name == "final.mean_error" and not found.higher and not found.fraction
    dense = metrics.choose("dense.mean_error", [{"dense.mean_error": 1.0}], Headline(**ERROR))
    assert not dense.higher
    assert metrics.choose(None, members).name == "final.accuracy"
    assert metrics.Metric("final.mean_error").higher


def report(**more):
    points = {
        "dense": {"mean_error": 0.2, "macs": 10},
        "final": {"mean_error": 0.25, "macs": 5, "accuracy": 0.9},
    }
    return {"points": points, "headline": ERROR, "stages": [], **more}


def test_sentences_and_tables_name_the_headline_of_the_report():
    assert "test mean error 0.2500 (+0.0500 against dense)" in sentences.conclusion(report())
    assert run.table(report()).renderables[0].columns[1].header == "mean error"
    made = {"noisy": {"mean_error": 0.5}, "clean": {"mean_error": 0.125}}
    said = sentences.baselines(report(baselines=made))
    assert "has +0.1250 against the best of them, clean" in said
    heads = {"count": 2, "val_mean_error": [0.5, 0.25], "ensemble_val_mean_error": 0.125}
    said = sentences.taught(report(training={"train": {"heads": heads}}))
    assert "the heads have validation mean error 0.5000, 0.2500, together 0.1250" in said


def test_a_configuration_has_its_headline_beside_the_metric_that_was_asked_for():
    row = {
        "member": "0", "status": "done", "swept": {}, "report": report(seed=0, config={}),
        "figures": {"final.macs": 5},
    }  # fmt: skip
    (found,) = configurations.configurations([row], [], metrics.Metric("final.macs"))
    assert found["headline"]["mean"] == 0.25 and found["value"]["mean"] == 5


def test_figures_above_one_keep_their_ticks(tmp_path):
    headline = Headline(**ERROR)
    history = {"epoch": [1, 2], "train_mean_error": [3.0, 2.0], "val_loss": [1.0, 0.5]}
    figures.training({"train": history}, tmp_path / "training.png", headline)
    series = {"dense": 2.5, "final": 3.5}
    figures.points(series, {"dense": 10, "final": 5}, headline, tmp_path / "points.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.png", "training.png"]
    assert label_figures.draw(tmp_path, history, headline, tmp_path) == []
