"""Derivatives of the loss by channel, against the loss of networks whose channels are scaled."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor import surgery
from compressor.prune import Gate
from compressor.prune.taylor import Taylor
from compressor.stages._counts import choose, uniform
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._select import judge, prefixes
from compressor.stages._sequential import sequential
from compressor.stages._statistics import collect


class Everything(nn.Module):
    """Residual sum, gate, depthwise and grouped convs, concatenation, flatten; one layer twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        x = x + self.outer(F.silu(self.inner(x)))
        y = self.depthwise(x)
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        z = self.twice(F.relu(self.grouped(y)))
        z = self.twice(z.relu())
        return self.head(F.adaptive_avg_pool2d(torch.cat([y, z], 1), 2).flatten(1))


def alive(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
    return net.eval()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return alive(Everything())


@pytest.fixture
def batches():
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(21, 3, 8, 8, generator=draw), torch.randint(5, (21,), generator=draw)
    return list(zip(x.split(19), y.split(19), strict=True))


def loss(answer, targets):
    return F.cross_entropy(answer, targets, reduction="sum")


class Watching(Taylor):
    """Keeps every image's derivatives, by group."""

    def __init__(self):
        self.found = {}

    def observers(self, group, net):
        super().observers(group, net)

        def measure(derivative):
            self.found.setdefault(group.name, []).append(derivative)
            return {"n": torch.tensor(float(len(derivative)))}

        return (Gate("gate", measure),)


def derivatives(net, groups, batches):
    watching = Watching()
    collect(net, groups, watching, "none", batches, 0, loss)
    return {name: torch.cat(parts) for name, parts in watching.found.items()}


def scaled(net, group, c, factor):
    """A copy whose consumers multiply one channel, their only way of seeing it, by a factor."""
    other = deepcopy(net)
    with torch.no_grad():
        for slot in group.consumers:
            weight = other.get_parameter(slot.parameter).movedim(slot.dim, 0)
            weight[slot.classes == c] *= factor
    return other


def test_a_derivative_is_that_of_the_loss_when_all_readers_scale_the_channel(net, batches):
    net = net.double()
    batches = [(x.double(), y) for x, y in batches]
    groups = surgery.analyse(net, (batches[0][0][:1],)).groups
    assert {"stem", "inner", "grouped", "squeeze"} <= {g.name for g in groups}
    found = derivatives(net, groups, batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    h = 1e-5
    for group in groups:
        for c in range(group.size):
            up, down = (
                F.cross_entropy(scaled(net, group, c, 1 + d)(x), y, reduction="none")
                for d in (h, -h)
            )
            expected = (up - down) / (2 * h)
            torch.testing.assert_close(found[group.name][:, c], expected, atol=1e-8, rtol=1e-6)


def test_behind_a_relu_it_is_the_papers_sum_over_gamma_and_beta(batches):
    torch.manual_seed(0)
    net = alive(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                              nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(5, 5)))  # fmt: skip
    (group,) = [g for g in surgery.analyse(net, (batches[0][0][:1],)).groups if g.name == "0"]
    found = derivatives(net, [group], batches)["0"]
    for number, (image, target) in enumerate(zip(*batches[0], strict=True)):
        gamma, beta = torch.autograd.grad(
            loss(net(image[None]), target[None]), [net[1].weight, net[1].bias]
        )
        with torch.no_grad():
            expected = gamma * net[1].weight + beta * net[1].bias
        torch.testing.assert_close(found[number], expected, atol=1e-6, rtol=1e-4)


def test_the_network_comes_back_as_it_was(net, batches):
    net.train()
    net.bn.eval()
    net.stem.weight.requires_grad_(False)
    net.head.bias.grad = torch.ones(5)
    before = deepcopy(net.state_dict())
    groups = surgery.analyse(net, (batches[0][0][:1],)).groups
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    modes = {name: m.training for name, m in net.named_modules()}
    collect(net, groups, Taylor(), "none", batches, 0, loss)
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    assert {name: m.training for name, m in net.named_modules()} == modes
    assert net.head.bias.grad.tolist() == [1.0] * 5
    assert all(p.grad is None for name, p in net.named_parameters() if name != "head.bias")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_flags_come_back_after_an_error_too(net, batches):
    groups = surgery.analyse(net, (batches[0][0][:1],)).groups

    def broken(answer, targets):
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        collect(net, groups, Taylor(), "none", batches, 0, broken)
    assert all(p.requires_grad for p in net.parameters())


def test_a_frozen_network_is_judged_all_the_same(net, batches):
    groups = surgery.analyse(net, (batches[0][0][:1],)).groups
    expected = collect(net, groups, Taylor(), "none", batches, 0, loss)
    found = collect(net.requires_grad_(False), groups, Taylor(), "none", batches, 0, loss)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


class Windows(nn.Module):
    """Folds four windows of every image into the batch, in an order of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        windows = x.flatten(2)[:, :2].reshape(len(x), 4, 32)[:, :, :6].transpose(0, 1)
        y = self.second(self.first(windows.reshape(-1, 6)).relu())
        return self.head(y.view(4, len(x), 6).mean(0))


def test_windows_that_are_folded_into_the_batch_belong_to_their_images(batches):
    torch.manual_seed(0)
    net = Windows().double()
    batches = [(x.double(), y) for x, y in batches]
    (group,) = surgery.analyse(net, (batches[0][0][:1],)).groups[:1]
    found = derivatives(net, [group], batches)[group.name]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    up, down = (
        F.cross_entropy(scaled(net, group, 3, 1 + d)(x), y, reduction="none") for d in (1e-5, -1e-5)
    )
    torch.testing.assert_close(found[:, 3], (up - down) / 2e-5, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("reconstruct", ["none", "rescale"])
def test_sequential_judges_every_layer_on_the_network_already_cut(net, batches, reconstruct):
    widths, options = WidthOptions(scope="all"), RepairOptions(reconstruct=reconstruct)
    structure = surgery.analyse(net, (batches[0][0][:1],))
    groups = choose(structure, widths)
    counts = uniform(groups, widths)
    cut = deepcopy(net)
    found = sequential(cut, groups, Taylor(), counts, options, batches, 0, loss=loss)
    small = deepcopy(net)
    for name in [g.name for g in groups] if reconstruct == "none" else []:
        group = surgery.analyse(small, (batches[0][0][:1],)).group(name)
        sums = collect(small, [group], Taylor(), "none", batches, 0, loss)
        ranked = judge(small, [group], Taylor(), sums, 0)
        keep = prefixes([group], ranked, counts).keep[name]
        assert torch.equal(found.keep[name], keep)
        surgery.cut_group(small, group, keep)
    planned = surgery.replay(deepcopy(net), surgery.plan_cut(structure, found.keep))
    planned.load_state_dict(cut.state_dict())
    x = batches[0][0]
    assert torch.equal(planned(x), cut(x))
    assert all(p.grad is None for p in cut.parameters())
