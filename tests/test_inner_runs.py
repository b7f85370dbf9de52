"""A run whose compressor trains inside its stage."""

import json

import pytest

from compressor.configuration import config_dir, plain
from compressor.eviction import entries
from compressor.experiment import Experiment
from compressor.manifest import about
from compressor.plan import RunPlan
from compressor.run import main
from compressor.stages._resume import Resume

WORDS = (
    "prune=none", "prune._target_=doubles.BetterOfTwo", "model=resnet20", "model.width=0.25",
    "dataset=fake", "dataset.image_size=8", "dataset.samples=80", "train.epochs=1",
    "train.batch_size=16", "finetune.epochs=0",
    "stages=[train,compress]", "machine.progress=false", "machine.latency_seconds=0",
    "machine.accelerator=cpu", "export.enabled=false",
)  # fmt: skip


def run(folder, *words):
    name = folder / "run"
    code = main([*WORDS, f"paths.outputs={folder}", f"hydra.run.dir={name}", *words])
    return code, json.loads((name / "report.json").read_text()) if code == 0 else None


def kinds(folder):
    return [about(path)["stage"] for _, path in entries(folder / "cache")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)[1]


def test_the_plan_shows_the_epochs_inside_and_trains_nothing(tmp_path, capsys):
    assert main([*WORDS, f"paths.outputs={tmp_path}", "plan_only=true"]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "compress" in line)
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["compress", "4", "to run"]
    assert "training takes about" in shown and not (tmp_path / "cache").exists()


def test_the_better_of_two_candidates_goes_on_and_the_cache_keeps_its_weights_alone(whole):
    folder, report = whole
    made = kinds(folder)
    assert made.count("inner") == 1 and made.count("inner figures") == 2
    assert {module: len(kept) for module, kept in report["kept"].items()} == {"layer1.0.conv1": 4}


def test_a_run_that_was_killed_inside_goes_on_there_and_ends_with_the_same_figures(
    whole, tmp_path, monkeypatch, capsys
):
    write, epochs = Resume.on_train_epoch_end, []

    def dies(self, trainer, module):
        write(self, trainer, module)
        epochs.append(trainer.current_epoch)
        if len(epochs) == 4:  # the training's one, the first candidate's two, the second's first
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Resume, "on_train_epoch_end", dies)
        assert run(tmp_path) == (130, None)
    capsys.readouterr()
    code, report = run(tmp_path)
    said = capsys.readouterr().out
    assert code == 0 and "candidate 2: goes on after epoch 1 of 2" in said
    assert "candidate 1: goes on" not in said
    for point, figures in whole[1]["points"].items():
        assert report["points"][point] == figures
    assert report["kept"] == whole[1]["kept"]


def planned(folder, *words):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = plain(compose("run", [*WORDS, f"paths.outputs={folder}", *words]))
    return RunPlan(Experiment(config))


def test_a_stage_that_trains_inside_depends_on_the_labels_and_the_devices(tmp_path):
    def labels(*words):
        plan = planned(tmp_path, "finetune.labels=clean", *words)
        return plan._labels_key("compress", plan.run.pruning)

    def compress(*words):
        return planned(tmp_path, *words).steps[1].key

    # the cut is judged by the clean ones, and a training inside may read the given ones
    assert labels() != labels("noise=symmetric")
    one = "prune._target_=doubles.Costly"
    assert labels(one) == labels(one, "noise=symmetric")
    assert compress("machine.devices=1") != compress("machine.devices=2")
