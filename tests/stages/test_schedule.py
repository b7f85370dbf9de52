"""Rounds and their targets, on the widths of real networks."""

import copy
import itertools
from dataclasses import fields

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.models.resnet_cifar import resnet20
from compressor.stages._budget import solve
from compressor.stages._counts import choose, uniform
from compressor.stages._options import WidthOptions
from compressor.stages._original import Original, check_widths, figures_of
from compressor.stages._pruning import Pruning
from compressor.stages._schedule import Schedule

TREE = {
    "_target_": "compressor.prune.weight_sum.WeightSum", "ratio": 0.5, "ratios": None,
    "budget": {"macs": None, "params": None}, "rounds": 1, "spacing": "geometric",
    "keep_rates": None, "round_epochs": None, "round_finetune": None,
    "finetune_per_layer_epochs": 0, "layer_finetune": None,
}  # fmt: skip


def unrolled(layers=None, **changes):
    return Pruning.read({**TREE, **changes}).rounds(layers)


def targets(layers=None, **changes):
    """Of every round what its key says."""
    return [pruning.in_key() for pruning, _ in unrolled(layers, **changes)]


def trainings(layers=None, **changes):
    return [finetune for _, finetune in unrolled(layers, **changes)]


# --- targets --------------------------------------------------------------------------------------


def test_one_shot_is_one_target_as_it_was_typed():
    (found,) = targets()
    assert found == {**found, **{k: TREE[k] for k in ("_target_", "ratio", "ratios")}}
    assert found["budget"] == {"macs": None, "params": None, "latency": None}
    assert not set(found) & {field.name for field in fields(Schedule)}


def test_round_i_of_k_leaves_the_kth_root_of_what_is_kept_to_the_power_of_i():
    # 1/8 in three rounds: 1/2, 1/4, 1/8 of the dense widths, of the MACs, of a layer of its own
    assert [t["ratio"] for t in targets(rounds=3, ratio=0.875)] == [0.5, 0.75, 0.875]
    shares = [t["budget"]["macs"] for t in targets(rounds=2, budget={"macs": 0.25, "params": None})]
    assert shares == [0.5, 0.25]
    own = [t["ratios"] for t in targets(rounds=2, ratio=0.5, ratios={"layer1": 0.75, "layer2": 0})]
    assert own == [{"layer1": 0.5, "layer2": 0}, {"layer1": 0.75, "layer2": 0}]
    # the same share of what there is goes every time, and the last target is as it was typed
    kept = [1.0, *(1 - t["ratio"] for t in targets(rounds=5, ratio=0.7))]
    assert [b / a for a, b in itertools.pairwise(kept)] == pytest.approx([0.3**0.2] * 5)
    assert targets(rounds=5, ratio=0.7)[-1] == targets(ratio=0.7)[-1]


def test_linear_spacing_takes_as_much_of_the_dense_figure_every_time():
    linear = {"spacing": "linear"}
    assert [t["ratio"] for t in targets(rounds=3, ratio=0.6, **linear)] == [0.2, 0.4, 0.6]
    budget = {"macs": 0.4, "params": None}
    shares = [t["budget"]["macs"] for t in targets(rounds=2, budget=budget, **linear)]
    assert shares == [0.7, 0.4]
    own = [t["ratios"] for t in targets(rounds=2, ratios={"layer1": 0.3, "layer2": 0}, **linear)]
    assert own == [{"layer1": 0.15, "layer2": 0}, {"layer1": 0.3, "layer2": 0}]


def test_keep_rates_refer_to_the_dense_widths_and_do_not_compound():
    assert [t["ratio"] for t in targets(keep_rates=[0.75, 0.5])] == [0.25, 0.5]
    assert targets(keep_rates=[0.75, 0.5]) == targets(rounds=2, spacing="linear")
    assert [t["ratio"] for t in targets(keep_rates=[0.9, 0.7, 0.3])] == [0.1, 0.3, 0.7]
    uneven = targets(keep_rates=[0.8, 0.5], ratios={"layer1": 0.5})
    assert [t["ratios"]["layer1"] for t in uneven] == [0.2, 0.5]


def test_layer_by_layer_says_every_layers_ratio_and_holds_the_last_to_the_budget():
    budget = {"macs": 0.6, "params": None}
    layers = [("a", 8, 4), ("b", 8, 8), ("c", 10, 7)]
    found = targets(lambda: layers, finetune_per_layer_epochs=1, budget=budget)
    assert [t["ratios"] for t in found] == [
        {"a": 0.5, "b": 0, "c": 0}, {"a": 0.5, "b": 0, "c": pytest.approx(0.3)}
    ]  # fmt: skip
    assert [t["budget"]["macs"] for t in found] == [None, 0.6]
    with pytest.raises(UsageError, match="no layer would lose"):
        targets(lambda: [("a", 8, 8)], finetune_per_layer_epochs=1)


VGG16 = [(f"features.{place}", 64, 32) for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)]
TWICE = {"epochs": 2, "schedule": "step", "milestones": [0.5]}


def test_rounds_before_the_last_train_otherwise_where_it_is_said():
    assert trainings(rounds=3) == [{}, {}, {}]
    assert trainings(rounds=2, round_epochs=0) == [{"epochs": 0}, {}]
    slow = {"lr": 1e-4, "schedule": "constant"}
    found = trainings(rounds=2, round_epochs=1, round_finetune=slow)
    assert found == [{"epochs": 1, **slow}, {}]


def test_thinets_training_of_vgg16_between_its_layers():
    """An epoch after each layer, two after conv1_2, conv2_2, conv3_3, finetune after conv4_3."""
    own = {"features.2": TWICE, "features.7": TWICE, "features.14": TWICE}
    found = trainings(
        lambda: VGG16, finetune_per_layer_epochs=1, round_finetune={"schedule": "constant"},
        layer_finetune=own,
    )  # fmt: skip
    one = {"epochs": 1, "schedule": "constant"}
    assert found == [
        one, TWICE, one, TWICE, one, one, TWICE, one, one, {}
    ]  # fmt: skip


def test_thinets_training_of_resnet50_comes_after_whole_blocks():
    layers = [(f"layer{s}.0.conv{c}", 8, 4) for s in (1, 2) for c in (1, 2)]
    own = {
        "layer1.0.conv1": {"epochs": 0},
        "layer2": {"epochs": 3},
        "layer2.0.conv1": {"epochs": 0},
    }
    found = trainings(
        lambda: layers, finetune_per_layer_epochs=1, round_finetune={"lr": 1e-4}, layer_finetune=own
    )  # the longest name counts
    assert [part.get("epochs") for part in found] == [0, 1, 0, None]
    assert [part.get("lr") for part in found] == [1e-4, 1e-4, 1e-4, None]


@pytest.mark.parametrize("name", ["features.21", "features.1", "classifier"])
def test_a_layer_after_which_none_is_cut_is_no_name_for_training_between(name):
    with pytest.raises(UsageError, match=f"'{name}', after which no other is cut"):
        unrolled(lambda: VGG16, finetune_per_layer_epochs=1, layer_finetune={name: TWICE})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "prune.rounds=0 must be at least 1"),
        ({"spacing": "cubic"}, "spacing=cubic is not known: choose one of geometric, linear"),
        ({"round_epochs": -1}, "prune.round_epochs=-1 must be at least 0"),
        ({"finetune_per_layer_epochs": -1}, "finetune_per_layer_epochs=-1"),
        ({"finetune_per_layer_epochs": 0.5}, "finetune_per_layer_epochs=0.5"),
        ({"keep_rates": [0.5, 0.75]}, r"keep_rates=\[0.5, 0.75\] must fall, as in .*\[0.75,0.5\]"),
        ({"keep_rates": [0.5, 0.5]}, "must fall"),
        ({"keep_rates": [1.0, 0.5]}, "below 1"),
        ({"keep_rates": []}, "is empty: give at least one number"),
        ({"keep_rates": 0.5}, "keep_rates=0.5: a list is expected"),
        ({"keep_rates": ["a"]}, "keep_rates=a: a number is expected"),
        ({"keep_rates": [0.7, 0.5], "rounds": 2}, "rounds=2 and prune.keep_rates.* two schedules"),
        ({"rounds": 2, "round_finetune": {"epochs": 1}}, "these epochs are prune.round_epochs"),
        ({"layer_finetune": {"a": {}}}, "without prune.finetune_per_layer_epochs"),
        ({"rounds": 2, "finetune_per_layer_epochs": 1}, "are two schedules: give one"),
        ({"keep_rates": [0.7, 0.5], "ratio": 0.3}, "prune.ratio=0.3 both say how much"),
        ({"keep_rates": [0.7], "budget": {"macs": 0.5}}, "prune.budget.macs=0.5 both say"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        Pruning.read({**TREE, **changes})
    assert "\n" not in str(caught.value)


# --- on networks ----------------------------------------------------------------------------------


NUMBERS = itertools.count()


class Given:
    """A given network as the compress stage sees it: a plan, and how to build the dense one."""

    def __init__(self, build, plan, size):
        self.plan, self.spec, self.base = plan, self, surgery.EMPTY_PLAN
        self.build, self.input_size = lambda trust: build(), size
        self.factory, self.number = "compressor.models", next(NUMBERS)

    def dense(self, trust):
        return self.build(trust)

    def to_json(self):
        return {"number": self.number}


def small_mobilenet():
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=4, width_mult=0.25)


def small_densenet():
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3)


BUILDERS = {
    "resnet20": lambda: resnet20(10, (3, 16, 16)),
    "chain": lambda: nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 9, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(9 * 144, 5),
    ),
    "mobilenet": small_mobilenet,
    "densenet": small_densenet,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scope"),
    [("resnet20", "interior"), ("resnet20", "all"), ("chain", "all"), ("mobilenet", "all"),
     ("densenet", "all")],
)  # fmt: skip
def test_rounds_end_in_the_widths_of_one_shot_with_original_indices(name, scope):
    build, size = BUILDERS[name], (3, 16, 16)
    x = torch.zeros(2, *size)
    torch.manual_seed(0)
    dense = build().eval()
    structure = surgery.analyse(dense, (x,))
    final = WidthOptions(ratio=0.5, scope=scope)
    wanted = uniform(choose(structure, final), final)
    net, plan = copy.deepcopy(dense), surgery.EMPTY_PLAN
    kept, widths = [], []
    for options in (WidthOptions(ratio=0.25, scope=scope), final):
        here = surgery.analyse(net, (x,))
        groups = choose(here, options)
        original = Original.of(Given(build, plan, size), net, here, groups, (x,), options, ())
        groups = original.known(groups)
        counts = solve(here, groups, original.here(options, groups, here))
        keep = {
            g.name: torch.randperm(g.size)[: counts[g.name]].sort().values for g in groups
        }  # fmt: skip
        step = surgery.plan_cut(here, keep)
        surgery.check_parity(net, here, step, (torch.randn(2, *size),))
        net = surgery.replay(net, step)
        plan = plan.then(step)
        kept.append(plan.kept)
        widths.append(counts)
    assert widths[-1] == wanted
    gone = sum(g.size - wanted[g.name] for g in original.groups.values())
    whole = sum(g.size for g in original.groups.values())
    assert original.removed(plan) == pytest.approx(gone / whole)
    assert figures_of(net, size)["macs"] == structure.macs(wanted)
    assert all(
        set(kept[1][module]) <= set(kept[0].get(module, kept[1][module])) for module in kept[1]
    )
    again = surgery.replay(build().eval(), plan)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(x), net(x))
    if name == "chain":
        assert [w["0"] for w in widths] == [48, 32]  # 64 -> 48 -> 32, not 24


@pytest.mark.parametrize("figure", ["macs", "params"])
def test_a_budget_of_a_later_round_is_a_share_of_the_dense_network(figure):
    build, size = BUILDERS["resnet20"], (3, 16, 16)
    x = torch.zeros(2, *size)
    dense = build().eval()
    whole = figures_of(dense, size)
    net, plan = dense, surgery.EMPTY_PLAN
    for share in (0.75, 0.5):
        options = WidthOptions(budget=(figure, share), ratios={"layer1.0": 0.25})
        here = surgery.analyse(net, (x,))
        groups = choose(here, options)
        original = Original.of(Given(build, plan, size), net, here, groups, (x,), options, ())
        groups = original.known(groups)
        counts = solve(here, groups, original.here(options, groups, here))
        step = surgery.plan_cut(here, {name: torch.arange(n) for name, n in counts.items()})
        net, plan = surgery.replay(copy.deepcopy(net), step), plan.then(step)
        assert counts["layer1.0.conv1"] == 12
        assert figures_of(net, size)[figure] / whole[figure] == pytest.approx(share, abs=0.01)


def test_a_grouped_layer_that_has_become_depthwise_is_left_alone():
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(),
            nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(600, 4),
        )  # fmt: skip

    size, x = (3, 16, 16), torch.zeros(2, 3, 16, 16)
    net = build().eval()
    structure = surgery.analyse(net, (x,))
    options = WidthOptions(ratio=0.5, scope="all")
    first = {"0": torch.tensor([0]), "2": torch.tensor([0])}  # positions within the four groups
    plan = surgery.plan_cut(structure, first)
    small = surgery.replay(net, plan)
    here = surgery.analyse(small, (x,))
    original = Original.of(Given(build, plan, size), small, here, (), (x,), options, ())
    assert max(g.size for g in here.groups if g.name != "4") == 4  # channels now
    assert [g.name for g in original.known(choose(here, options))] == ["4"]


def test_a_layer_that_did_not_lose_what_it_was_to_lose_is_named():
    structure = surgery.analyse(BUILDERS["chain"]().eval(), (torch.zeros(2, 3, 16, 16),))
    groups = choose(structure, WidthOptions())
    check_widths(groups, {"0": 32, "3": 9}, {"0": torch.arange(32)})
    with pytest.raises(RunError, match="'3' keeps 9 of 9 channels where 4 were asked for"):
        check_widths(groups, {"0": 32, "3": 4}, {"0": torch.arange(32)})
