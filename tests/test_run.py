import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import types
import weakref
from pathlib import Path

import pytest
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import compressor
from compressor import run
from compressor.errors import RunError, UsageError

REPORT = {"points": {"dense": {"accuracy": 0.9}, "final": {"accuracy": 0.875}}}


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    """A pipeline that trains nothing: it notes what it is given and ends as `ends` says."""
    importlib.import_module("compressor.plan")  # kept members share its versions
    calls, ends = [], []
    pipeline = types.ModuleType("compressor.pipeline")
    experiment = types.ModuleType("compressor.experiment")

    def run_experiment(config, run_dir, member, command, times_later):
        calls.append((config, run_dir, member, command))
        end = ends.pop(0) if ends else None
        if isinstance(end, BaseException):
            raise end
        points = end or REPORT["points"]
        environment = {"compressor": compressor.__version__}
        report = {"points": points, "config": config, "environment": environment, "seconds": 1.5}
        report["data"] = experiment.data_keys(config)
        (run_dir / "report.json").write_text(json.dumps(report))
        return report

    pipeline.run_experiment = run_experiment
    experiment.data_keys = lambda config: {"train": "a", "test": "b"}
    sweep = types.ModuleType("compressor.report.sweep")
    sweep.summarise = lambda folder: {"folder": str(folder)}
    sweep.table = lambda summary: f"table of {summary['folder']}"
    report = types.ModuleType("compressor.report")
    report.sweep = sweep
    sweep_latency = types.ModuleType("compressor.sweep_latency")
    sweep_latency.complete = lambda folder, note: None
    monkeypatch.setattr(compressor, "sweep_latency", sweep_latency, raising=False)
    for module in (pipeline, experiment, report, sweep, sweep_latency):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv(run.FULL_ERROR, raising=False)
    monkeypatch.chdir(tmp_path)
    return types.SimpleNamespace(calls=calls, ends=ends)


def status(folder: Path) -> dict[str, str]:
    return json.loads((folder / "status.json").read_text())


def test_a_run_gets_plain_values_and_its_folder_and_says_done(experiments, tmp_path):
    assert run.main(["prune.ratio=0.25", "hydra.run.dir=here"]) == 0
    [(config, folder, member, command)] = experiments.calls
    assert config["prune"]["ratio"] == 0.25
    assert config["cache"]["dir"] == "outputs/cache"
    assert type(config) is dict and type(config["stages"]) is list
    assert folder == tmp_path / "here"
    assert not member
    assert command == "compress-run prune.ratio=0.25"
    assert status(folder) == {"state": "done"}


def test_a_run_folder_is_made_below_outputs_and_holds_no_log_files(experiments, tmp_path):
    run.main([])
    [(_, folder, _, _)] = experiments.calls
    assert folder.parent.parent == tmp_path / "outputs" / "runs"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".hydra",
        "report.json",
        "status.json",
    ]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("prune.ratio=1.5 is too much"), 2, "prune.ratio=1.5 is too much"),
        (RunError("the network\ncannot be traced"), 1, "the network cannot be traced"),
        (KeyError("ratio"), 1, "KeyError: 'ratio'"),
        (KeyboardInterrupt(), 130, "interrupted; finished stages are kept in the cache"),
    ],
)
def test_each_way_to_fail_has_its_exit_code_and_one_line(experiments, capfd, error, code, line):
    experiments.ends.append(error)
    assert run.main(["hydra.run.dir=here"]) == code
    captured = capfd.readouterr().err
    assert captured.startswith(f"compress-run: {line}")
    assert captured.count("\n") == 1
    assert ("HYDRA_FULL_ERROR=1" in captured) == (code == 1)
    assert status(Path("here"))["state"] == ("interrupted" if code == 130 else "failed")
    assert line in status(Path("here"))["error"]


@pytest.mark.parametrize(
    ("target", "code", "line"),
    [
        ({"_target_": "compressor.robust.gce.GCE", "q": 2}, 2, "robust.q=2 must be at most 1"),
        ({"_target_": "compressor.robust.gce.GCE", "p": 2}, 2, "unexpected keyword argument 'p'"),
        ({"_target_": "no.such.Class"}, 2, "a _target_ cannot be found"),
    ],
)
def test_what_a_constructor_refuses_is_a_usage_error(experiments, capfd, target, code, line):
    with pytest.raises(InstantiationException) as caught:
        instantiate(target)
    experiments.ends.append(caught.value)
    assert run.main([]) == code
    captured = capfd.readouterr().err
    assert line in captured and captured.count("\n") == 1


def test_lightnings_exit_after_ctrl_c_is_an_interrupt(experiments, capfd):
    exit_of_lightning = SystemExit(1)
    exit_of_lightning.__context__ = KeyboardInterrupt()
    experiments.ends.append(exit_of_lightning)
    assert run.main([]) == 130
    assert "kept in the cache" in capfd.readouterr().err


@pytest.fixture
def heeds_signals():
    """nohup and background jobs of a script have some ignored, and then we ignore them too."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_or_a_closed_terminal_ends_a_run_as_ctrl_c_does(
    experiments, capfd, monkeypatch, number, heeds_signals
):
    def interrupted(*_, **__):
        signal.raise_signal(number)
        raise AssertionError("it went on")

    monkeypatch.setattr(sys.modules["compressor.pipeline"], "run_experiment", interrupted)
    before = signal.getsignal(number)
    assert run.main(["hydra.run.dir=here"]) == 130
    assert capfd.readouterr().err.startswith("compress-run: interrupted; finished stages are kept")
    assert status(Path("here"))["state"] == "interrupted"
    assert signal.getsignal(number) == before
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 130
    assert status(Path("sweep/0"))["state"] == "interrupted"
    noted = json.loads(Path("sweep/sweep.json").read_text())
    assert noted["state"] == "interrupted" and noted["command"][0] == "seed=0,1"


def test_a_sweep_notes_from_its_start_what_was_typed_and_how_many_members_it_has(
    experiments, monkeypatch
):
    Path("conf").mkdir()
    seen, pipeline = [], sys.modules["compressor.pipeline"]
    run_experiment = pipeline.run_experiment

    def look(*words, **more):
        seen.append(json.loads(Path("sweep/sweep.json").read_text()))
        return run_experiment(*words, **more)

    monkeypatch.setattr(pipeline, "run_experiment", look)
    words = ["seed=0,1", "prune=thinet,none", "hydra.sweep.dir=sweep"]
    assert run.main(["-m", "--config-dir", "conf", *words]) == 0
    for noted in (seen[0], json.loads(Path("sweep/sweep.json").read_text())):
        assert noted["flags"] == ["-m", "--config-dir", "conf"]
        assert (noted["command"], noted["members"]) == (words, 4)
    assert (seen[0]["state"], noted["state"]) == ("running", "done")


def test_what_is_ignored_stays_ignored_and_a_second_signal_does_not_cut_the_first_short():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with run._interrupts():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_signal_to_a_forked_child_ends_that_child_alone():
    with run._interrupts():
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)  # not reached
        _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGTERM


@pytest.mark.parametrize("name", ["report.json", None])
def test_a_disk_that_is_full_is_told_in_one_line(experiments, capfd, name):
    experiments.ends.append(OSError(errno.ENOSPC, "No space left on device", name))
    assert run.main(["hydra.run.dir=here"]) == 1
    line = capfd.readouterr().err
    assert "is full: free some space, or set paths.outputs= or hydra.run.dir=" in line
    assert "the same command goes on" in line and line.count("\n") == 1


def test_the_traceback_comes_only_when_the_user_asks_for_it(experiments, capfd, monkeypatch):
    experiments.ends.append(RunError("no"))
    monkeypatch.setenv(run.FULL_ERROR, "1")
    assert run.main([]) == 1
    assert "Traceback" in capfd.readouterr().err
    assert os.environ[run.FULL_ERROR] == "1"


def test_the_environment_is_left_as_it_was(experiments):
    run.main([])
    assert run.FULL_ERROR not in os.environ


def test_a_wrong_override_runs_nothing_and_exits_with_2(experiments, capfd):
    assert run.main(["prune=thinnet"]) == 2
    captured = capfd.readouterr().err
    assert "did you mean prune=thinet?" in captured and captured.count("\n") == 1
    assert experiments.calls == []
    assert not Path("outputs").exists()


def test_an_output_folder_that_cannot_be_written_is_named(experiments, capfd, tmp_path):
    (tmp_path / "file").write_text("")
    assert run.main(["paths.outputs=file/below"]) == 1
    captured = capfd.readouterr().err
    assert "file/below" in captured
    assert "paths.outputs=" in captured and "hydra.run.dir=" in captured
    assert captured.count("\n") == 1


def test_a_multirun_runs_every_member_and_ends_with_the_table(experiments, capfd):
    assert run.main(["prune=none,thinet", "-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert [call[2] for call in experiments.calls] == [True] * 4
    assert experiments.calls[1][3] == "compress-run prune=none seed=1"
    assert [status(Path("sweep") / str(n))["state"] for n in range(4)] == ["done"] * 4
    assert "[member 3] prune=thinet seed=1" in capfd.readouterr().out


def test_a_multiruns_table_is_printed_when_a_member_left_a_report(experiments, capfd, tmp_path):
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    printed = capfd.readouterr().out
    assert f"table of {tmp_path / 'sweep'}" in printed.replace("\n", "")


def test_a_failing_member_is_recorded_and_the_others_go_on(experiments, capfd):
    experiments.ends += [UsageError("too much"), RunError("broke"), KeyError("x"), None]
    assert run.main(["-m", "seed=0,1,2,3", "hydra.sweep.dir=sweep"]) == 1
    assert len(experiments.calls) == 4
    states = [status(Path("sweep") / str(n))["state"] for n in range(4)]
    assert states == ["failed", "failed", "failed", "done"]
    captured = capfd.readouterr().err
    assert "member 0 failed: too much" in captured
    assert "3 of 4 members failed: 0, 1, 2" in captured
    assert "Traceback" not in captured


def test_an_old_failure_in_a_reused_sweep_folder_does_not_count(experiments, tmp_path):
    old = tmp_path / "sweep" / "7"
    old.mkdir(parents=True)
    (old / "status.json").write_text('{"state": "failed", "error": "of another command"}')
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0


def test_an_interrupt_ends_a_multirun(experiments):
    experiments.ends.append(KeyboardInterrupt())
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 130
    assert len(experiments.calls) == 1


def test_hydras_mode_in_the_command_is_as_good_as_m(experiments):
    assert run.main(["hydra.mode=MULTIRUN", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert len(experiments.calls) == 2


def test_a_member_that_broke_leaves_its_traceback_and_a_plain_line(experiments, capfd):
    experiments.ends += [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
    assert run.main(["-m", "seed=0,1,2", "hydra.sweep.dir=sweep"]) == 1
    for member in "01":
        failed = status(Path("sweep") / member)
        assert failed["error"].startswith("out of memory")
        assert "Traceback" in failed["traceback"] and "run_experiment" in failed["traceback"]
    assert "[sweep] 1 of 3 members done, 0 running, 2 failed" in capfd.readouterr().out


def test_a_loss_that_is_no_number_is_a_failure(experiments, capfd):
    experiments.ends.append({"dense": {"loss": float("nan")}, "final": {"loss": 1.0}})
    assert run.main(["hydra.run.dir=here"]) == 1
    assert "the loss of the dense network is NaN" in capfd.readouterr().err


class Held:
    """Stands for a tensor in a failing stage's frame."""


def test_a_failed_member_leaves_nothing_in_memory(experiments, monkeypatch):
    held = []

    def run_experiment(config, run_dir, member, command, times_later):
        large = Held()
        held.append(weakref.ref(large))
        raise RuntimeError("broke")

    monkeypatch.setattr(sys.modules["compressor.pipeline"], "run_experiment", run_experiment)
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 1
    assert [each() for each in held] == [None, None]


def test_while_a_member_runs_its_status_says_where(experiments, monkeypatch):
    seen = []
    pipeline = sys.modules["compressor.pipeline"]
    original = pipeline.run_experiment

    def run_experiment(config, run_dir, member, command, times_later):
        seen.append(status(run_dir))
        return original(config, run_dir, member, command, times_later=times_later)

    monkeypatch.setattr(pipeline, "run_experiment", run_experiment)
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert [(s["state"], s["pid"]) for s in seen] == [("running", os.getpid())] * 2
    assert seen[0]["host"] and seen[0]["started"]


def test_a_sweeps_networks_are_timed_together_when_all_are_done(experiments, monkeypatch):
    done = []
    pipeline = sys.modules["compressor.pipeline"]
    original = pipeline.run_experiment

    def run_experiment(config, run_dir, member, command, times_later):
        done.append(times_later)
        return original(config, run_dir, member, command, times_later=times_later)

    monkeypatch.setattr(pipeline, "run_experiment", run_experiment)
    timed = lambda folder, note: done.append(folder.name)  # noqa: E731
    monkeypatch.setattr(sys.modules["compressor.sweep_latency"], "complete", timed)
    assert run.main(["-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert done == [True, True, "sweep"]
    assert run.main(["hydra.run.dir=alone"]) == 0
    assert done[3:] == [False]


# -- a sweep started again ----------------------------------------------------------------------


def test_a_sweep_started_again_runs_only_missing_and_failed_members(experiments, capfd):
    words = ["-m", "seed=0,1,2", "hydra.sweep.dir=sweep"]
    experiments.ends += [None, RunError("broke"), None]
    assert run.main(words) == 1
    shutil.rmtree("sweep/2")
    assert run.main(words) == 0
    assert [call[0]["seed"] for call in experiments.calls] == [0, 1, 2, 1, 2]
    assert "3 of 3 members done (1 kept)" in capfd.readouterr().out
    assert [status(Path("sweep") / n).get("kept", False) for n in "012"] == [True, False, False]


def test_a_member_whose_own_class_was_edited_is_run_again(experiments, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "nets_of_the_user.py"
    source.write_text("class Net: pass\n")
    words = ["-m", "seed=0", "hydra.sweep.dir=sweep", "model=custom"]
    words.append("model._target_=nets_of_the_user.Net")
    assert run.main(words) == 0 == run.main(words)
    assert len(experiments.calls) == 1
    source.write_text("class Net: width = 2\n")
    assert run.main(words) == 0
    assert len(experiments.calls) == 2


def test_a_member_whose_data_files_changed_is_run_again(experiments, capfd, monkeypatch):
    words = ["-m", "seed=0,1", "hydra.sweep.dir=sweep"]
    assert run.main(words) == 0
    looks = []
    changed = {"train": "other", "test": "b"}
    monkeypatch.setattr(
        sys.modules["compressor.experiment"], "data_keys", lambda config: looks.append(1) or changed
    )
    assert run.main(words) == 0
    assert len(experiments.calls) == 4
    assert "done before, but with other data: again" in capfd.readouterr().out
    looks.clear()
    assert run.main(words) == 0
    assert len(experiments.calls) == 4 and len(looks) == 1  # read once for both members


def test_a_member_whose_data_were_moved_away_is_kept(experiments, capfd, monkeypatch):
    words = ["-m", "seed=0", "hydra.sweep.dir=sweep"]
    assert run.main(words) == 0

    def gone(config):
        raise UsageError("dataset.root=/gone is no folder")

    monkeypatch.setattr(sys.modules["compressor.experiment"], "data_keys", gone)
    assert run.main(words) == 0
    assert len(experiments.calls) == 1
    assert "not compared: dataset.root=/gone is no folder" in capfd.readouterr().out


def test_a_run_that_was_only_planned_says_so(experiments, monkeypatch):
    pipeline = sys.modules["compressor.pipeline"]
    monkeypatch.setattr(pipeline, "run_experiment", lambda *args, **kwargs: {"plan": {}})
    assert run.main(["plan_only=true", "hydra.run.dir=here"]) == 0
    assert status(Path("here")) == {"state": "planned"}
    assert run.main(["-m", "plan_only=true", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert [status(Path("sweep") / n)["state"] for n in "01"] == ["planned"] * 2


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words", [["hydra.run.dir=here"], ["-m", "seed=0,1", "hydra.sweep.dir=here"]]
)
def test_a_plan_leaves_the_results_in_its_folder_as_they_are(
    experiments, monkeypatch, capfd, words
):
    experiments.ends += [None, RunError("broke")]
    run.main(words)
    before = contents("here")
    planned = []

    def plan(config, run_dir, *args, **kwargs):
        planned.append((config["plan_only"], run_dir.is_relative_to(Path("here").absolute())))
        if len(planned) == 2:
            raise UsageError("prune.budget.macs=0.01 cannot be reached")
        return {"plan": {}}

    monkeypatch.setattr(sys.modules["compressor.pipeline"], "run_experiment", plan)
    members = 2 if "-m" in words else 1
    assert run.main([*words, "plan_only=true"]) == members - 1
    captured = capfd.readouterr()
    assert planned == [(True, True)] * members
    assert "here holds results, which the plan leaves as they are" in captured.out
    assert ("cannot be reached" in captured.err) == (members == 2)
    assert contents("here") == before
    assert {path.name for path in Path("here").iterdir()} == {p.parts[1] for p in before}


def test_a_plan_in_the_folder_of_a_plan_is_made_there(experiments, monkeypatch, capfd):
    pipeline = sys.modules["compressor.pipeline"]
    monkeypatch.setattr(pipeline, "run_experiment", lambda *args, **kwargs: {"plan": {}})
    for words in (["hydra.run.dir=here"], ["-m", "seed=0", "hydra.sweep.dir=sweep"]):
        for _ in range(2):
            assert run.main([*words, "plan_only=true"]) == 0
    assert status(Path("here")) == {"state": "planned"}
    assert status(Path("sweep/0"))["state"] == "planned"
    assert "holds results" not in capfd.readouterr().out


def test_an_old_report_is_gone_while_its_member_runs_again(experiments):
    assert run.main(["-m", "seed=0", "hydra.sweep.dir=sweep"]) == 0
    experiments.ends.append(RunError("broke"))
    assert run.main(["-m", "seed=7", "hydra.sweep.dir=sweep"]) == 1
    assert not Path("sweep/0/report.json").exists()


# -- searches -----------------------------------------------------------------------------------

SEARCH = ["-m", "hydra/sweeper=optuna", "prune.ratio=interval(0.2,0.8)", "hydra.sweep.dir=sweep"]


def accuracies(experiments, *values):
    experiments.ends += [
        value if isinstance(value, Exception) else {"final": {"accuracy": value, "macs": 100}}
        for value in values
    ]


def test_a_search_finds_the_best_member_and_outlives_failed_ones(experiments, capfd):
    pytest.importorskip("optuna")
    accuracies(experiments, 0.5, RunError("broke"), 0.9, float("nan"), 0.7)
    words = ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=5"]
    assert run.main([*SEARCH, *words]) == 1
    found = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert found["best_value"] == 0.9
    assert found["best_params"]["prune.ratio"] == experiments.calls[2][0]["prune"]["ratio"]
    captured = capfd.readouterr()
    assert "3 of 5 members done, 0 running, 2 failed" in captured.out
    assert "2 of 5 members failed: 1, 3" in captured.err and "Traceback" not in captured.err
    assert "objective=final.accuracy was not measured" in status(Path("sweep/3"))["error"]


def test_a_search_with_two_objectives_ends_in_a_front(experiments):
    pytest.importorskip("optuna")
    accuracies(experiments, 0.5, 0.9, RunError("broke"))
    words = ["hydra.sweeper.direction=[maximize,minimize]", "hydra.sweeper.n_trials=3"]
    assert run.main([*SEARCH, *words, "objective=[final.accuracy,final.macs]"]) == 1
    found = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert [each["values"] for each in found["solutions"]] == [[0.9, 100.0]]


def test_a_search_is_seeded_so_that_a_second_one_keeps_every_member(experiments, capfd):
    pytest.importorskip("optuna")
    words = [*SEARCH, "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3"]
    accuracies(experiments, 0.5, 0.9, 0.7)
    assert run.main(words) == 0
    assert run.main([*words[:-1], "hydra.sweeper.n_trials=4"]) == 0
    assert len(experiments.calls) == 4
    assert "4 of 4 members done (3 kept)" in capfd.readouterr().out


def test_a_search_whose_members_all_fail_says_only_that(experiments, capfd):
    pytest.importorskip("optuna")
    accuracies(experiments, *[RunError("broke")] * 2)
    words = ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    assert run.main([*SEARCH, *words]) == 1
    captured = capfd.readouterr().err
    assert "2 of 2 members failed" in captured and "No trials" not in captured


def test_a_search_keeps_its_study_in_a_file(experiments, capfd):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    if not sqlalchemy.__version__.startswith("1."):
        pytest.skip("the released plugin's optuna needs sqlalchemy<2, as the extra says")
    words = [*SEARCH, "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=1"]
    words += ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=one"]
    accuracies(experiments, 0.9, 0.5)
    assert run.main(words) == 0 == run.main([*words, "seed=1"])
    found = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert found["best_value"] == 0.9


def test_the_command_of_a_run_names_the_users_folder(experiments, tmp_path):
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    (tmp_path / "conf" / "prune" / "mine.yaml").write_text("defaults: [_base]\n_target_: my.Own\n")
    assert run.main(["--config-dir", "conf", "prune=mine", "prune.skip=[a b]"]) == 0
    [(config, _, _, command)] = experiments.calls
    assert config["prune"]["_target_"] == "my.Own"
    assert command == f"compress-run --config-dir {tmp_path}/conf prune=mine 'prune.skip=[a b]'"


def test_members_in_worker_processes_write_their_status(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    # the class is left out: every worker fails at its first step, before torch is imported
    words = ["model=custom", "seed=0,1"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    done = command_line(*words, "-m", *launcher, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [status(tmp_path / "sweep" / n)["state"] for n in "01"] == ["failed", "failed"]
    assert "2 of 2 members failed: 0, 1" in done.stderr


KILLER = """
import os, signal
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, killed):
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
        )
"""


@pytest.mark.slow
def test_a_member_whose_process_is_killed_is_a_row_and_the_others_end(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "killer.py").write_text(KILLER)
    words = ["model=custom", "model._target_=killer.Net", "model.arguments.killed=true,false"]
    words += ["seed=0,1", "dataset=fake", "dataset.image_size=16", "dataset.samples=40"]
    words += ["train.epochs=1", "finetune.epochs=0", "train.batch_size=16", "prune=weight_sum"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    done = command_line("-m", *words, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    states = [status(tmp_path / "sweep" / n)["state"] for n in "0123"]
    assert states == ["failed", "failed", "done", "done"], done.stdout + done.stderr
    assert "ended from outside, twice" in status(tmp_path / "sweep" / "0")["error"]


def command_line(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != run.FULL_ERROR}
    return subprocess.run(
        [sys.executable, "-m", "compressor.run", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job", "prune.ratio=0.3"], 0),
        (["prune=thinnet"], 2),
        (["model.num_layers=3"], 2),
        (["prune.ratio=abc"], 2),
    ],
)
def test_answers_about_the_command_come_without_torch(words, code, tmp_path):
    program = (
        "import sys; from compressor.run import main; code = main()\n"
        "heavy = {'torch', 'torchvision', 'pytorch_lightning', 'timm', 'sklearn', 'matplotlib'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else code)"
    )
    command = [sys.executable, "-c", program, *words]
    # Not timed here: a busy machine makes the same work cost more; what costs is importing torch.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (0 if code == 0 else 1)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_group_with_its_options(capfd):
    assert run.main(["--help"]) == 0
    page = capfd.readouterr().out
    for word in ("model", "resnet50", "thinet*", "imagefolder", "prune.ratio=0.5", "-m", "130"):
        assert word in page
    assert "_base" not in page and "by_dataset" not in page
    assert max(map(len, page.splitlines())) <= 100


def test_hydras_own_answers_keep_working():
    assert command_line("--version").stdout.startswith("Hydra 1.3")
    assert "Hydra" in command_line("--hydra-help").stdout
    assert "job_logging" in command_line("--cfg", "hydra").stdout


def test_tab_completion_offers_options_and_no_inherited_files(tmp_path):
    environment = {**os.environ, "COMP_LINE": "compress-run prune=", "COMP_POINT": "19"}
    words = [sys.executable, "-m", "compressor.run", "-sc", "query=bash"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert "prune=thinet" in done.stdout.split()
    assert "_base" not in done.stdout


def test_a_reader_that_goes_away_leaves_no_traceback():
    words = f"'{sys.executable}' -m compressor.run --help | true"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_a_file_gets_each_line_when_it_is_said():
    words = "import sys; from compressor.run import main; main(['--help'])"
    words += "; sys.exit(not sys.stdout.line_buffering)"
    assert subprocess.run([sys.executable, "-c", words], stdout=subprocess.PIPE).returncode == 0
