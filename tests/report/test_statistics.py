import math

import pytest

from compressor.report.statistics import (
    amounts,
    estimate,
    front,
    interval,
    kind,
    more_seeds,
    paired,
    verdict,
)


def change(*values):
    return estimate(value / 100 for value in values)


def test_the_interval_is_students():
    # t(0.975, 2 degrees of freedom) = 4.302653, the standard deviation of 1, 2, 3 is 1
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert interval([1.0, 2.0]) == pytest.approx(12.706205 * math.sqrt(0.5) / math.sqrt(2))
    assert interval([0.5]) is None
    assert interval([0.5, 0.5]) == 0.0


def test_an_estimate_counts_only_what_is_there():
    assert estimate([1.0, None, 3.0, math.nan])["n"] == 2
    assert estimate([None, math.inf]) is None
    assert estimate([0.25]) == {"mean": 0.25, "interval": None, "n": 1}


def test_pairing_finds_what_the_spread_between_seeds_hides():
    # seeds differ by 20 points, the methods by 1.0, 1.1 and 0.9 in each of them
    ours, theirs = {0: 0.710, 1: 0.811, 2: 0.909}, {0: 0.70, 1: 0.80, 2: 0.90}
    differences = paired(ours, theirs)
    assert differences == pytest.approx([0.010, 0.011, 0.009])
    assert kind(estimate(differences)) == "better"
    assert estimate(differences)["interval"] == pytest.approx(4.302653 * 0.001 / math.sqrt(3))
    # unpaired, each mean's interval is a hundred times the difference
    assert interval(list(ours.values())) > 0.2 and interval(list(theirs.values())) > 0.2


def test_only_seeds_that_both_have_are_paired():
    assert paired({0: 0.5, 1: 0.6, 2: None}, {1: 0.5, 2: 0.5, 3: 0.5}) == pytest.approx([0.1])
    # 0.95 - 0.96 and 0.97 - 0.98 differ in the last bit: that is no spread
    assert len(set(paired({0: 0.95, 1: 0.97}, {0: 0.96, 1: 0.98}))) == 1


@pytest.mark.parametrize(
    ("values", "higher", "sentence"),
    [
        # 1.2, 1.3, 1.4: mean 1.3, t * 0.1 / sqrt(3) = 0.248
        ((1.2, 1.3, 1.4), True, "thinet beats random by 1.3 ± 0.2 points over 3 seeds"),
        ((-1.2, -1.3, -1.4), True, "thinet loses to random by 1.3 ± 0.2 points over 3 seeds"),
        ((-1.2, -1.3, -1.4), False, "thinet beats random by 1.3 ± 0.2 points over 3 seeds"),
        # mean 0.2, standard deviation 0.4, t * 0.4 / sqrt(3) = 0.994
        (
            (0.2, -0.2, 0.6),
            True,
            "thinet against random: 3 seeds cannot tell (+0.2 ± 1.0 points), and leave room for "
            "1.2 points at most",
        ),
        # mean 1.2, standard deviation 9.66: t(112) * 9.66 / sqrt(113) is 1.80, and so on
        (
            (-8.46, 1.2, 10.86),
            True,
            "thinet against random: 3 seeds cannot tell (+1.2 ± 24.0 points); about 249 more "
            "would show a difference of 1.2 points",
        ),
        # hardly a difference, and a wide interval: what would show one point
        (
            (-9.0, 0.0, 9.0),
            True,
            "thinet against random: 3 seeds cannot tell (+0.0 ± 22.4 points); about 311 more "
            "would show a difference of 1.0 points",
        ),
        (
            (2.5,),
            True,
            "thinet against random: one seed, no interval (+2.5 points in that seed)",
        ),
        (
            (0.2, 0.2),
            True,
            "thinet against random: +0.2 points in each of 2 seeds, which leaves no spread to "
            "judge by",
        ),
        (
            (0.0, 0.0),
            True,
            "thinet against random: no difference in any of 2 seeds",
        ),
        ((), True, "thinet against random: no pair of finished members with equal seeds"),
    ],
)
def test_a_verdict_is_a_plain_sentence(values, higher, sentence):
    assert verdict("thinet", "random", change(*values), higher=higher) == sentence


def test_so_many_more_seeds_are_the_least_that_would_show_the_difference():
    from scipy.special import stdtrit

    seen = change(-3.0, 1.0, 3.5, 0.5)
    deviation = seen["interval"] * 2 / stdtrit(3, 0.975)

    def half(n):
        return stdtrit(n - 1, 0.975) * deviation / math.sqrt(n)

    for target in (0.03, 0.01, 0.001):
        n = seen["n"] + more_seeds(seen, target)
        assert half(n) < target and (n == seen["n"] + 1 or half(n - 1) >= target)


def test_other_figures_than_fractions_ask_for_the_difference_that_was_seen():
    text = verdict("a", "b", estimate([1.0, -3.0, 5.0]), factor=1.0, unit="ms")
    assert text.startswith("a against b: 3 seeds cannot tell (+1.0 ± 9.9 ms); about 61 more would")
    assert text.endswith("show a difference of 1.0 ms")
    assert verdict("a", "b", estimate([-1.0, 1.0]), factor=1.0, unit="").endswith("(+0 ± 13)")


def test_an_interval_that_just_touches_zero_claims_nothing():
    assert kind({"mean": 0.01, "interval": 0.01, "n": 3}) == "none"
    assert kind({"mean": 0.0101, "interval": 0.01, "n": 3}) == "better"


def test_figures_keep_as_many_decimals_as_their_order_needs():
    assert amounts({"mean": 0.0044, "interval": 0.0043}) == "+0.44 ± 0.43"
    assert amounts({"mean": 0.00302, "interval": 0.00299}) == "+0.302 ± 0.299"
    assert amounts({"mean": -0.0002, "interval": 0.0001}) == "-0.02 ± 0.01"
    assert amounts({"mean": -1234.56, "interval": 12.0}, 1.0) == "-1,235 ± 12"
    assert amounts({"mean": 0.0213, "interval": 0.0027}, 1.0) == "+0.021 ± 0.003"


def test_the_front_of_five_points():
    # accuracy against MACs: c costs as much as b and is worse, e costs more than d for less
    a, b, c, d, e = (10, 0.80), (20, 0.90), (20, 0.85), (40, 0.95), (50, 0.94)
    assert front([a, b, c, d, e]) == [True, True, False, True, False]
    assert front([b, b]) == [True, True]  # equals do not dominate each other
    assert front([a, (None, 1.0), (5, None)]) == [True, False, False]


def test_a_cost_within_the_measurements_span_is_no_other_cost():
    # the first two cost the same as far as was measured: the better one alone is on the front
    points = [(10.0, 0.90), (10.4, 0.95), (20.0, 0.95)]
    spans = [(9.5, 10.6), (9.9, 10.9), (19.0, 21.0)]
    assert front(points) == [True, True, False]
    assert front(points, spans) == [False, True, False]
    # equal gains at costs that cannot be told apart: neither takes the other's star
    assert front([(10.0, 0.9), (10.4, 0.9)]) == [True, False]
    assert front([(10.0, 0.9), (10.4, 0.9)], spans[:2]) == [True, True]
    assert front([(10.0, 0.9), (10.4, 0.9)], [None, None]) == [True, False]
