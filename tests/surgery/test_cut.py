"""Cutting in place: what tensors and modules keep, and one group at a time."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from compressor.errors import RunError
from compressor.surgery import analyse, check_parity, cut_group, plan_cut, replay

X = torch.zeros(1, 3, 12, 12)


class Dense(nn.Module):
    """Three layers that read all that came before, a depthwise and a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.c = nn.Conv2d(14, 8, 3, padding=1)
        self.d = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.g = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.fc = nn.Linear(26, 5)

    def forward(self, x):
        first = self.a(x).relu()
        second = torch.cat([first, self.b(first).relu()], 1)
        third = self.g(self.d(self.c(self.norm(second).relu())).relu()).relu()
        return self.fc(torch.cat([second, third], 1).mean((2, 3)))


def same(left: nn.Module, right: nn.Module) -> bool:
    tensors = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(s, t) for (a, s), (b, t) in tensors)


def test_groups_cut_one_after_another_equal_the_plan_of_all(halves):
    torch.manual_seed(0)
    dense = Dense().eval()
    structure = analyse(dense, (X,))
    keep = halves(structure.groups)
    at_once = replay(copy.deepcopy(dense), plan_cut(structure, keep))
    for order in (structure.groups, structure.groups[::-1]):
        one_by_one = copy.deepcopy(dense)
        for group in order:
            cut_group(one_by_one, group, keep[group.name])
            one_by_one(torch.zeros(2, 3, 12, 12))
        assert same(at_once, one_by_one)
        assert repr(at_once) == repr(one_by_one)


def test_a_cut_network_that_is_analysed_again_can_be_cut_again(halves):
    net = Dense()
    for seed in (0, 1):
        structure = analyse(net, (X,))
        for group in structure.groups:
            cut_group(net, group, halves([group], seed)[group.name])
    assert [net.a.out_channels, net.b.out_channels, net.d.groups, net.g.out_channels] == [
        2,
        1,
        2,
        2,
    ]
    net(torch.zeros(2, 3, 12, 12))


def test_a_group_of_another_state_of_the_network_is_refused(halves):
    net = Dense()
    structure = analyse(net, (X,))
    replay(net, plan_cut(structure, halves(structure.groups)))
    group = structure.groups[0]
    with pytest.raises(RunError, match="analyse the network again"):
        cut_group(net, group, torch.arange(2))


def test_modules_know_their_new_numbers(halves):
    net = Dense()
    structure = analyse(net, (X,))
    replay(net, plan_cut(structure, halves(structure.groups)))
    assert (net.c.in_channels, net.c.out_channels, net.norm.num_features) == (7, 4, 7)
    assert (net.d.groups, net.d.in_channels, net.d.out_channels) == (4, 4, 4)
    assert (net.g.groups, net.g.in_channels, net.g.out_channels) == (2, 4, 6)
    assert (net.fc.in_features, net.fc.out_features) == (13, 5)


def test_a_cut_keeps_type_memory_format_mode_and_requires_grad(halves):
    net = Dense().double().to(memory_format=torch.channels_last).eval()
    net.b.train()
    net.b.weight.requires_grad_(False)
    structure = analyse(net, (X.double(),))
    assert net.a.weight.is_contiguous(memory_format=torch.channels_last)
    replay(net, plan_cut(structure, halves(structure.groups)))
    assert net.c.weight.dtype is torch.float64 and not net.c.weight.is_contiguous()
    assert net.c.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.b.weight.requires_grad and net.c.weight.requires_grad
    assert net.b.training and not net.training
    assert isinstance(net.c.weight, nn.Parameter) and net.c.weight.is_leaf


def test_shared_weights_stay_shared(halves):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
            self.c.weight = self.b.weight
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            return self.fc(self.c(self.b(self.a(x).relu()).relu()).mean((2, 3)))

    net = Tied()
    structure = analyse(net, (X,))
    replay(net, plan_cut(structure, halves(structure.groups)))
    assert net.b.weight is net.c.weight and net.c.in_channels == net.c.out_channels == 4
    net(torch.zeros(2, 3, 12, 12))


def test_a_group_can_be_cut_inside_a_forward_hook():
    net = Dense()
    structure = analyse(net, (X,))
    group = next(g for g in structure.groups if g.name == "c")

    def cut_then_repeat(module, args):
        handle.remove()
        cut_group(net, group, torch.arange(3))

    handle = net.c.register_forward_pre_hook(cut_then_repeat)
    net(torch.zeros(2, 3, 12, 12))
    assert net.c.out_channels == 6 and net.g.in_channels == 6


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_the_channels_of_a_parametrised_layer_follow_its_cut():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )  # fmt: skip
    for layer in (net[0], net[2]):
        register_parametrization(layer, "weight", Doubled())
    x = torch.randn(2, 3, 8, 8)
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {g.name: torch.arange(g.size // 2) for g in structure.groups})
    assert check_parity(net, structure, plan, (x,)) <= 1e-5
    small = replay(net, plan)
    sizes = [(m.in_channels, m.out_channels, m.groups) for m in (small[0], small[2])]
    assert sizes == [(3, 4, 1), (4, 4, 2)]
