"""What rounds of milliseconds say: known answers, and intervals that hold what they promise."""

import numpy as np
import pytest

from compressor import timing


def test_noise_that_hits_both_networks_alike_leaves_their_ratio_alone():
    # the machine is three times as slow for half of the rounds
    busy = np.repeat([1.0, 3.0, 1.0, 3.0], 25)
    found = timing.ratio(5.0 * busy, 10.0 * busy)
    assert found == {"median": 0.5, "low": 0.5, "high": 0.5, "steady": True}
    assert not timing.milliseconds(10.0 * busy)["steady"]


def test_milliseconds_are_the_median_and_the_outer_tenths():
    found = timing.milliseconds(np.arange(101.0) / 1000 + 1)
    assert (found["low"], found["median"], found["high"]) == pytest.approx((1.01, 1.05, 1.09))
    assert found["steady"]


def test_a_machine_that_hits_unevenly_is_unsteady():
    generator = np.random.default_rng(0)
    found = timing.ratio(5 * generator.lognormal(0, 1, 100), 10 * generator.lognormal(0, 1, 100))
    assert found["low"] < 0.5 < found["high"] and not found["steady"]


def test_a_ratio_that_moves_during_the_session_is_unsteady():
    # each half of the rounds alone would look certain
    found = timing.ratio(np.repeat([5.0, 8.0], 50), np.full(100, 10.0))
    assert (found["low"], found["high"]) == (0.5, 0.8) and not found["steady"]


@pytest.mark.parametrize("count", [1, 5])
def test_a_few_rounds_are_never_steady(count):
    assert not timing.ratio([1.0] * count, [1.0] * count)["steady"]


def test_the_ends_of_an_interval_by_hand():
    # of six blocks all count; of 18 values five at each end may go: P(at most 4 of 18) = 1.5 %
    assert timing._outside(6) == 0 and timing._outside(18) == 4
    low, high = timing.interval(np.arange(18.0) % 3)
    assert (low, high) == (0.0, 2.0)


@pytest.mark.parametrize(("rounds", "likeness"), [(18, 0.5), (100, 0.8), (200, 0.9)])
def test_the_interval_holds_the_truth_though_neighbours_are_alike(rounds, likeness):
    # 400 sessions of autoregressive noise around 0: at 95 % the standard error is 1.1 points
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(rounds + 100, 400)) * np.sqrt(1 - likeness**2)
    for turn in range(1, len(noise)):
        noise[turn] += likeness * noise[turn - 1]
    ends = [timing.interval(session) for session in noise[100:].T]
    assert np.mean([low <= 0 <= high for low, high in ends]) > 0.93
