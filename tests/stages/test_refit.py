from copy import deepcopy

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import RunError
from compressor.prune import Ranking
from compressor.prune.apoz import APoZ
from compressor.prune.obs import OBS
from compressor.prune.random import Random
from compressor.prune.thinet import ThiNet
from compressor.stages._counts import choose, running, uniform
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._refit import Refit, refit
from compressor.stages._select import judge, prefixes
from compressor.stages._sequential import sequential
from compressor.stages._statistics import collect, count_calls


def distance(a, b):
    with torch.no_grad():
        return float((a - b).norm() / b.norm())


def images(count=60, size=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


class Planted(nn.Module):
    """The second half of the first layer's channels repeats the first half, 1.5 times as large."""

    def __init__(self, consumer, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.consumer = consumer
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.last = nn.LazyLinear(4)
        with torch.no_grad():
            self.first.weight[4:] = 1.5 * self.first.weight[:4]
            self.first.bias[4:] = 1.5 * self.first.bias[:4]
            self(images(2))

    def forward(self, x):
        x = self.relu(self.first(x))
        if isinstance(self.consumer, nn.Linear):
            x = x.flatten(1)
        return self.last(self.norm(self.consumer(x)).flatten(1))


CONSUMERS = {
    "3x3": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 8, 3, stride=2),
    "dilated": lambda: nn.Conv2d(8, 8, 3, dilation=2),
    "linear after a flatten": lambda: nn.Linear(8 * 64, 6),
}


def cut_half(net, x):
    """The channels that the first half can stand in for are gone."""
    structure = surgery.analyse(net, (x[:2],))
    groups = [group for group in structure.groups if group.name == "first"]
    plan = surgery.plan_cut(structure, {"first": torch.arange(4)})
    return groups, plan, surgery.replay(deepcopy(net), plan)


@pytest.mark.parametrize("limit", [1 << 40, 0], ids=["one forward", "own passes"])
@pytest.mark.parametrize("name", CONSUMERS)
def test_what_the_kept_channels_can_rebuild_is_rebuilt(name, limit):
    net, x = Planted(CONSUMERS[name]()).eval(), images(300)
    groups, plan, small = cut_half(net, x)
    before = distance(small(x), net(x))
    options = RepairOptions(ridge=1e-6)
    rest = refit(small, net, groups, plan, x.split(100), options, 0, memory_limit=limit)
    after = distance(small(x), net(x))
    assert after < 1e-2 < 0.1 < before
    assert list(rest) == ["consumer", "last"]
    assert max(rest.values()) < 1e-3


def test_a_bias_that_only_a_batch_norm_reads_moves_its_mean():
    net, x = Planted(nn.Conv2d(8, 8, 1, bias=False), norm=True).eval(), images(300)
    nn.init.normal_(net.norm.running_mean)
    with torch.no_grad():
        net.first.weight[4:] = 0  # the removed channels are constants, which a mean can hold
        net.first.bias[4:] = torch.tensor([0.5, 1, 1.5, 2])
    groups, plan, small = cut_half(net, x)
    assert distance(small(x), net(x)) > 0.1
    refit(small, net, groups, plan, [x], RepairOptions(), 0)
    torch.testing.assert_close(small(x), net(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
@pytest.mark.parametrize("seed", range(5))
def test_obs_cuts_dead_channels_that_large_weights_read_and_changes_nothing(seed, statistics):
    torch.manual_seed(seed)
    net, x = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 4),
    ).eval(), images()  # fmt: skip
    dead = torch.randperm(16)[:6].sort().values
    with torch.no_grad():
        net[0].bias[dead] = -100.0
        net[2].weight[:, dead] *= 10
    structure = surgery.analyse(net, (x[:2],))
    options = RepairOptions(reconstruct="refit")
    groups = [group for group in structure.groups if group.name == "0"]
    small = deepcopy(net)
    if statistics == "sequential":
        done = sequential(small, groups, OBS(), {"0": 10}, options, [x], 0, dense=net)
    else:
        found = collect(net, groups, OBS(), "refit", [x], 0)
        done = prefixes(groups, judge(net, groups, OBS(), found, 0), {"0": 10})
        plan = surgery.plan_cut(structure, done.keep)
        small = surgery.replay(small, plan)
        refit(small, net, groups, plan, [x], options, 0)
    assert not torch.isin(done.keep["0"], dead).any()
    assert distance(small(x), net(x)) < 1e-4


def test_sums_that_are_not_finite_name_the_layer():
    net, x = Planted(nn.Conv2d(8, 8, 3, padding=1)).eval(), images()
    groups, plan, small = cut_half(net, x)
    small.first.weight.data[0, 0] = float("nan")
    with pytest.raises(RunError, match="refit of 'consumer'.* look for NaN"):
        refit(small, net, groups, plan, [x], RepairOptions(), 0)


def test_an_uncut_network_keeps_its_weights():
    net, x = Planted(nn.Conv2d(8, 8, 3, padding=1)).eval(), images()
    structure = surgery.analyse(net, (x[:2],))
    same = deepcopy(net)
    refit(same, net, structure.groups, surgery.EMPTY_PLAN, [x], RepairOptions(), 0)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_each_network_runs_once_and_only_the_small_one_changes():
    net, x = Planted(nn.Conv2d(8, 8, 3, padding=1)).train(), images()
    groups, plan, small = cut_half(net, x)
    before, seen = deepcopy(net.state_dict()), []
    for module in (net.first, small.first):
        module.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    refit(small, net, groups, plan, x.split(20), RepairOptions(), 0)
    assert seen == [1, 60, 60]
    assert net.training and small.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.consumer.modules())
    small(x).sum().backward()
    assert small.consumer.weight.grad.shape == (8, 4, 3, 3)


class Shared(nn.Module):
    """Two readers of one producer, a residual sum, a grouped and a repeated layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.left(x).relu() + self.right(x).relu()
        x = self.grouped(x).relu()
        return self.last(self.twice(self.twice(x).relu()).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
@pytest.mark.parametrize("limit", [1 << 40, 0], ids=["one forward", "own passes"])
@pytest.mark.parametrize("selector", [OBS(), ThiNet(), Random()], ids=lambda s: type(s).__name__)
def test_every_selector_is_repaired_on_shared_and_grouped_layers(selector, limit, statistics):
    net, x = Shared().eval(), images(100)
    structure = surgery.analyse(net, (x[:2],))
    widths, options = WidthOptions(scope="all", ratio=0.4), RepairOptions(reconstruct="refit")
    groups = choose(structure, widths)
    counts = uniform(groups, widths)
    if statistics == "sequential":
        small = deepcopy(net)
        done = sequential(small, groups, selector, counts, options, [x], 0, dense=net,
                          memory_limit=limit)  # fmt: skip
        plan = surgery.plan_cut(structure, done.keep)
        rest = done.residual
    else:
        found = collect(net, groups, selector, "refit", [x], 0)
        done = prefixes(groups, judge(net, groups, selector, found, 0), counts)
        plan = surgery.plan_cut(structure, done.keep)
        small = surgery.replay(deepcopy(net), plan)
        rest = refit(small, net, groups, plan, [x], options, 0, memory_limit=limit)
    plain = surgery.replay(deepcopy(net), plan)
    assert list(rest) and all(0 <= value <= 1 for value in rest.values())
    wanted = net(x)
    assert distance(small(x), wanted) < 0.6 * distance(plain(x), wanted)
    assert {n: p.shape for n, p in small.named_parameters()} == {
        n: p.shape for n, p in plain.named_parameters()
    }


def test_heads_that_only_run_in_training_are_no_obstacle():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.googlenet(num_classes=3, aux_logits=True, init_weights=False).eval()
    x = images(4, 64)
    structure = surgery.analyse(net, (x[:2],))
    chosen = choose(structure, WidthOptions(scope="all"))
    groups = running(chosen, count_calls(net, x))
    idle = [group.name for group in chosen if group not in groups]
    assert idle == ["aux1.conv.conv", "aux1.fc1", "aux2.conv.conv", "aux2.fc1"]
    for selector in (ThiNet(samples=2), APoZ()):
        options = WidthOptions(scope="all")
        counts = uniform(groups, options)
        found = collect(net, groups, selector, "rescale", [x], 0)
        keep = prefixes(groups, judge(net, groups, selector, found, 0), counts).keep
        small = surgery.replay(deepcopy(net), surgery.plan_cut(structure, keep))
        assert small.train()(x).aux_logits1.shape == (4, 3)


# --- rounds ---------------------------------------------------------------------------------------


class Chain(nn.Module):
    """The channels of either hidden layer are pairs of equals: 0 and 1, 2 and 3 ..."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)
        with torch.no_grad():
            for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
                for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    value.uniform_(0.2, 1.0)
                for value in (conv.weight, *norm.state_dict().values()):
                    if value.dim():
                        value[1::2] = value[::2]

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.last(self.norm3(self.conv3(x)).relu().mean(dim=(2, 3)))


def second_round(statistics, dense, given, first, keep, aim):
    """`given` with these classes of each layer left; first: the plan that cut it out of `dense`."""
    x = images(40)
    structure = surgery.analyse(given, (x[:2],))
    groups = choose(structure, WidthOptions(skip=("conv3",)))
    options = RepairOptions(reconstruct="refit", ridge=1e-6)
    more = {"earlier": first.since(surgery.EMPTY_PLAN)} if aim is dense else {}
    small = deepcopy(given)
    if statistics == "dense":
        plan = surgery.plan_cut(structure, {g.name: keep for g in groups})
        small = surgery.replay(small, plan)
        refit(small, given, groups, plan, [x], options, 0, target=aim, **more)
        return small

    class Told:
        def observers(self, group, net):
            return ()

        def rank(self, group, statistics, weights, generator):
            rest = [i for i in range(group.size) if i not in keep]
            return Ranking(torch.tensor([*keep.tolist(), *rest]))

    counts = {g.name: len(keep) for g in groups}
    sequential(small, groups, Told(), counts, options, [x], 0, dense=aim, **more)
    return small


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
def test_a_later_round_can_aim_at_the_dense_network(statistics):
    """Cut badly in between, its norms moved, the small network gives the dense one's outputs."""
    x = images(40)
    dense = Chain().eval()
    structure = surgery.analyse(dense, (x[:2],))
    groups = choose(structure, WidthOptions(skip=("conv3",)))
    assert [g.name for g in groups] == ["conv1", "conv2"]
    first = surgery.plan_cut(structure, {g.name: torch.tensor([0, 2, 3, 4, 6, 7]) for g in groups})
    given = surgery.replay(deepcopy(dense), first)  # 1 and 5 are gone, and nobody stands in
    with torch.no_grad():
        for norm in (given.norm2, given.norm3):
            norm.running_mean.add_(0.3)
            norm.weight.mul_(1.7)
    assert distance(given(x), dense(x)) > 0.1
    keep = torch.tensor([0, 2, 3, 5])  # 0, 3, 4 and 7 of the dense channels: one of each pair
    to_dense = second_round(statistics, dense, given, first, keep, dense)
    to_given = second_round(statistics, dense, given, first, keep, given)
    assert to_dense.conv1.out_channels == to_dense.conv2.out_channels == 4
    assert distance(to_dense(x), dense(x)) < 1e-3
    assert distance(to_given(x), given(x)) < 1e-3
    assert distance(to_given(x), dense(x)) > 0.1


def test_a_layer_that_is_refitted_twice_moves_its_norm_once():
    x = images(40)
    dense = Chain().eval()
    structure = surgery.analyse(dense, (x[:2],))
    groups = choose(structure, WidthOptions(skip=("conv3",)))
    plan = surgery.plan_cut(structure, {g.name: torch.tensor([0, 3, 6]) for g in groups})
    small = surgery.replay(deepcopy(dense), plan)
    alive = {
        slot: torch.isin(torch.arange(8), torch.tensor(kept)) for slot, kept in plan.by_slot.items()
    }
    calls = count_calls(dense, x)
    options = RepairOptions(reconstruct="refit", ridge=1e-6)
    with torch.no_grad():
        work = Refit(small, dense, ["conv2", "conv3"], calls, [x], alive, options, 0)
        work.all(True)
        once = small(x)
        work.all(True)
        assert distance(small(x), once) < 1e-3
