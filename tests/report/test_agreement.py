import pytest

from compressor.report.agreement import agreements, kappa

SIZES = {"a": [8, 4], "b": [8, 8]}


def test_equal_sets_agree_and_chance_is_zero():
    kept = {"a": [0, 1, 2, 3], "b": list(range(8))}
    assert kappa(kept, kept, SIZES) == 1
    # half of the four kept are common, as chance has it
    assert kappa(kept, {"a": [0, 1, 4, 5], "b": list(range(8))}, SIZES) == 0
    assert kappa(kept, {"a": [4, 5, 6, 7]}, SIZES) == -1
    assert kappa({"a": [0]}, {"a": [0, 1]}, SIZES) is None


def row(rate, robust, seed, kept):
    target = f"compressor.robust.{robust}"
    return {
        "swept": {"noise.rate": str(rate), "robust": robust, "prune": "thinet", "seed": str(seed)},
        "report": {
            "kept": {"a": kept}, "widths": SIZES, "labels": {"flip_rate": rate},
            "config": {"robust": {"_target_": target}},
        },
    }  # fmt: skip


def test_members_are_compared_with_the_clean_one_of_their_seed():
    rows = [
        row(0.0, "none.CrossEntropy", 0, [0, 1, 2, 3]),
        row(0.0, "none.CrossEntropy", 1, [4, 5, 6, 7]),
        row(0.4, "none.CrossEntropy", 0, [0, 1, 2, 3]),
        row(0.4, "none.CrossEntropy", 1, [4, 5, 0, 1]),
        row(0.4, "none.CrossEntropy", 2, [4, 5, 0, 1]),
    ]
    (found,) = agreements(rows)
    assert found["fields"] == {
        "noise.rate": "0.4",
        "robust": "none.CrossEntropy",
        "prune": "thinet",
    }
    assert found["agreement"]["mean"] == pytest.approx(0.5) and found["agreement"]["n"] == 2
