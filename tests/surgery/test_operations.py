"""Typed operations: masks beside cuts, and room for the kinds that no method makes yet."""

import copy
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.surgery import (
    EMPTY_PLAN,
    Cut,
    Mask,
    Operation,
    Plan,
    _plan,
    analyse,
    plan_cut,
    replay,
)

EXAMPLE = torch.zeros(1, 3, 8, 8)


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 16, 4),
    )  # fmt: skip


def cut(net: nn.Module, **keep: list[int]) -> Plan:
    """keep: "_0" -> class ids of group "0"."""
    structure = analyse(net, (EXAMPLE,))
    return plan_cut(structure, {name[1:]: torch.tensor(ids) for name, ids in keep.items()})


def mask(net: nn.Module, parameter: str, share: float = 0.5, seed: int = 0) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    shape = net.get_parameter(parameter).shape
    return Plan((Mask(parameter, torch.rand(shape, generator=generator) >= share),))


def again(plan: Plan) -> Plan:
    """The plan after a way through its files."""
    return Plan.from_json(json.loads(json.dumps(plan.to_json())), plan.tensors())


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    assert list(left.state_dict()) == list(right.state_dict())
    for name, tensor in left.state_dict().items():
        assert torch.equal(tensor, right.state_dict()[name]), name


def test_a_mask_makes_weights_zero_and_claims_no_macs(counted):
    net, dense = chain(), chain()
    plan = mask(net, "2.weight")
    bits = plan.operations[0].bits
    assert replay(net, plan) is net
    assert torch.equal(net[2].weight, dense[2].weight * bits)
    assert not plan.broken(net) and "masked weights of '2.weight' are not zero" in plan.broken(
        dense
    )
    assert counted(net, 3, 8, 8) == counted(dense, 3, 8, 8)
    assert plan.kept == plan.by_slot == {}
    with torch.no_grad():
        net[2].weight.copy_(dense[2].weight)
    assert_same_state(net, dense)


def test_a_mask_fits_a_network_without_storage():
    with torch.device("meta"):
        net = chain()
    replay(net, mask(net, "2.weight"))
    assert net[2].weight.is_meta


def test_a_mask_after_a_cut_is_in_the_cut_networks_indices():
    dense = chain()
    first = cut(dense, _0=[1, 2, 5, 6])
    small = replay(chain(), first)
    then = mask(small, "2.weight")
    whole = first.then(then)
    assert [each.op for each in whole.operations] == ["cut", "mask"]
    assert whole.operations[1].bits.shape == (6, 4, 3, 3)
    assert whole.to_json()["operations"][1] == {
        "op": "mask", "parameter": "2.weight",
        "zeros": int((~then.operations[0].bits).sum()),
    }  # fmt: skip
    assert again(whole) == whole and list(whole.tensors()) == ["mask.2.weight"]
    assert_same_state(replay(chain(), again(whole)), replay(small, then))


def test_a_cut_after_a_mask_goes_first_and_leaves_a_smaller_mask():
    net = chain()
    first = mask(net, "2.weight")
    then = cut(net, _0=[0, 3, 7], _2=[1, 4])
    whole = first.then(then)
    assert [each.op for each in whole.operations][-1] == "mask" and whole.cuts == then.operations
    bits = first.operations[0].bits
    assert torch.equal(whole.operations[-1].bits, bits[[1, 4]][:, [0, 3, 7]])
    assert_same_state(replay(chain(), whole), replay(replay(net, first), then))


@pytest.mark.parametrize("seed", range(4))
def test_cuts_and_masks_in_any_order_are_one_plan(seed):
    generator = torch.Generator().manual_seed(seed)
    net, whole = chain(), EMPTY_PLAN
    for _ in range(6):
        if torch.rand((), generator=generator) < 0.5:
            name = ["0.weight", "2.weight", "2.bias", "5.weight"][
                int(torch.randint(4, (), generator=generator))
            ]
            step = mask(net, name, 0.3, int(torch.randint(99, (), generator=generator)))
        else:
            structure = analyse(net, (EXAMPLE,))
            step = plan_cut(
                structure,
                {
                    g.name: torch.randperm(g.size, generator=generator)[: g.size - 1]
                    for g in structure.groups
                },
            )
        net, whole = replay(net, step), whole.then(step)
        assert again(whole) == whole
        assert_same_state(replay(chain(), again(whole)), net)


def test_two_masks_of_one_tensor_are_one_and_an_idle_one_is_none():
    net = chain()
    left, right = mask(net, "2.weight", seed=1), mask(net, "2.weight", seed=2)
    (both,) = left.then(right).operations
    assert torch.equal(both.bits, left.operations[0].bits & right.operations[0].bits)
    bits = torch.ones(8, dtype=torch.bool)
    bits[3] = False
    idle = Plan((Mask("0.bias", bits),)).then(cut(net, _0=[0, 1, 2]))
    assert [each.op for each in idle.operations] == ["cut"]


def test_plans_made_on_other_networks_do_not_compose():
    net = chain()
    first, masked = cut(net, _0=[1, 2, 5]), mask(net, "2.weight")
    with pytest.raises(UsageError, match="of dimension 1 the cut leaves 3: make it on the cut"):
        first.then(masked)
    late = Plan((Cut("0", (("2.weight", 1),), (0, 8)),))
    with pytest.raises(UsageError, match="keeps index 8 of '2.weight' dimension 1, whose mask"):
        masked.then(late)
    with pytest.raises(UsageError, match="of dimension 0 the cut leaves 6"):
        masked.then(Plan((Mask("2.weight", torch.ones(5, 8, 3, 3, dtype=torch.bool)),)))


def test_a_mask_for_another_network_is_refused():
    net = chain()
    with pytest.raises(UsageError, match="masks '9.weight', which this network lacks"):
        replay(net, Plan((Mask("9.weight", torch.ones(1, dtype=torch.bool)),)))
    with pytest.raises(UsageError, match=r"mask of '2.bias' has shape \(5,\); .* float32 \(6,\)"):
        replay(net, Plan((Mask("2.bias", torch.ones(5, dtype=torch.bool)),)))
    with pytest.raises(UsageError, match="is torch.float32; it must be of bool"):
        Mask("2.bias", torch.ones(6))
    counting = nn.Sequential(nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match="int64"):
        replay(counting, Plan((Mask("0.num_batches_tracked", torch.ones((), dtype=torch.bool)),)))
    assert_same_state(net, chain())


def masked(entry=None, bits=None, **fields):
    """A plan file with one mask, and what lies beside it."""
    entry = entry or {"op": "mask", "parameter": "2.bias", "zeros": 1, **fields}
    beside = {"mask.2.bias": torch.tensor([True, False])} if bits is None else bits
    return {"version": 2, "operations": [entry]}, beside


A_CUT = {"op": "cut", "group": "0", "slots": [["0.bias", 0]], "kept": [0]}
BROKEN = {
    "a field more": (*masked(note=1), "has fields"),
    "a field less": (*masked({"op": "mask", "parameter": "2.bias"}), "has fields"),
    "no name": (*masked(parameter=["2.bias"]), "'parameter' is"),
    "no bits": (*masked(bits={}), "its bits are missing"),
    "numbers": (*masked(bits={"mask.2.bias": torch.tensor([1.0, 0])}), "bits are torch.float32"),
    "zeros": (*masked(zeros=2), "'zeros' is 2, another number than its bits"),
    "zeros of another type": (*masked(zeros=True), "'zeros' is True"),
    "more beside it": (
        *masked(bits={**masked()[1], "x\n": torch.zeros(1)}),
        r"holds 'x\n', which no operation uses",
    ),
    "twice": (
        {"version": 2, "operations": [masked()[0]["operations"][0]] * 2}, masked()[1],
        "uses 'mask.2.bias' a second time",
    ),
    "a cut behind it": (
        {"version": 2, "operations": [*masked()[0]["operations"], A_CUT]}, masked()[1],
        "operation 1 is a cut behind another kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mask_is_refused_in_one_line(case):
    data, beside, message = BROKEN[case]
    with pytest.raises(UsageError) as error:
        Plan.from_json(data, beside)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- kinds to come -----------------------------------------------------------------------------


class Scaled(nn.Module):
    """A layer with a learnt factor for each of its output channels."""

    def __init__(self, layer: nn.Module, size: int):
        super().__init__()
        self.layer, self.gate = layer, nn.Parameter(torch.ones(size, 1, 1))

    def forward(self, x):
        return self.layer(x) * self.gate


@dataclass(frozen=True)
class Layerwise(Operation):
    """What both doubles share: they replace one layer, whose channels are cut no more."""

    layer: str

    def to_json(self):
        return {"op": self.op, "layer": self.layer}

    @classmethod
    def from_json(cls, entry, where, tensors):
        if set(entry) != {"op", "layer"}:
            raise UsageError(f"{where} has fields {sorted(entry)}")
        return cls(entry["layer"])

    def compose(self, later):
        if isinstance(later, Cut):
            for name, _ in later.slots:
                if name.startswith(f"{self.layer}."):
                    raise UsageError(f"'{self.layer}' is under a {self.op}: it is cut no more")
        return (self,), later


class Gate(Layerwise):
    op: ClassVar[str] = "gate"

    def apply(self, net):
        layer = net.get_submodule(self.layer)
        net.set_submodule(self.layer, Scaled(layer, layer.weight.shape[0]))


@dataclass(frozen=True)
class Factor(Layerwise):
    """A linear layer as two of rank `rank`."""

    op: ClassVar[str] = "factor"
    rank: int = 2

    def to_json(self):
        return {**super().to_json(), "rank": self.rank}

    @classmethod
    def from_json(cls, entry, where, tensors):
        return cls(entry["layer"], entry["rank"])

    def apply(self, net):
        layer = net.get_submodule(self.layer)
        sizes = layer.in_features, layer.out_features
        two = nn.Linear(sizes[0], self.rank, bias=False), nn.Linear(self.rank, sizes[1])
        net.set_submodule(self.layer, nn.Sequential(*two))


@pytest.fixture
def kinds(monkeypatch):
    for kind in (Gate, Factor):
        monkeypatch.setitem(_plan.KINDS, kind.op, kind)


@pytest.mark.parametrize("operation", [Gate("2"), Factor("5")])
def test_a_new_kind_is_one_class_and_its_name(operation, kinds):
    first = cut(chain(), _0=[1, 2, 5])
    whole = first.then(Plan((operation,)))
    assert again(whole) == whole
    net = replay(chain(), whole)
    assert net(EXAMPLE).shape == (1, 4) and len(net.state_dict()) == len(chain().state_dict()) + 1
    assert (
        net[2].get_parameter("weight" if operation.op == "factor" else "layer.weight").shape[1] == 3
    )


def test_a_kind_that_nobody_named_is_refused():
    data = {"version": 2, "operations": [Gate("2").to_json()]}
    with pytest.raises(UsageError, match="op 'gate'; this program knows cut, mask"):
        Plan.from_json(data)


@pytest.mark.parametrize("operation", [Gate("2"), Factor("5")])
def test_a_gate_and_a_factor_end_the_cutting_of_their_layers_alone(operation, kinds):
    plan = Plan((operation,))
    with pytest.raises(UsageError, match=f"under a {operation.op}: it is cut no more"):
        plan.then(cut(chain(), _2=[0, 1]))
    other = Plan((Cut("0", (("0.weight", 0), ("0.bias", 0)), (0, 2)),))
    assert [each.op for each in plan.then(other).operations] == ["cut", operation.op]


def test_a_later_mask_meets_what_was_done_before_in_order(kinds):
    net = chain()
    plan = Plan((Gate("2"),)).then(mask(net, "0.weight")).then(mask(net, "0.bias"))
    assert [each.op for each in plan.operations] == ["gate", "mask", "mask"]
    one = copy.deepcopy(net)
    for operation in plan.operations:
        operation.apply(one)
    assert_same_state(replay(net, plan), one)


def test_a_cut_applies_by_itself_as_in_a_plan():
    plan = cut(chain(), _0=[1, 2, 5], _2=[0, 4])
    net = chain()
    for operation in plan.operations:
        operation.apply(net)
    assert_same_state(net, replay(chain(), plan))
