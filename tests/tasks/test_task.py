"""A task that is no classification, from the command line to the report."""

import contextlib
import csv
import io
import json

import doubles
import pytest
import torch

from compressor.report import sentences
from compressor.stages import _unlabelled
from compressor.tasks import Task
from compressor.tasks.classification import Classification

WORDS = (
    "task._target_=doubles.Segmentation", "dataset=fake", "dataset._target_=doubles.Quarters",
    "dataset.samples=64", "dataset.image_size=8", "dataset.num_classes=3", "dataset.augment.crop=1",
    "dataset.augment.flip=true", "model=custom", "model._target_=doubles.PixelNet",
    "train.epochs=4", "train.batch_size=16", "train.lr=0.1", "finetune.epochs=1",
    "finetune.batch_size=16", "recalibrate.images=32", "machine.threads=1",
    "machine.accelerator=cpu", "machine.latency_seconds=0", "export.normalize=true",
)  # fmt: skip


def main(folder, *words):
    """(exit code, what was printed) of the command."""
    from compressor.run import main

    said = io.StringIO()
    places = (f"paths.outputs={folder}", f"hydra.run.dir={folder / 'run'}")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([*WORDS, *words, *places])
    return code, said.getvalue()


def quarters():
    return doubles.Quarters(
        image_size=8, num_classes=3, channels=3, validation=0.25, split_seed=0,
        augment={"crop": 1, "flip": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    code, said = main(folder, "prune=taylor", "prune.images=32")
    assert code == 0, said[-3000:]
    return folder / "run", said


def test_a_segmentation_is_trained_cut_tuned_and_reported_by_its_own_figures(ran):
    folder, said = ran
    report = json.loads((folder / "report.json").read_text())
    assert report["headline"] == {"name": "mean_iou", "direction": "max"}
    assert [stage["name"] for stage in report["stages"]] == [
        "train", "compress", "recalibrate", "finetune",
    ]  # fmt: skip
    final, dense = report["points"]["final"], report["points"]["dense"]
    assert final["mean_iou"] > 0.5 and final["macs"] < dense["macs"]
    assert "accuracy" not in final
    assert json.loads((folder / "model" / "spec.json").read_text())["task"] == "segmentation"
    change = final["mean_iou"] - dense["mean_iou"]
    words = f"test mean iou {final['mean_iou']:.4f} ({change:+.4f} against dense)"
    assert words in sentences.conclusion(report)
    assert "accuracy" not in said and "mean iou" in said
    text = (folder / "report.md").read_text()
    assert "Mean iou and loss are those of the test part" in text
    assert "| point | mean iou | loss |" in text and "classes[" not in text
    assert all((folder / "figures" / f"{n}.png").is_file() for n in ("points", "training"))


def test_the_onnx_file_of_a_segmentation_is_judged_by_its_headline(ran):
    folder, _ = ran
    report = json.loads((folder / "report.json").read_text())
    assert report["parity"]["onnx"] < 1e-4
    found = report["parity"]["onnx_mean_iou"]
    assert found == pytest.approx(report["points"]["final"]["mean_iou"], abs=0.02)
    assert "test mean iou of model.onnx" in (folder / "report.md").read_text()


def test_the_epoch_is_picked_by_the_headline_and_told_by_it(ran):
    folder, _ = ran
    with (folder / "history" / "dense.csv").open() as file:
        rows = list(csv.DictReader(file))
    report = json.loads((folder / "report.json").read_text())
    best = max(float(row["val_mean_iou"]) for row in rows)
    assert report["training"]["dense"]["picked_val_mean_iou"] == best


def test_a_task_without_labels_leaves_no_artefact_and_no_record_of_them(ran):
    folder, _ = ran
    report = json.loads((folder / "report.json").read_text())
    assert report["labels"] == {} and report["classes_read"] == {}
    assert not (folder / "labels.npz").exists()
    assert not list(folder.parent.rglob("labels.safetensors"))


def test_a_target_is_cropped_and_flipped_with_its_image():
    data = quarters()
    loader = data.loader("train", 48, seed=3, augment=True)
    images, masks, _ = next(iter(loader))
    bright = (images.mean(dim=1) * 0.25 + 0.5) * 255 > 160
    assert masks.shape == (48, 8, 8) and torch.equal(bright, masks == 2)
    plain = next(iter(data.loader("train", 48)))[1]
    assert not torch.equal(plain, masks)


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        (("noise=symmetric", "robust=gce"), "type noise=none robust=none"),
        (("dataset.labelled_fraction=0.5",), "type dataset.labelled_fraction=1.0"),
        (("train.class_weights=balanced",), "type train.class_weights=none"),
        (("finetune.labels=given", "baselines=true"), "finetune.labels=auto baselines=false"),
        (("distill=kd",), "does not say what a teacher hands on to a student"),
    ],
)
def test_what_acts_on_labels_is_refused_in_one_line(tmp_path, words, wish):
    code, said = main(tmp_path, "plan_only=true", *words)
    assert code == 2 and wish in said and "Traceback" not in said


def test_a_task_has_null_answers_and_its_headline_is_its_first_figure():
    task = doubles.Segmentation()
    assert task.headline == ("mean_iou", "max") and Classification().headline == ("accuracy", "max")
    assert not task.labelled and Classification().labelled
    assert task.teacher_view({"pixels": torch.ones(1)}) is None
    assert task.misfit(torch.ones(3), 2, 10) is None
    with pytest.raises(TypeError, match="abstract"):
        Task()


def test_the_loss_of_a_classification_is_that_of_no_remedy():
    from compressor.robust.none import CrossEntropy

    outputs = {"logits": torch.randn(4, 3), "aux": ((0.3, torch.randn(4, 3)),)}
    targets = torch.tensor([0, 1, 2, 1])
    given = CrossEntropy().loss(outputs, targets, torch.arange(4))
    assert torch.equal(Classification().loss(outputs, targets), given)


def test_no_labels_are_one_class_and_nothing_wrong():
    labels = _unlabelled.no_labels(quarters())
    assert labels.flip_rate == 0 and not labels.noisy and labels.key == "clean"
