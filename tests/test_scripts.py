"""The benchmarks start, and the costs that take turns are those of the steps themselves."""

import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
PYTHON = [
    path.name
    for path in sorted(SCRIPTS.iterdir())
    if path.is_file() and path.read_text().startswith("#!/usr/bin/env python3")
]


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.parametrize("name", PYTHON)
def test_a_script_says_what_it_does(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    assert not ended.value.code and "usage" in capsys.readouterr().out


def test_the_numerical_rooms_are_there_and_a_setting_that_fails_is_in_the_table(
    monkeypatch, capsys
):
    script = runpy.run_path(str(SCRIPTS / "test_processors"))
    assert all((SCRIPTS.parent / room).exists() for room in script["ROOMS"])
    seen = []

    def run(tests, setting, more):
        seen.append((bool(tests), setting, more))
        return "MKL_CBWR" not in setting, "9 passed in 1.00s (1 s in all)"

    monkeypatch.setitem(script["main"].__globals__, "run", run)
    monkeypatch.setattr(sys, "argv", ["test_processors", "-x"])
    assert script["main"]() == 1
    assert [rooms for rooms, _, _ in seen] == [True] * 6 + [False] * 2
    assert len({tuple(sorted(setting.items())) for rooms, setting, _ in seen if rooms}) == 6
    assert all("-x" in more for _, _, more in seen)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 9 and sum("| NO |" in line for line in table) == 2
    monkeypatch.setattr(sys, "argv", ["test_processors", "--rooms", "--settings", "plain"])
    assert script["main"]() == 0 and len(seen) == 9


@pytest.mark.parametrize("suite, rooms", [(0, 0), (1, 0), (0, 1)])
def test_the_check_before_a_change_is_taken_fails_if_either_part_fails(suite, rooms, tmp_path):
    for place, code in (("scripts/test", suite), (".venv/bin/python", rooms)):
        program = tmp_path / place
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho {program.name} got $*\nexit {code}\n")
        program.chmod(0o755)
    check = tmp_path / ".ci" / "run"
    check.parent.mkdir()
    shutil.copy(SCRIPTS.parent / ".ci" / "run", check)
    done = subprocess.run([check, "-m", "slow"], capture_output=True, text=True)
    assert (done.returncode != 0) == bool(suite or rooms)
    assert "test got -m slow" in done.stdout
    assert "test_processors --rooms --settings compatible" in done.stdout


class Data:
    """Three batches an epoch."""

    name = "three"

    def loader(self, part, batch_size, **options):
        return [0, 1, 2]


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_steps_take_turns_and_are_timed_alone():
    from _turns import in_turns

    order = []

    def work(name, seconds):
        def run(data, folder):
            assert data.name == "three" and Path(folder).is_dir()
            for batch in data.loader("train", 1, shuffle=True):
                order.append((name, batch))
                burn(seconds)

        return run

    seconds = in_turns(Data(), {"slow": work("slow", 0.03), "fast": work("fast", 0.01)})
    assert order == [(name, batch) for batch in range(3) for name in ("slow", "fast")]
    assert len(seconds["slow"]) == len(seconds["fast"]) == 3
    assert min(seconds["slow"]) >= 0.03 and min(seconds["fast"]) >= 0.01
    # the machine may be slow, but not so that a step holds another one's work
    assert min(seconds["fast"]) < 0.03


def test_a_training_that_fails_ends_all_of_them():
    from _turns import in_turns

    def broken(data, folder):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        in_turns(Data(), {"fine": lambda data, folder: data.loader("train", 1), "broken": broken})


def test_a_ratio_is_that_of_the_medians_of_its_rounds():
    from _turns import ratio

    ones = [1.0] * 100
    assert ratio([9.0] * 10 + [2.2] * 90, ones, ones) == "1.100 (1.100 to 1.100, 90 steps)"
