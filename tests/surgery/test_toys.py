"""One operator at a time: what is cut, how classes lie, and what is frozen by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compressor.errors import RunError
from compressor.surgery import analyse, check_parity, plan_cut, replay


class Net(nn.Module):
    """A network from a function of (modules, x); the head averages over space."""

    def __init__(self, body, width: int, **layers):
        super().__init__()
        self.layers = nn.ModuleDict({k: v for k, v in layers.items() if isinstance(v, nn.Module)})
        self.body, self.fc = body, nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(self.body(self.layers, x).mean((2, 3)))


def conv(i: int, o: int, k: int = 3, **options) -> nn.Module:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


def examine(net: nn.Module, halves, x: torch.Tensor | None = None):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12) if x is None else x
    structure = analyse(net, (x,))
    if structure.groups:
        plan = plan_cut(structure, halves(structure.groups))
        error = check_parity(net, structure, plan, (x,))
        assert error <= 1e-5 or any(g.mixing for g in structure.groups)
    return structure


def classes(group, parameter: str) -> list[int]:
    return next(s.classes.tolist() for s in group.slots if s.parameter == parameter)


def names(structure) -> list[str]:
    return [group.name.removeprefix("layers.") for group in structure.groups]


def stopped_by(structure) -> dict[str, int]:
    return {f.operator: f.channels for f in structure.frozen if f.operator != "output"}


def shuffle(x, groups: int):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def test_a_channel_shuffle_unites_the_same_position_of_both_halves(halves):
    net = Net(lambda m, x: m.b(shuffle(m.a(x).relu(), 2)), 6, a=conv(3, 8), b=conv(8, 6))
    group = examine(net, halves).group("layers.a")
    assert group.size == 4 and group.kind == "interior"
    assert classes(group, "layers.a.weight") == [0, 1, 2, 3, 0, 1, 2, 3]
    assert classes(group, "layers.b.weight") == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_shuffle_whose_constant_is_the_last_axis_is_frozen(halves):
    def interleave(x):
        b, c, h, w = x.shape
        return x.view(b, c // 2, 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    net = Net(lambda m, x: m.b(interleave(m.a(x).relu())), 6, a=conv(3, 8), b=conv(8, 6))
    structure = examine(net, halves)
    assert names(structure) == ["b"] and stopped_by(structure) == {"index": 8}


def test_a_depthwise_convolution_with_multiplier_two_follows_its_input(halves):
    net = Net(
        lambda m, x: m.p(m.d(m.a(x).relu()).relu()),
        6,
        a=conv(3, 4),
        d=conv(4, 8, groups=4),
        p=conv(8, 6),
    )
    group = examine(net, halves).group("layers.a")
    assert classes(group, "layers.d.weight") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert classes(group, "layers.p.weight") == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_grouped_convolution_shrinks_all_its_groups_alike(halves):
    net = Net(lambda m, x: m.b(m.a(x).relu()), 6, a=conv(3, 8), b=conv(8, 6, groups=2))
    structure = examine(net, halves)
    before, after = structure.groups
    assert classes(before, "layers.a.weight") == [0, 1, 2, 3, 0, 1, 2, 3]
    assert classes(before, "layers.b.weight") == [0, 1, 2, 3]
    assert classes(after, "layers.b.weight") == [0, 1, 2, 0, 1, 2]


def test_an_option_a_shortcut_freezes_the_stream_and_not_the_inside_of_the_block(halves):
    def block(m, x):
        h = m.a(x).relu()
        short = functional.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return (m.c2(m.c1(h).relu()) + short).relu()

    net = Net(block, 8, a=conv(3, 4), c1=conv(4, 8, stride=2), c2=conv(8, 8))
    structure = examine(net, halves)
    assert names(structure) == ["c1"] and structure.groups[0].interior
    assert stopped_by(structure) == {"constant_pad_nd": 12}


def test_concatenated_channels_keep_their_offsets(halves):
    def dense(m, x):
        first = m.a(x).relu()
        second = m.b(first).relu()
        third = m.c(torch.cat([first, second], 1)).relu()
        return torch.cat([first, second, third], 1)

    net = Net(dense, 12, a=conv(3, 4), b=conv(4, 3), c=conv(7, 5))
    structure = examine(net, halves)
    second = structure.group("layers.b")
    assert [g.kind for g in structure.groups] == ["concat"] * 3
    assert classes(second, "layers.c.weight") == [-1] * 4 + [0, 1, 2]
    assert classes(second, "fc.weight") == [-1] * 4 + [0, 1, 2] + [-1] * 5


def test_a_linear_layer_after_a_flatten_reads_each_channel_once_per_position(halves):
    net = nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten())
    net.append(nn.Linear(196, 5))
    (group,) = examine(net, halves).groups
    assert classes(group, "4.weight") == [c for c in range(4) for _ in range(49)]
    assert group.consumers[0].after == "view" and group.interior


def test_a_layer_called_twice_unites_what_it_reads_and_makes(halves):
    net = Net(lambda m, x: m.b(m.b(m.a(x).relu()).relu()), 4, a=conv(3, 4), b=conv(4, 4))
    (group,) = examine(net, halves).groups
    assert [s.parameter for s in group.consumers] == ["layers.b.weight", "fc.weight"]
    assert [s.dim for s in group.slots if s.parameter == "layers.b.weight"] == [0, 1]
    assert not group.interior


def test_a_gate_of_one_channel_stays_and_lets_the_others_be_cut(halves):
    net = Net(
        lambda m, x: m.p((h := m.a(x).relu()) * torch.sigmoid(m.g(h))),
        6,
        a=conv(3, 8),
        g=conv(8, 1),
        p=conv(8, 6),
    )
    assert names(examine(net, halves)) == ["a", "p"]


def test_layer_norm_over_channels_is_mixing_and_out_of_every_scope(halves):
    net = Net(
        lambda m, x: m.p(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        6,
        a=conv(3, 8),
        n=nn.LayerNorm(8),
        p=conv(8, 6),
    )
    structure = examine(net, halves)
    assert structure.group("layers.a").mixing
    assert [g.name for g in structure.select("all")] == ["layers.p"]


def test_a_functional_relu_is_recorded_where_it_runs_and_a_module_as_a_leaf(halves):
    net = Net(lambda m, x: m.r(m.b(m.a(x).relu())), 6, a=conv(3, 8), b=conv(8, 6), r=nn.ReLU6())
    first, second = examine(net, halves).groups
    assert [(a.op, a.module, a.leaf) for a in first.activations] == [("relu", "", False)]
    assert [(a.op, a.module, a.leaf) for a in second.activations] == [
        ("hardtanh", "layers.r", True)
    ]


FOLLOWED = {
    "prelu": (lambda m, x: m.p(m.n(m.a(x))), {"n": nn.PReLU(8)}),
    "instance norm": (lambda m, x: m.p(m.n(m.a(x))), {"n": nn.InstanceNorm2d(8, affine=True)}),
    "norm of each channel": (lambda m, x: m.p(m.n(m.a(x))), {"n": nn.GroupNorm(8, 8)}),
    "flip": (lambda m, x: m.p(torch.flip(m.a(x), (1,))), {}),
    "dropout2d": (lambda m, x: m.p(functional.dropout2d(m.a(x), 0.5, m.p.training)), {}),
    "dropout": (lambda m, x: m.p(functional.dropout(m.a(x), 0.5, m.p.training)), {}),
    "upsample": (lambda m, x: m.p(functional.interpolate(m.a(x), scale_factor=2)), {}),
    "reflect": (lambda m, x: m.p(functional.pad(m.a(x), (1, 1, 1, 1), "reflect")), {}),
    "stack": (lambda m, x: m.p(torch.stack([m.a(x), m.a(x)]).sum(0)), {}),
    "unbind": (lambda m, x: m.p(sum(m.a(x).unbind(3)).unsqueeze(3)), {}),
    "softmax over space": (lambda m, x: m.p(m.a(x).flatten(2).softmax(2).unsqueeze(3)), {}),
    "transposed": (lambda m, x: m.p(m.n(m.a(x))), {"n": nn.ConvTranspose2d(8, 8, 2, 2)}),
    "transposed depthwise": (
        lambda m, x: m.p(m.n(m.a(x))),
        {"n": nn.ConvTranspose2d(8, 8, 2, 2, groups=8)},
    ),
    "transposed grouped": (
        lambda m, x: m.p(m.n(m.a(x))),
        {"n": nn.ConvTranspose2d(8, 8, 2, 2, groups=2)},
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_channels_are_followed_through(case, halves):
    body, layers = FOLLOWED[case]
    structure = examine(Net(body, 6, a=conv(3, 8), p=conv(8, 6), **layers), halves)
    assert "a" in names(structure) and not stopped_by(structure)


STOPPED = {
    "uneven split": (lambda m, x: m.p(torch.cat(m.a(x).split([3, 5], 1), 1)), "split_with_sizes"),
    "constant slice": (lambda m, x: m.p(torch.cat([m.a(x)[:, :4]] * 2, 1)), "slice"),
    "roll": (lambda m, x: m.p(torch.roll(m.a(x), 1, 1)), "index"),
    "constant per channel": (
        lambda m, x: m.p(m.a(x) * torch.arange(8, device=x.device).view(-1, 1, 1)),
        "mul",
    ),
    "softmax over channels": (lambda m, x: m.p(m.a(x).softmax(1)), "_softmax"),
    "mean over channels": (
        lambda m, x: m.p((h := m.a(x)) - h.mean(1, keepdim=True)),
        "mean",
    ),
    "matrix product": (lambda m, x: m.p(m.a(x) @ m.a(x)), "bmm"),
    "sort": (lambda m, x: m.p(m.a(x).sort(1).values), "sort"),
    "weight made on the fly": (
        lambda m, x: functional.conv2d(m.a(x), m.p.weight.sort(1).values),
        "convolution",
    ),
    "width in the code": (lambda m, x: m.p(m.a(x).view(-1, 8, 12, 12)), "view"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_channels_are_frozen_by_the_name_of_the_operator(case, halves):
    body, operator = STOPPED[case]
    structure = examine(Net(body, 6, a=conv(3, 8), p=conv(8, 6)), halves)
    assert "a" not in names(structure)
    assert stopped_by(structure).get(operator, 0) >= 8
    assert all(f.reason for f in structure.frozen)


class Standardised(nn.Conv2d):
    """Weights with mean 0 and variance 1 in each output channel, as timm's NF-ResNet has them."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True, eps=1e-6)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, 1, 1, 1, self.groups)


@pytest.mark.parametrize("kernel", [1, 3])
def test_outputs_of_a_standardised_weight_are_cut_and_its_inputs_are_mixing(kernel, halves):
    layer = Standardised(8, 6, kernel, padding=1)
    body = lambda m, x: m.p(m.s(m.a(x).relu()).relu())  # noqa: E731
    structure = examine(Net(body, 5, a=conv(3, 8), s=layer, p=conv(6, 5)), halves)
    before, after, _ = structure.groups
    assert before.mixing and not after.mixing and not stopped_by(structure)
    assert [s.parameter for s in before.consumers] == ["layers.s.weight"]
    assert [g.name for g in structure.select("all")] == ["layers.s", "layers.p"]
    assert structure.select("mixing") == structure.groups


def test_a_standardised_depthwise_weight_mixes_nothing(halves):
    layer = Standardised(8, 8, 3, groups=8)
    body = lambda m, x: m.p(m.s(m.a(x).relu()).relu())  # noqa: E731
    structure = examine(Net(body, 6, a=conv(3, 8), s=layer, p=conv(8, 6)), halves)
    group = structure.group("layers.a")
    assert not group.mixing and "layers.s.weight" in [s.parameter for s in group.followers]


def test_macs_of_a_standardised_weight_follow_the_cut(halves, counted):
    layer = Standardised(8, 6, 3)
    net = Net(lambda m, x: m.s(m.a(x).relu()), 6, a=conv(3, 8), s=layer)
    structure = analyse(net, (torch.zeros(1, 3, 12, 12),))
    keep = {"layers.a": torch.arange(3), "layers.s": torch.arange(2)}
    replay(net, plan_cut(structure, keep))
    assert structure.macs({"layers.a": 3, "layers.s": 2}) == counted(net, 3, 12, 12)[0]


def test_a_parametrised_weight_is_frozen_and_its_layer_named():
    net = Net(lambda m, x: m.p(m.b(m.a(x))), 6, a=conv(3, 8), b=conv(8, 8), p=conv(8, 6))
    nn.utils.parametrizations.weight_norm(net.layers.b)
    structure = analyse(net, (torch.zeros(1, 3, 12, 12),))
    assert names(structure) == ["p"]
    assert any(f.module == "layers.b" and f.operator == "convolution" for f in structure.frozen)


def test_a_size_taken_from_another_layer_of_the_same_width_is_found_by_the_trial(halves):
    def body(m, x):
        wide = m.a(x).relu()
        return m.b(wide).mean(3, keepdim=True).expand(wide.shape)

    net = Net(body, 6, a=conv(3, 6), b=conv(6, 6))
    structure = examine(net, halves)
    assert stopped_by(structure).keys() == {"expand"}


def test_a_split_by_a_constant_width_is_found_by_the_trial(halves):
    def res2net(m, x):
        left, right = torch.split(m.a(x).relu(), 4, 1)
        return torch.cat([m.b(left), right], 1)

    structure = examine(Net(res2net, 8, a=conv(3, 8), b=conv(4, 4)), halves)
    assert names(structure) == ["b"]
    (frozen,) = [f for f in structure.frozen if f.operator != "output"]
    assert frozen.channels == 8 and "stands in Python code" in frozen.reason


def test_a_network_whose_code_reads_values_is_refused_in_one_line():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    net = nn.Sequential(nn.Identity(), Branching())
    with pytest.raises(RunError, match=r"module '1' \(Branching\), operator '_local_scalar") as e:
        analyse(net, (torch.zeros(1, 3, 8, 8),))
    assert "\n" not in str(e.value)


def test_a_network_of_one_layer_has_no_groups():
    structure = analyse(nn.Sequential(conv(3, 8)), (torch.zeros(1, 3, 8, 8),))
    assert structure.groups == () and structure.select("all") == ()
    assert structure.macs({}) == 3 * 8 * 9 * 64 and structure.params({}) == 224
