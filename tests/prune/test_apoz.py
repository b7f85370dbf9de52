from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.prune.apoz import APoZ, apoz
from compressor.stages import _sequential
from compressor.stages._options import RepairOptions
from compressor.stages._statistics import collect
from compressor.surgery import Activation, Group, Slot
from compressor.taps import Tap, tapped

HALVES = torch.tensor([[[[0.0, 1], [2, 0]]], [[[0, 0], [0, 3]]]])


def small_net(activation):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 3, 1), act=activation, pool=nn.MaxPool2d(2), head=nn.Conv2d(3, 2, 1)
        )
    )


def group_for(
    op="relu", *, leaf=True, after="max_pool2d", kind="interior", activations=None, size=3
):
    classes = torch.arange(size)
    if activations is None:
        activations = (Activation(op, "act" if leaf else "", 0, leaf, classes),)
    return Group(
        "conv", size, (Slot("conv.weight", 0, classes, "conv"),),
        (Slot("head.weight", 1, classes, "head", after),), (), kind == "interior", kind, False,
        activations,
    )  # fmt: skip


def statistics(net, group, batches, method=None):
    (observer,) = (method or APoZ()).observers(group, net)
    sums = {}

    def read(module, x):
        for name, value in observer.measure(module, x, None).items():
            sums[f"zeros/{name}"] = sums.get(f"zeros/{name}", 0) + value

    with torch.no_grad(), tapped(net, {observer.tap: read}):
        for batch in batches:
            net(batch)
    return sums


def test_apoz_of_the_worked_example():
    assert apoz(HALVES).tolist() == [0.625]


def test_apoz_of_half_dead_channel():
    x = torch.ones(2, 3, 4, 4)
    x[:, 1, :2] = 0
    assert apoz(x).tolist() == [0.0, 0.5, 0.0]


def test_eps_counts_values_that_are_almost_zero():
    x = torch.tensor([[[0.009, -0.02], [1.0, -0.001]]])
    assert apoz(x, eps=0.01).tolist() == [0.5, 0.5]


def test_channels_may_stand_last():
    assert apoz(torch.tensor([[[0.0, 1], [0, 0]]]), dim=-1).tolist() == [1.0, 0.5]


def test_high_apoz_goes_first_and_is_measured_before_the_pooling():
    net = small_net(nn.ReLU())
    net.conv.weight.data = torch.tensor([1.0, 1, 1]).view(3, 1, 1, 1)
    net.conv.bias.data = torch.tensor([0.0, -1, -9])
    sums = statistics(net, group_for(), [HALVES[:1], HALVES[1:]])
    assert (sums["zeros/zeros"] / sums["zeros/count"]).tolist() == [0.625, 0.75, 1.0]
    assert APoZ().rank(group_for(), sums, {}, None).order.tolist() == [0, 1, 2]


def test_a_dead_channel_has_apoz_one_and_adds_exactly_nothing():
    net = small_net(nn.ReLU())
    net.conv.weight.data = torch.tensor([1.0, 0, -1]).view(3, 1, 1, 1)
    net.conv.bias.data = torch.tensor([0.0, -1, 0])
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sums = statistics(net, group_for(), [x])
    assert float(sums["zeros/zeros"][1] / sums["zeros/count"][1]) == 1.0
    assert int(APoZ().rank(group_for(), sums, {}, None).order[-1]) == 1
    before = net(x)
    net.head.weight.data[:, 1] = 0
    assert torch.equal(before, net(x))


def test_among_dead_channels_the_lowest_index_goes_first():
    sums = {"zeros/zeros": torch.tensor([4.0, 4, 1]), "zeros/count": torch.full((3,), 4.0)}
    assert APoZ().rank(group_for(), sums, {}, None).order.tolist() == [2, 1, 0]


def test_a_shared_activation_module_is_read_at_its_own_call():
    activations = (Activation("relu", "act", 2, True, torch.arange(3)),)
    (observer,) = APoZ().observers(group_for(activations=activations), small_net(nn.ReLU()))
    assert observer.tap == Tap("act", "output", 2)


def test_a_functional_relu_is_read_at_the_consumer_when_nothing_lies_between():
    net = small_net(nn.ReLU())
    (observer,) = APoZ().observers(group_for(leaf=False, after="relu"), net)
    assert observer.tap == Tap("head", "input")
    with pytest.raises(UsageError, match="make it a module"):
        APoZ().observers(group_for(leaf=False, after="max_pool2d"), net)


def test_relu6_counts_zeros_only():
    net = small_net(nn.ReLU6())
    net.conv.weight.data.fill_(1)
    net.conv.bias.data.zero_()
    sums = statistics(net, group_for("hardtanh"), [torch.tensor([[[[0.0, 9], [9, -1]]]])])
    assert (sums["zeros/zeros"] / sums["zeros/count"]).tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "op, module",
    [
        ("silu", nn.SiLU()),
        ("gelu", nn.GELU()),
        ("hardswish", nn.Hardswish()),
        ("hardtanh", nn.Hardtanh()),
    ],
)
def test_an_activation_without_exact_zeros_is_refused_by_name_unless_eps_is_set(op, module):
    net = small_net(module)
    with pytest.raises(UsageError, match=f"'{op}' in 'act' behind 'conv'.*prune.eps"):
        APoZ().observers(group_for(op), net)
    assert APoZ(eps=0.01).observers(group_for(op), net)[0].tap == Tap("act", "output", 0)


def test_residual_streams_and_linear_bottlenecks_are_refused():
    net = small_net(nn.ReLU())
    with pytest.raises(UsageError, match="residual sum; use prune.scope=interior"):
        APoZ().observers(group_for(kind="stream"), net)
    with pytest.raises(UsageError, match=r"no activation behind 'conv'.*prune.skip=\[conv\]"):
        APoZ().observers(group_for(activations=()), net)


def test_positions_of_a_grouped_conv_are_counted_together():
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 1), act=nn.ReLU()))
    net.conv.weight.data.zero_()
    net.conv.bias.data = torch.tensor([1.0, -1, 1, 1])
    classes = torch.tensor([0, 1, 0, 1])
    slot = Slot("conv.weight", 0, classes, "conv")
    activations = (Activation("relu", "act", 0, True, classes),)
    group = Group("conv", 2, (slot,), (), (), True, "interior", False, activations)
    sums = statistics(net, group, [torch.ones(3, 1, 2, 2)])
    assert sums["zeros/zeros"].tolist() == [0, 12]
    assert sums["zeros/count"].tolist() == [24, 24]


def test_other_channels_than_the_traced_ones_are_an_error():
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 1), act=nn.Sequential(nn.Conv2d(3, 5, 1))))
    with pytest.raises(RunError, match="has 5 channels"):
        statistics(net, group_for(), [HALVES])


def test_a_threshold_that_counts_nothing_is_refused():
    with pytest.raises(UsageError, match="prune.eps=0"):
        APoZ(eps=0)


@pytest.mark.parametrize("sequential", [False, True])
def test_behind_a_channel_shuffle_the_dead_channels_go_and_not_those_that_stood_in_their_place(
    sequential,
):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(),
    ).eval()  # fmt: skip
    net[0].bias.data = torch.tensor([5.0, -5, 5, -5]).repeat(2)
    net[0].weight.data *= 0.1
    x = torch.rand(4, 3, 5, 5)
    structure = surgery.analyse(net, (x,))
    (group,) = structure.groups
    dead = {int(group.producers[0].classes[channel]) for channel in (1, 3)}
    if sequential:
        cut = _sequential.sequential(
            deepcopy(net), [group], APoZ(), {group.name: 2}, RepairOptions(), [x], 0
        )
        kept = cut.keep[group.name]
    else:
        sums = {
            name.removeprefix(f"{group.name}/"): value
            for name, value in collect(net, [group], APoZ(), "none", [x], 0).items()
        }
        assert (sums["zeros/zeros"] / sums["zeros/count"]).sort().values.tolist() == [0, 0, 1, 1]
        kept = APoZ().rank(group, sums, {}, None).keep(2)
    assert dead.isdisjoint(kept.tolist())
    small = surgery.replay(deepcopy(net), surgery.plan_cut(structure, {group.name: kept}))
    torch.testing.assert_close(small(x), net(x))


class Joined(nn.Module):
    """One activation behind two groups of channels, and each of them before."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 2, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.head(self.act(torch.cat([self.a(x), self.b(x)], 1))).flatten(1)


def test_an_activation_behind_a_concatenation_is_read_after_an_earlier_cut_of_a_part_of_it():
    net = Joined().eval()
    net.a.weight.data.zero_()
    net.b.weight.data.zero_()
    net.a.bias.data = torch.tensor([1.0, -1, -1, 1])
    net.b.bias.data = torch.tensor([1.0, 1, -1, 1, -1, -1])
    x = torch.rand(2, 3, 4, 4)
    groups = surgery.analyse(net, (x,)).groups
    counts = {"a": 2, "b": 3}
    cut = _sequential.sequential(deepcopy(net), groups, APoZ(), counts, RepairOptions(), [x], 0)
    assert {name: keep.tolist() for name, keep in cut.keep.items()} == {"a": [0, 3], "b": [0, 1, 3]}
