import ast
import json
import os
import socket
import subprocess
import sys

import pytest

import compressor
from compressor import members
from compressor.members import Progress, Tally, kept_report, read_status, write_status

CONFIG = {"seed": 0, "prune": {"ratio": 0.5}, "machine": {"threads": None}, "paths": {"data": "a"}}


def finished(folder, config=CONFIG, **status):
    write_status(folder, {"state": "done", "sweep": "one", **status})
    environment = {"compressor": compressor.__version__}
    report = {"config": config, "environment": environment, "points": {}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_status_is_replaced_in_one_step_and_leaves_nothing_beside_it(tmp_path):
    write_status(tmp_path, {"state": "running"})
    write_status(tmp_path, {"state": "done"})
    assert read_status(tmp_path) == {"state": "done"}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_status_that_cannot_be_read_says_nothing(tmp_path):
    assert read_status(tmp_path) == {}
    (tmp_path / "status.json").write_text('{"state": "do')
    assert read_status(tmp_path) == {}


def test_members_are_found_at_any_depth_and_not_inside_each_other(tmp_path):
    for name in ("0", "prune/1", "prune/1/stages/x", ".submitit/2"):
        write_status(tmp_path / name, {"state": "done"})
    write_status(tmp_path, {"state": "done"})
    found = [folder.relative_to(tmp_path).as_posix() for folder in members.folders(tmp_path)]
    assert found == ["0", "prune/1"]


@pytest.mark.parametrize(
    "change",
    [
        {"machine": {"threads": 4}},
        {"paths": {"data": "b"}},
        {"cache": {"enabled": False}},
        {"objective": "final.loss"},
    ],
)
def test_a_member_is_kept_though_what_decides_no_result_changed(tmp_path, change):
    report = kept_report(finished(tmp_path), {**CONFIG, **change}, {})
    assert report is not None and report["config"] == CONFIG


@pytest.mark.parametrize("change", [{"seed": 1}, {"prune": {"ratio": 0.3}}, {"export": {"x": 1}}])
def test_a_member_of_another_configuration_is_not_kept(tmp_path, change):
    assert kept_report(finished(tmp_path), {**CONFIG, **change}, {}) is None


def test_a_member_is_not_kept_that_failed_or_lost_its_report(tmp_path):
    finished(tmp_path)
    write_status(tmp_path, {"state": "failed"})
    assert kept_report(tmp_path, CONFIG, {}) is None
    finished(tmp_path)
    (tmp_path / "report.json").write_text('{"config": ')
    assert kept_report(tmp_path, CONFIG, {}) is None


def test_a_member_is_not_kept_by_another_version_or_with_an_edited_class(tmp_path, monkeypatch):
    finished(tmp_path, sources={"my.Net": "abc"})
    assert kept_report(tmp_path, CONFIG, {"my.Net": "abc"}) is not None
    assert kept_report(tmp_path, CONFIG, {"my.Net": "def"}) is None
    monkeypatch.setattr("compressor.version.__version__", "0.0.1")
    assert kept_report(tmp_path, CONFIG, {"my.Net": "abc"}) is None


def test_the_line_of_progress_counts_and_estimates():
    tally = Tally(total=24, done=7, kept=2, running=2, failed={"3": "broke"})
    # six were run in 120 s, sixteen are to come
    assert tally.line(120.0) == (
        "[sweep] 7 of 24 members done (2 kept), 2 running, 1 failed; about 5 min left"
    )
    assert Tally(total=None, done=1).line(9) == "[sweep] 1 members done, 0 running"
    assert (
        Tally(total=2, done=2, kept=2).line(9) == "[sweep] 2 of 2 members done (2 kept), 0 running"
    )


def test_progress_counts_this_commands_members_and_tells_a_failure_once(tmp_path, capsys):
    write_status(tmp_path / "0", {"state": "done", "sweep": "one"})
    write_status(tmp_path / "1", {"state": "failed", "sweep": "one", "error": "broke"})
    write_status(tmp_path / "2", {"state": "failed", "sweep": "another", "error": "long ago"})
    progress = Progress(tmp_path, "one", 3, beside=False)
    progress.show()
    progress.show()
    captured = capsys.readouterr()
    assert captured.err == "compress-run: member 1 failed: broke\n"
    assert captured.out.startswith("[sweep] 1 of 3 members done, 0 running, 1 failed; about")
    assert captured.out.count("\n") == 1


def test_beside_other_processes_a_thread_ends_with_the_last_count(tmp_path, capsys):
    progress = Progress(tmp_path, "one", 1, beside=True)
    progress.EVERY = 0.01
    progress.start()
    write_status(tmp_path / "0", {"state": "done", "sweep": "one"})
    progress.stop()
    assert capsys.readouterr().out.splitlines()[-1] == "[sweep] 1 of 1 members done, 0 running"


def test_a_terminal_has_one_line_that_is_written_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_status(tmp_path / "0", {"state": "running", "sweep": "one"})
    progress = Progress(tmp_path, "one", 1, beside=True)
    progress.show()
    progress.show()
    printed = capsys.readouterr().out
    assert printed == "\r\x1b[2K[sweep] 0 of 1 members done, 1 running" * 2


def test_members_left_by_a_process_that_is_gone_are_seen(tmp_path):
    progress = Progress(tmp_path, "one", 2, beside=True)
    status = members.running("one", 1)
    assert status["pid"] == os.getpid()
    write_status(tmp_path / "0", {"state": "done", "sweep": "one"})
    assert not progress.outlast()
    write_status(tmp_path / "1", {**status, "pid": 2**22 + 1})  # above Linux's largest
    assert progress.outlast()
    write_status(tmp_path / "1", {**status, "host": "another"})
    assert not progress.outlast()


def test_a_process_lives_until_it_ends_and_is_not_taken_for_a_later_one_of_its_number():
    program = "import sys; from compressor import members\nprint(members._process(), flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    status = ast.literal_eval(child.stdout.readline())
    assert members.lives(status)
    assert not members.lives({**status, "birth": "1"})
    child.communicate()
    assert not members.lives(status)
    assert not members.lives(members.running("one", 1))


def test_the_last_sweep_of_a_command_is_found_when_it_did_not_end_well(tmp_path):
    for name, command, state in (
        ("day/1", ["seed=0,1"], "running"),
        ("day/2", ["seed=0,1"], "failed"),
        ("day/3", ["seed=0,2"], "running"),
    ):
        members.write_sweep(tmp_path / "multiruns" / name, command, state)
    assert members.unfinished(tmp_path, ["seed=0,1"]) == tmp_path / "multiruns/day/2"
    assert members.unfinished(tmp_path, ["seed=5"]) is None
    members.write_sweep(tmp_path / "multiruns/day/4", ["seed=0,1"], "done")
    assert members.unfinished(tmp_path, ["seed=0,1"]) is None


def test_what_a_member_prints_goes_to_its_file_and_comes_back(tmp_path):
    # in a process of its own: the streams of a test are not those of its process
    program = (
        "import os, sys, pathlib; from compressor.members import output_to; early = sys.stdout\n"
        "with output_to(pathlib.Path('output.log')):\n"
        "    print('inside', file=early, flush=True); os.write(2, b'and below Python\\n')\n"
        "print('outside')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("outside\n", "")
    assert (tmp_path / "output.log").read_text() == "inside\nand below Python\n"


def test_members_whose_process_went_with_the_command_are_interrupted(tmp_path):
    here = {"state": "running", "sweep": "s", "host": socket.gethostname(), "birth": "0"}
    statuses = {
        "gone": {**here, "pid": 2**22 + 1},
        "elsewhere": {**here, "pid": 1, "host": "other"},
        "another": {**here, "pid": 2**22 + 1, "sweep": "t"},
        "done": {"state": "done", "sweep": "s"},
    }
    for name, status in statuses.items():
        members.write_status(tmp_path / name, status)
    members.Progress(tmp_path, "s", 4, beside=True).interrupted()
    states = {name: members.read_status(tmp_path / name)["state"] for name in statuses}
    assert states == {
        "gone": "interrupted", "elsewhere": "running", "another": "running", "done": "done",
    }  # fmt: skip
