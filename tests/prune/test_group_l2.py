from copy import deepcopy

import torch
from torch import nn

from compressor import surgery
from compressor.prune.group_l2 import GroupL2, group_l2
from compressor.stages import _select
from compressor.surgery import Group, Slot


def rank(group, weights):
    return GroupL2().rank(group, {}, weights, torch.Generator()).order.tolist()


def test_the_norm_runs_over_all_slices():
    squares = [torch.tensor([9.0, 0.0]), torch.tensor([16.0, 4.0])]
    assert group_l2(squares).tolist() == [5.0, 2.0]


def test_producers_scales_and_consumers_enter_but_neither_biases_nor_statistics():
    c = torch.arange(2)
    weights = {
        "conv.weight": torch.tensor([3.0, 1.0])[:, None],
        "conv.bias": torch.tensor([0.0, 99.0]),
        "bn.weight": torch.tensor([0.0, 2.0]),
        "bn.running_var": torch.tensor([0.0, 99.0]),
        "next.weight": torch.tensor([[4.0, 1.0], [0.0, 1.0]]),
    }
    group = Group(
        "conv", 2, (Slot("conv.weight", 0, c, "conv"), Slot("conv.bias", 0, c, "conv")),
        (Slot("next.weight", 1, c, "next"),),
        (Slot("bn.weight", 0, c, "bn"), Slot("bn.running_var", 0, c, "bn")),
        True, "interior", False, (),
    )  # fmt: skip
    assert rank(group, weights) == [0, 1]  # 9 + 0 + 16 against 1 + 4 + 2
    weights["next.weight"] = weights["next.weight"].flip(1)
    assert rank(group, weights) == [1, 0]  # 9 + 0 + 2 against 1 + 4 + 16


def test_it_is_the_norm_of_what_a_cut_takes_away():
    """Known answer from the surgery itself: the energy of the weights before and after the cut."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 6, 1, groups=2, bias=False),
        nn.Flatten(), nn.Linear(24, 2, bias=False),
    )  # fmt: skip
    nn.init.normal_(net[1].weight)
    structure = surgery.analyse(net, (torch.zeros(1, 4, 6, 6),))

    def energy(net):
        return sum(p.detach().square().sum() for n, p in net.named_parameters() if n != "1.bias")

    for group in structure.groups:
        lost = []
        for out in range(group.size):
            keep = torch.tensor([c for c in range(group.size) if c != out])
            plan = surgery.plan_cut(structure, {group.name: keep})
            lost.append(float(energy(net) - energy(surgery.replay(deepcopy(net), plan))))
        assert rank(group, net.state_dict()) == sorted(range(group.size), key=lambda c: -lost[c])


def test_of_equal_channels_the_lowest_index_goes_first():
    c = torch.arange(3)
    group = Group("fc", 3, (Slot("fc.weight", 0, c, "fc"),), (), (), True, "interior", False, ())
    assert rank(group, {"fc.weight": torch.ones(3, 2)}) == [2, 1, 0]


def test_it_needs_no_data():
    assert GroupL2().observers(None, None) == ()


def test_a_kernel_that_is_a_buffer_counts_also_where_it_is_saved_with_no_network():
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.tensor([1.0, 3, 2]).view(3, 1, 1, 1), False)

        def forward(self, x):
            return nn.functional.conv2d(x, self.kernel, groups=x.shape[1])

    net = nn.Sequential(nn.Conv2d(1, 3, 1), Smooth(), nn.Conv2d(3, 2, 1))
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    (group,) = surgery.analyse(net, (torch.zeros(2, 1, 4, 4),)).groups
    assert _select.judge(net, [group], GroupL2(), {}, 0)["0"].order.tolist() == [1, 2, 0]
