import json

import pytest

from compressor.errors import UsageError
from compressor.report.members import members, natural


def test_numbers_sort_by_value_and_before_words():
    values = ["0.5", "10", "9", "thinet", "0.3", "resnet56", "resnet20", "resnet110", "1e-3"]
    assert sorted(values, key=natural) == [
        "1e-3", "0.3", "0.5", "9", "10", "resnet20", "resnet56", "resnet110", "thinet",
    ]  # fmt: skip


def test_members_without_a_report_are_told_apart(a_sweep):
    folder = a_sweep(*((["seed=" + str(seed)], {}) for seed in range(5)), (["plan_only=true"], {}))
    (folder / "0" / "report.json").write_text("{")
    for number in "12345":
        (folder / number / "report.json").unlink()
    (folder / "2" / "status.json").write_text('{"state": "running"}')
    (folder / "3" / "status.json").unlink()
    (folder / "4" / "status.json").write_bytes(b"\xff{")
    rows = {row["member"]: row for row in members(folder)[0]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "0": "failed", "1": "failed", "2": "running", "3": "missing", "4": "missing",
        "5": "missing",
    }  # fmt: skip
    assert "is damaged" in rows["0"]["error"]
    assert "says done and its report.json is gone" in rows["1"]["error"]
    assert rows["2"]["error"].startswith("running, as of 2")
    assert "not finished" in rows["3"]["error"]
    assert "only the plan" in rows["5"]["error"]


def test_a_member_that_was_interrupted_is_no_failed_one(a_sweep):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}))
    (folder / "1" / "report.json").unlink()
    (folder / "1" / "status.json").write_text('{"state": "interrupted", "error": "interrupted"}')
    rows = members(folder)[0]
    assert [row["status"] for row in rows] == ["done", "interrupted"]
    assert "hydra.sweep.dir= this folder goes on" in rows[1]["error"]


def test_a_member_that_runs_again_is_not_judged_by_its_old_report(a_sweep):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}))
    (folder / "1" / "status.json").write_text('{"state": "running"}')
    assert [row["status"] for row in members(folder)[0]] == ["done", "running"]


@pytest.mark.parametrize(
    "damage",
    [
        {"points": [1, 2]},
        {"points": {"final": 3}},
        {"stages": {"train": 1}},
        {"stages": [{"name": "train"}]},
        {"stages": [{"name": "train", "key": "k", "seconds": None, "reused": False}]},
        {"seconds": "long"},
    ],
)
def test_a_report_of_a_wrong_shape_is_a_failed_row(a_sweep, a_report, damage):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}))
    (folder / "0" / "report.json").write_text(json.dumps({**a_report(), **damage}))
    rows = members(folder)[0]
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "is damaged" in rows[0]["error"]


def test_members_in_nested_folders_are_found_and_their_insides_left_alone(a_sweep, tmp_path):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}), folder=tmp_path / "all" / "thinet")
    inside = folder / "0" / "stages" / "kept"
    inside.mkdir(parents=True)
    (inside / "report.json").touch()
    rows, fields = members(folder.parent)
    assert [row["member"] for row in rows] == ["thinet/0", "thinet/1"] and fields == ["seed"]


def test_a_default_equals_its_own_value_typed_out(a_sweep):
    config = {"train": {"epochs": 9, "nesterov": True}, "skip": ["a", "b"]}
    rows, fields = members(
        a_sweep(
            (["train.epochs=9", "skip=[a,b]"], {"config": config}),
            (["train.nesterov=false"], {"config": config}),
            (["seed=3"], {"config": config}),
        )
    )
    assert fields == ["train.nesterov", "seed"]
    assert [row["swept"]["train.nesterov"] for row in rows] == ["false", "true", "true"]
    assert [row["swept"]["seed"] for row in rows] == ["0", "0", "3"]


def test_a_single_runs_folder_is_a_sweep_of_one(a_run, tmp_path):
    a_run(tmp_path / "run")
    rows, fields = members(tmp_path / "run")
    assert [row["member"] for row in rows] == ["."] and fields == []


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "does not exist"),
        ("file", "is a file"),
        ("empty", r"\(no folder with a report.json"),
        ("begun", "holds no member yet"),
    ],
)
def test_a_folder_without_members_is_refused_in_one_line(tmp_path, what, reason):
    folder = tmp_path / what
    if what == "file":
        folder.touch()
    elif what != "nothing":
        folder.mkdir()
    if what == "begun":
        (folder / "multirun.yaml").touch()
    with pytest.raises(UsageError, match=reason) as caught:
        members(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert "holds no member" in str(caught.value)


def test_an_interrupted_run_of_its_own_goes_on_by_its_command_alone(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "interrupted", "error": "interrupted"}')
    (row,) = members(tmp_path)[0]
    assert row["error"] == "interrupted: the same command goes on"
