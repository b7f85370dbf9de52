import pytest
import torch
from torch import nn

from compressor.prune import Target, _ridge
from compressor.prune._rows import from_kernel, kernel, outputs, patches, places
from compressor.prune.obs import OBS
from compressor.prune.thinet import ThiNet
from compressor.surgery import Group, Slot


def group_of(size, *consumers):
    maker = Slot("0.weight", 0, torch.arange(size), "0")
    slots = tuple(Slot(f"{name}.weight", 1, classes, name) for name, classes in consumers)
    return Group("0", size, (maker,), slots, (), True, "interior", False, ())


def statistics_of(selector, net, x, group, targets=None):
    found = {}
    for observer in selector.observers(group, net):
        name = observer.tap.module
        more = ((targets or {}).get(name),) if observer.paired else ()
        module, generator = net.get_submodule(name), torch.Generator().manual_seed(0)
        sums = observer.measure(module, x, generator, *more)
        found |= {f"{observer.key}/{key}": value for key, value in sums.items()}
    return found


def target_of(module, x):
    """Outputs that the layer does not give: another layer's."""
    rows = places(module, x, 10, torch.Generator().manual_seed(1))
    y = outputs(module, module(x), rows)
    return Target(rows, y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(2)))


def literal(module, x, target, columns, ridge, keep):
    """The least value of the ridge objective where only the columns of these channels are left.

    In units of the energy of y; the pull is by the energy of every input.
    """
    total = 0.0
    groups = getattr(module, "groups", 1)
    wanted = target.outputs.double().unflatten(1, (groups, -1)).transpose(0, 1)
    wanted = wanted - wanted.mean(1, keepdim=True)
    energy = wanted.square().sum()
    inputs = patches(module, x, target.rows).double()
    weights = kernel(module.weight, groups).double()
    for a, y, start in zip(inputs, wanted, weights, strict=True):
        a = a - a.mean(0)
        pull = ridge * a.square().sum(0)
        left = columns[keep].flatten()
        matrix = a[:, left].T @ a[:, left] + pull[left].diag()
        w = torch.linalg.solve(matrix, a[:, left].T @ y + pull[left, None] * start[:, left].T)
        total += (y - a[:, left] @ w).square().sum()
        # what is gone is zero, and pulled all the same
        whole = torch.zeros_like(start)
        whole[:, left] = w.T
        total += (pull * (whole - start).square()).sum()
    return float(total / energy)


CONSUMERS = {
    "a 3x3 convolution": (lambda: nn.Conv2d(5, 4, 3, padding=1), torch.arange(5), (30, 5, 6, 6)),
    "strided and dilated": (lambda: nn.Conv2d(5, 4, 3, 2, 2, 2), torch.arange(5), (30, 5, 9, 9)),
    "two groups": (lambda: nn.Conv2d(10, 4, 3, groups=2), torch.arange(5), (30, 10, 6, 6)),
    "linear after a flatten": (
        lambda: nn.Linear(20, 4), torch.arange(5).repeat_interleave(4), (200, 20)),
}  # fmt: skip


def columns_of(module, classes):
    taps = module.weight[0, 0].numel()
    inputs = [(classes == c).nonzero()[:, 0] for c in range(5)]
    return torch.stack([torch.cat([i + k * len(classes) for k in range(taps)]) for i in inputs])


@pytest.mark.parametrize("name", CONSUMERS)
def test_order_and_cost_are_those_of_refitting_after_every_trial(name):
    torch.manual_seed(3)
    make, classes, shape = CONSUMERS[name]
    net, x = nn.Sequential(nn.Identity(), make()), torch.randn(shape) + 1
    group, target = group_of(5, ("1", classes)), target_of(net[1], x)
    found = statistics_of(OBS(), net, x, group, {"1": target})
    ranking = OBS().rank(group, found, net.state_dict(), None)
    columns, left = columns_of(net[1], classes), list(range(5))
    value = literal(net[1], x, target, columns, 0.01, left)
    for removed, cost in zip(ranking.order.flip(0)[:4], ranking.cost.flip(0)[:4], strict=True):
        trials = {
            c: literal(net[1], x, target, columns, 0.01, [k for k in left if k != c]) for c in left
        }
        best = min(trials, key=trials.get)
        assert int(removed) == best
        assert float(cost) == pytest.approx(trials[best] - value, rel=1e-3)
        value = trials[best]
        left.remove(best)


def test_a_planted_duplicate_costs_next_to_nothing_and_goes_first():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3)), torch.randn(40, 6, 6, 6)
    x[:, 4] = 2 * x[:, 1]
    group = group_of(6, ("1", torch.arange(6)))
    selector = OBS(ridge=1e-6)
    found = statistics_of(selector, net, x, group)
    ranking = selector.rank(group, found, net.state_dict(), None)
    assert int(ranking.order[-1]) in (1, 4)
    assert float(ranking.cost[-1]) < 1e-4 < 1e-2 < float(ranking.cost[-2])


@pytest.mark.parametrize("loud", [1.0, 10.0, 1e8])
@pytest.mark.parametrize("value", [0.0, 5.0], ids=["never active", "constant"])
def test_channels_that_never_move_go_first_however_large_their_weights(value, loud):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Conv2d(8, 4, 3)), torch.randn(40, 8, 6, 6).relu()
    still = [1, 4, 5]
    x[:, still] = value
    net[1].weight.data[:, still] *= loud
    group = group_of(8, ("1", torch.arange(8)))
    found = statistics_of(OBS(), net, x, group)
    ranking = OBS().rank(group, found, net.state_dict(), None)
    assert ranking.order[5:].tolist() == still[::-1]
    assert ranking.cost[5:].tolist() == [0, 0, 0] and float(ranking.cost[4]) > 1e-3


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
def test_a_channel_is_judged_the_same_whatever_its_scale(scale):
    """Channels k times as large that are read by weights 1 / k: the same function."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3)), torch.randn(40, 6, 6, 6)
    group = group_of(6, ("1", torch.arange(6)))
    plain = OBS().rank(group, statistics_of(OBS(), net, x, group), net.state_dict(), None)
    x[:, 2:4] *= scale
    net[1].weight.data[:, 2:4] /= scale
    scaled = OBS().rank(group, statistics_of(OBS(), net, x, group), net.state_dict(), None)
    assert torch.equal(plain.order, scaled.order)
    torch.testing.assert_close(plain.cost, scaled.cost, rtol=1e-4, atol=1e-6)


def test_on_the_dense_network_the_layer_is_its_own_target():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3)), torch.randn(40, 6, 6, 6)
    group = group_of(6, ("1", torch.arange(6)))
    rows = places(net[1], x, 10, torch.Generator().manual_seed(0))
    target = Target(rows, outputs(net[1], net[1](x), rows))
    selector = OBS(positions=10)
    plain = statistics_of(selector, net, x, group)
    paired = statistics_of(selector, net, x, group, {"1": target})
    assert set(plain) == {"refit:1.weight/gram"}
    one = selector.rank(group, plain, net.state_dict(), None)
    two = selector.rank(group, paired, net.state_dict(), None)
    assert torch.equal(one.order, two.order)
    torch.testing.assert_close(one.cost, two.cost, rtol=1e-3, atol=1e-6)


def test_consumers_add_their_costs_in_units_of_their_own_energy():
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.Conv2d(6, 4, 3), "b": nn.Conv2d(6, 9, 1)})
    x, c = torch.randn(40, 6, 6, 6), torch.arange(6)
    first = OBS().rank(group_of(6, ("a", c)), statistics_of(OBS(), net, x, group_of(6, ("a", c))),
                       net.state_dict(), None)  # fmt: skip
    with torch.no_grad():
        for parameter in net["b"].parameters():
            parameter.mul_(1000)
    both = group_of(6, ("a", c), ("b", c))
    found = statistics_of(OBS(), net, x, both)
    joint = OBS().rank(both, found, net.state_dict(), None)
    alone = OBS().rank(group_of(6, ("b", c)), found, net.state_dict(), None)
    # the dearest channel of all never costs more than both of its own prices, scale or no scale
    assert float(joint.cost[0]) <= 2 + 1e-6
    assert min(first.cost[-1], alone.cost[-1]) <= joint.cost[-1]


def test_a_head_that_never_ran_is_left_out():
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.Conv2d(6, 4, 3), "b": nn.Conv2d(6, 9, 1)})
    x, c = torch.randn(40, 6, 6, 6), torch.arange(6)
    for selector in (OBS(), ThiNet(), ThiNet("rescale_aware")):
        found = statistics_of(selector, net, x, group_of(6, ("a", c)))
        alone = selector.rank(group_of(6, ("a", c)), found, net.state_dict(), None)
        both = selector.rank(group_of(6, ("a", c), ("b", c)), found, net.state_dict(), None)
        assert torch.equal(alone.order, both.order)


def test_what_is_too_wide_for_its_matrix_is_judged_by_one_factor_per_channel(monkeypatch):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3)), torch.randn(40, 6, 6, 6)
    group = group_of(6, ("1", torch.arange(6)))
    monkeypatch.setattr(_ridge, "WIDEST", 53)
    found = statistics_of(OBS(), net, x, group)
    assert set(found) == {"rows:1.weight/gram", "rows:1.weight/energy"}
    ranking = OBS().rank(group, found, net.state_dict(), None)
    aware = ThiNet("rescale_aware").rank(group, found, {}, None)
    assert torch.equal(ranking.order, aware.order)


@pytest.mark.parametrize("groups", [1, 2])
def test_sums_hold_where_the_mean_is_far_above_the_spread(groups, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(_ridge, "_NUMBERS", 400)  # a few images at a time
    module = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, padding_mode="reflect")
    x = torch.randn(9, 4, 9, 9) + 1000
    rows = places(module, x, 7, torch.Generator().manual_seed(0))
    y = outputs(module, module(x), rows)
    sums = _ridge.observe(module, x, rows, y)
    a = patches(module, x, rows).double()
    torch.testing.assert_close(
        (kernel(module.weight, groups).double() @ a.mT).flatten(0, 1).T + module.bias, y.double(),
        rtol=1e-4, atol=1e-3,
    )  # fmt: skip
    count = sums["gram"][:, -1:, -1:]
    mean = sums["gram"][:, -1:, :-1]
    spread = sums["gram"][:, :-1, :-1] - mean.mT @ mean / count
    centred = a - a.mean(1, keepdim=True)
    torch.testing.assert_close(spread, centred.mT @ centred, rtol=1e-3, atol=1e-2)


def test_a_weight_comes_back_from_the_order_of_the_patches():
    for module in (nn.Conv2d(6, 4, 3, groups=2), nn.Conv1d(3, 5, 4), nn.Linear(7, 3)):
        columns = kernel(module.weight, getattr(module, "groups", 1))
        assert torch.equal(from_kernel(columns, module.weight.shape), module.weight)
