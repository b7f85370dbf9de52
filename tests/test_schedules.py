"""Whole runs of several rounds, and of every way to train again, on a tiny network and digits."""

import json

import doubles
import pytest
import torch
from omegaconf import OmegaConf
from test_pipeline import keys, plan, run

import compressor
from compressor import configuration, latency, surgery
from compressor.configuration import Menu, read_command
from compressor.errors import RunError, UsageError
from compressor.stages import finetune
from compressor.stages._fit import Fitted

WORDS = ("train.epochs=1", "prune=weight_sum", "machine.latency_seconds=0")
ROUNDS = ("dense", "compressed", "recalibrated", "finetuned",
          "round2/compressed", "round2/recalibrated", "final")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def report(folder):
    return run(folder, "rounds", *WORDS, "prune.rounds=2")


def steps(folder, *words, stage="compress"):
    coming = plan(folder, *WORDS, *words)
    return coming, [step for step in coming.steps if step.stage == stage]


# --- rounds ---------------------------------------------------------------------------------------


def test_rounds_are_points_of_their_own_and_end_in_the_widths_of_one_shot(folder, report):
    saved = json.loads((folder / "rounds" / "report.json").read_text())
    assert tuple(saved["points"]) == ROUNDS
    once = run(folder, "once", *WORDS, "finetune.epochs=0")
    points = saved["points"]
    assert points["final"]["macs"] == once["points"]["final"]["macs"]
    assert points["dense"]["macs"] > points["compressed"]["macs"] > points["final"]["macs"]
    assert saved["widths"] == once["widths"]
    assert saved["ratio"] == once["ratio"] == {"asked": 0.5, "achieved": 0.5}
    assert saved["parity"]["surgery"] <= 1e-5
    # the batch-norm statistics before and after, of both cuts
    assert points["compressed"]["loss"] != points["recalibrated"]["loss"]
    assert points["round2/compressed"]["loss"] != points["round2/recalibrated"]["loss"]
    assert set(saved["history"]) == {"train", "finetuned", "final"}


def test_what_is_kept_stays_in_original_channels_and_the_network_loads(folder, report):
    coming, (first, second) = steps(folder, "prune.rounds=2")
    before = coming.run.cache.read(first.key).plan.kept
    assert report["kept"] == coming.run.cache.read(second.key).plan.kept
    for module, kept in report["kept"].items():
        width, left = report["widths"][module]
        assert set(kept) < set(before[module]) and len(kept) == left == width // 2
        assert len(before[module]) == {8: 5, 16: 11, 32: 22}[width]  # 0.5 ** 0.5 of them
    net = compressor.load(folder / "rounds" / "model")
    assert sum(p.numel() for p in net.parameters()) == report["points"]["final"]["params"]


def test_a_round_is_an_entry_of_the_cache_that_others_share(folder, report):
    again = run(folder, "again", *WORDS, "prune.rounds=2")
    assert all(stage["reused"] for stage in again["stages"])
    assert again["points"] == report["points"]
    base = [s.key for s in steps(folder, "prune.rounds=2", "prune.spacing=linear")[0].steps]
    for same in (("prune=progressive_l1",), ("prune.keep_rates=[0.75,0.5]",)):
        assert [s.key for s in steps(folder, *same)[0].steps] == base
    half = steps(folder, "prune.ratio=0.5")[1]
    assert half[0].key == steps(folder, "prune.rounds=2", "prune.ratio=0.75")[1][0].key
    none = steps(folder, "prune=none", "prune.rounds=2")[0]
    assert [s.key for s in none.steps] == [s.key for s in steps(folder, "prune=none")[0].steps]


def test_epochs_between_rounds_have_a_key_of_their_own(folder):
    def epochs(*words):
        found = steps(folder, "finetune.epochs=4", *words, stage="finetune")[1]
        return [step.options.recipe.epochs for step in found]

    assert epochs() == [4]
    assert epochs("prune.rounds=3") == [4, 4, 4]
    assert epochs("prune.rounds=3", "prune.round_epochs=1") == [1, 1, 4]
    layers = ("prune.finetune_per_layer_epochs=1", "prune.layer_finetune={layer2: {epochs: 0}}")
    assert epochs(*layers) == [1, 1, 1, 0, 0, 0, 1, 1, 4]
    words = ("prune.rounds=2", "prune.round_finetune={lr: 0.0001, schedule: constant}")
    found = steps(folder, *words, stage="finetune")[1]
    own = [step.options.recovery.in_key() for step in found]
    assert own[0] == {**own[1], "lr": 1e-4, "schedule": "constant"} != own[1]
    _, found = steps(folder, "prune.rounds=2", "prune.round_epochs=0", stage="finetune")
    assert [step.identity for step in found] == [True, False]


def test_a_refit_aims_at_the_network_that_was_trained_last(folder):
    def targets(*words):
        experiment, found = steps(folder, "prune.reconstruct=refit", *words)
        tuned = [s.key for s in experiment.steps if s.stage == "finetune" and not s.identity]
        names = {experiment.steps[0].key: "dense"} | {key: i for i, key in enumerate(tuned)}
        return [names[step.roles["target"]] if step.roles else None for step in found]

    assert targets() == [None]
    assert targets("prune.rounds=3") == [None] * 3  # the given one
    assert targets("prune.rounds=3", "prune.round_epochs=0") == [None, "dense", "dense"]
    words = ("prune.finetune_per_layer_epochs=1", "prune.skip=[layer1]")
    assert targets(*words) == [None] * 6
    pairs = "{layer2.0: {epochs: 0}, layer3.0: {epochs: 0}, layer3.1: {epochs: 0}}"
    found = targets(*words, f"prune.layer_finetune={pairs}")
    assert found == [None, "dense", None, None, 1, 1]  # what came before the cuts
    _, found = steps(folder, "prune.rounds=2", "prune.round_epochs=0")
    assert [step.roles for step in found] == [{}, {}]


def test_rounds_without_training_between_are_refitted_to_the_dense_network(folder):
    words = ("prune.reconstruct=refit", "prune.rounds=2", "prune.round_epochs=0")
    done = run(folder, "untrained", *WORDS, *words, "finetune.epochs=0")
    coming, (_, second) = steps(folder, *words, "finetune.epochs=0")
    made = coming.run.cache.read(second.key)
    assert made.lineage["target"] == coming.steps[0].key
    assert done["points"]["round2/compressed"]["accuracy"] > 0


def test_the_dense_network_teaches_in_every_round(folder, report):
    taught = run(folder, "taught", *WORDS, "prune.rounds=2", "distill=kd")
    reused = [stage["reused"] for stage in taught["stages"]]
    assert reused == [True, True, True, False, False, False, False]
    coming, found = steps(folder, "prune.rounds=2", "distill=kd", stage="finetune")
    for step, point in zip(found, ("finetuned", "final"), strict=True):
        made = coming.run.cache.read(step.key)
        assert made.lineage["teacher"] == step.roles["teacher"] == coming.steps[0].key
        assert taught["points"][point]["loss"] != report["points"][point]["loss"]


def test_layers_are_cut_one_by_one_on_the_network_fine_tuned_so_far(folder):
    words = (
        "model=custom", "model._target_=doubles.Net", "prune=thinet", "prune.budget.macs=0.4",
        "prune.finetune_per_layer_epochs=1", "finetune.epochs=2",
    )  # fmt: skip
    done = run(folder, "layers", *WORDS, *words)
    assert tuple(done["points"]) == ROUNDS
    coming, (first, second) = steps(folder, *words)
    assert coming.run.cache.read(first.key).plan.kept.keys() == {"body.0"}
    assert {name: len(kept) for name, kept in done["kept"].items()} == {"body.0": 4, "body.3": 4}
    tuned = [step for step in coming.steps if step.stage == "finetune"]
    assert coming.run.cache.read(second.key).lineage["parent"] == tuned[0].key
    assert [step.options.recipe.epochs for step in tuned] == [1, 2]
    share = done["points"]["final"]["macs"] / done["points"]["dense"]["macs"]
    assert share == pytest.approx(0.4, abs=0.01)
    assert (
        compressor.load(folder / "layers" / "model", trust=["doubles.Net"]).body[3].out_channels
        == 4
    )


# --- training again -------------------------------------------------------------------------------


def composed(*words):
    menu = Menu(read_command(words))
    config = configuration.compose(configuration.check(read_command(words), menu), menu)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return configuration.plain(config)


@pytest.mark.parametrize("mode", ["scratch_e", "scratch_b", "rewind"])
def test_who_trains_again_takes_the_recipe_of_the_training(mode):
    for words in ((), ("train.lr=0.07", "train.epochs=3", "dataset=cifar10")):
        config = composed(f"finetune={mode}", *words)
        assert config["finetune"]["mode"] == mode
        for name, value in config["train"].items():
            assert config["finetune"][name] == value
    assert composed(f"finetune={mode}", "finetune.lr=0.3")["finetune"]["lr"] == 0.3
    assert composed("train.lr=0.07")["finetune"]["lr"] != 0.07


def test_the_dense_network_does_not_know_how_it_is_trained_again(folder):
    base = keys(folder, *WORDS)
    for mode in ("scratch_e", "scratch_b", "rewind"):
        other = keys(folder, *WORDS, f"finetune={mode}")
        assert [stage for stage in base if base[stage] != other[stage]] == ["finetune"]
    assert keys(folder, *WORDS, "finetune.epoch_cap=2") == base
    assert keys(folder, *WORDS, "finetune.rewind_epoch=3") == base


def test_scratch_b_trains_longer_by_the_macs_that_were_saved(folder, report):
    words = ("finetune=scratch_b", "finetune.epochs=2")
    coming = run(folder, "coming", *WORDS, *words, "plan_only=true")["plan"]
    done = run(folder, "scratch", *WORDS, *words)
    dense, final = (done["points"][name]["macs"] for name in ("dense", "final"))
    expected = finetune.scratch_b_epochs(2, dense, final)
    assert done["training"]["final"]["epochs"] == expected == 3
    assert coming["stages"][-1]["epochs"] == expected
    assert done["training"]["final"]["mode"] == "scratch_b"


@pytest.fixture
def started(monkeypatch):
    """Networks with which a fine-tuning begins, as it would: nothing is trained."""
    found = []

    def fit(net, options, context, **more):
        found.append({name: value.clone() for name, value in net.state_dict().items()})
        return Fitted(net.eval(), {"picked_epoch": 0})

    monkeypatch.setattr(finetune, "fit", fit)
    return found


def test_rewinding_goes_back_to_the_initial_weights_of_the_kept_channels(folder, report, started):
    words = ("finetune=rewind", "prune.rounds=2")
    run(folder, "initial", *WORDS, *words, "finetune.lr=0.01")
    coming, found = steps(folder, *words, "finetune.lr=0.01", stage="finetune")
    untrained = keys(folder, *WORDS, "train.epochs=0")["train"]
    assert [side.key for step in found for side in step.sides] == [untrained] * 2
    for step, state in zip(found, started, strict=True):
        made = coming.run.cache.read(step.key)
        assert made.lineage["rewind_0"] == untrained
        initial = surgery.replay(coming.run.cache.read(untrained).network(), made.plan)
        for name, value in initial.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert len(started[0]["layer3.0.conv1.weight"]) == 22
    assert len(started[1]["layer3.0.conv1.weight"]) == 16


def test_a_rewound_training_of_a_network_that_lost_nothing_is_the_dense_one(folder):
    """Without momentum nothing is lost with the optimizer: same weights, schedule, images."""
    words = (
        "prune=none", "train.epochs=3", "train.optimizer=sgd", "train.momentum=0",
        "train.schedule=cosine", "train.select=last", "finetune=rewind", "finetune.epochs=3",
        "finetune.rewind_epoch=1",
    )  # fmt: skip
    done = run(folder, "rewound", *WORDS, *words)
    assert done["points"]["final"] == done["points"]["dense"]
    coming, (last,) = steps(folder, *words, stage="finetune")
    dense, final = (coming.run.cache.read(k).network() for k in (coming.steps[0].key, last.key))
    for name, value in dense.state_dict().items():
        assert torch.equal(value, final.state_dict()[name]), name
    coming = run(folder, "coming", *WORDS, *words, "seed=1", "plan_only=true")["plan"]
    titles = {stage["title"]: stage["epochs"] for stage in coming["stages"]}
    assert titles["train"] == 3 and titles["train (rewind_1)"] == 1 and titles["finetune"] == 2


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.rounds=0"], "prune.rounds=0"),
        (["prune.rounds=40"], "round [0-9]+ of 40 would cut nothing"),
        (["prune.keep_rates=[0.5,0.75]"], "keep_rates"),
        (["prune.keep_rates=[0.7]", "prune.ratio=0.2"], "both say how much goes"),
        (["prune.finetune_per_layer_epochs=-1"], "finetune_per_layer_epochs=-1"),
        (["finetune.mode=again"], "finetune.mode=again"),
        (
            ["prune=random", "prune.allocation=global", "prune.reconstruct=rescale"],
            "prune.allocation=global compares scores",
        ),
        (
            ["prune=none", "prune._target_=doubles.Unmeasured", "prune.allocation=global"],
            "prune.allocation=global compares scores",
        ),
        (["finetune=rewind", "finetune.rewind_epoch=9"], "rewind_epoch=9 lies beyond"),
        (["finetune=scratch_b", "prune.rounds=2"], "finetune=scratch_b takes the widths"),
        (["finetune=rewind", "prune.rounds=2", "prune.round_epochs=1"], "prune.round_epochs"),
        (["prune.rounds=2", "prune.round_finetune={lrs: 1}"], "no round has of its own"),
        (["prune.rounds=2", "prune.round_finetune={lr: fast}"], "lr=fast is not of the kind"),
        (["prune.rounds=2", "prune.round_finetune={lr: -1}"], "round_finetune: lr=-1 must be"),
        (
            ["prune.finetune_per_layer_epochs=1", "prune.layer_finetune={layer1: 2}"],
            "layer_finetune.layer1=2 holds",
        ),
        (
            ["prune=none", "prune._target_=doubles.HalfOfTheFirst", "prune.rounds=2"],
            "owns its stage",
        ),
    ],
)
def test_a_schedule_that_no_run_can_follow_is_refused_before_anything_runs(
    folder, overrides, message
):
    with pytest.raises(UsageError, match=message) as caught:
        run(folder, "refused", *WORDS, *overrides)
    assert "\n" not in str(caught.value)
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [("mode", "mode of 'layer1.0.conv1'"), ("flags", "requires_grad of 'layer1.0.conv1.weight'")],
)
def test_a_criterion_that_changes_a_layers_state_is_found_out(folder, statistics, harm, message):
    words = ("prune=none", "prune._target_=doubles.Careless", f"+prune.harm={harm}")
    with pytest.raises(RunError, match=message):
        run(folder, "careless", *WORDS, *words, f"prune.statistics={statistics}")


# --- rounds whose widths the trained network decides ----------------------------------------------


@pytest.mark.parametrize("target", ["prune.ratio=0.5", "prune.budget.macs=0.4"])
def test_rounds_of_a_threshold_end_at_the_target_of_the_dense_network(folder, target):
    words = ("prune.allocation=global", "prune.rounds=2", "finetune.epochs=0", target)
    found = run(folder, f"global {target}", *WORDS, *words)
    widths = found["widths"].values()
    if "ratio" in target:
        assert found["ratio"]["achieved"] == 0.5
        assert sum(after for _, after in widths) == sum(before for before, _ in widths) // 2
    else:
        macs = [found["points"][name]["macs"] for name in ("final", "dense")]
        assert macs[0] / macs[1] == pytest.approx(0.4, abs=0.01)
    assert len({after / before for before, after in widths}) > 2


def test_rounds_of_a_latency_are_timed_beside_the_dense_network(folder, monkeypatch):
    dense = []

    def in_turns(whole, small, *rest):
        params = [sum(p.numel() for p in net.parameters()) for net in (whole, small)]
        dense.append(params[0])
        return doubles.timed(0.2 + 0.8 * params[1] / params[0])

    monkeypatch.setattr(latency, "in_turns", in_turns)
    words = ("prune.budget.latency=0.6", "prune.rounds=2", "finetune.epochs=0")
    found = run(folder, "timed", *WORDS, *words, "machine.latency_seconds=0.05")
    told = found["allocation"]["latency"]
    assert len(set(dense)) == 1 and told["share"] == pytest.approx(0.6, rel=0.1)
    macs = [found["points"][name]["macs"] for name in ("final", "dense")]
    assert told["macs"] == pytest.approx(macs[0] / macs[1])


@pytest.mark.parametrize("late", ["allocation=global", "budget.latency=0.5"])
def test_layer_by_layer_needs_widths_that_are_known_before(folder, late):
    with pytest.raises(UsageError, match=f"prune.{late} finds out later; take prune.rounds"):
        steps(folder, "prune.finetune_per_layer_epochs=1", f"prune.{late}")
