"""Plans: JSON that is read strictly, composition in original indices, and counting."""

import copy
import json

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.models.resnet_cifar import resnet20
from compressor.surgery import EMPTY_PLAN, Plan, analyse, keep_count, plan_cut, replay

EXAMPLE = torch.zeros(1, 3, 8, 8)


def chain(widths=(8, 6)) -> nn.Sequential:
    torch.manual_seed(0)
    a, b = widths
    return nn.Sequential(
        nn.Conv2d(3, a, 3),
        nn.BatchNorm2d(a),
        nn.ReLU(),
        nn.Conv2d(a, b, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(b * 16, 4),
    )


def example() -> dict:
    plan = plan_cut(analyse(chain(), (EXAMPLE,)), {"0": torch.tensor([5, 1, 2])})
    return plan.to_json()


def test_a_plan_lists_every_slot_of_the_group_with_the_kept_indices_in_order():
    assert example() == {
        "version": 2,
        "operations": [
            {
                "op": "cut",
                "group": "0",
                "slots": [
                    ["0.weight", 0],
                    ["0.bias", 0],
                    ["1.weight", 0],
                    ["1.bias", 0],
                    ["1.running_mean", 0],
                    ["1.running_var", 0],
                    ["3.weight", 1],
                ],
                "kept": [1, 2, 5],
                "producers": ["0"],
            }
        ],
    }


def test_a_plan_survives_json():
    plan = Plan.from_json(json.loads(json.dumps(example())))
    assert plan.to_json() == example() and plan.kept == {"0": [1, 2, 5]}
    assert EMPTY_PLAN.kept == {} and Plan.from_json(EMPTY_PLAN.to_json()) == EMPTY_PLAN


def test_a_plan_of_the_first_version_reads_as_it_did():
    first = {**example(), "version": 1}
    assert Plan.from_json(first) == Plan.from_json(example())
    assert Plan.from_json(first).to_json() == example()


def changed(**fields) -> dict:
    data = example()
    data["operations"][0].update(fields)
    return data


BROKEN = {
    "no object": ([], "object with exactly"),
    "another field": ({**example(), "code": "x"}, "object with exactly"),
    "another version": (
        {**example(), "version": 3},
        "version 3 is not known; this program reads 1 to 2",
    ),
    "version zero": ({**example(), "version": 0}, "version 0"),
    "version true": ({**example(), "version": True}, "version True"),
    "operations": ({"version": 2, "operations": {}}, "is a list"),
    "no operation": ({"version": 2, "operations": [3]}, "operation 0 is no object"),
    "unknown op": (changed(op="exec"), "op 'exec'; this program knows cut, mask"),
    "no name of an op": (changed(op=["cut"]), "op '['cut']'"),
    "an op of later": ({**changed(op="mask"), "version": 1}, "op 'mask'; this program knows cut"),
    "unknown field": (changed(note=""), "has fields"),
    "group": (changed(group=3), "'group' is 3"),
    "slots": (changed(slots=[]), "'slots' must be"),
    "slot": (changed(slots=[["0.weight"]]), "slot ['0.weight']"),
    "dimension": (changed(slots=[["0.weight", -1]]), "slot ['0.weight', -1]"),
    "twice": (changed(slots=[["0.weight", 0], ["0.weight", 0]]), "a second time"),
    "empty": (changed(kept=[]), "not empty"),
    "negative": (changed(kept=[-1, 2]), "none negative"),
    "fraction": (changed(kept=[0.5]), "none negative"),
    "unsorted": (changed(kept=[2, 1]), "ascending"),
    "repeated": (changed(kept=[1, 1]), "ascending"),
    "producers": (changed(producers="0"), "'producers' must be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plan_is_refused_in_one_line(case):
    data, message = BROKEN[case]
    with pytest.raises(UsageError) as error:
        Plan.from_json(data)
    assert message in str(error.value) and "\n" not in str(error.value)


MISFITS = {
    "missing": (changed(slots=[["9.weight", 0]]), "'9.weight', which this network lacks"),
    "dimension": (changed(slots=[["0.bias", 1]]), "dimension 1 of '0.bias'"),
    "beyond": (changed(kept=[0, 8]), "keeps index 8 of '0.weight'"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_plan_for_another_network_is_refused_and_changes_nothing(case):
    data, message = MISFITS[case]
    net = chain()
    with pytest.raises(UsageError) as error:
        replay(net, Plan.from_json(data))
    assert message in str(error.value)
    assert {n: t.shape for n, t in net.state_dict().items()} == {
        n: t.shape for n, t in chain().state_dict().items()
    }


def test_unequal_groups_of_a_convolution_are_refused():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    operation = {"op": "cut", "group": "0", "slots": [["0.weight", 0]], "kept": [0, 1, 2]}
    with pytest.raises(UsageError, match=r"unequal numbers .* '0': \[2, 1\]"):
        replay(net, Plan.from_json({"version": 1, "operations": [operation]}))


def test_two_cuts_compose_into_one_in_original_indices():
    dense = chain()
    first = plan_cut(
        analyse(dense, (EXAMPLE,)), {"0": torch.tensor([0, 2, 3, 5, 7]), "3": torch.arange(1, 5)}
    )
    once = replay(copy.deepcopy(dense), first)
    second = plan_cut(
        analyse(once, (EXAMPLE,)), {"0": torch.tensor([1, 2, 4]), "3": torch.tensor([0, 3])}
    )
    twice = replay(once, second)
    both = first.then(second)
    assert both.kept == {"0": [2, 3, 7], "3": [1, 4]}
    composed = replay(copy.deepcopy(dense), Plan.from_json(both.to_json()))
    for left, right in zip(
        twice.state_dict().values(), composed.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right)
    direct = plan_cut(
        analyse(dense, (EXAMPLE,)), {"0": torch.tensor([2, 3, 7]), "3": torch.tensor([1, 4])}
    )
    assert {s: k for s, k in direct.by_slot.items()} == both.by_slot


def test_composition_with_nothing_changes_nothing():
    plan = Plan.from_json(example())
    assert plan.then(EMPTY_PLAN).by_slot == plan.by_slot == EMPTY_PLAN.then(plan).by_slot
    assert plan.then(EMPTY_PLAN).kept == plan.kept == EMPTY_PLAN.then(plan).kept


def test_a_plan_made_on_another_network_does_not_compose():
    plan = Plan.from_json(example())
    with pytest.raises(UsageError, match="keeps index 5 of '0.weight', of which .* leaves 3"):
        plan.then(plan)


@pytest.mark.parametrize(
    ("classes", "message"),
    [([], "keeping 0 of 8"), ([8], "channel 8 of '0'"), ([-1], "channel -1"), ([1, 1], "once")],
)
def test_impossible_choices_are_refused(classes, message):
    structure = analyse(chain(), (EXAMPLE,))
    with pytest.raises(UsageError, match=message):
        plan_cut(structure, {"0": torch.tensor(classes)})


def test_an_unknown_group_is_refused_with_the_names_there_are():
    structure = analyse(chain(), (EXAMPLE,))
    with pytest.raises(UsageError, match="no group '1' in this network; the first ones are: 0, 3"):
        plan_cut(structure, {"1": torch.tensor([0])})
    with pytest.raises(UsageError, match="no group 'x'"):
        structure.macs({"x": 1})
    with pytest.raises(UsageError, match="scope=some"):
        structure.select("some")


def test_keeping_everything_is_an_empty_plan():
    structure = analyse(chain(), (EXAMPLE,))
    assert plan_cut(structure, {"0": torch.arange(8)}) == EMPTY_PLAN


def test_known_costs_of_a_chain():
    structure = analyse(chain(), (EXAMPLE,))
    assert structure.macs({}) == 36 * 3 * 8 * 9 + 16 * 8 * 6 * 9 + 96 * 4
    assert structure.macs({"0": 3, "3": 2}) == 36 * 3 * 3 * 9 + 16 * 3 * 2 * 9 + 32 * 4
    kept = (3 * 3 * 9 + 3) + 6 + (3 * 2 * 9 + 2) + (32 * 4 + 4)
    assert structure.params({"0": 3, "3": 2}) == kept


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ((10, 0.9), 1),
        ((100, 0.9), 10),
        ((64, 0.5), 32),
        ((3, 0.99), 1),
        ((10, 0.9, None, 4), 4),
        ((44, 0.0, 8), 44),
        ((88, 0.5, 8), 48),  # 44 lies between 40 and 48: ties go up
        ((16, 0.9, 8), 8),
        ((6, 0.5, 8), 6),
        ((64, 0.9, 8, 9), 16),  # 8 is nearer, and less than is to be left
        ((12, 0.9, 8, 9), 12),
        ((8, 0.5, 8, 1, 4), 4),  # 4 groups: a multiple of 2 positions
    ],
)
def test_keep_count(arguments, count):
    assert keep_count(*arguments) == count


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(UsageError, match="fraction removed"):
        keep_count(8, ratio)


def test_what_is_left_since_an_earlier_plan_counts_in_that_ones_channels():
    net = resnet20(10, (3, 16, 16)).eval()
    structure = analyse(net, (torch.zeros(2, 3, 16, 16),))
    first = plan_cut(structure, {"layer1.0.conv1": torch.tensor([1, 5, 6, 9])})
    small = replay(net, first)
    here = analyse(small, (torch.zeros(2, 3, 16, 16),))
    both = first.then(
        plan_cut(
            here, {"layer1.0.conv1": torch.tensor([0, 2]), "layer1.1.conv1": torch.tensor([7])}
        )
    )
    found = both.since(first)
    assert found["layer1.0.conv1.weight", 0] == (0, 2)  # channels 1 and 6 of the dense network
    assert found["layer1.1.conv1.weight", 0] == (7,)
    assert both.since(both) == {}
    assert both.since(EMPTY_PLAN) == both.by_slot
