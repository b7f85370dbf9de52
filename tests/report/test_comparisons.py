import itertools

import pytest

from compressor.errors import UsageError
from compressor.report import comparisons, metrics
from compressor.report.configurations import configurations, dense_networks, mark_fronts
from compressor.report.members import members


@pytest.fixture
def compared(a_sweep, tmp_path):
    """(overrides, options) pairs -> (configurations, baseline, comparisons)."""
    names = map(str, itertools.count())

    def compare(*pairs, baseline=None, metric=None):
        rows, fields = members(a_sweep(*pairs, folder=tmp_path / next(names)))
        done = [row for row in rows if row["status"] == "done"]
        judged = metrics.choose(metric, (row["figures"] for row in done))
        found = configurations(rows, fields, judged)
        chosen = comparisons.choose(baseline, found)
        return found, chosen, comparisons.compare(found, chosen, judged)

    return compare


def of(prune, ratio, seed, accuracy, **options):
    overrides = [f"prune={prune}", f"prune.ratio={ratio}", f"seed={seed}"]
    options = {"method": prune, "ratio": ratio, "seed": seed, "accuracy": accuracy, **options}
    return overrides, options


def test_the_random_control_of_the_same_ratio_and_seed_is_the_partner(compared):
    # ratios differ by ten points, seeds by five, methods by 1.05 and 1.13, and by 2.0 and 2.2
    found, baseline, rows = compared(
        of("random", 0.3, 0, 0.90), of("random", 0.3, 1, 0.85),
        of("random", 0.5, 0, 0.80), of("random", 0.5, 1, 0.75),
        of("thinet", 0.3, 0, 0.9105), of("thinet", 0.3, 1, 0.8613),
        of("thinet", 0.5, 0, 0.82), of("thinet", 0.5, 1, 0.772),
    )  # fmt: skip
    assert baseline == comparisons.Baseline("prune", "random")
    assert [each["where"] for each in rows] == ["prune.ratio=0.3", "prune.ratio=0.5"]
    assert [each["change"]["mean"] for each in rows] == pytest.approx([0.0109, 0.021])
    # t(0.975, 1) * 0.04 points
    assert rows[0]["change"]["interval"] == pytest.approx(12.706205 * 0.0004, rel=1e-5)
    assert rows[0]["text"] == (
        "thinet beats random at prune.ratio=0.3 by 1.1 ± 0.5 points over 2 seeds"
    )
    # shared between two comparisons, t(0.9875, 1) = 25.45: 1.02 < 1.09 and 2.55 > 2.10 points
    assert [each["strict"] for each in rows] == [True, False]


def test_a_seed_without_its_partner_is_left_out(compared):
    _, _, rows = compared(
        of("random", 0.5, 0, 0.80), (["prune=random", "prune.ratio=0.5", "seed=1"], None),
        of("thinet", 0.5, 0, 0.82), of("thinet", 0.5, 1, 0.99),
    )  # fmt: skip
    (only,) = rows
    assert only["kind"] == "single" and only["change"]["mean"] == pytest.approx(0.02)
    assert only["text"].startswith("thinet against random: one seed, no interval")


def test_against_dense_every_member_meets_its_own_network(compared):
    found, baseline, rows = compared(
        of("thinet", 0.5, 0, 0.94, dense=0.95), of("thinet", 0.5, 1, 0.9592, dense=0.97),
        baseline="dense",
    )  # fmt: skip
    assert baseline.field is None
    assert rows[0]["text"] == (
        "the final network loses to its dense network by 1.0 ± 0.5 points over 2 seeds"
    )
    assert found[0]["value"]["interval"] > 0.1


def test_the_same_seed_twice_is_one_seed(compared):
    found, _, rows = compared(
        of("random", 0.5, 0, 0.80), of("thinet", 0.5, 0, 0.82), of("thinet", 0.5, 0, 0.82)
    )
    thinet = next(entry for entry in found if entry["fields"]["prune"] == "thinet")
    assert (thinet["n"], thinet["repeated"], thinet["value"]["interval"]) == (1, 1, None)
    assert rows[0]["kind"] == "single"


def test_the_uncut_control_is_one_configuration_and_meets_every_ratio(compared):
    # prune=none does nothing at either ratio: the keys of the last stage are equal
    pairs = [of("none", ratio, seed, 0.95 + seed / 100) for ratio in (0.3, 0.5) for seed in (0, 1)]
    pairs += [of("thinet", r, s, 0.94 + s / 100) for r in (0.3, 0.5) for s in (0, 1)]
    found, baseline, rows = compared(*pairs)
    assert baseline == comparisons.Baseline("prune", "none")
    assert [(e["fields"]["prune.ratio"], e["n"]) for e in found] == [
        ("-", 2), ("0.3", 2), ("0.5", 2),
    ]  # fmt: skip
    assert [each["where"] for each in rows] == ["prune.ratio=0.3", "prune.ratio=0.5"]
    # an option that does act is not taken for one that does not
    acting = [of("none", ratio, 0, 0.95 + ratio / 100) for ratio in (0.3, 0.5)]
    found, _, _ = compared(*acting, of("thinet", 0.3, 0, 0.94), of("thinet", 0.5, 0, 0.94))
    assert "-" not in {entry["fields"]["prune.ratio"] for entry in found}


def test_any_field_can_be_the_baseline(compared):
    pairs = [
        ([f"distill={terms}", f"train.epochs={epochs}", f"seed={seed}"],
         {"accuracy": 0.9 + gain + seed / 50 + epochs / 1000 + seed * gain / 10, "seed": seed})
        for terms, gain in (("none", 0), ("[kd,cckd]", 0.01))
        for epochs in (5, 10)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    _, baseline, rows = compared(*pairs)
    assert baseline == comparisons.Baseline("distill", "none")
    assert rows[0]["text"].startswith("[kd,cckd] beats none at train.epochs=5 by 1.1 ± ")
    _, baseline, rows = compared(*pairs, baseline="train.epochs=5")
    assert baseline == comparisons.Baseline("train.epochs", "5")
    # the same half a point in every seed: nothing to estimate a spread from
    assert {each["kind"] for each in rows} == {"even"}
    assert "train.epochs=10 against train.epochs=5 with [kd,cckd]: +0.5 points" in rows[0]["text"]
    with pytest.raises(UsageError, match="no member has the baseline kd: choose one of dense, dis"):
        compared(*pairs, baseline="kd")


def test_an_unclear_baseline_names_the_choices(compared):
    with pytest.raises(UsageError, match="not clear: say distill=none or noise=none"):
        compared(
            (["distill=none", "noise=none"], {}), (["distill=kd", "noise=symmetric"], {}),
            baseline="none",
        )  # fmt: skip


def test_less_loss_is_better(compared):
    # the fixture's loss is 1 - accuracy: no fraction of anything, so no points
    pairs = [of("random", 0.5, s, 0.80 + s / 10) for s in (0, 1, 2)]
    pairs += [of("thinet", 0.5, s, 0.82 + s / 10 + s / 1000) for s in (0, 1, 2)]
    _, _, rows = compared(*pairs, metric="final.loss")
    assert rows[0]["kind"] == "better"
    assert rows[0]["text"] == "thinet beats random by 0.021 ± 0.002 over 3 seeds"


def test_many_comparisons_are_counted(compared):
    # ten ratios; the spread of a tenth of a point over three seeds outlives any correction
    pairs = [
        of(prune, ratio / 20, seed, 0.8 + gain * (1 + seed / 100) + seed / 50)
        for prune, gain in (("random", 0.0), ("thinet", 0.05))
        for ratio in range(1, 11)
        for seed in (0, 1, 2)
    ]
    _, _, rows = compared(*pairs)
    assert all(each["strict"] for each in rows)
    text = comparisons.caution(rows)
    assert text.startswith("10 comparisons were made: at 95 % each, about 0.5 of them")
    assert "10 of the 10 differences still stand" in text
    assert comparisons.caution(rows[:1]) == ""


def test_a_headline_says_which_differences_chance_alone_could_make(compared):
    # two ratios over two seeds: one difference of 9.6 +- 5.6 points, not enough for two looks
    pairs = [of("random", ratio, seed, 0.8) for ratio in (0.3, 0.5) for seed in (0, 1)]
    pairs += [of("thinet", 0.3, 0, 0.8916), of("thinet", 0.3, 1, 0.9004)]
    pairs += [of("thinet", 0.5, 0, 0.85), of("thinet", 0.5, 1, 0.77)]
    _, _, rows = compared(*pairs)
    assert [each["kind"] for each in rows] == ["better", "none"]
    assert comparisons.shared_level(rows).endswith("0 of the 1 difference still stand.")
    assert comparisons.shared_level(rows) in comparisons.caution(rows)


def test_fronts_include_the_dense_networks_and_keep_problems_apart(a_sweep):
    rows, fields = members(
        a_sweep(
            (["dataset=a", "prune=thinet"], {"accuracy": 0.90, "dense": 0.95}),
            (["dataset=a", "prune=apoz"], {"accuracy": 0.80, "dense": 0.95}),
            (["dataset=b", "prune=thinet"], {"accuracy": 0.60, "dense": 0.55}),
        )
    )
    metric = metrics.choose(None, [row["figures"] for row in rows])
    found = configurations(rows, fields, metric)
    dense = dense_networks(found, metric)
    mark_fronts(found, dense, metric)
    assert [(e["fields"]["dataset"], e["fields"]["prune"], e["front"]) for e in found] == [
        ("a", "apoz", []),
        ("a", "thinet", ["macs", "latency_ms"]),
        ("b", "thinet", ["macs", "latency_ms"]),
    ]
    assert [entry["front"] for entry in dense.values()] == [["macs", "latency_ms"], []]


def test_a_metric_that_no_member_has_lists_those_that_exist(a_report):
    found = [metrics.figures(a_report())]
    assert found[0]["final.latency_ms.median"] == 6.0 and found[0]["parity.surgery"] == 1.5e-7
    with pytest.raises(UsageError, match="did you mean final.accuracy.*dense.macs") as caught:
        metrics.choose("accuracy", found)
    assert "\n" not in str(caught.value) and "batch_size" not in str(caught.value)
    assert metrics.choose(None, found).name == "final.accuracy"
    # a task without accuracy is judged by its own first figure
    other = [{"dense.miou": 0.7, "final.loss": 0.1, "final.miou": 0.6, "seconds": 3.0}]
    assert metrics.choose(None, other).name == "final.miou"
    assert metrics.choose(None, []) is None
