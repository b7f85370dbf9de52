"""A folder of pictures with unequal classes, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from test_pipeline import compose, plan

from compressor.experiment import Experiment
from compressor.notices import notices
from compressor.plan import RunPlan
from compressor.run import main

COUNTS = {"train": (40, 16, 6), "test": (8, 6, 4)}
QUICK = (
    "dataset=imagefolder", "model.width=0.25", "train.epochs=1", "finetune.epochs=1",
    "prune=l1", "machine.progress=false", "machine.latency_seconds=0", "machine.accelerator=cpu",
    "export.onnx=false", "export.figures=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root, digits = tmp_path_factory.mktemp("pictures"), load_digits()
    for number in range(3):
        images = iter(digits.images[digits.target == number])
        for part, counts in COUNTS.items():
            folder = root / part / f"digit{number}"
            folder.mkdir(parents=True)
            for i in range(counts[number]):
                pixels = (next(images) * 15).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def words(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    return (*QUICK, f"dataset.root={pictures}", f"paths.outputs={out}", f"paths.cache={out}/cache")


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_run_tells_what_its_data_decided_and_how_each_class_fares(words, tmp_path, capsys):
    own = ("train.class_weights=balanced", "train.select_by=macro_f1", "dataset.channels=1")
    assert main([*words, *own, "train.batch_size=32", f"hydra.run.dir={tmp_path}/run"]) == 0
    shown = capsys.readouterr().out
    assert "dataset.image_size=32 (the shorter side of the train images is 8 pixels" in shown
    assert "train.lr=0.0125 (0.1 at a batch of 256, here 32)" in shown
    assert "train.batch_size=" not in shown and "pretrain." not in shown
    report = report_of(tmp_path / "run")
    assert report["config"]["dataset"]["image_size"] == 32
    assert report["config"]["finetune"]["batch_size"] == 16
    assert report["resolved"]["finetune.lr"]["value"] == report["config"]["finetune"]["lr"]
    assert not {"train.epochs", "train.batch_size"} & set(report["resolved"])
    read = report["classes_read"]
    assert read["names"] == ["digit0", "digit1", "digit2"] and read["test"] == [8, 6, 4]
    assert read["train"] == [36, 14, 6]
    for point in report["points"].values():
        shares = [r * n / 18 for r, n in zip(point["class_recall"], read["test"], strict=True)]
        assert sum(shares) == pytest.approx(point["accuracy"])
        assert sum(point["class_recall"]) / 3 == pytest.approx(point["balanced_accuracy"])
        assert 0 <= point["macro_f1"] <= 1
    assert "picked_val_macro_f1" in report["training"]["dense"]
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| `dataset.augment.scale` | 0.64 | 62 train images at 32 pixels |" in text
    assert "| digit2 | 6 | 4 |" in text and "balanced accuracy" in text


def test_a_finished_member_of_a_sweep_with_auto_is_kept(words, tmp_path, capfd):
    sweep = (*words, "-m", "seed=0,1", "stages=[train]", f"hydra.sweep.dir={tmp_path}")
    assert main(list(sweep)) == 0
    assert report_of(tmp_path / "1")["config"]["train"]["batch_size"] == 16
    capfd.readouterr()
    assert main(list(sweep)) == 0
    assert capfd.readouterr().out.count("kept: done before with this configuration") == 2
    table = (tmp_path / "summary.csv").read_text()
    head = table.splitlines()[0]
    for figure in ("balanced_accuracy", "macro_f1", "class_recall.2"):
        assert f"final.{figure}" in head
    assert "balanced accuracy" in (tmp_path / "summary.md").read_text()


def made(pictures, folder, *more):
    return Experiment(
        compose(folder, "dataset=imagefolder", f"dataset.root={pictures}", "train.lr=0.1", *more)
    )


def test_unequal_classes_are_told_with_what_to_type(pictures, tmp_path):
    def told(*more):
        found = notices(RunPlan(made(pictures, tmp_path, *more)))
        return [line for line in found if "the classes are unequal" in line]

    (line,) = told()
    assert "36 train images of 'digit0' and 6 of 'digit2'" in line
    for words_ in ("train.class_weights=balanced", "dataset.sampler=balanced", "train.select_by="):
        assert words_ in line
    (line,) = told("dataset.sampler=balanced")
    assert "class_weights" not in line and "finetune.select_by=balanced_accuracy" in line
    (line,) = told("stages=[train]")
    assert "finetune." not in line
    assert told("dataset.sampler=balanced", "train.select=last", "finetune.select=last") == []


def test_images_for_statistics_are_drawn_class_by_class_where_these_are_unequal(pictures, tmp_path):
    experiment = made(pictures, tmp_path)
    coming = RunPlan(experiment)
    read = {step.stage: coming.in_key(step.stage, step.options) for step in coming.steps}
    assert read["compress"]["drawn"] == read["recalibrate"]["drawn"] == "clean"
    from compressor.stages._case import _batches

    context = experiment.context(("compress", 1), tmp_path, {})
    batches = list(_batches(context, 18, None))
    labels = [label for _, targets in batches for label in targets.tolist()]
    assert sorted(labels) == [0] * 6 + [1] * 6 + [2] * 6
    again = list(_batches(context, 18, None))
    assert [t.tolist() for _, t in batches] == [t.tolist() for _, t in again]


def test_statistics_of_even_classes_stay_what_they_were(tmp_path):
    coming = plan(tmp_path)
    for step in coming.steps:
        read = coming.in_key(step.stage, step.options)
        assert not {"drawn", "sampler"} & set(read)


def test_the_sampler_is_part_of_a_trainings_key(pictures, tmp_path):
    plain, even = (
        {s.stage: s.key for s in RunPlan(made(pictures, tmp_path, f"dataset.sampler={way}")).steps}
        for way in ("none", "balanced")
    )
    assert plain["train"] != even["train"]


def test_a_figure_that_picks_nothing_is_told(tmp_path):
    (line,) = notices(plan(tmp_path, "train.select=last", "train.select_by=loss"))
    assert line == "train.select_by=loss does nothing beside train.select=last"


def test_weights_of_a_task_without_labels_are_refused(words, capsys):
    assert main([*words, "pretrain.class_weights=balanced"]) == 2
    assert "pretrain.class_weights=balanced has no meaning" in capsys.readouterr().err


def test_what_is_no_number_and_not_auto_is_refused_before_anything_is_read(words, capsys):
    for wrong, line in (
        ("train.epochs=many", "a whole number is expected, or train.epochs=auto"),
        ("finetune.batch_size=1.5", "a whole number is expected, or finetune.batch_size=auto"),
        ("dataset.augment.scale=half", "a number is expected, or dataset.augment.scale=auto"),
    ):
        assert main([*words, wrong]) == 2
        assert line in capsys.readouterr().err
    assert main(["train.epochs=auto"]) == 2  # digits have a recipe with numbers
    assert "a whole number is expected" in capsys.readouterr().err
