"""A walk that begins with a network that is there already: of a finished run, or from a file."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pipeline import SMALL
from test_pipeline import compose as composed

import compressor
from compressor import multirun, starting
from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.experiment import Experiment
from compressor.notices import notices
from compressor.pipeline import run_experiment
from compressor.plan import RunPlan
from compressor.report import setting
from compressor.run import main

# few labels, a narrow network and no timing: what is asked is where a walk begins
SHORT = ("train.epochs=1", "machine.latency_seconds=0", "prune.images=64",
         "dataset.labelled_fraction=0.1", "finetune.batch_size=32", "train.batch_size=32",
         "recalibrate.images=64")  # fmt: skip
NAMES = {word.partition("=")[0] for word in SHORT}
FAST = [w for w in SMALL if w.partition("=")[0] not in {*NAMES, "model", "model.width"}]
FAST += SHORT
WIDTH = "model.width=0.25"
SPEC = Spec("compressor.models.resnet20", {"width": 0.25}, (3, 8, 8), 10)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Holds `a`, a run that only trains, and `b`, which cuts its network by ThiNet."""
    folder = tmp_path_factory.mktemp("starting")
    assert command(folder, "a", WIDTH, "stages=[train]") == 0
    stages = "stages=[compress,recalibrate,finetune]"
    words = ["start=run", f"start.path={folder / 'a'}", "prune=thinet", stages]
    assert command(folder, "b", *words) == 0
    return folder


def command(home, name, *words):
    return main([*FAST, f"paths.outputs={home}", *words, f"hydra.run.dir={home / name}"])


def report(folder):
    return json.loads((folder / "report.json").read_text())


def run(home, folder, *words):
    config = compose(home, *words)
    return run_experiment(config, folder, False, "compress-run")


def compose(home, *words):
    width = [] if "model=custom" in words else [WIDTH]
    return composed(home, *width, *SHORT, *words)


def plan(home, *words):
    return RunPlan(Experiment(compose(home, *words)))


def weights(home, name="a"):
    return home / name / "model" / "weights.safetensors"


def figures(point):
    return {name: point[name] for name in ("accuracy", "loss", "macs", "params")}


# -- whole runs -----------------------------------------------------------------------------------


def test_a_run_is_gone_on_with_and_its_network_is_the_dense_point(home):
    a, b = report(home / "a"), report(home / "b")
    assert [stage["name"] for stage in b["stages"]] == [
        "start", "compress", "recalibrate", "finetune",
    ]  # fmt: skip
    assert list(b["points"]) == ["dense", "compressed", "recalibrated", "final"]
    assert figures(b["points"]["dense"]) == figures(a["points"]["final"])
    assert b["points"]["final"]["macs"] < a["points"]["final"]["macs"]
    model = a["config"]["model"]
    assert b["start"] == {"kind": "run", "path": str(home / "a"), "model": model, "cut": False}
    assert (
        setting.facts({"members": [{"report": b}], "rows": [], "comparisons": [], "folder": ""})[
            "Start"
        ]
        == f"run {home / 'a'}"
    )
    said = f"Start: resnet20 with the network of the run {home / 'a'}."
    assert said in (home / "b" / "report.md").read_text()
    assert compressor.load(home / "b")(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_the_plan_names_the_start(home, capsys):
    words = ["start=run", "start.path=${paths.outputs}/b", "stages=[finetune]", "plan_only=true"]
    assert command(home, "planned", *words) == 0
    said = capsys.readouterr().out
    assert f"Start: resnet20 with the network of the run {home / 'b'}, which had been cut" in said
    assert "│ start " in said and "│ train " not in said


def test_the_key_knows_the_network_and_not_where_it_lies(home, tmp_path):
    kept = load_file(weights(home))
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in kept.items()}},
               tmp_path / "w.pt")  # fmt: skip
    shutil.copytree(home / "a" / "model", tmp_path / "copy")
    stages = ("prune=thinet", "stages=[compress]")
    same = [
        plan(home, "start=run", f"start.path={tmp_path / 'copy'}", *stages),
        plan(home, "start=weights", f"start.path={weights(home)}", *stages),
        plan(home, "start=weights", f"start.path={tmp_path / 'w.pt'}", *stages),
    ]
    before = [stage["key"] for stage in report(home / "b")["stages"]][:2]
    assert [[step.key for step in each.steps] for each in same] == [before] * 3
    told = notices(same[2])
    assert any("'module.' was taken off the names" in line for line in told)
    assert any("its weights are those under 'state_dict'" in line for line in told)
    kept["conv1.weight"][0, 0, 0, 0] += 1
    save_file(kept, tmp_path / "other.safetensors")
    other = plan(home, "start=weights", f"start.path={tmp_path / 'other.safetensors'}", *stages)
    assert other.steps[0].key != before[0]


def test_of_a_start_that_was_cut_ratio_budget_and_widths_are_those_that_it_had(home, tmp_path):
    begins = ("start=run", f"start.path={home / 'b'}", "prune=weight_sum")
    found = run(home, tmp_path / "c", *begins, "prune.budget.macs=0.8", "stages=[compress]")
    b = report(home / "b")
    assert figures(found["points"]["dense"]) == figures(b["points"]["final"])
    share = found["points"]["final"]["macs"] / b["points"]["final"]["macs"]
    assert share == pytest.approx(0.8, abs=0.05)
    assert all(found["widths"][layer][0] == b["widths"][layer][1] for layer in found["widths"])
    # in indices of the network that was built, so that the folder loads alone
    assert all(set(found["kept"][layer]) <= set(b["kept"][layer]) for layer in found["kept"])
    loaded = compressor.load(tmp_path / "c")
    assert sum(p.numel() for p in loaded.parameters()) == found["points"]["final"]["params"]
    ratio = run(home, tmp_path / "d", *begins, "prune.ratio=0.5", "prune.rounds=2",
                "stages=[compress]")  # fmt: skip
    assert ratio["ratio"]["achieved"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("stages", ["[]", "[recalibrate]", "[finetune]"])
def test_a_walk_may_hold_any_stage_alone(home, tmp_path, stages):
    begins = ("start=weights", f"start.path={weights(home)}", "distill=kd")
    found = run(home, tmp_path / "run", *begins, f"stages={stages}")
    assert figures(found["points"]["dense"]) == figures(report(home / "a")["points"]["final"])
    changed = figures(found["points"]["final"]) != figures(found["points"]["dense"])
    assert changed == (stages != "[]")


def test_the_started_network_is_the_dense_teacher(home):
    words = ("start=run", f"start.path={home / 'b'}", "distill=kd", "prune=weight_sum")
    steps = plan(home, *words, "stages=[compress,finetune]").steps
    assert [step.point for step in steps] == ["dense", "compressed", "final"]
    assert steps[-1].roles == {"teacher": steps[0].key}


def test_a_run_that_trains_goes_on_from_the_weights(home, tmp_path):
    begins = ("start=weights", f"start.path={weights(home)}", "prune=none")
    kept = run(home, tmp_path / "kept", *begins, "train.epochs=0", "stages=[train]")
    whole = load_file(tmp_path / "kept" / "model" / "weights.safetensors")
    assert all(torch.equal(whole[name], value) for name, value in load_file(weights(home)).items())
    trained = run(home, tmp_path / "trained", *begins, "stages=[train]", "baselines=true",
                  "train.lr=1e-7", "train.weight_decay=0", "train.warmup_epochs=0")  # fmt: skip
    whole = load_file(tmp_path / "trained" / "model" / "weights.safetensors")
    close = [name for name in whole if name.endswith("weight")]
    assert all(torch.allclose(whole[n], load_file(weights(home))[n], atol=1e-4) for n in close)
    assert list(trained["points"])[:1] == ["dense"]
    assert trained["points"]["start"] == kept["points"]["final"]
    # the one training without a remedy is the run's own
    assert trained["baselines"]["noisy"]["key"] == trained["stages"][-1]["key"]


@pytest.mark.parametrize(
    "words",
    [
        ("finetune=rewind", "finetune.rewind_epoch=1", "train.epochs=2", "finetune.epochs=2"),
        ("finetune=scratch_b", "finetune.epochs=1"),
        ("robust=co_teaching", "finetune.epochs=0"),
    ],
)
def test_what_builds_networks_of_its_own_builds_them_as_the_start_was_cut(home, tmp_path, words):
    begins = ("start=run", f"start.path={home / 'b'}", "prune=weight_sum")
    found = run(home, tmp_path / "run", *begins, *words, "stages=[train,compress,finetune]")
    assert figures(found["points"]["start"]) == figures(report(home / "b")["points"]["final"])
    assert found["points"]["dense"]["macs"] == found["points"]["start"]["macs"]
    assert found["points"]["final"]["macs"] < found["points"]["start"]["macs"]
    compressor.load(tmp_path / "run")


def test_a_finished_member_is_made_again_when_the_file_behind_its_start_has_changed(home, tmp_path):
    path = tmp_path / "w.safetensors"
    shutil.copy(weights(home), path)
    values = compose(home, "start=weights", f"start.path={path}", "stages=[finetune]")
    before = multirun.own_sources(values)
    shutil.copy(weights(home, "b"), path)
    assert multirun.own_sources(values) != before
    other = compose(home, "start=run", f"start.path={home / 'a'}", "stages=[finetune]")
    assert multirun.own_sources(other)["start.path"] != before["start.path"]


# -- what cannot be begun with --------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(home):
    """Files that hold no weights of the network, beside the runs."""
    (home / "empty").mkdir()
    kept = load_file(weights(home))
    whole = weights(home).read_bytes()
    (home / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(kept, home / "right.pt")
    (home / "damaged.pt").write_bytes((home / "right.pt").read_bytes()[:5000])
    torch.save(torch.nn.Linear(2, 2), home / "module.pt")
    torch.save({"a": 1, "b": torch.zeros(2)}, home / "strange.pt")
    torch.save({"features.0.weight": torch.zeros(2)}, home / "other.pt")
    torch.save({**kept, "conv1.weight": kept["conv1.weight"].to(torch.int8)}, home / "whole.pt")
    head = {"fc.weight": torch.zeros(100, 16), "fc.bias": torch.zeros(100)}
    torch.save({**kept, **head}, home / "head.pt")
    return home


@pytest.mark.parametrize(
    "words, expected",
    [
        (("start=weights",), "start=weights needs the file: type start.path=weights.safetensors"),
        (("start=weights", "start.path=gone.pt"), "gone.pt is no file: give the path of the weigh"),
        (("start=weights", "start.path=damaged.safetensors", WIDTH), "it is damaged, or no .safet"),
        (("start=weights", "start.path=other.pt", WIDTH), "missing (conv1.weight, "),
        (("start=run", "start.path=${paths.outputs}/gone"), "gone is no folder: give that of a fi"),
        (("start=run",), "start=run needs the folder of a run: type start.path=outputs/runs/"),
        (("start=run", "start.path=a", "model=resnet56"), "model=resnet56 is another network than"),
        (("start=run", "start.path=a", "model.width=2.0"), "model.width=2.0 is not what the netw"),
        (("start=run", "start.path=a", "stages=[compress,train]"), "put train before compress"),
        (("start=none",), "type start=run start.path=FOLDER, or start=weights start.path=FILE"),
        (("start=none", "start.path=a", "stages=[train]"), "start (start=none) is empty; another"),
    ],
)
def test_what_cannot_be_begun_with_is_answered_in_one_line(
    odd, capsys, monkeypatch, words, expected
):
    monkeypatch.chdir(odd)
    if not any(word.startswith("stages=") for word in words):
        words = [*words, "stages=[compress,finetune]"]
    assert command(odd, "refused", *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and expected in lines[0], lines


@pytest.mark.parametrize(
    "start, path, expected",
    [
        (starting.WeightsFile, "a/report.json", "is no file of weights by its name"),
        (starting.WeightsFile, "damaged.pt", "cannot be read as tensors alone"),
        (starting.WeightsFile, "module.pt", "holds other objects, which are not opened"),
        (starting.WeightsFile, "strange.pt", "holds 'a' beside tensors: save net.state_dict()"),
        (starting.WeightsFile, "b/model/weights.safetensors", "(layer1.0.conv1.weight [4, 8, 3"),
        (starting.WeightsFile, "whole.pt", "1 no such numbers (conv1.weight)"),
        (starting.WeightsFile, "head.pt", "100 classes, and the data have 10: choose the data of"),
        (starting.FinishedRun, "gone", "gone is no folder: give that of a finished run"),
        (starting.FinishedRun, "a/report.json", "is a file: give the folder of a finished run"),
        (starting.FinishedRun, "empty", "holds no network (no model/manifest.json)"),
    ],
)
def test_a_file_or_a_folder_that_holds_no_such_network_is_refused(
    odd, monkeypatch, start, path, expected
):
    monkeypatch.chdir(odd)
    with pytest.raises(UsageError) as caught:
        start(path).read(SPEC, ())
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other, expected",
    [
        ({"input_size": (1, 16, 16)}, "type dataset.image_size=8 dataset.channels=3"),
        ({"num_classes": 4}, "knows 10 classes, and the data have 4: choose the data of its"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused_with_what_to_type(home, other, expected):
    with pytest.raises(UsageError, match=re.escape(expected)):
        starting.FinishedRun(str(home / "a")).read(replace(SPEC, **other), ())


@pytest.mark.parametrize(
    "group, value, expected",
    [
        ("scale", {"_target_": "compressor.scale.multiplier.Multiplier"}, "type scale=none"),
        ("pretrain", {"pretext": {}}, "type pretrain=none, or start=none"),
        ("finetune", {"mode": "rewind"}, "finetune=rewind goes back into the training of this"),
        ("baselines", True, "type baselines=false, or put train first in stages"),
    ],
)
def test_groups_that_a_start_leaves_no_room_for_are_refused(group, value, expected):
    config = {
        "stages": ["compress"], "pretrain": {"pretext": None}, "finetune": {"mode": "finetune"},
        "scale": {"_target_": "compressor.scale.none.NoScale"}, "baselines": False,
    }  # fmt: skip
    start = starting.FinishedRun("a")
    starting.check_groups(start, config)
    with pytest.raises(UsageError, match=re.escape(expected)):
        starting.check_groups(start, {**config, group: value})


def test_a_damaged_folder_of_a_run_is_told_and_its_network_is_not_begun_with(home, tmp_path):
    shutil.copytree(home / "a" / "model", tmp_path / "a")
    path = tmp_path / "a" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(compressor.errors.RunError, match="is damaged"):
        plan(home, "start=run", f"start.path={tmp_path / 'a'}", "stages=[finetune]")


def test_a_class_of_the_users_own_is_begun_with_where_the_command_names_it(home, tmp_path):
    words = ("model=custom", "model._target_=doubles.Net", "stages=[train]", "train.epochs=0")
    run(home, tmp_path / "own", *words)
    begins = ("start=run", f"start.path={tmp_path / 'own'}", "stages=[finetune]")
    with pytest.raises(UsageError, match="type model=custom model._target_=doubles.Net"):
        plan(home, *begins)
    found = plan(home, *words[:2], *begins)
    assert found.run.spec.factory == "doubles.Net"


def test_options_that_only_a_training_reads_are_told(home):
    begins = ("start=run", f"start.path={home / 'a'}", "stages=[finetune]")
    told = notices(plan(home, *begins, "robust=gce", "regularize=slimming"))
    assert any(line.startswith("regularize=slimming does nothing: it is part") for line in told)
    assert any(line.startswith("robust=gce does nothing: it is part") for line in told)
    same = notices(plan(home, *begins, "robust=gce", "finetune.robust=same"))
    assert not any("does nothing" in line for line in same)
    recipe = notices(plan(home, *begins, "model=resnet56"))
    assert any("those of model=resnet56, unless you type model=resnet20" in x for x in recipe)


def test_a_wrong_start_is_told_before_torch_is_imported(tmp_path):
    program = (
        "import sys; from compressor.run import main; words = sys.argv[1:]; "
        "codes = [main(words[:1]), main(words[1:2]), main(words[2:])]; "
        "sys.exit('torch' in sys.modules or codes != [2, 2, 2])"
    )
    words = ["start=weights", "stages=[compress]", "start=run", "start.path=gone"]
    path = {"PYTHONPATH": str(Path(compressor.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        timeout=60, cwd=tmp_path, capture_output=True, env={**os.environ, **path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- names of tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, prefix",
    [
        (["a.w", "b.w"], ""),
        (["module.a.w", "module.b.w"], "module."),
        (["model.module.a.w", "model.module.b.w"], "model.module."),
        (["module.a.w", "b.w"], ""),
        (["x.c.w", "x.d.w"], ""),
    ],
)
def test_a_prefix_of_all_names_is_taken_off_where_the_network_knows_them_without(names, prefix):
    expected = {"a.w": torch.zeros(1), "b.w": torch.zeros(1)}
    found, told = starting.without_prefix(dict.fromkeys(names, torch.zeros(1)), expected)
    assert told == prefix
    assert list(found) == [name[len(prefix) :] for name in names]
