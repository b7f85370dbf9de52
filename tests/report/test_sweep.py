import csv
import io
import json
import shlex

import pytest
from rich.console import Console

from compressor import members
from compressor.report import plots, sentences, sweep


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """Figures cost a second each: only the tests that ask for `drawn` look at them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(plots, "draw", lambda summary: {})


@pytest.fixture
def drawn():
    """The figures are drawn."""


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_members_that_differ_in_seeds_are_one_configuration(a_sweep, drawn):
    folder = a_sweep(
        (["model=resnet20", "prune=thinet", "seed=0"], {"accuracy": 0.95, "dense": 0.96}),
        (["model=resnet20", "prune=thinet", "seed=1"], {"accuracy": 0.97, "dense": 0.98}),
        (["model=resnet20", "prune=apoz", "seed=0"], {"accuracy": 0.90, "dense": 0.96}),
        (["model=resnet20", "prune=apoz", "seed=1"], None),
    )
    summary = sweep.summarise(folder, baseline="dense")
    assert summary["fields"] == ["prune", "seed"]
    assert len(summary["members"]) == 3 and len(summary["failed"]) == 1
    apoz, thinet = summary["configurations"]
    assert (apoz["fields"], apoz["n"], apoz["failed"]) == ({"prune": "apoz"}, 1, 1)
    assert (thinet["fields"], thinet["n"], thinet["failed"]) == ({"prune": "thinet"}, 2, 0)
    assert apoz["headline"] == {"mean": 0.90, "interval": None, "n": 1}
    assert thinet["headline"]["mean"] == pytest.approx(0.96)
    assert thinet["headline"]["interval"] == pytest.approx(12.706205 * 0.01, rel=1e-5)
    # the change is paired with each member's own dense network: no spread is left
    assert thinet["change"]["mean"] == pytest.approx(-0.01)
    assert thinet["change"]["interval"] == pytest.approx(0, abs=1e-9)
    text = (folder / "summary.md").read_text()
    assert "| thinet | 2 | 0.9600 ± 0.1271 | -1.00 ± 0.00 |" in text
    assert "| apoz | 1 (1 failed) | 0.9000 | -6.00 |" in text
    assert "| 3 | prune=apoz seed=1 | prune.ratio=2 is no fraction \\| of channels |" in text
    assert "3 of 4 members done" in text
    assert (folder / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_has_a_row_a_member_with_every_figure(a_sweep):
    folder = a_sweep(
        (["prune.ratio=0.5", "prune=thinet"], {"ratio": 0.5}),
        (["prune.ratio=0.25", "prune=thinet"], {"ratio": 0.25, "accuracy": 0.975}),
        (["prune.ratio=2", "prune=thinet"], None),
    )
    sweep.summarise(folder)
    rows = read_csv(folder / "summary.csv")
    assert [row["prune.ratio"] for row in rows] == ["0.25", "0.5", "2"]
    assert "prune" not in rows[0]
    quarter, _, failed = rows
    assert quarter["member"] == "1" and quarter["status"] == "done" and quarter["error"] == ""
    assert quarter["final.accuracy"] == "0.975" and quarter["final.macs"] == "750000"
    assert quarter["dense.latency_ms.median"] == "12.0" and quarter["dense.params"] == "20000"
    assert quarter["final.latency_ratio.median"] == "0.5"
    assert quarter["final.latency_ratio.steady"] == quarter["dense.latency_ms.steady"] == "true"
    assert quarter["recalibrate.reused"] == "true" and quarter["train.reused"] == "false"
    assert quarter["train.seconds"] == "61.5" and quarter["seconds"] == "200.0"
    assert quarter["ratio.achieved"] == "0.25" and quarter["seed"] == "0"
    assert failed["status"] == "failed" and failed["final.accuracy"] == ""
    assert failed["error"] == "prune.ratio=2 is no fraction | of channels"


def test_any_axis_is_swept_and_a_single_run_needs_none(a_sweep, tmp_path):
    folder = a_sweep(
        (["train.epochs=10", "distill=[kd]"], {}),
        (["train.epochs=9", "distill=[none]"], {}),
        (["train.epochs=9"], {}),
    )
    summary = sweep.summarise(folder)
    assert summary["fields"] == ["train.epochs", "distill"]
    assert [row["swept"]["train.epochs"] for row in summary["members"]] == ["9", "9", "10"]
    assert {each["series"] for each in summary["configurations"]} == {
        "[kd]", "[none]", "(default)",
    }  # fmt: skip
    alone = sweep.summarise(a_sweep((["prune=thinet"], {}), folder=tmp_path / "alone"))
    assert alone["fields"] == [] and alone["configurations"][0]["n"] == 1
    assert alone["configurations"][0]["series"] == "thinet"


def test_a_sweep_in_which_all_failed_has_a_table_and_no_plot(a_sweep, drawn):
    folder = a_sweep((["seed=0"], None), (["seed=1"], None))
    (folder / "summary.png").touch()
    summary = sweep.summarise(folder)
    assert summary["members"] == []
    assert summary["files"] == ["report.html", "summary.csv", "summary.md"]
    assert not (folder / "summary.png").exists()
    assert "0 of 2 members done" in (folder / "summary.md").read_text()


def test_summarising_again_gives_the_same_files(a_sweep):
    folder = a_sweep((["prune=thinet", "seed=0"], {}), (["prune=apoz", "seed=0"], {}))
    sweep.summarise(folder)
    first = {name: (folder / name).read_bytes() for name in ("summary.csv", "summary.md")}
    sweep.summarise(folder)
    assert first == {name: (folder / name).read_bytes() for name in first}


def test_the_terminal_table_names_configurations_and_failures(a_sweep):
    folder = a_sweep(
        (["prune=thinet", "seed=0"], {}), (["prune=thinet", "seed=1"], {}), (["prune=x"], None)
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(sweep.table(sweep.summarise(folder)))
    text = console.export_text()
    assert "0.9700 ± 0.0000" in text and "500k 0.50x" in text
    assert "Failed: member 2 (prune=x): prune.ratio=2 is no fraction | of channels" in text
    assert "report.html, summary.csv, summary.md in" in text


def test_every_table_and_figure_of_a_sweep_says_what_is_unsteady(a_sweep, drawn):
    folder = a_sweep(
        (["prune=thinet"], {"accuracy": 0.97}), (["prune=apoz"], {"accuracy": 0.96}),
        (["prune=random"], {"accuracy": 0.95}),
    )  # fmt: skip
    path = folder / "0" / "report.json"
    report = json.loads(path.read_text())
    report["points"]["final"]["latency_ratio"] |= {"low": 0.2, "high": 1.7, "steady": False}
    report["points"]["final"]["latency_ms"]["steady"] = False
    path.write_text(json.dumps(report))
    summary = sweep.summarise(folder)
    text = (folder / "summary.md").read_text()
    assert "| 6 unsteady | 0.500 [0.200, 1.700] unsteady |" in text
    assert "| 6 | 0.500 [0.490, 0.510]* |" in text  # apoz, which is cheaper than nothing unsteady
    assert "Unsteady: the interval is wider than ±15 %, nothing is concluded" in text
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(sweep.table(summary))
    shown = console.export_text()
    assert "6 unsteady" in shown and "6 0.50x±2%" in shown
    page = (folder / "report.html").read_text()
    assert "unsteady latency, no part in its front: thinet" in page
    assert "6 unsteady" in page.split("All 3 members")[1]
    assert "open: unsteady latency" in page and "bars along the cost: 95 % interval" in page
    assert read_csv(folder / "summary.csv")[2]["final.latency_ratio.steady"] == "false"


def test_one_seed_prefers_nothing(a_sweep):
    accuracy = {"random": 0.90, "thinet": 0.95, "apoz": 0.91, "weight_sum": 0.92}
    pairs = [([f"prune={name}"], {"accuracy": value}) for name, value in accuracy.items()]
    (only,) = sweep.summarise(a_sweep(*pairs))["headline"]
    assert only.startswith("One seed has no interval: repeat the sweep over several seeds")


def test_the_headline_takes_few_seeds_for_no_finding(a_sweep):
    noise = {"random": 0.0, "thinet": 0.08, "apoz": -0.09}
    pairs = [
        ([f"prune={name}", f"prune.ratio={ratio}", f"seed={seed}"],
         {"accuracy": 0.8 + spread * (seed - 1) + ratio / 100, "ratio": ratio, "seed": seed})
        for name, spread in noise.items() for ratio in (0.3, 0.5) for seed in (0, 1, 2)
    ]  # fmt: skip
    first = sweep.summarise(a_sweep(*pairs))["headline"][0]
    assert "no difference" not in first
    assert (
        "apoz cannot be told from it in any of 2 settings (±22.4 points at the widest: about 311 "
        "more seeds would show 1.0 points)"
    ) in first


def test_what_it_was_made_on_stands_on_top_of_both_reports(a_sweep):
    config = {
        "model": {"_target_": "compressor.models.timm", "name": "tinynet_e"},
        "dataset": {"_target_": "compressor.data.digits.Digits", "image_size": 16, "channels": 1},
        "noise": {"_target_": "compressor.noise.symmetric.Symmetric", "rate": 0.4},
        "train": {"epochs": 12}, "finetune": {"epochs": 3},
    }  # fmt: skip
    same = ["dataset=digits", "train.epochs=12", "paths.outputs=/home/someone/outputs"]
    folder = a_sweep(
        *(
            ([f"prune={name}", *same], {"config": config, "method": name})
            for name in ("random", "l1")
        )
    )
    command = ["prune=random,l1", *same, "hydra.sweep.dir=/home/someone/x"]
    # as an earlier release noted it: without flags
    (folder / "sweep.json").write_text(json.dumps({"command": command, "state": "done"}))
    sweep.summarise(folder)
    wanted = {
        "Compared with": "random",
        "Model": "tinynet_e (timm)",
        "Data": "digits, 16 pixels a side, grey, noise symmetric 0.4",
        "Command": "compress-run -m prune=random,l1 dataset=digits train.epochs=12",
        "The same in all members": "dataset=digits train.epochs=12 finetune.epochs=3",
    }
    text = (folder / "summary.md").read_text()
    top = text.split("|")[0].replace("`", "")
    for name, words in wanted.items():
        assert f"- {name}: {words}\n" in top
    page = (folder / "report.html").read_text().split('<div class="found">')[0]
    for name, words in wanted.items():
        assert f"<dt>{name}</dt><dd>{words}</dd>" in page
    assert "someone" not in text + page


def test_the_size_on_top_is_that_of_the_inputs_and_not_of_before_scale(a_sweep):
    dataset = {"_target_": "compressor.data.digits.Digits", "image_size": 32, "channels": 3}
    folder = a_sweep((["seed=0"], {"config": {"dataset": dataset}}))
    path = folder / "0" / "report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "preprocess": {"input_size": [3, 16, 16]}}))
    sweep.summarise(folder)
    assert "- Data: digits, 16 pixels a side\n" in (folder / "summary.md").read_text()


def test_how_images_are_prepared_is_no_figure(a_sweep):
    folder = a_sweep((["seed=0"], {}))
    path = folder / "0" / "report.json"
    preprocess = {"input_size": [3, 16, 16], "resize_to": 18, "crop_fraction": 0.9}
    path.write_text(json.dumps({**json.loads(path.read_text()), "preprocess": preprocess}))
    sweep.summarise(folder)
    assert not [name for name in read_csv(folder / "summary.csv")[0] if "preprocess" in name]


def test_the_command_on_top_can_be_pasted_into_a_shell(a_sweep):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}))
    command = ["prune.ratios={layer1: 0.5}", "seed=0,1", "machine.threads=1", "cache.dir=/x"]
    members.write_sweep(folder, command, "done", flags=["-m", "--config-dir", "my conf"])
    sweep.summarise(folder)
    wanted = ["compress-run", "-m", "--config-dir", "my conf", *command[:-1]]
    (line,) = [
        line for line in (folder / "summary.md").read_text().splitlines() if "Command:" in line
    ]
    assert shlex.split(line.split("`")[1]) == wanted


def test_a_scaled_network_is_compared_with_the_unscaled_one_too(a_sweep, a_report):
    folder = a_sweep(
        *(([f"scale.width={width}", f"seed={seed}"], {"ratio": 0.0, "accuracy": 0.9 + seed / 100})
          for width in (0.5, 1.0) for seed in (0, 1))
    )  # fmt: skip
    for name in ("0", "1"):
        report = json.loads((folder / name / "report.json").read_text())
        report["unscaled"] = {"macs": 4_000_000, "params": 80_000}
        (folder / name / "report.json").write_text(json.dumps(report))
        said = sentences.conclusion(report)
        assert "1.000 of the dense MACs" in said
        assert "(0.250 and 0.250 of the unscaled network's)" in said
    summary = sweep.summarise(folder)
    half, whole = summary["configurations"]
    assert half["unscaled_ratio"]["mean"] == 0.25 and whole["unscaled_ratio"] is None
    text = (folder / "summary.md").read_text()
    assert "| of unscaled |" in text and "| 0.250x |" in text
    assert "of unscaled: times those of the model before" in text


def test_the_headline_counts_what_was_shown(a_sweep):
    pairs = [
        ([f"prune={name}", f"prune.ratio={ratio}", f"seed={seed}"],
         {"accuracy": 0.9 + seed / 100 + gain * (1 + seed / 20), "ratio": ratio, "seed": seed})
        for name, ratio, gain in (
            ("random", 0.3, 0.0), ("random", 0.5, -0.05), ("apoz", 0.3, -0.01),
            ("apoz", 0.5, -0.07), ("thinet", 0.3, 0.01), ("thinet", 0.5, -0.02),
        )
        for seed in (0, 1, 2)
    ]  # fmt: skip
    first, shared, best = sweep.summarise(a_sweep(*pairs))["headline"]
    assert shared.startswith("With the level shared among all 4 comparisons (Bonferroni)")
    assert first == (
        "Against random, paired by seed: thinet wins in 2 of 2 settings (by 1.1 to 3.1 points); "
        "apoz loses in 2 of 2 settings (by 1.1 to 2.1 points)."
    )
    assert best.startswith(
        "The best mean accuracy is that of thinet at prune.ratio=0.3: 0.9205 ± 0.0261 at 0.70 of "
        "the dense MACs"
    )


def test_a_reused_flag_is_not_raised_by_a_skipped_stage(a_sweep, a_report):
    folder = a_sweep((["seed=0"], {}), (["seed=1"], {}))
    report = a_report()
    report["stages"][1] |= {"reused": True, "skipped": True}
    (folder / "0" / "report.json").write_text(json.dumps(report))
    sweep.summarise(folder)
    first, second = read_csv(folder / "summary.csv")
    assert (first["compress.reused"], first["compress.skipped"]) == ("false", "true")
    assert (second["compress.reused"], second["compress.skipped"]) == ("false", "false")
