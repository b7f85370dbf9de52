"""Whole runs with wrong labels, few labels and pretraining."""

import json

import numpy as np
import pytest
from test_pipeline import compose, keys, plan, run

from compressor import experiment
from compressor.errors import UsageError
from compressor.experiment import Experiment
from compressor.report import run as run_report
from compressor.report import sentences
from compressor.stages import Given
from compressor.stages._case import Case
from compressor.stages.baseline import kinds

QUICK = ("noise=symmetric", "prune=none", "train.epochs=2", "finetune.epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def pencil(folder):
    return run(
        folder, "pencil", *QUICK, "train.epochs=3", "robust=pencil", "robust.warmup=0.34",
        "robust.correct=0.34", "finetune.labels=corrected_soft",
    )  # fmt: skip


def test_a_run_with_noise_leaves_all_its_labels(folder, pencil):
    with np.load(folder / "pencil" / "labels.npz") as file:
        found = {name: file[name] for name in file.files}
    assert set(found) == {
        "index", "clean", "given", "corrected", "corrected_soft", "transition",
    }  # fmt: skip
    soft = found["corrected_soft"]
    assert soft.shape == (1212, 10) and soft.sum(1) == pytest.approx(np.ones(1212), abs=1e-5)
    assert (soft.argmax(1) == found["corrected"]).all()
    assert len(found["given"]) == 1212 and (found["given"] != found["clean"]).sum() == 485
    assert found["index"].max() < 1347 and found["transition"].sum(1) == pytest.approx(np.ones(10))
    labels = pencil["labels"]
    assert labels["flip_rate"] == pytest.approx(485 / 1212)
    assert labels["changed"] == pytest.approx((found["corrected"] != found["given"]).mean())
    assert labels["right"] == pytest.approx((found["corrected"] == found["clean"]).mean())
    assert labels["finetune"] == "corrected_soft"
    assert not (folder / "pencil" / "model" / "corrected.npy").exists()
    curves = run_report.history(folder / "pencil" / "history" / "dense.csv")
    assert {"train_accuracy", "train_clean_accuracy", "val_accuracy", "labels_right"} <= set(curves)


def test_its_figures_are_drawn_from_the_files_alone(folder, pencil):
    run_report.write(folder / "pencil")
    drawn = {path.name for path in (folder / "pencil" / "figures").iterdir()}
    assert {"labels.png", "changed.png", "training.png"} <= drawn
    text = (folder / "pencil" / "report.md").read_text()
    assert "40.0% of the train part's labels were flipped" in text
    assert "fine-tuning used the corrected_soft ones" in text


def test_labels_of_one_run_are_the_file_of_another(folder, pencil):
    words = ("prune=none", "train.epochs=1", "finetune.epochs=0", "noise=file")
    file = f"noise.file={folder / 'pencil' / 'labels.npz'}"
    given = Experiment(compose(folder, *words, file, "noise.column=given", "noise.known=true"))
    assert given.labels.flip_rate == pytest.approx(485 / 1212)
    report = run(folder, "file", *words, file, "noise.column=corrected")
    assert report["labels"]["flip_rate"] is None and report["labels"]["known"] is False
    with np.load(folder / "file" / "labels.npz") as saved:
        assert set(saved.files) == {"index", "given"}


def test_a_run_without_noise_leaves_no_label_files(folder):
    run(folder, "plain", "prune=none", "train.epochs=1", "finetune.epochs=0")
    assert not (folder / "plain" / "labels.npz").exists()


def test_confident_learning_trains_its_folds_once(folder):
    words = (*QUICK, "robust=confident", "robust.folds=2", "robust.estimate_epochs=1")
    report = run(folder, "drop", *words)
    notes = report["training"]["dense"]["robust"]
    assert {"precision", "recall", "estimated_noise_rate", "flagged"} <= set(notes)
    folds = len(list((folder / "cache").glob("*/probabilities.safetensors")))
    again = run(
        folder, "relabel", *words, "robust.action=relabel", "finetune.labels=corrected_hard"
    )
    assert not again["stages"][0]["reused"]
    assert len(list((folder / "cache").glob("*/probabilities.safetensors"))) == folds == 2


def test_two_networks_teach_each_other_and_one_goes_on(folder):
    report = run(folder, "co", *QUICK, "robust=co_teaching", "finetune.labels=clean")
    assert "fine-tuning used all the clean ones" in (folder / "co" / "report.md").read_text()
    plain = run(folder, "ce", *QUICK)
    assert report["points"]["dense"]["params"] == plain["points"]["dense"]["params"]
    assert report["points"]["dense"]["accuracy"] != plain["points"]["dense"]["accuracy"]


def test_the_second_stage_begins_where_the_first_ended_and_the_baselines_stand_beside(folder):
    words = (*QUICK, "baselines=true", "finetune.clean_fraction=0.2", "finetune.lr=1e-12")
    report = run(folder, "baselines", *words, "finetune.select=last")
    final, dense = report["points"]["final"], report["points"]["dense"]
    assert final["accuracy"] == dense["accuracy"]
    notes = report["training"]["dense"]
    told = f"dense {notes['picked_epoch']} of 2" in sentences.picked(report)
    assert told == (notes["picked_epoch"] == 1)
    assert set(report["baselines"]) == {"noisy", "clean", "mixed"}
    # the training without a remedy is the noisy baseline
    assert report["baselines"]["noisy"]["accuracy"] == dense["accuracy"]
    # and is not run a second time
    assert report["baselines"]["noisy"]["key"] == report["stages"][0]["key"]
    assert report["training"]["final"]["images"] == round(0.2 * 1212)
    # as many images seen, of a fifth of the images
    epochs = {name: each["epochs"] for name, each in report["baselines"].items()}
    assert epochs == {"noisy": 2, "clean": 10, "mixed": 2}
    text = (folder / "baselines" / "report.md").read_text()
    best = max(each["accuracy"] for each in report["baselines"].values())
    assert f"has {final['accuracy'] - best:+.4f} against the best of them" in text


def test_what_a_cleaning_leaves_is_what_is_told_and_what_the_second_stage_reads(folder):
    words = ("robust=confident", "robust.action=relabel", "robust.folds=2", "robust.margin=0.2")
    report = run(folder, "relabel", *QUICK, *words, "finetune.labels=corrected_hard")
    with np.load(folder / "relabel" / "labels.npz") as file:
        found = {name: file[name] for name in file.files}
    notes, labels = report["training"]["dense"]["robust"], report["labels"]
    assert (~found["kept"]).sum() == notes["dropped"] > 0
    assert (found["corrected"] != found["given"]).sum() == notes["relabelled"]
    right = (found["corrected"] == found["clean"])[found["kept"]].mean()
    assert labels["right"] == pytest.approx(right)
    assert labels["dropped"] == pytest.approx(notes["dropped"] / 1212)
    assert report["training"]["final"]["images"] == found["kept"].sum()
    text = (folder / "relabel" / "report.md").read_text()
    assert f"and left {labels['dropped']:.1%} out" in text


def test_a_plan_shows_the_baselines_and_the_trainings_that_a_remedy_learns_from(folder):
    from compressor.preview import preview

    rows = preview(plan(folder, *QUICK, "baselines=true", "robust=confident"))["stages"]
    titles = [row["title"] for row in rows]
    # all clean labels are trusted: mixed would be the clean one again
    assert titles[-2:] == ["baseline (noisy)", "baseline (clean)"] and "mixed" not in str(titles)
    epochs = rows[0]["epochs"]
    assert rows[0]["rehearsals"] == (4, 3 * epochs)
    rows = preview(plan(folder, *QUICK, "robust=forward", "robust.transition=anchor"))["stages"]
    assert rows[0]["rehearsals"] == (1, epochs)
    with pytest.raises(UsageError, match="folds=1213 is more than the 1,212 images"):
        preview(plan(folder, *QUICK, "robust=confident", "robust.folds=1213"))


def test_baselines_are_those_that_differ_and_need_the_truth(folder, tmp_path):
    assert kinds(False, True, 0.1) == ("noisy", "clean", "mixed")
    assert kinds(False, True, 1.0) == ("noisy", "clean")
    assert kinds(True, False, 1.0) == ("noisy", "clean")
    assert kinds(False, False, 0.1) == ("noisy", "clean")
    assert kinds(False, False, 1.0) == ("noisy",)
    np.savez(tmp_path / "given.npz", label=np.zeros(1347, np.int64))
    words = ("noise=file", f"noise.file={tmp_path / 'given.npz'}")
    for wrong in ("baselines=true", "train.select=clean_peak", "finetune.select=clean_peak"):
        with pytest.raises(UsageError, match=f"{wrong}.*noise.known=true"):
            plan(folder, *words, wrong)


def test_baselines_begin_as_the_training_does(folder):
    words = (*QUICK, "pretrain=rotnet", "pretrain.epochs=1", "pretrain.frozen=true")
    made = plan(folder, *words, "baselines=true", "robust=gce")
    assert all(step.options.training.frozen for step in made.baselines)
    report = run(folder, "none", *QUICK, "train.epochs=0", "finetune.epochs=0", "baselines=true")
    assert {each["epochs"] for each in report["baselines"].values()} == {0}
    plain = plan(folder, *QUICK, "baselines=true", "robust=gce").baselines
    assert not {step.key for step in plain} & {step.key for step in made.baselines}
    # without a remedy it is the training itself
    made = plan(folder, *words, "baselines=true")
    assert made.baselines[0].key == made.steps[1].key
    report = run(folder, "frozen_baselines", *words, "baselines=true", "finetune.epochs=0")
    assert report["baselines"]["noisy"]["accuracy"] == report["points"]["final"]["accuracy"]


def test_a_criterion_reads_no_more_labels_than_are_trusted(folder):
    few = ("noise=symmetric", "finetune.clean_fraction=0.2")
    for criterion, reads in (("thinet", False), ("taylor", True)):
        words = ("noise=symmetric", f"prune={criterion}")
        everything = keys(folder, *words)["compress"]
        assert (keys(folder, *few, f"prune={criterion}")["compress"] != everything) == reads
        given = keys(folder, *words, "finetune.labels=given")["compress"]
        assert (given != everything) == reads
    # few labels are no reason for few images
    experiment = Experiment(compose(folder, *few, "prune=taylor", "prune.images=300"))
    context = experiment.context(("compress", 1), folder, {})
    case = Case.of(Given(experiment.spec, None), experiment.pruning, context)
    assert sum(len(x) for x, _ in case.batches) == 300
    assert sum(len(x) for x, _ in case.labelled) == round(0.2 * 1212)
    assert Experiment(compose(folder, *few, "prune=thinet")).judging is None
    words = (*few[:1], "prune=taylor", "finetune.labels=given")
    experiment = Experiment(compose(folder, *words))
    assert (experiment.judging.targets == experiment.labels.given).all()
    run(folder, "taylor", *few, "prune=taylor", "train.epochs=1", "finetune.epochs=0")


def test_a_training_without_epochs_corrects_no_labels(folder):
    words = ("noise=symmetric", "robust=pencil", "train.epochs=0")
    assert plan(folder, *words).steps[-1].options.recovery.labels == "clean"
    with pytest.raises(UsageError, match="this run has no epoch of train"):
        plan(folder, *words, "finetune.labels=corrected_soft")


def test_shares_are_those_of_the_labels_that_are_read(folder):
    words = ("dataset.labelled_fraction=0.3", "noise=symmetric", "robust=confident")
    words = (*words, "robust.folds=2", "prune=none", "train.epochs=2", "finetune.epochs=0")
    report = run(folder, "read", *words)
    with np.load(folder / "read" / "labels.npz") as file:
        given, clean, kept, read = (file[n] for n in ("given", "clean", "kept", "labelled"))
    found = report["labels"]
    assert found["flip_rate"] == pytest.approx((given != clean)[read].mean())
    assert found["dropped"] == pytest.approx(1 - kept[read].mean()) and kept[~read].all()
    assert found["right"] == pytest.approx((given == clean)[read & kept].mean())
    with np.load(folder / "read" / "labels.npz") as file:
        rows, matrix = np.eye(10)[clean[read]].T @ np.eye(10)[given[read]], file["transition"]
    assert matrix == pytest.approx(rows / rows.sum(1, keepdims=True))


def test_noise_on_images_leaves_a_sheet_of_them(folder):
    words = ("noise=pixels", "noise.sigma=0.7", "prune=none", "train.epochs=1", "finetune.epochs=0")
    report = run(folder, "pixels", *words)
    assert report["labels"]["pixel_noise"] == 0.7
    with np.load(folder / "pixels" / "damaged.npz") as file:
        assert file["before"].shape == file["after"].shape == (8, 8, 8, 3)
        assert (file["before"] != file["after"]).mean() > 0.3
    run_report.write(folder / "pixels")
    assert (folder / "pixels" / "figures" / "damaged.png").exists()
    assert "deviation 0.7 lay on" in (folder / "pixels" / "report.md").read_text()


def test_pretraining_reads_no_label_and_hands_on_its_trunk(folder):
    few = ("dataset.labelled_fraction=0.1", "pretrain=rotnet", "pretrain.epochs=1")
    with_noise = plan(folder, *few, "noise=symmetric").steps
    without = plan(folder, "pretrain=rotnet", "pretrain.epochs=1").steps
    assert with_noise[0].stage == "pretrain" and with_noise[0].key == without[0].key
    assert with_noise[1].key != without[1].key
    shares = [
        plan(folder, *few[1:], f"dataset.labelled_fraction={share}", "noise=pixels").steps[0].key
        for share in (0.1, 0.5)
    ]
    assert shares[0] == shares[1] != without[0].key
    report = run(folder, "rotnet", *few, "prune=none", "train.epochs=1", "finetune.epochs=0")
    assert list(report["points"])[0] == "dense" and "pretrained" not in report["points"]
    assert report["labels"]["labelled"] == pytest.approx(0.1, abs=1e-3)
    with np.load(folder / "rotnet" / "labels.npz") as file:
        assert file["labelled"].sum() == 121 and len(file["labelled"]) == 1212
    assert not (folder / "rotnet" / "figures" / "labels.png").exists()
    assert 0 < report["training"]["pretrained"]["picked_val_accuracy"] < 1
    frozen = run(
        folder, "frozen", *few, "prune=none", "train.epochs=1", "finetune.epochs=0",
        "pretrain.frozen=true",
    )  # fmt: skip
    trunks = []
    for name in ("rotnet", "frozen"):
        key = json.loads((folder / name / "report.json").read_text())["stages"][0]["key"]
        from safetensors.torch import load_file

        start = load_file(folder / "cache" / key / "weights.safetensors")
        end = load_file(folder / name / "model" / "weights.safetensors")
        trunks.append([n for n in start if not (start[n] == end[n]).all()])
    assert len(trunks[0]) > 10 and len(trunks[1]) == 2  # the head's weight and bias
    assert frozen["stages"][0]["reused"]


def test_keys_follow_the_labels_that_a_stage_reads(folder):
    noisy = keys(folder, "noise=symmetric")
    assert keys(folder, "noise=symmetric", "finetune.labels=clean") == noisy
    given = keys(folder, "noise=symmetric", "finetune.labels=given")
    assert [stage for stage in noisy if noisy[stage] != given[stage]] == ["finetune"]
    assert keys(folder, "noise=asymmetric")["train"] != noisy["train"]
    few = keys(folder, "dataset.labelled_fraction=0.5")
    assert few["train"] != keys(folder)["train"]
    assert keys(folder, "baselines=true") == keys(folder)


@pytest.mark.parametrize(
    "words, text",
    [
        (("robust=forward",), "robust.transition=known: no noise was injected"),
        (("noise=symmetric", "noise.rate=1.1"), "noise.rate=1.1"),
        (("noise=matrix", "noise.matrix=[[0.5,0.4],[0,1]]"), "row 0 sums to 0.9"),
        (("noise=asymmetric", "noise.map={3: 11}"), "names class '11'"),
        (("noise=asymmetric", "dataset=fake"), "knows no map for dataset=fake"),
        (("finetune.labels=corrected_hard",), "type robust=pencil or robust=confident"),
        (("robust=co_teaching", "distill=collaborative"), "trains two at once: use distill=kd"),
        (("finetune.labels=dirty",), "finetune.labels=dirty is not known"),
        (("train.patience=0",), "train.patience=0"),
        (("train.select=first",), "train.select=first"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_runs(folder, words, text):
    with pytest.raises(UsageError) as caught:
        Experiment(compose(folder, *words))
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_clean_labels_are_refused_where_nobody_knows_them(folder, tmp_path):
    np.savez(tmp_path / "l.npz", label=np.zeros(1347, dtype=np.int64))
    words = ("noise=file", f"noise.file={tmp_path / 'l.npz'}")
    assert plan(folder, *words).steps[-1].options.recovery.labels == "given"
    with pytest.raises(UsageError, match="clean_fraction=0.1 needs clean labels"):
        Experiment(compose(folder, *words, "finetune.clean_fraction=0.1"))


def test_a_kind_of_noise_of_a_users_own_may_have_a_file(tmp_path):
    file = tmp_path / "flips.txt"
    file.write_text("0 1")
    noise = {"_target_": "doubles.Flipped", "file": str(file)}
    tree = {"dataset": {}, "task": {}, "scale": {}, "noise": noise}
    before = experiment._data_code(tree)
    file.write_text("1 0")
    after = experiment._data_code(tree)
    assert {name for name in after if after[name] != before[name]} == {"noise.file"}
    assert "noise.file" not in experiment._data_code({**tree, "noise": {**noise, "file": None}})
