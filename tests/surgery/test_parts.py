"""Where a group lies, who uses its tensors, and what of it is no layer with a weight of its own."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor import surgery
from compressor.errors import RunError
from compressor.surgery import analyse, check_parity, plan_cut, replay


class Kernels(nn.Module):
    """A convolution with a buffer for a kernel, and smoothing by one kernel for all channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(24, 8, 3), nn.Linear(8, 5)
        self.register_buffer("W", torch.randn(24, 16, 3, 3))
        self.register_buffer("each", torch.rand(8, 1, 3, 3), persistent=False)
        self.register_buffer("blur", torch.rand(1, 1, 3, 3))

    def smooth(self, x, **more):
        return F.conv2d(x, self.blur.expand(x.shape[1], 1, 3, 3), groups=x.shape[1], **more)

    def forward(self, x):
        x = self.smooth(self.a(x).relu(), stride=2)
        x = self.smooth(F.conv2d(x, self.W).relu())
        x = self.b(x).relu()
        return self.fc(F.conv2d(x, self.each, groups=x.shape[1]).mean((2, 3)))


def test_kernels_that_are_buffers_are_counted_and_cut_as_parameters_are(counted, halves):
    net, x = Kernels().eval(), torch.randn(4, 3, 32, 32)
    structure = analyse(net, (x[:2],))
    assert [(group.name, group.size) for group in structure.groups] == [
        ("a", 16), ("W", 24), ("b", 8)
    ]  # fmt: skip
    assert (structure.macs({}), structure.params({})) == counted(net, 3, 32, 32)
    keep = halves(structure.groups)
    plan = plan_cut(structure, keep)
    assert check_parity(net, structure, plan, (x,)) <= 1e-5
    small = replay(deepcopy(net), plan)
    widths = {name: len(classes) for name, classes in keep.items()}
    assert (structure.macs(widths), structure.params(widths)) == counted(small, 3, 32, 32)


def test_a_kernel_that_is_repeated_so_many_times_freezes_what_it_smooths(halves):
    class Fixed(Kernels):
        def smooth(self, x, **more):
            return F.conv2d(x, self.blur.repeat(16, 1, 1, 1), groups=x.shape[1], **more)

        def forward(self, x):
            x = self.smooth(self.a(x).relu())
            return self.fc(self.b(F.conv2d(x, self.W).relu()).mean((2, 3)))

    structure = analyse(Fixed(), (torch.zeros(2, 3, 16, 16),))
    assert [group.name for group in structure.groups] == ["W", "b"]
    assert {part.channels for part in structure.frozen} == {16, 5}


class Counting(nn.Module):
    """Divides what `second` reads by the root of its number of channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.second(x / x.shape[1] ** 0.5).relu()
        return self.fc(self.third(x).relu().mean((2, 3)))


def test_what_depends_on_the_number_of_channels_is_refused_with_the_layer_that_helps(halves):
    net, x = Counting().eval(), torch.randn(4, 3, 16, 16)
    structure = analyse(net, (x[:2],))
    keep = halves(structure.groups)
    with pytest.raises(RunError, match=r"in layer 'second'; .* type prune.skip=\[first\]$"):
        check_parity(net, structure, plan_cut(structure, keep), (x,))
    del keep["first"]
    assert check_parity(net, structure, plan_cut(structure, keep), (x,)) <= 1e-5


class Twins(nn.Module):
    """Two convolutions that share one weight."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.two.weight = self.one.weight
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.two(self.one(x).relu()).relu()
        return self.head(x).mean((2, 3))


def test_a_weight_that_two_modules_share_names_both():
    (group,) = analyse(Twins(), (torch.zeros(2, 3, 8, 8),)).groups
    callers = {slot.parameter: slot.callers for slot in group.consumers}
    assert callers == {"one.weight": ("one", "two"), "head.weight": ("head",)}


def test_an_activation_behind_a_channel_shuffle_has_the_order_that_it_runs_in():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 8, 8)
    structure = analyse(net, (x,))
    (group,), (activation,) = structure.groups, structure.groups[0].activations
    made = group.producers[0].classes  # position p of both halves is one class
    assert torch.equal(activation.classes, made.view(2, 4).T.flatten()) and activation.dim == 1
    plan = plan_cut(structure, {group.name: torch.tensor([0, 2, 3])})
    assert check_parity(net, structure, plan, (x,)) <= 1e-5


class Block(nn.Module):
    def __init__(self, cin, cout, gate=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(cin, cout, 1), nn.Conv2d(cout, cout, 3, padding=1)
        self.gate = nn.Conv2d(cout, cout, 1) if gate else None
        self.onto = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x):
        y = self.b(self.a(x).relu())
        if self.gate is not None:
            y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return (self.onto(x) + y).relu()


def projections(net, size=16):
    structure = surgery.analyse(net, (torch.zeros(2, 3, size, size),))
    return [slot.parameter for g in structure.groups for slot in g.producers if slot.shortcut]


def test_a_projection_shortcut_is_found_by_where_it_lies_and_not_by_its_name():
    blocks = Block(8, 8), Block(8, 12), Block(12, 12), Block(12, 16, gate=True), Block(16, 16)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.Flatten(), nn.LazyLinear(5))
    net(torch.zeros(2, 3, 16, 16))
    assert projections(net) == ["2.onto.weight", "4.onto.weight"]


def test_the_projections_of_torchvisions_networks_are_found():
    models = pytest.importorskip("torchvision.models")
    found = projections(models.regnet_y_400mf(), 32)
    assert found == [f"trunk_output.block{n}.block{n}-0.proj.0.weight" for n in (1, 2, 3, 4)]
    found = projections(models.resnet18(), 32)
    assert found == [f"layer{n}.0.downsample.0.weight" for n in (2, 3, 4)]
    assert projections(models.mobilenet_v2(), 32) == []


class Pyramid(nn.Module):
    """Lateral convolutions onto one stream, and an inverted block with a gate: no projection."""

    def __init__(self):
        super().__init__()
        self.low, self.high = Block(3, 8), nn.Sequential(nn.Conv2d(8, 12, 1), Block(12, 12))
        self.downsample = nn.Conv2d(8, 6, 1)
        self.lateral = nn.Conv2d(12, 6, 1)
        self.wide, self.gate, self.narrow = (
            nn.Conv2d(6, 9, 1), nn.Conv2d(9, 9, 1), nn.Conv2d(9, 6, 1)
        )  # fmt: skip
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        low = self.low(x)
        x = self.downsample(low) + self.lateral(self.high(low))
        y = self.wide(x).relu()
        y = self.narrow(y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid())
        return self.head((x + y).mean((2, 3)))


def test_a_lateral_of_a_pyramid_is_no_projection_whatever_its_name():
    assert projections(Pyramid()) == ["low.onto.weight"]
