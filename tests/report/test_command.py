import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import members
from compressor.report import plots
from compressor.report_command import main


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures have tests of their own; each costs a second."""
    monkeypatch.setattr(plots, "draw", lambda summary: {})


@pytest.fixture
def folder(a_sweep):
    pairs = [
        ([f"prune={prune}", f"seed={seed}"], {"accuracy": accuracy + seed / 50, "seed": seed})
        for prune, accuracy in (("random", 0.90), ("thinet", 0.93))
        for seed in (0, 1)
    ]
    return a_sweep(*pairs)


def test_a_sweep_is_reported(folder, capsys):
    assert main([str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 members done." in printed
    assert "report.html, summary.csv, summary.md in" in printed
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"report.html", "summary.csv", "summary.md"}


def test_baseline_and_metric_are_the_users(folder, capsys):
    assert main([str(folder), "--baseline", "dense", "--metric", "compressed.accuracy"]) == 0
    text = (folder / "summary.md").read_text()
    assert "Against its dense network, paired by seed." in text
    assert "| prune | n | compressed.accuracy |" in text and "0.4100 ± 0.0000" in text


def test_a_plan_has_no_result_to_report(tmp_path, capsys):
    (tmp_path / "status.json").write_text('{"state": "planned"}')
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a plan and no result" in line


@pytest.mark.parametrize(("noted", "words"), [
    (6, "2 of 6 members done, 1 interrupted, 3 not started."),
    (None, "2 of 3 members done, 1 interrupted."),  # only the search knows how many
])  # fmt: skip
def test_members_that_never_started_are_counted(a_sweep, capsys, noted, words):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}), (["seed=2"], {}))
    (folder / "2" / "status.json").write_text('{"state": "interrupted"}')
    members.write_sweep(folder, ["seed=range(0,6)"], "running", flags=["-m"], members=noted)
    members.end_sweep(folder, "interrupted")
    assert main([str(folder)]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
    assert words in (folder / "summary.md").read_text()
    page = (folder / "report.html").read_text()
    assert words in page and f"2 of {noted or 3}</" in page


def test_a_running_sweep_can_be_reported(folder, capsys):
    (folder / "1" / "status.json").write_text('{"state": "running"}')
    (folder / "1" / "report.json").unlink()
    for name in ("status.json", "report.json"):
        (folder / "3" / name).unlink()
    assert main([str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 members done, 1 running, 1 missing." in printed
    assert "Failed" not in printed
    assert "## Unfinished members" in (folder / "summary.md").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "the following arguments are required: DIR"),
        (["--what"], "compress-report --help shows the usage"),
        (["nowhere"], "nowhere does not exist"),
        (["FOLDER", "--metric", "final.miou"], "no member has the metric final.miou: "),
        (["FOLDER", "--metric", "accuracy"], "did you mean final.accuracy?"),
        (["FOLDER", "--baseline", "apoz"], "choose one of dense, prune=random, prune=thinet"),
        (["FOLDER", "--baseline", "dense", "--metric", "seconds"], "have no seconds to compare"),
    ],
)
def test_a_wrong_command_is_one_line(folder, words, reason, capsys):
    words = [str(folder) if word == "FOLDER" else word for word in words]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("compress-report: ") and printed.err.count("\n") == 1
    assert reason in printed.err and printed.out == ""
    assert not (folder / "summary.csv").exists()


def test_a_read_only_folder_is_one_line_and_leaves_nothing(folder, capsys, monkeypatch):
    def refuse(self, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    # rights do not stop every user: the superuser writes where none may
    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert main([str(folder)]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "summary.csv (Read-only file system)" in printed


def test_readers_see_whole_files_only(folder, monkeypatch):
    assert main([str(folder)]) == 0
    before = (folder / "summary.csv").read_text()
    seen = []
    replace = os.replace

    def look(source, target):
        seen.append((Path(target).name, Path(target).exists()))
        if Path(target).name == "summary.csv":
            assert Path(target).read_text() == before
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    (folder / "0" / "report.json").unlink()
    assert main([str(folder)]) == 0
    assert ("summary.csv", True) in seen and (folder / "summary.csv").read_text() != before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_sweep_that_still_runs_is_not_timed(folder, capsys):
    status = {"state": "running", "host": socket.gethostname(), "pid": os.getppid()}
    status["birth"] = members._birth(os.getppid())
    (folder / "1" / "status.json").write_text(json.dumps(status))
    assert main([str(folder), "--measure"]) == 2
    assert "still runs: latency is measured when all members" in capsys.readouterr().err


def test_reports_that_say_too_little_to_be_timed_are_one_line(folder, capsys):
    before = (folder / "0" / "report.json").read_text()
    assert main([str(folder), "--measure"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "report.json lacks its config or its points: run the command" in line
    assert (folder / "0" / "report.json").read_text() == before


def test_help_is_answered_without_drawing():
    code = (
        "import sys; from compressor.report_command import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'matplotlib', 'scipy', 'rich', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (
        "--baseline" in done.stdout
        and "--measure" in done.stdout
        and "final.accuracy" in done.stdout
    )


def test_a_tree_that_is_no_sweep_is_answered_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("compressor.report.members._MOST", 50)
    for number in range(30):
        (tmp_path / f"class {number:02}").mkdir()
        for image in range(10):
            (tmp_path / f"class {number:02}" / f"{image}.png").touch()
    seen = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: (seen.append(x) or x for x in walk(top)))
    assert main([str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert "is no folder of a multirun: no member among the 50 files and folders" in line
    assert "name the folder that `compress-run -m ...` printed" in line
    assert len(seen) <= 7
    # what compress-run marked as a multirun's is looked through
    (tmp_path / "multirun.yaml").touch()
    assert main([str(tmp_path)]) == 2
    assert "holds no member yet" in capsys.readouterr().err and len(seen) > 30


def test_nothing_heavy_is_imported_to_say_so(tmp_path):
    code = (
        "import sys; from compressor.report_command import main; main([sys.argv[1]]); "
        "print(sorted({'torch', 'matplotlib', 'scipy', 'hydra', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.strip() == "[]" and "holds no member" in done.stderr
