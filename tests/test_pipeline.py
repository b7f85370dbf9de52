"""Whole runs on a tiny network and real digits, in this process."""

import errno
import json
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import doubles
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import compressor
from compressor import experiment as experiment_module
from compressor import latency, measure, multirun, notices, preview, sessions, sizes, sweep_latency
from compressor.artefact import Spec
from compressor.cache import Cache
from compressor.changed_code import Origin, Origins
from compressor.configuration import config_dir, plain
from compressor.data.digits import Digits
from compressor.errors import RunError, UsageError
from compressor.experiment import Experiment
from compressor.pipeline import Walk, run_experiment
from compressor.plan import RunPlan
from compressor.report import sentences
from compressor.report_command import main as report_main
from compressor.stages import _blank, _case, _sensitivity

SMALL = (
    "model=resnet20", "model.width=0.5", "dataset.image_size=8", "train.epochs=2",
    "finetune.epochs=1", "train.batch_size=64", "finetune.batch_size=64", "train.lr=0.05",
    "prune.images=256", "machine.progress=false", "machine.latency_seconds=0.05",
    "machine.accelerator=cpu", "export.onnx=false", "export.figures=false",
)  # fmt: skip


def compose(folder, *overrides):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        words = [*SMALL, f"paths.outputs={folder}", *overrides]
        if any(word.startswith(("model=custom", "model=shallow")) for word in words):
            words.remove("model.width=0.5")
        return plain(hydra_compose("run", words))


def run(folder, name, *overrides):
    return run_experiment(compose(folder, *overrides), folder / name, False, "compress-run")


LAST = ("train.select=last", "finetune.select=last")


def plan(folder, *overrides):
    return RunPlan(Experiment(compose(folder, *overrides)))


def keys(folder, *overrides):
    return {s.stage: s.key for s in plan(folder, *overrides).steps}


@pytest.fixture(autouse=True, scope="module")
def clock():
    """A clock of our own: a forward takes what its parameters say, so that none is unsteady."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "forward_ms", lambda net, images: measure.count_params(net) / 1e4)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def report(folder):
    return run(folder, "first")


def test_the_report_keeps_its_contract(folder, report):
    saved = json.loads((folder / "first" / "report.json").read_text())
    assert saved["schema_version"] == 1 and saved["seed"] == 0
    assert [s["name"] for s in saved["stages"]] == ["train", "compress", "recalibrate", "finetune"]
    assert list(saved["points"]) == ["dense", "compressed", "recalibrated", "final"]
    for point in saved["points"].values():
        assert {"accuracy", "loss", "macs", "params", "latency_ms", "size_bytes"} <= set(point)
        assert set(point["latency_ms"]) == {
            "median", "low", "high", "batch_size", "threads", "steady",
        }  # fmt: skip
        assert set(point["latency_ratio"]) == {"median", "low", "high", "steady"}
    assert saved["ratio"] == {"asked": 0.5, "achieved": 0.5}
    assert not any(stage["reused"] for stage in saved["stages"])
    assert saved["parity"]["surgery"] <= 1e-5
    assert saved["points"]["final"]["macs"] < saved["points"]["dense"]["macs"]
    assert saved["points"]["final"] == report["points"]["final"]


def test_kept_lists_original_channels_of_every_cut_layer(report):
    dense = [16] * 3 + [16] * 3 + [32] * 3
    assert [before for before, _ in report["widths"].values()] == [8, 8, 8, 16, 16, 16, 32, 32, 32]
    assert len(dense) == len(report["kept"])
    for module, kept in report["kept"].items():
        before, after = report["widths"][module]
        assert kept == sorted(set(kept)) and len(kept) == after == before // 2
        assert 0 <= kept[0] and kept[-1] < before


def test_the_saved_network_gives_the_reported_figures(folder, report):
    net = compressor.load(folder / "first" / "model")
    data = Digits(image_size=8)
    data.prepare()
    correct = total = 0
    with torch.no_grad():
        for images, targets, _ in data.loader("test", 64):
            correct += (net(images).argmax(1) == targets).sum().item()
            total += len(targets)
    final = report["points"]["final"]
    assert final["accuracy"] == pytest.approx(correct / total, abs=1e-6)
    assert final["params"] == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 8, 8))
    assert final["macs"] * 2 == counter.get_total_flops()


def test_the_run_folder_holds_what_was_promised(folder, report):
    files = {p.relative_to(folder / "first").as_posix() for p in (folder / "first").rglob("*")}
    assert {"report.json", "config.yaml", "environment.json", "model/weights.safetensors"} <= files
    assert {"history/dense.csv", "history/final.csv", "tensorboard/dense"} <= files
    assert set(report["history"]) == {"train", "finetune"}
    assert not any("checkpoint" in name for name in files)


def test_a_second_run_reuses_everything_and_reports_the_same(folder, report):
    again = run(folder, "second")
    assert all(stage["reused"] for stage in again["stages"])
    assert again["kept"] == report["kept"]
    for name, point in report["points"].items():
        assert again["points"][name]["accuracy"] == point["accuracy"]
        assert again["points"][name]["loss"] == point["loss"]


def test_without_the_cache_the_same_seed_gives_the_same_numbers(folder, report):
    again = run(folder, "third", "cache.enabled=false")
    assert not any(stage["reused"] for stage in again["stages"])
    assert again["kept"] == report["kept"]
    for name, point in report["points"].items():
        assert again["points"][name]["accuracy"] == point["accuracy"]
        assert again["points"][name]["loss"] == pytest.approx(point["loss"], abs=1e-12)


def test_keys_follow_what_each_stage_can_depend_on(folder):
    base = keys(folder)

    def changed(*overrides):
        other = keys(folder, *overrides)
        return [stage for stage in base if base[stage] != other[stage]]

    everything = ["train", "compress", "recalibrate", "finetune"]
    assert changed("machine.workers=1", "machine.eval_batch_size=32") == []
    export = ("export.onnx=true", "export.normalize=true")
    assert changed("machine.progress=true", *export, "cache.enabled=false") == []
    assert changed("finetune.epochs=3") == ["finetune"]
    assert changed("recalibrate.images=64") == ["recalibrate", "finetune"]
    assert changed("prune.ratio=0.3") == everything[1:]
    assert changed("prune=apoz") == everything[1:]
    assert changed("distill=kd") == ["finetune"]
    assert changed("distill=[none]") == []
    assert changed("train.lr=0.01") == everything
    assert changed("seed=1") == everything
    assert changed("precision=bf16-mixed") == everything
    assert changed("dataset.augment.crop=0") == everything
    assert changed("noise=symmetric") == everything
    assert changed("noise=symmetric", "noise.rate=0") == []
    assert changed("regularize=slimming") == everything
    assert changed("regularize=none") == []
    assert changed("robust=gce") == everything
    assert changed("robust=gce", "finetune.robust=same") == everything


def test_no_pruning_is_one_experiment_whatever_the_ratio(folder):
    a = keys(folder, "prune=none", "prune.ratio=0.3")
    b = keys(folder, "prune=none", "prune.ratio=0.5")
    assert a == b
    assert a["compress"] == a["recalibrate"] == a["train"] != a["finetune"]


def test_no_pruning_looks_at_no_option_that_it_does_not_read(folder):
    base = keys(folder, "prune=none")
    for word in ("prune.ratio=1.5", "prune.rounds=0", "prune.keep_rates=0.5", "prune.scope=x"):
        assert keys(folder, "prune=none", word) == base


@pytest.mark.parametrize("words", [["prune.round_to=64"], ["prune.min_channels=999"],
                                   ["prune.ratios={layer1:0,layer2:0,layer3:0}"]])  # fmt: skip
def test_a_cut_of_nothing_is_refused_before_the_training(folder, words):
    with pytest.raises(UsageError, match="nothing would be cut"):
        preview.preview(plan(folder, *words))


def test_a_plan_alone_writes_nothing_to_the_cache(tmp_path):
    for noise in ("symmetric", "instance"):
        coming = run(tmp_path, "plan", "plan_only=true", f"noise={noise}", "prune=none")["plan"]
        assert coming["flip_rate"] > 0.2 and coming["dense"]["params"] == 68_786
    assert list(tmp_path.iterdir()) == []


def test_a_member_plans_without_weights_and_without_what_its_line_leaves_out(folder, monkeypatch):
    member = plan(folder, "scale=multiplier", "scale.width=0.5", "finetune=scratch_b")
    monkeypatch.setattr(member, "reused", lambda: {step.key: True for step in member.steps})
    devices, build = [], Spec.build

    def watched(self, *args, **kwargs):
        net = build(self, *args, **kwargs)
        devices.append({parameter.device.type for parameter in net.parameters()})
        return net

    monkeypatch.setattr(Spec, "build", watched)
    monkeypatch.setattr(_blank, "_known", {})
    monkeypatch.setattr(notices, "_clamps", {})
    preview.preview(member, brief=True)
    once = len(devices)
    brief = preview.preview(member, brief=True)
    assert len(devices) == once
    whole = preview.preview(member)
    assert preview.line(brief) == preview.line(whole)
    assert brief["scaled"] is None and whole["scaled"]["macs"] < 1
    assert set(map(str, devices)) == {"{'meta'}"}


def test_the_members_of_a_sweep_tell_a_notice_once(folder, monkeypatch, capsys):
    def stop(self):
        raise RunError("far enough")

    monkeypatch.setattr(Walk, "steps", stop)
    multirun.begin()
    notice = "finetune=scratch_e: nothing is cut"
    for seed, told in ((0, 1), (1, 0)):
        words = ("prune=none", "finetune=scratch_e", f"seed={seed}")
        with pytest.raises(RunError, match="far enough"):
            run_experiment(compose(folder, *words), folder / "member", True, "")
        assert capsys.readouterr().out.count(f"note: {notice}") == told


def test_a_sweep_over_ratios_with_the_dense_control_is_three_experiments(folder):
    sweep = [(p, r) for p in ("none", "thinet") for r in (0.3, 0.5)]
    finals = [keys(folder, f"prune={p}", f"prune.ratio={r}")["finetune"] for p, r in sweep]
    assert len(set(finals)) == 3


def test_fine_tuning_of_no_epochs_goes_on_with_the_weights_as_they_are(folder, report):
    unfinished = run(folder, "fourth", "finetune.epochs=0")
    assert unfinished["stages"][-1]["skipped"]
    points = unfinished["points"]
    assert points["final"] == points["recalibrated"]
    assert points["recalibrated"]["accuracy"] == report["points"]["recalibrated"]["accuracy"]


@pytest.mark.parametrize("prune", ["weight_sum", "apoz", "random", "none"])
def test_every_criterion_runs_on_the_shared_dense_network(folder, report, prune):
    other = run(folder, prune, f"prune={prune}", "finetune.epochs=0")
    assert other["stages"][0]["reused"]
    assert other["points"]["dense"]["accuracy"] == report["points"]["dense"]["accuracy"]
    if prune == "none":
        assert other["kept"] == {} and other["ratio"] is None
    else:
        assert other["points"]["final"]["macs"] == report["points"]["final"]["macs"]


def test_a_test_image_that_cannot_be_read_costs_no_training(folder, monkeypatch):
    words = ("seed=7", "train.epochs=1", "prune=none", "finetune.epochs=0")

    def unreadable(*_, **__):
        raise RunError("test/7.png cannot be read")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="7.png"):
        patch.setattr(measure, "evaluate", unreadable)
        run(folder, "unreadable", *words)
    assert run(folder, "mended", *words)["stages"][0]["reused"]


def test_latency_is_remembered_for_this_machine_and_its_threads(folder, report):
    again = run(folder, "again")
    for name, point in report["points"].items():
        assert again["points"][name]["latency_ms"] == point["latency_ms"]
    assert (report["latency_reused"], again["latency_reused"]) == (False, True)
    assert "measured by another run before" in (folder / "again" / "report.md").read_text()
    assert not run(folder, "longer", "machine.latency_seconds=0.06")["latency_reused"]
    dense, final = (report["points"][name] for name in ("dense", "final"))
    assert final["latency_ratio"]["median"] == pytest.approx(final["params"] / dense["params"])


def test_criteria_that_keep_as_many_channels_share_one_measurement(folder, report):
    def final(prune, *words):
        made = run(folder, prune, f"prune={prune}", "finetune.epochs=0", *words)
        return made["kept"], made["points"]["final"]["latency_ms"]

    kept, weight_sum = final("weight_sum")
    others, random = final("random")
    assert others != kept and random == weight_sum
    assert final("random", "prune.ratio=0.25")[1] != random


def test_latency_of_an_edited_class_is_measured_again(folder, tmp_path, monkeypatch):
    module = tmp_path / "timed_net.py"
    text = Path(doubles.__file__).read_text()
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("model=custom", "model._target_=timed_net.Net", "prune=none", "train.epochs=0")
    counts = [len(list((folder / "cache").glob("*/latency.json")))]
    for source in (text, text.replace("nn.ReLU()", "nn.SiLU()")):
        module.write_text(source)
        run(folder, "timed", *words, "finetune.epochs=0")
        counts.append(len(list((folder / "cache").glob("*/latency.json"))))
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_an_unsteady_latency_is_said_and_measured_again_by_the_next_run(folder, monkeypatch):
    noise = random.Random(0)
    words = ("machine.latency_seconds=0.01", "prune.ratio=0.3", "finetune.epochs=0")
    with monkeypatch.context() as patch:
        patch.setattr(measure, "forward_ms", lambda net, images: noise.lognormvariate(0, 2))
        busy = run(folder, "busy", *words)
    assert not busy["points"]["final"]["latency_ratio"]["steady"]
    text = (folder / "busy" / "report.md").read_text()
    assert text.count("unsteady") >= 3 and "compress-report" in text
    again = run(folder, "idle", *words)
    assert again["points"]["final"]["latency_ratio"]["steady"] and not again["latency_reused"]
    assert "unsteady" not in (folder / "idle" / "report.md").read_text()


def a_member(folder, name, *words):
    """A member of a sweep, done, its latency left for later."""
    config = compose(folder, "finetune.epochs=0", "machine.threads=1", *words)
    made = run_experiment(config, folder / name, True, "", times_later=True)
    (folder / name / "status.json").write_text('{"state": "done"}')
    (folder / name / ".hydra").mkdir()
    lines = "".join(f"- {word}\n" for word in words)
    (folder / name / ".hydra" / "overrides.yaml").write_text(lines or "[]\n")
    return made


def reports(folder, *names):
    return [json.loads((folder / name / "report.json").read_text()) for name in names]


def test_members_get_their_latency_together_when_all_are_done(folder, report, monkeypatch):
    words = {"a": "prune.ratio=0.5", "b": "prune.ratio=0.3"}
    common = (f"paths.outputs={folder}", "machine.latency_seconds=0.02")  # none has timed so long
    for name, word in words.items():
        made = a_member(folder / "sweep", name, word, *common)
        assert made["points"]["final"]["latency_ms"] is None
    clocked = measure.forward_ms
    # every session meets a slower machine: one session has one dense network
    sessions = []

    def rounds(nets, *rest, original=measure.rounds, **options):
        sessions.append(len(nets))
        factor = len(sessions)
        with monkeypatch.context() as patch:
            patch.setattr(measure, "forward_ms", lambda *each: factor * clocked(*each))
            return original(nets, *rest, **options)

    monkeypatch.setattr(measure, "rounds", rounds)
    sweep_latency.complete(folder / "sweep")
    first, second = reports(folder / "sweep", *words)
    assert sessions == [3] and first["points"]["dense"] == second["points"]["dense"]
    assert first["points"]["final"]["latency_ms"]["threads"] == 1
    assert "ms" in (folder / "sweep" / "a" / "report.md").read_text()
    # a member more: its network alone is timed, and what was known stays
    a_member(folder / "sweep", "c", "prune.ratio=0.2", *common)
    sweep_latency.complete(folder / "sweep")
    *before, third = reports(folder / "sweep", *words, "c")
    assert sessions == [3, 2] and [r["points"] for r in before] == [
        r["points"] for r in (first, second)
    ]
    assert third["points"]["dense"] == first["points"]["dense"]
    final = third["points"]["final"]
    assert final["latency_ratio"]["median"] == pytest.approx(
        final["params"] / third["points"]["dense"]["params"]
    )
    assert final["latency_ms"]["median"] == pytest.approx(final["params"] / 1e4)


def test_a_finished_sweep_is_timed_again(folder, report, monkeypatch, capsys):
    sweep = folder / "again and again"
    for name, word in {"a": "prune.ratio=0.5", "b": "prune.ratio=0.3"}.items():
        a_member(sweep, name, word, f"paths.outputs={folder}")
    sweep_latency.complete(sweep)
    measured = reports(sweep, "a", "b")
    monkeypatch.setattr(
        measure, "forward_ms", lambda net, images: 1 + measure.count_params(net) / 1e4
    )
    assert report_main([str(sweep)]) == 0
    assert reports(sweep, "a", "b") == measured
    before = (sweep / "summary.csv").read_text()
    assert report_main([str(sweep), "--measure"]) == 0
    assert "latency: 3 networks take turns in 1 session" in capsys.readouterr().out
    for old, new in zip(measured, reports(sweep, "a", "b"), strict=True):
        for name, point in new["points"].items():
            median = old["points"][name]["latency_ms"]["median"]
            assert point["latency_ms"]["median"] == pytest.approx(1 + median)
            assert point["accuracy"] == old["points"][name]["accuracy"]
    assert (sweep / "summary.csv").read_text() != before
    assert "report.html" in {path.name for path in sweep.iterdir()}


def test_networks_that_were_pruned_from_the_cache_are_said_or_taken_from_the_model(folder, capsys):
    sweep = folder / "pruned"
    words = [f"paths.outputs={folder}", f"cache.dir={sweep}/cache", "prune.ratio=0.5"]
    kept = a_member(sweep, "a", "export.enabled=true", *words)
    sweep_latency.complete(sweep)
    assert (sweep / "a" / "model").is_dir()
    shutil.rmtree(sweep / "cache")
    assert report_main([str(sweep), "--measure"]) == 0
    (after,) = reports(sweep, "a")
    assert all(point["latency_ratio"]["steady"] for point in after["points"].values())
    assert after["points"]["final"]["macs"] == kept["points"]["final"]["macs"]
    shutil.rmtree(sweep / "a" / "model")
    shutil.rmtree(sweep / "cache", ignore_errors=True)
    capsys.readouterr()
    assert report_main([str(sweep), "--measure"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no longer in" in line and f"{sweep}/cache" in line
    assert reports(sweep, "a") == [after]


def test_a_cache_of_the_same_name_where_one_stands_is_not_taken_for_the_sweeps(
    folder, tmp_path, monkeypatch
):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    monkeypatch.chdir(home)
    words = ("prune=none", "train.epochs=0", f"paths.outputs={folder}", "cache.dir=kept/cache")
    a_member(home / "sweep", "a", *words)
    (here / "kept" / "cache").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert report_main([str(home / "sweep"), "--measure"]) == 0
    assert reports(home / "sweep", "a")[0]["points"]["final"]["latency_ratio"]["steady"]


def test_a_report_alone_makes_no_class_of_its_own_run(folder, capsys):
    words = ("model=custom", "model._target_=doubles.Net", "prune=none", "train.epochs=0")
    sweep = folder / "custom"
    a_member(sweep, "a", *words, f"paths.outputs={folder}")
    assert report_main([str(sweep), "--measure"]) == 2
    assert "if you trust it, add --trust doubles.Net" in capsys.readouterr().err
    assert report_main([str(sweep), "--measure", "--trust", "doubles.Net"]) == 0
    assert reports(sweep, "a")[0]["points"]["final"]["latency_ratio"]["steady"]


def test_a_stage_says_what_it_cost_whoever_made_it(folder, report):
    again = run(folder, "costs")
    for first, second in zip(report["stages"], again["stages"], strict=True):
        assert second["seconds"] == 0 and second["made_seconds"] > 0
        assert second["made_seconds"] == first["made_seconds"] <= first["seconds"]


def test_several_ratios_share_one_pass_of_statistics(folder, report, monkeypatch):
    passes = []
    collect = _case.collect
    monkeypatch.setattr(_case, "collect", lambda *args: passes.append(1) or collect(*args))
    words = ["prune=apoz", "prune.images=200", "finetune.epochs=0"]
    for target in ("prune.ratio=0.3", "prune.ratio=0.4", "prune.budget.macs=0.5"):
        run(folder, f"apoz {target}", *words, target)
    assert len(passes) == 1
    # a threshold and a table judge the channels by the same pass
    words += ["prune.allocation=global", "prune.sensitivity.table=true"]
    run(folder, "apoz global", *words, "prune.sensitivity.ratios=[0.5]")
    assert len(passes) == 1


def test_a_table_of_sensitivity_comes_alone_and_is_used_by_the_allocation(
    folder, report, monkeypatch
):
    measured = _sensitivity._layer

    def layer(net, structure, group, *rest):
        """As measured, but that the first stage is dear and all else cheap, whatever was learnt."""
        dear = group.name.startswith("layer1")
        for row in measured(net, structure, group, *rest):
            cost = row["ratio"] * (1.0 if dear else 0.01)
            yield {**row, "value": 0.9 * (1 - cost), "loss": 10 + 90 * cost}

    monkeypatch.setattr(_sensitivity, "_layer", layer)
    few = ["prune.sensitivity.ratios=[0.3,0.6]", "prune=weight_sum", "finetune.epochs=0"]
    alone = run(folder, "alone", "stages=[train]", "prune.sensitivity.table=true", *few)
    assert [stage["name"] for stage in alone["stages"]] == ["train"]
    assert alone["stages"][0]["reused"]
    told = alone["sensitivity"]
    assert told["metric"] == "accuracy" and told["images"] == 135
    rows = (folder / "alone" / told["file"]).read_text().splitlines()
    assert rows[0] == "layer,channels,ratio,kept,value,loss,drop" and len(rows) == 1 + 9 * 2
    assert "Sensitivity of the layers" in (folder / "alone" / "report.md").read_text()
    entry = list((folder / "cache").glob("*/sensitivity.json"))
    words = ["prune.allocation=sensitivity", "prune.budget.macs=0.5", "export.figures=true", *few]
    cut = run(folder, "allocated", *words)
    assert list((folder / "cache").glob("*/sensitivity.json")) == entry
    assert cut["allocation"] == {"by": "sensitivity"}
    assert (folder / "allocated" / "sensitivity.csv").read_text().splitlines() == rows
    assert (folder / "allocated" / "figures" / "sensitivity.png").is_file()
    shares = {name: after / before for name, (before, after) in cut["widths"].items()}
    cheap = {name: share for name, share in shares.items() if not name.startswith("layer1")}
    dear = [shares.get(f"layer1.{block}.conv1", 1.0) for block in range(3)]
    assert min(dear) > max(cheap.values()) + 0.1
    macs = [cut["points"][name]["macs"] for name in ("final", "dense")]
    assert macs[0] / macs[1] == pytest.approx(0.5, abs=0.01)


def test_a_table_that_was_killed_goes_on_after_its_last_layer(folder, report, monkeypatch):
    words = ["prune=weight_sum", "stages=[train]", "prune.sensitivity.table=true"]
    words += ["prune.sensitivity.ratios=[0.5]"]
    seen = []
    layer = _sensitivity._layer

    def killed(net, structure, group, *rest):
        if group.name == "layer2.0.conv1" and "layer2.0.conv1" not in seen:
            seen.append(group.name)
            raise KeyboardInterrupt
        seen.append(group.name)
        return layer(net, structure, group, *rest)

    monkeypatch.setattr(_sensitivity, "_layer", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "killed", *words)
    assert len(seen) == 4
    run(folder, "killed", *words)
    assert seen[4:] == [f"layer{s}.{b}.conv1" for s in (2, 3) for b in range(3)]
    assert len((folder / "killed" / "sensitivity.csv").read_text().splitlines()) == 10


def test_a_budget_of_latency_is_measured_and_remembered(folder, report, monkeypatch, capsys):
    timed = []

    def in_turns(dense, small, *rest):
        params = [sum(p.numel() for p in net.parameters()) for net in (dense, small)]
        timed.append(params)
        return doubles.timed(0.2 + 0.8 * params[1] / params[0])

    monkeypatch.setattr(latency, "in_turns", in_turns)
    words = ["prune=weight_sum", "prune.budget.latency=0.7", "finetune.epochs=0"]
    cut = run(folder, "timed", *words)
    told = cut["allocation"]["latency"]
    assert told["share"] == pytest.approx(0.7, rel=0.1)
    assert told["threads"] == torch.get_num_threads() and told["machine"]["cores"]
    assert len(told["points"]) == len(timed)
    assert cut["budget"] == {"latency": 0.7}
    text = (folder / "timed" / "report.md").read_text()
    share = f"asked 0.7 of the dense network's, measured {told['share']:.3f} ["
    assert f"Budget of latency: {share}" in text
    printed = " ".join(capsys.readouterr().out.split())
    assert f"latency: {share}" in printed and f"Budget of latency: {share}" in printed
    made = compressor.artefact.read(folder / "cache" / cut["stages"][1]["key"])
    assert made.notes["allocation"]["latency"] == told and made.notes["budget"] == {"latency": 0.7}
    # the same widths where no clock is: by the share of the MACs that was found
    again = run(folder, "by macs", *words[::2], f"prune.budget.macs={told['macs']}")
    assert again["kept"] == cut["kept"]
    # another criterion at the same budget is cut to the same widths without a measurement
    before = len(timed)
    other = run(folder, "random", "prune=random", *words[1:])
    assert len(timed) == before and other["widths"] == cut["widths"]
    assert keys(folder, *words) != keys(folder, *words, "machine.latency_batch_size=2")
    assert keys(folder, *words[::2]) == keys(folder, *words[::2], "machine.latency_batch_size=2")
    with pytest.raises(UsageError, match="cannot be reached.* of its latency on this machine"):
        run(folder, "refused", "prune=weight_sum", "prune.budget.latency=0.01")


def test_what_an_allocation_does_not_read_is_in_no_key(folder):
    plain = keys(folder)
    assert plain == keys(folder, "prune.normalize=cost", "prune.sensitivity.images=9")
    assert plain == keys(folder, "prune.sensitivity.table=true")
    shares = ["prune.allocation=sensitivity"]
    assert keys(folder, *shares) == keys(folder, *shares, "prune.sensitivity.table=true")
    assert keys(folder, *shares) != keys(folder, *shares, "prune.sensitivity.images=9")
    assert plain["compress"] != keys(folder, "prune.allocation=global")["compress"]


def test_distillation_and_noise_and_a_robust_loss_run_together(folder):
    noisy = run(
        folder, "noisy", "noise=symmetric", "noise.rate=0.2", "robust=gce", "distill=kd",
        "train.epochs=1", "prune=weight_sum",
    )  # fmt: skip
    assert noisy["labels"]["flip_rate"] == pytest.approx(0.2, abs=0.001)
    assert list((folder / "cache").glob("*/labels.safetensors"))


def test_scaling_changes_the_input_of_every_later_stage(folder):
    scaled = Experiment(compose(folder, "scale=multiplier", "scale.resolution=1.5"))
    assert scaled.spec.input_size == (3, 12, 12)
    images, *_ = next(iter(scaled.data.loader("test", 2)))
    assert images.shape == (2, 3, 12, 12)


def test_a_selector_of_the_user_decides_what_is_kept(folder, report):
    mine = run(
        folder, "mine", "prune=none", "prune._target_=doubles.Costly", "+prune.power=3.0",
        "finetune.epochs=0",
    )  # fmt: skip
    assert all(kept[0] == len(kept) for kept in mine["kept"].values())


def test_a_compressor_of_the_user_owns_the_stage(folder, report):
    mine = run(folder, "own", "prune=none", "prune._target_=doubles.HalfOfTheFirst")
    assert {module: len(kept) for module, kept in mine["kept"].items()} == {"layer1.0.conv1": 4}


def test_a_compressor_may_cut_no_channel(folder, report):
    words = ("prune=none", "prune._target_=doubles.Masks", "finetune.epochs=0")
    mine = run(folder, "masks", *words)
    assert mine["kept"] == {} and mine["points"]["final"]["macs"] == mine["points"]["dense"]["macs"]


def test_what_a_run_is_going_to_reuse_is_reserved_before_its_first_stage(folder, monkeypatch):
    def stops(self):
        raise KeyboardInterrupt

    words = ("train.epochs=7", "cache.max_size=20GB")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Walk, "steps", stops)
        run(folder, "reserved", *words)
    (own,) = [used for used in sessions.read(folder / "cache") if used.alive]
    assert set(keys(folder, *words).values()) <= own.keys


def test_the_plan_says_the_disk_that_a_run_is_going_to_take(folder, report, capsys):
    fresh = preview.preview(plan(folder, "seed=9", "train.optimizer=adamw"))
    dense, small = fresh["cut"]["params"]
    # four artefacts, the training's last checkpoint (weights and two moments) and its picked epoch,
    # each beside its successor for a while, and the exported network
    assert fresh["disk"]["needed"] == 4 * (dense + 3 * small + 8 * dense + small)
    preview.show(fresh)
    assert f"takes about {sizes.shown(fresh['disk']['needed'])} of disk" in capsys.readouterr().out
    half = preview.preview(plan(folder, "finetune.optimizer=sgd", "finetune.lr=0.01"))
    assert half["disk"]["needed"] == 4 * (small + 6 * small + small)
    assert preview.preview(plan(folder))["disk"]["needed"] == 4 * small
    assert preview.preview(plan(folder), brief=True)["disk"]["needed"] == 0
    words = (
        "prune=none",
        "prune._target_=doubles.Masks",
        "++prune.share=0.25",
        "stages=[train,compress]",
    )
    inside = preview.preview(plan(folder, *words, "train.optimizer=adamw", "export.onnx=true"))
    # the training is there; the compressed network, its training inside, and two exports
    assert inside["disk"]["needed"] == 4 * (2 * dense + 8 * dense + 2 * dense)


def test_a_teacher_takes_disk_where_a_stage_that_asks_it_is_to_run(folder, report, monkeypatch):
    words = ("distill=kd", "distill.teacher.source=model", "distill.teacher.model=resnet56")
    taught = plan(folder, *words)
    (teacher,) = taught.steps[-1].sides
    there = {step.key: True for step in taught.steps} | {teacher.key: False}
    monkeypatch.setattr(taught, "reused", lambda: there)
    assert preview.preview(taught, brief=True)["disk"]["needed"] == 0
    there[taught.steps[-1].key] = False
    needed = preview.preview(taught, brief=True)["disk"]["needed"]
    # it is a wider network than the student, and stands there with its checkpoints
    assert needed > 4 * 7 * taught.run.blank(teacher.spec).figures["params"]


def test_a_run_that_no_disk_holds_is_refused_at_the_plan(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    says = (
        r"takes about .*MB of disk, and .*cache has 1.0KB left: free some, as with compress-cache"
    )
    with pytest.raises(UsageError, match=says):
        preview.preview(plan(folder, "seed=9"))


@pytest.mark.parametrize(
    ("target", "says", "leaves_out"),
    [
        ("Masks", ["(1.000 of the dense network)"], ["channels", "is known when it has run"]),
        ("ToldHalf", ["4 of 8 channels are kept in the 1 layers", " -> "], ["these layers can"]),
        ("HalfOfTheFirst", ["what prune=doubles leaves of these is known when it has run"], ["->"]),
    ],
)
def test_the_plan_shows_what_a_compressor_says_of_itself(folder, target, says, leaves_out, capsys):
    words = ("prune=none", f"prune._target_=doubles.{target}", "finetune=scratch_b")
    coming = preview.preview(plan(folder, *words))
    row = next(stage for stage in coming["stages"] if stage["name"] == "compress")
    assert row["epochs"] == (3 if target == "Masks" else None)
    preview.show(coming)
    shown = capsys.readouterr().out
    assert all(words in shown for words in says)
    assert not any(words in shown for words in leaves_out)
    assert preview.line(coming)


def test_a_network_of_the_user_is_cut_and_loads_where_it_is_trusted(folder):
    mine = run(folder, "net", "model=custom", "model._target_=doubles.Net")
    assert mine["kept"].keys() == {"body.0", "body.3"}
    with pytest.raises(UsageError, match=r'trust=\["doubles.Net"\]'):
        compressor.load(folder / "net" / "model")
    net = compressor.load(folder / "net" / "model", trust=["doubles.Net"])
    assert net.body[0].out_channels == 4


def test_an_edited_class_of_the_user_is_not_answered_with_its_old_results(
    folder, tmp_path, monkeypatch
):
    module = tmp_path / "edited_net.py"
    text = (Path(doubles.__file__)).read_text()
    module.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("model=custom", "model._target_=edited_net.Net")
    before = keys(folder, *words)
    module.write_text(text.replace("nn.ReLU()", "nn.SiLU()"))
    after = keys(folder, *words)
    assert all(before[stage] != after[stage] for stage in before)


USERS = {
    "distill": (
        "finetune", "from compressor.distill.kd import KD\nclass Mine(KD): pass\n",
        ("distill=kd", "distill.terms.kd._target_=PACKAGE.main.Mine"),
    ),
    "teacher": (
        "finetune", "def answer(images): return images.new_zeros(len(images), 10)\n",
        ("distill=kd", "distill.teacher.source=callable",
         "distill.teacher.function=PACKAGE.main.answer"),
    ),
    "model": (
        "train", "from doubles import Net\nclass Mine(Net): pass\n",
        ("model=custom", "model._target_=PACKAGE.main.Mine"),
    ),
    "dataset": (
        "train",
        "from compressor.data.digits import Digits\nclass Mine(Digits): pass\n",
        ("dataset._target_=PACKAGE.main.Mine",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", USERS)
def test_an_edited_file_that_a_class_of_the_user_imports_is_noticed_and_named(
    folder, tmp_path, monkeypatch, kind
):
    first_changed, text, words = USERS[kind]
    package = tmp_path / f"lab_{kind}"
    package.mkdir()
    (package / "main.py").write_text(f"from .helper import FACTOR\n{text}")
    (package / "helper.py").write_text("FACTOR = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [word.replace("PACKAGE", package.name) for word in words]
    words += ["train.epochs=1", "machine.latency_seconds=0", f"seed={7 + list(USERS).index(kind)}"]
    run(folder, kind, *words)
    assert plan(folder, *words).changed_code() == {}
    before = keys(folder, *words)
    (package / "helper.py").write_text("FACTOR = 2.0\n")
    after = keys(folder, *words)
    later = list(before)[list(before).index(first_changed) :]
    assert [stage for stage in before if before[stage] != after[stage]] == later
    changed = plan(folder, *words)
    assert list(changed.changed_code()) == [f"{package.name}/helper.py"]
    told = [line for line in notices.notices(changed) if "helper.py changed" in line]
    assert len(told) == 1 and first_changed in told[0]
    (package / "helper.py").write_text('"""Twice."""\nFACTOR = 1.0  # as before\n')
    assert keys(folder, *words) == before


READERS = {
    "model": (
        "train",
        "import numpy, torch\nfrom doubles import Net\nclass Mine(Net):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__(**options)\n"
        "        self.body[0].weight.data.fill_(float(Path(FILE).read_text()))\n"
        "        self.body[3].weight.data.copy_(torch.from_numpy(\n"
        "            numpy.random.default_rng().random(self.body[3].weight.shape)))\n",
        USERS["model"][2],
    ),
    "teacher": (
        "finetune",
        "def answer(images):\n"
        "    each = images.new_full((len(images), 10), float(Path(FILE).read_text()))\n"
        "    return each.cumsum(1) + 1\n",
        USERS["teacher"][2],
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_another_file_that_code_of_the_user_reads_makes_other_keys(
    folder, tmp_path, monkeypatch, kind
):
    first_changed, text, words = READERS[kind]
    package, file = tmp_path / f"reads_{kind}", tmp_path / "numbers.txt"
    package.mkdir()
    (package / "main.py").write_text(f"from pathlib import Path\nFILE = {str(file)!r}\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [word.replace("PACKAGE", package.name) for word in words]
    file.write_text("0.5")
    before = keys(folder, *words)
    assert keys(folder, *words) == before  # whatever else is drawn anew each time
    file.write_text("-3.0")
    after = keys(folder, *words)
    later = list(before)[list(before).index(first_changed) :]
    assert [stage for stage in before if before[stage] != after[stage]] == later


def test_a_file_that_is_imported_no_longer_is_not_said_to_have_changed(tmp_path):
    cache, origins = Cache(tmp_path / "cache"), Origins()
    nothing = Origin("")
    origins.add("old", {"a.py": "1", "b.py": "2"}, {}, nothing, {})
    cache.root.mkdir(exist_ok=True)
    origins.remember(cache, "old")
    origins.add("new", {"a.py": "3"}, {}, nothing, {})
    assert origins.changed(cache, "new") == ["a.py"]
    origins.add("newer", {"a.py": "1"}, {}, nothing, {})
    assert origins.changed(cache, "newer") == ["b.py"]


def test_another_release_of_torch_makes_other_keys(folder, monkeypatch):
    from compressor import instantiation

    before = keys(folder)
    monkeypatch.setattr(instantiation, "_release", lambda name: "99.0")
    assert all(key != before[stage] for stage, key in keys(folder).items())


def test_a_network_that_cannot_be_traced_is_refused_before_the_first_epoch(folder):
    words = ("model=custom", "model._target_=doubles.Untraceable")
    with pytest.raises(RunError, match="Untraceable|trace") as caught:
        run(folder, "untraceable", *words)
    assert "\n" not in str(caught.value)
    assert not (folder / "untraceable").exists()


def test_a_function_of_the_channel_count_is_found_before_the_first_epoch(folder):
    words = ("model=custom", "model._target_=doubles.ByCount", "prune.scope=all")
    with pytest.raises(RunError, match="computes something else .* type prune.skip") as caught:
        run(folder, "by_count", *words)
    assert "\n" not in str(caught.value)
    assert not (folder / "by_count").exists()


def test_the_rehearsal_is_left_out_where_the_networks_code_is_our_own(folder, monkeypatch):
    rehearsed = []
    monkeypatch.setattr(preview, "rehearse", lambda dense, *_: rehearsed.append(dense.spec.factory))
    for model in (["model=resnet20"], ["model=custom", "model._target_=doubles.Net"]):
        run(folder, "plan", "plan_only=true", "seed=6", *model)
    assert rehearsed == ["doubles.Net"]


def test_the_plan_alone_trains_nothing(folder, capsys):
    coming = run(folder, "plan", "plan_only=true", "seed=5")["plan"]
    assert [stage["reused"] for stage in coming["stages"]] == [False] * 4
    assert coming["cut"]["macs"][0] > coming["cut"]["macs"][1]
    assert "layer1.0.conv1" in capsys.readouterr().out
    assert not (folder / "plan").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.ratio=1.5"], "ratio=1.5"),
        (["prune.ratio=0"], "ratio=0"),
        (["prune.scope=everything"], "scope"),
        (["prune.skip=[layer9]"], "layer9"),
        (["train.optimizer=adam"], "^train.optimizer=adam is not known"),
        (["finetune.lr=0"], "^finetune.lr=0 must be"),
        (["machine.accelerator=foo"], "machine.accelerator=foo"),
        (["train.select=first"], "select=first"),
        (["finetune.labels=true_ones"], "labels=true_ones"),
        (["finetune.robust=all"], "robust=all"),
        (["distill.at=export"], "distill.at=export"),
        (["distill=kd", "distill.at=train"], "distill.at=train"),
        (["distill=kd", "distill.terms.kd.temperature=0"], "temperature"),
        (["noise=symmetric", "noise.rate=1.2"], "rate=1.2"),
        (["robust=gce", "robust.q=2"], "q=2"),
        (["regularize=slimming", "regularize.weight=0"], "^regularize.weight=0"),
        (["scale=multiplier", "scale.width=0"], "width"),
        (["stages=[train,shrink]"], "shrink"),
        (["stages=[compress,train]"], "stages"),
        (["machine.threads=0"], "threads=0"),
        (["precision=12-true"], "precision=12-true"),
        (["recalibrate.images=0"], "recalibrate.images=0"),
        (["prune.ratio=0.95"], "ratio=0.95 leaves 0 of 8 channels"),
        (["prune.budget.latency=1.5"], "budget.latency=1.5"),
        (["prune.budget.latency=0.5", "machine.latency_seconds=0"], "latency_seconds=0 forbids"),
        (["prune.budget.macs=0.01"], "budget.macs=0.01 cannot be reached"),
        (["prune.allocation=local"], "prune.allocation=local is not known"),
        (["prune=random", "prune.allocation=global"], "gives none for 'layer1.0.conv1'"),
        (["prune.normalize=max"], "prune.normalize=max is not known"),
        (["prune.sensitivity.ratios=[0.5,0.1]"], "sensitivity.ratios"),
        (
            ["prune.allocation=sensitivity", "dataset.validation=0", *LAST],
            "dataset.validation=0 leaves",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_runs(folder, overrides, message):
    with pytest.raises(UsageError, match=message) as caught:
        run(folder, "refused", *overrides)
    assert "\n" not in str(caught.value)
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("words", "wishes"),
    [
        ([], "train.select=last finetune.select=last"),
        (["stages=[train]", "train.patience=2"], "train.select=last train.patience=null"),
        (["train.select=last", "finetune.epochs=0", "train.patience=1"], "train.patience=null"),
        (["train.select=last", "finetune.select=clean_peak"], "finetune.select=last"),
        (["train.select=clean_peak", "noise=symmetric"], "finetune.select=last"),
        (["train.epochs=0", "finetune.select=last", "pretrain=rotnet"], "pretrain.select=last"),
    ],
)
def test_a_training_that_picks_by_no_validation_image_is_refused_at_the_plan(folder, words, wishes):
    with pytest.raises(UsageError) as caught:
        plan(folder, "dataset.validation=0", *words)
    line = f"no validation image: raise dataset.validation, add images, or type {wishes}"
    assert str(caught.value) == line


def test_so_few_images_that_none_is_split_off_are_refused_at_the_plan(folder):
    with pytest.raises(UsageError, match="^no validation image: raise dataset.validation, add"):
        plan(folder, "dataset.validation=0.0001")
    assert plan(folder, "dataset.validation=0.0001", *LAST).steps


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune=bn_scale"], "no batch norm with a scale behind 'body.3'"),
        (["prune=none", "regularize=slimming"], "regularize=slimming finds no batch norm"),
    ],
)
def test_what_a_criterion_cannot_judge_is_refused_before_the_training(folder, overrides, message):
    target = "doubles.Net" if "prune=bn_scale" in overrides else "doubles.Plain"
    with pytest.raises(UsageError, match=message):
        run(folder, "refused", "model=custom", f"model._target_={target}", *overrides)
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("words", "copies", "what"),
    [
        (["train.epochs=0", "finetune.epochs=0"], 1, "weights"),
        (["train.momentum=0", "finetune.momentum=0"], 2, "weights, gradients and optimizer state"),
        (["train.momentum=0.9"], 3, "weights, gradients and optimizer state"),
        (["finetune.optimizer=adamw"], 4, "weights, gradients and optimizer state"),
    ],
)
def test_weights_that_do_not_fit_the_memory_are_refused_at_the_plan(
    folder, monkeypatch, words, copies, what
):
    dense = plan(folder, "plan_only=true").run.blank()
    needs = 4 * copies * dense.figures["params"]
    for place in (_blank, experiment_module):
        monkeypatch.setattr(place, "memory", lambda: needs)
    sizes = ["train.batch_size=4", "finetune.batch_size=4", "machine.eval_batch_size=4"]
    sizes += [f"{stage}.optimizer=sgd" for stage in ("train", "finetune")]
    Experiment(compose(folder, "plan_only=true", *sizes, *words))
    for place in (_blank, experiment_module):
        monkeypatch.setattr(place, "memory", lambda: needs - 1)
    expected = f"^the network's {what} take .* GB: lower model.width or scale.width"
    with pytest.raises(UsageError, match=expected):
        Experiment(compose(folder, "plan_only=true", *sizes, *words))


@pytest.mark.parametrize("name", ["TwoAnswers", "ThreeMore"])
def test_a_network_of_other_answers_is_refused_at_the_plan(folder, name):
    words = ("plan_only=true", "model=custom", f"model._target_=doubles.{name}", "prune=none")
    with pytest.raises(UsageError, match="expects one tensor of logits .2, 10."):
        run(folder, "answers", *words)


def test_an_image_that_the_network_cannot_take_is_not_blamed_on_the_surgery(folder):
    inception = {
        "_target_": "compressor.models.torchvision", "name": "inception_v3",
        "pretrained": False, "arguments": {},
    }  # fmt: skip
    config = {**compose(folder, "plan_only=true"), "model": inception}
    with pytest.raises(UsageError, match="cannot take an image of 3x8x8 .* dataset.image_size"):
        run_experiment(config, folder / "small", False, "")


def test_images_that_were_left_out_stand_in_the_notices_and_the_report(tmp_path):
    for part, label, i in np.ndindex(2, 2, 6):
        folder = tmp_path / "set" / ("train", "test")[part] / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 12 * part + 6 * label + i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "set/train/a/0.png").write_text("no image")
    words = ("dataset=imagefolder", f"dataset.root={tmp_path / 'set'}", "stages=[train]")
    words += ("prune=none", "train.epochs=0", "machine.latency_seconds=0", "export.enabled=false")
    with pytest.raises(RunError, match="train/a/0.png' cannot be decoded"):
        plan(tmp_path, *words)
    skip = (*words, "dataset.unreadable=skip")
    told = notices.notices(plan(tmp_path, *skip))
    (notice,) = [line for line in told if "left out" in line and "since" in line]
    assert "left out, since 1 image in" in notice and "'train/a/0.png' (it is no" in notice
    made = run(tmp_path, "skipping", *skip)
    assert made["skipped_images"] == ["train/a/0.png"]
    text = (tmp_path / "skipping/report.md").read_text()
    assert "1 image could not be read and took no part: `train/a/0.png`." in text
    assert "took no part" not in sentences.skipped({"skipped_images": []})


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("dataset.image_size=1000000",), "dataset.image_size=1000000 must be at most 8192"),
        (
            ("dataset.image_size=256", "scale=multiplier", "scale.resolution=64"),
            "image_size=16384 must be at most 8192",
        ),
        (
            ("dataset=fake", "dataset.image_size=8192", "train.batch_size=4096"),
            "train.batch_size=4096 images of 3x8192x8192 take 3.3e.03 GB, and this machine has",
        ),
    ],
)
def test_images_that_no_machine_holds_are_refused_before_any_is_read(folder, words, line):
    with pytest.raises(UsageError, match=line):
        Experiment(compose(folder, *words))


def test_sigterm_in_a_training_is_an_interrupt_and_the_same_command_goes_on(tmp_path, monkeypatch):
    from compressor.run import _interrupts
    from compressor.stages import _callbacks

    said = _callbacks.EpochLine.on_train_epoch_end

    def terminate(self, trainer, module):
        said(self, trainer, module)
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    words = ("stages=[train]", "prune=none", "train.epochs=3", "machine.progress=true")
    with monkeypatch.context() as patch, _interrupts(), pytest.raises(KeyboardInterrupt):
        patch.setattr(_callbacks.EpochLine, "on_train_epoch_end", terminate)
        run(tmp_path, "run", *words)
    report = run(tmp_path, "run", *words)
    assert report["training"]["final"]["epochs"] == 3


def test_a_run_folder_whose_disk_is_full_is_told_in_one_line(folder, report, monkeypatch):
    def full(run_dir, report):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compressor.run_folder.write", full)
    with pytest.raises(RunError, match="the disk of .*/full is full: free some space, or set pa"):
        run(folder, "full")


@pytest.mark.parametrize("words", [("prune.scope=all",), ("prune.ratios={layer1: 0.0}",)])
def test_the_plan_counts_the_layers_that_the_report_counts(folder, words):
    words = ("prune=weight_sum", "stages=[train,compress]", "train.epochs=0", *words)
    coming = preview.preview(plan(folder, *words))["cut"]["widths"]
    widths = run(folder, "counted", *words)["widths"]
    assert {name: list(pair) for name, pair in coming.items()} == widths


def test_a_kernel_that_is_a_buffer_is_a_layer_in_plan_and_report(folder):
    words = ("model=custom", "model._target_=doubles.OwnKernel", "prune=weight_sum")
    words = (*words, "prune.scope=all", "stages=[train,compress]", "train.epochs=0")
    coming = preview.preview(plan(folder, *words))["cut"]["widths"]
    widths = run(folder, "kernel", *words)["widths"]
    assert list(widths) == ["body.0", "body.3", "W", "pair"]
    assert {name: list(pair) for name, pair in coming.items()} == widths


def test_a_scaled_networks_report_holds_the_figures_of_the_unscaled_one(folder):
    words = ("stages=[train]", "prune=none", "train.epochs=0")
    whole = run(folder, "unscaled", *words)
    half = run(folder, "scaled", *words, "scale=multiplier", "scale.width=0.5")
    assert "unscaled" not in whole
    final = whole["points"]["final"]
    assert half["unscaled"] == {name: final[name] for name in ("macs", "params")}
    assert half["points"]["final"]["macs"] < half["unscaled"]["macs"]


def test_a_stage_that_was_not_run_shows_what_was_there_before_it(folder):
    words = ("prune=weight_sum", "prune.reconstruct=none", "machine.latency_seconds=0")
    points = run(folder, "skips", *words, "stages=[train,compress,finetune]")["points"]
    assert points["recalibrated"] == points["compressed"] != points["final"]
    points = run(folder, "ends", *words, "stages=[train,compress]")["points"]
    assert points["recalibrated"] == points["compressed"] == points["final"] != points["dense"]
    points = run(folder, "alone", *words, "stages=[train]")["points"]
    assert points["dense"] == points["compressed"] == points["final"]
