import pytest

from compressor.report.reuse import times
from compressor.report.tables import time_lines


def member(*stages, seconds=100.0):
    names = ("name", "key", "seconds", "reused", "skipped")
    records = [dict(zip(names, stage, strict=True)) for stage in stages]
    return {"report": {"stages": records, "seconds": seconds}}


def test_a_reused_stage_saved_what_its_computation_took():
    rows = [
        member(("train", "a", 60.0, False, False), ("finetune", "b", 20.0, False, False)),
        member(("train", "a", 0.0, True, False), ("finetune", "c", 22.0, False, False)),
        member(("train", "a", 0.0, True, False), ("finetune", "c", 0.0, True, False)),
        {"report": None},
    ]
    found = times(rows)
    assert (found["seconds"], found["timed"]) == (300.0, 3)
    assert found["saved"] == 60 + 60 + 22 and found["unknown"] == 0
    train = found["stages"]["train"]
    assert (train["computed"], train["reused"], train["saved"]) == (1, 2, 120.0)
    assert found["stages"]["finetune"]["seconds"] == 42.0


def test_the_saving_of_a_stage_computed_elsewhere_is_unknown():
    found = times([member(("train", "a", 0.0, True, False), ("compress", "b", 3.0, False, False))])
    assert found["saved"] == 0 and found["unknown"] == 1
    assert found["stages"]["train"]["unknown"] == 1


def test_a_skipped_stage_is_not_reused():
    found = times([member(("train", "a", 60.0, False, False), ("compress", "a", 0.0, True, True))])
    assert list(found["stages"]) == ["train"] and found["saved"] == 0


def test_equal_stages_computed_twice_are_counted():
    twice = [member(("train", "a", seconds, False, False)) for seconds in (50.0, 70.0)]
    found = times([*twice, member(("train", "a", 0.0, True, False))])
    assert found["stages"]["train"]["repeated"] == 1
    assert found["saved"] == pytest.approx(60.0)


def test_the_saving_of_a_stage_that_says_its_cost_is_known_wherever_it_was_computed():
    rows = [member(("train", "a", 0.0, True, False))]
    rows[0]["report"]["stages"][0]["made_seconds"] = 41.5
    found = times(rows)
    assert found["saved"] == 41.5 and found["unknown"] == 0


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "never reused"), (1, "reused once"), (2, "reused twice"), (5, "reused 5 times")],
)
def test_the_times_of_reuse_are_told_in_words(count, told):
    train = [member(("train", "a", 60.0, False, False))]
    found = times([*train, *[member(("train", "a", 0.0, True, False))] * count])
    assert f"Dense trainings: 1 computed, {told}." in time_lines({"times": found})
