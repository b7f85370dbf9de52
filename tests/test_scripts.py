"""The benchmarks start, and the costs that take turns are those of the steps themselves."""

import runpy
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
