"""Rows of layers by what they compute: transposed, with a forward of their own, with one weight."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor import surgery
from compressor.errors import UsageError
from compressor.prune import _rows
from compressor.prune._ridge import observe, system
from compressor.prune.obs import OBS
from compressor.prune.taylor import Taylor
from compressor.prune.thinet import ThiNet
from compressor.prune.weight_sum import WeightSum
from compressor.stages import _sequential
from compressor.stages._counts import choose, running
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._refit import refit
from compressor.stages._rescale import apply_rescale
from compressor.stages._select import judge, prefixes
from compressor.stages._statistics import collect, count_calls, watched


class Same(nn.Conv2d):
    """Pads as TensorFlow does, by the size of the image: more behind than before."""

    def forward(self, x):
        pads = []
        for d in (1, 0):
            size, step, kernel = x.shape[2 + d], self.stride[d], self.kernel_size[d]
            more = max((-(-size // step) - 1) * step + kernel - size, 0)
            pads += [more // 2, more - more // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, groups=self.groups)


class Masked(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight * (self.weight > 0), self.bias)


class Twice(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + super().forward(x.flip(-1))


LAYERS = {
    "transposed": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed 1d": nn.ConvTranspose1d(6, 4, 4, stride=3, dilation=2),
    "transposed groups": nn.ConvTranspose2d(6, 4, (2, 3), stride=(2, 1), groups=2, bias=False),
    "own padding": Same(6, 4, 3, stride=2, groups=2),
    "own weights": Masked(6, 4, 3, padding=1),
    "same": nn.Conv2d(6, 4, (3, 5), padding="same"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_sum_to_what_the_layer_gives_out(name):
    module = LAYERS[name]
    x = torch.randn(3, 6, 7) if isinstance(module, nn.ConvTranspose1d) else torch.randn(3, 6, 7, 9)
    rows = _rows.draw(module, x, 400, torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = module(x)
    bias = 0 if module.bias is None else module.bias.detach()[rows.filter]
    given = out[(rows.image, rows.filter, *rows.location.unbind(1))] - bias
    torch.testing.assert_close(_rows.contributions(module, x, rows).sum(1), given)
    # every position can be drawn
    assert [int(at.max()) + 1 for at in rows.location.T] == list(out.shape[2:])


@pytest.mark.parametrize("name", ["transposed", "transposed 1d", "transposed groups"])
def test_the_weights_of_a_transposed_convolution_are_what_its_own_outputs_ask_for(name):
    module = LAYERS[name].double()
    x = torch.randn(8, 6, 7) if isinstance(module, nn.ConvTranspose1d) else torch.randn(8, 6, 7, 9)
    rows = _rows.places(module, x.double(), 1000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = _rows.outputs(module, module(x.double()), rows)
    sums = observe(module, x, rows, given)
    start = _rows.kernel(module.weight, module.groups, transposed=True)
    torch.testing.assert_close(
        _rows.from_kernel(start, module.weight.shape, transposed=True), module.weight.detach()
    )
    one = system(sums, torch.zeros_like(start), 1e-9, intercept=module.bias is not None)
    torch.testing.assert_close(one.solve(), start, rtol=1e-3, atol=1e-3)


class Decoder(nn.Module):
    """A U-Net of one level: a transposed convolution reads the bottom, a skip goes around it."""

    def __init__(self, groups=1):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.bottom = nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=groups)
        self.behind, self.after = nn.BatchNorm2d(8), nn.Conv2d(16, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        skip = self.norm(self.down(x)).relu()
        x = self.bottom(F.max_pool2d(skip, 2)).relu()
        x = self.behind(self.up(x)).relu()
        return self.head(self.after(torch.cat([x, skip], 1)).relu())


def cut(net, x, selector, reconstruct, groups=None, counts=None, statistics="dense"):
    """(cut and repaired network, kept classes), as the compress stage makes them."""
    options = RepairOptions(reconstruct=reconstruct, ridge=1e-6)
    structure = surgery.analyse(net, (x[:2],))
    groups = groups or running(
        choose(structure, WidthOptions(scope="all")), count_calls(net, x[:2])
    )
    counts = counts or {group.name: group.size // 2 for group in groups}
    batch = [(x, torch.arange(len(x)) % 4)]
    loss = lambda out, y: F.cross_entropy(out.flatten(2).mean(2), y, reduction="sum")  # noqa: E731
    if statistics == "sequential":
        small = deepcopy(net)
        done = _sequential.sequential(
            small, groups, selector, counts, options, batch, 0, dense=net, loss=loss
        )
        return small, done.keep
    sums = collect(net, groups, selector, reconstruct, batch, 0, loss)
    done = prefixes(groups, judge(net, groups, selector, sums, 0), counts)
    plan = surgery.plan_cut(structure, done.keep)
    assert surgery.check_parity(net, structure, plan, (x[:2],)) <= 1e-5
    small = surgery.replay(deepcopy(net), plan)
    if reconstruct == "rescale":
        apply_rescale(small, groups, done.keep, sums)
    elif reconstruct == "refit":
        refit(small, net, groups, plan, batch, options, 0)
    return small, done.keep


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("statistics", ["dense", "sequential"])
@pytest.mark.parametrize("reconstruct", ["rescale", "refit"])
@pytest.mark.parametrize("selector", [ThiNet("rescale_aware"), OBS(ridge=1e-3)], ids=type)
def test_a_decoder_that_has_every_channel_twice_loses_nothing(
    selector, reconstruct, statistics, groups
):
    net, x = Decoder(groups).eval(), torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        # the second half of the bottom's channels (of each group's) repeats the first
        for tensor in (net.bottom.weight, net.bottom.bias, net.up.weight):
            halves = tensor.view(groups, 2, 6 // groups, *tensor.shape[1:])
            halves[:, 1] = halves[:, 0]
        net.bottom.bias += 0.5
    structure = surgery.analyse(net, (x[:2],))
    chosen = [structure.group("bottom")]
    counts = {"bottom": chosen[0].size // 2}
    small, keep = cut(net, x, selector, reconstruct, chosen, counts, statistics=statistics)
    assert len(keep["bottom"]) == counts["bottom"]
    assert small.up.in_channels == 6
    torch.testing.assert_close(small(x), net(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
def test_refitting_the_layers_of_a_decoder_brings_it_nearer_to_the_dense_one(statistics):
    net, x = Decoder(2).eval(), F.interpolate(torch.randn(64, 3, 2, 2), size=8)
    plain, _ = cut(net, x, OBS(), "none", statistics=statistics)
    fitted, _ = cut(net, x, OBS(), "refit", statistics=statistics)
    with torch.no_grad():
        far, near = ((one(x) - net(x)).square().mean() for one in (plain, fitted))
    assert near < 0.8 * far


class Twins(nn.Module):
    """Two convolutions that share one weight."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.two(self.one(x).relu()).relu())


def test_of_a_weight_that_two_modules_share_both_are_tapped():
    net, x = Twins().eval(), torch.randn(6, 3, 8, 8)
    (group,) = surgery.analyse(net, (x[:2],)).groups
    batch = [(x, torch.arange(len(x)) % 4)]
    loss = lambda out, y: F.cross_entropy(out.mean((2, 3)), y, reduction="sum")  # noqa: E731
    sums = collect(net, [group], Taylor(), "none", batch, 0, loss)
    found = sums["stem/gate/square"] / sums["stem/gate/images"]
    # by hand: a factor on every channel wherever a layer reads it
    squares = []
    for image, target in zip(x, batch[0][1], strict=True):
        z = torch.ones(6, requires_grad=True)
        y = net.stem(image[None]).relu() * z[:, None, None]
        y = net.two(net.one(y).relu() * z[:, None, None]).relu() * z[:, None, None]
        (slope,) = torch.autograd.grad(loss(net.head(y), target[None]), z)
        squares.append(slope.double().square())
    torch.testing.assert_close(found, torch.stack(squares).mean(0), rtol=1e-4, atol=1e-9)
    rows = {(o.key, o.tap.module) for o in ThiNet().observers(group, net)}
    assert {("rows:one.weight", "one"), ("rows:one.weight", "two")} < rows
    energy = collect(net, [group], ThiNet(), "none", [x], 0)["stem/rows:one.weight/energy"]
    alone = [
        o.measure(net.get_submodule(o.tap.module), v, torch.Generator().manual_seed(0))["energy"]
        for o, v in zip(
            ThiNet(samples=4000).observers(group, net)[:2],
            (net.stem(x).relu(), net.one(net.stem(x).relu()).relu()),
            strict=True,
        )
    ]
    assert float(energy) == pytest.approx(float(sum(alone)) / 400, rel=0.5)


@pytest.mark.parametrize("reconstruct", ["none", "rescale", "refit"])
@pytest.mark.parametrize("selector", [ThiNet(), OBS()], ids=type)
@pytest.mark.parametrize("statistics", ["dense", "sequential"])
def test_a_shared_weight_stays_shared_through_every_repair(selector, reconstruct, statistics):
    net, x = Twins().eval(), torch.randn(6, 3, 8, 8)
    small, keep = cut(net, x, selector, reconstruct, statistics=statistics)
    assert small.one.weight is small.two.weight and small.one.weight.shape == (3, 3, 3, 3)
    assert len(keep["stem"]) == 3 and small(x).isfinite().all()


def test_a_convolution_with_a_forward_of_its_own_is_read_by_what_it_does_or_refused():
    def reader(module):
        net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), module, nn.Flatten())
        (group,) = [g for g in surgery.analyse(net, (torch.zeros(2, 3, 8, 8),)).groups]
        return net, group

    for module in (Same(6, 4, 3, stride=2), Masked(6, 4, 3)):
        net, group = reader(module)
        assert [type(o.tap.module) for o in ThiNet().observers(group, net)] == [str]
        # OBS and refit solve for the weight itself
        assert [o.key for o in OBS().observers(group, net)] == ["rows:2.weight"]
    assert watched(*reader_first(reader(Same(6, 4, 3))), ThiNet(), "rescale")
    with pytest.raises(UsageError, match=r"rescale scales the weight of '2'.*prune.skip=\[0\]"):
        watched(*reader_first(reader(Masked(6, 4, 3))), ThiNet(), "rescale")
    net, group = reader(Twice(6, 6, 1))
    with pytest.raises(UsageError, match=r"'2', .* a Twice .* calls 2 conv.*prune.skip=\[0\]"):
        ThiNet().observers(group, net)


def reader_first(pair):
    net, group = pair
    return net, [group]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Linear(4, 4)
        self.register_buffer("W", torch.randn(4, 6, 3, 3))

    def forward(self, x):
        return self.head(F.conv2d(self.stem(x).relu(), self.W).relu().mean((2, 3)))


@pytest.mark.parametrize("selector", [ThiNet(), OBS(), Taylor()], ids=type)
def test_a_kernel_that_no_layer_holds_is_refused_before_any_training(selector):
    net = Functional()
    group = surgery.analyse(net, (torch.zeros(2, 3, 8, 8),)).group("stem")
    with pytest.raises(UsageError, match=r"with 'W', is a Functional.*prune.skip=\[stem\]"):
        selector.observers(group, net)


def test_refit_leaves_kernels_alone_that_are_no_parameters():
    net, x = Functional().eval(), torch.randn(6, 3, 8, 8)
    for statistics in ("dense", "sequential"):
        small, keep = cut(net, x, WeightSum(), "refit", statistics=statistics)
        assert torch.equal(small.W, net.W[keep["W"]][:, keep["stem"]])
