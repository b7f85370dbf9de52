import itertools
import json

import pytest

from compressor.errors import UsageError
from compressor.report import comparisons, metrics, plots, sweep
from compressor.report.configurations import configurations, dense_networks, mark_fronts
from compressor.report.members import members


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda summary: {})


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


def with_latency(folder, member, median, low, high, steady=True, steady_ms=True):
    path = folder / member / "report.json"
    report = json.loads(path.read_text())
    report["points"]["final"]["latency_ratio"] = {
        "median": median, "low": low, "high": high, "steady": steady,
    }  # fmt: skip
    report["points"]["final"]["latency_ms"] |= {"median": 12 * median, "steady": steady_ms}
    path.write_text(json.dumps(report))


def judged(folder, metric=None, baseline=None):
    rows, fields = members(folder)
    metric = metrics.choose(metric, [row["figures"] for row in rows])
    found = configurations(rows, fields, metric)
    dense = dense_networks(found, metric)
    mark_fronts(found, dense, metric)
    chosen = comparisons.choose(baseline, found)
    compared = comparisons.compare(found, chosen, metric)
    return {entry["fields"]["prune"]: entry for entry in found}, dense, compared


def test_an_unsteady_latency_takes_no_part_in_a_front(a_sweep):
    folder = a_sweep(
        (["prune=thinet"], {"accuracy": 0.97, "ratio": 0.5, "dense": 0.98}),
        (["prune=apoz"], {"accuracy": 0.96, "ratio": 0.5, "dense": 0.98}),
        (["prune=random"], {"accuracy": 0.95, "ratio": 0.5, "dense": 0.98}),
    )
    with_latency(folder, "0", 0.2, 0.05, 4.0, steady=False, steady_ms=False)
    with_latency(folder, "1", 0.5, 0.49, 0.51, steady_ms=False)
    # it would be beaten by the first one's 0.2, of which nothing is known, and is not by itself
    with_latency(folder, "2", 0.4, 0.39, 0.41)
    found, dense, _ = judged(folder)
    assert [found[name]["front"] for name in ("thinet", "apoz", "random")] == [
        ["macs"], ["latency_ms"], ["latency_ms"],
    ]  # fmt: skip
    assert [entry["front"] for entry in dense.values()] == [["macs", "latency_ms"]]


def test_dense_is_not_the_fastest_because_all_else_is_unsteady(a_sweep):
    folder = a_sweep((["prune=thinet"], {"accuracy": 0.97}), (["prune=apoz"], {"accuracy": 0.96}))
    for member in ("0", "1"):
        path = folder / member / "report.json"
        report = json.loads(path.read_text())
        report["points"]["dense"]["latency_ratio"] |= {"low": 1.0, "high": 1.0}
        path.write_text(json.dumps(report))
        with_latency(folder, member, 7.0, 0.5, 9.0, steady=False)
    found, dense, _ = judged(folder)
    assert [entry["front"] for entry in dense.values()] == [["macs"]]
    sweep.summarise(folder)
    assert "against measured latency" not in (folder / "report.html").read_text()


def test_ratios_within_each_others_interval_are_one_cost(a_sweep):
    folder = a_sweep((["prune=thinet"], {"accuracy": 0.97}), (["prune=apoz"], {"accuracy": 0.96}))
    with_latency(folder, "0", 0.50, 0.48, 0.52)
    with_latency(folder, "1", 0.49, 0.47, 0.51)
    assert judged(folder)[0]["apoz"]["front"] == []
    with_latency(folder, "1", 0.45, 0.44, 0.46)
    assert judged(folder)[0]["apoz"]["front"] == ["latency_ms"]


def test_no_verdict_rests_on_an_unsteady_latency(a_sweep):
    pairs = [
        ([f"prune={prune}", f"seed={seed}"], {"method": prune, "seed": seed})
        for prune in ("random", "thinet", "apoz")
        for seed in (0, 1)
    ]
    folder = a_sweep(*pairs)
    for member, median in enumerate((0.60, 0.61, 0.50, 0.52, 0.3, 0.31)):
        steady = member < 4
        with_latency(folder, str(member), median, 0.98 * median, 1.02 * median, steady, steady)
    name = "final.latency_ratio.median"
    found, _, (apoz, thinet) = judged(folder, name)
    assert (apoz["kind"], thinet["kind"]) == ("unsteady", "better")
    assert not any("latency_ms" in entry["front"] for entry in found.values())
    assert apoz["text"] == "apoz against random: the latency is unsteady, no verdict"
    summary = sweep.summarise(folder, metric=name)
    assert "unsteady" in (folder / "summary.md").read_text()
    assert summary["headline"]


def test_a_latency_of_an_older_release_is_no_ground_for_a_conclusion(a_sweep):
    folder = a_sweep((["prune=thinet"], {}), (["prune=apoz"], {"accuracy": 0.9}))
    for member in ("0", "1"):
        path = folder / member / "report.json"
        report = json.loads(path.read_text())
        for point in report["points"].values():
            del point["latency_ratio"], point["latency_ms"]["steady"]
        path.write_text(json.dumps(report))
    found, dense, _ = judged(folder)
    assert not any("latency_ms" in e["front"] for e in (*found.values(), *dense.values()))
    sweep.summarise(folder)
    assert "of a release that took no ratio" in (folder / "summary.md").read_text()


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


def test_a_front_is_in_the_order_of_steady_ratios_and_not_of_unsteady_milliseconds(a_sweep):
    folder = a_sweep(
        (["prune=thinet"], {"accuracy": 0.97, "ratio": 0.5, "dense": 0.98}),
        (["prune=apoz"], {"accuracy": 0.96, "ratio": 0.5, "dense": 0.98}),
    )
    with_latency(folder, "0", 0.5, 0.49, 0.51, steady_ms=False)
    with_latency(folder, "1", 0.4, 0.39, 0.41, steady_ms=False)
    path = folder / "1" / "report.json"  # timed in a slow minute
    report = json.loads(path.read_text())
    report["points"]["final"]["latency_ms"]["median"] = 80.0
    path.write_text(json.dumps(report))
    sweep.summarise(folder)
    page = (folder / "report.html").read_text()
    assert "against measured latency, cheapest first: apoz, thinet, dense" in page
    assert "no part in its front" not in page


def test_milliseconds_that_keep_a_network_off_the_front_are_told(a_sweep):
    folder = a_sweep(
        (["model=small"], {"accuracy": 0.97, "ratio": 0.5, "dense": 0.98}),
        (["model=large"], {"accuracy": 0.96, "ratio": 0.5, "dense": 0.99}),
    )
    path = folder / "1" / "report.json"
    report = json.loads(path.read_text())
    report["points"]["dense"]["macs"] *= 2
    report["points"]["final"]["latency_ms"]["steady"] = False
    path.write_text(json.dumps(report))
    sweep.summarise(folder)
    page = (folder / "report.html").read_text()
    assert "unsteady latency, no part in its front: large" in page
