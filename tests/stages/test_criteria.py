"""Every criterion that `prune` offers, on every kind of architecture, with every repair."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor import surgery
from compressor.configuration import config_dir
from compressor.errors import UsageError
from compressor.stages._budget import solve
from compressor.stages._counts import choose, running
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._pruning import Pruning
from compressor.stages._refit import refit
from compressor.stages._rescale import apply_rescale
from compressor.stages._select import judge, prefixes
from compressor.stages._sequential import sequential
from compressor.stages._statistics import collect, count_calls

# apoz reads activations, and says so where a network or a scope has none of them
CRITERIA = sorted(
    {p.stem for p in (config_dir() / "prune").glob("[a-z]*.yaml")} - {"none", "l1", "apoz"}
)


class Mixed(nn.Module):
    """Two readers of one stem, a residual sum, a gate, a grouped conv and a concatenation."""

    def __init__(self):
        super().__init__()

        def conv(cin, cout, k=1, **more):
            return nn.Sequential(
                nn.Conv2d(cin, cout, k, padding=k // 2, bias=False, **more), nn.BatchNorm2d(cout)
            )

        self.stem, self.left, self.right = conv(3, 8, 3), conv(8, 8), conv(8, 12, 3)
        self.depthwise, self.project = conv(12, 12, 3, groups=12), conv(12, 8)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.grouped, self.tail = conv(8, 8, 3, groups=2), conv(16, 10)
        self.head = nn.Linear(10 * 4, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.depthwise(self.right(x).relu()).relu()
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.left(x) + self.project(y)
        x = torch.cat([x, self.grouped(x).relu()], 1)
        return self.head(F.adaptive_avg_pool2d(self.tail(x).relu(), 2).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Mixed()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def structure(net):
    return surgery.analyse(net, (torch.zeros(1, 3, 8, 8),))


def loss(answer, targets):
    return F.cross_entropy(answer, targets, reduction="sum")


def batches():
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 3, 8, 8, generator=draw), torch.randint(5, (40,), generator=draw)
    return list(zip(x.split(25), y.split(25), strict=True))


def method_of(name):
    from compressor.configuration import Menu, read_command

    command = read_command([f"prune={name}"])
    return Pruning.read(Menu(command).compose(command.overrides)["prune"]).method


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
@pytest.mark.parametrize("reconstruct", ["none", "rescale", "refit"])
@pytest.mark.parametrize("name", CRITERIA)
def test_it_meets_a_budget_in_every_scope_with_every_repair(
    net, structure, name, reconstruct, statistics
):
    method = method_of(name)
    widths = WidthOptions(scope="all", budget=("macs", 0.5))
    options = RepairOptions(reconstruct=reconstruct)
    groups = running(choose(structure, widths), count_calls(net, torch.zeros(1, 3, 8, 8)))
    counts = solve(structure, groups, widths)
    small = deepcopy(net)
    if statistics == "sequential":
        done = sequential(
            small, groups, method, counts, options, batches(), 0, dense=net, loss=loss
        )
        plan = surgery.plan_cut(structure, done.keep)
    else:
        found = collect(net, groups, method, reconstruct, batches(), 0, loss)
        done = prefixes(groups, judge(net, groups, method, found, 0), counts)
        plan = surgery.plan_cut(structure, done.keep)
        surgery.replay(small, plan)
        if reconstruct == "rescale":
            apply_rescale(small, groups, done.keep, found)
        elif reconstruct == "refit":
            refit(small, net, groups, plan, batches(), options, 0)
    assert structure.macs(counts) / structure.macs({}) == pytest.approx(0.5, abs=0.02)
    assert {name: len(kept) for name, kept in done.keep.items()} == {
        name: count for name, count in counts.items() if count < structure.group(name).size
    }
    x = batches()[0][0]
    assert surgery.check_parity(net, structure, plan, (x,)) <= 1e-5
    assert small.eval()(x).isfinite().all()


class Norms(nn.Module):
    """Behind the first layer stands a norm over channels, as in ConvNeXt, and a hidden layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8)
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.hidden(self.norm(self.stem(x)).mean((2, 3))).relu())


def test_where_nothing_can_be_cut_the_scopes_that_have_something_are_named():
    structure = surgery.analyse(Norms(), (torch.zeros(1, 3, 8, 8),))
    found = "leaves no channels .*scope=all cuts 1 layers .*scope=mixing cuts 2 layers"
    with pytest.raises(UsageError, match=found):
        choose(structure, WidthOptions())
    with pytest.raises(UsageError, match="leaves no channels .*scope=mixing cuts 1 layers"):
        choose(structure, WidthOptions(scope="all", skip=("hidden",)))
    assert {g.name for g in choose(structure, WidthOptions(scope="mixing"))} == {"stem", "hidden"}
    with pytest.raises(UsageError, match="skip less"):
        choose(structure, WidthOptions(scope="mixing", skip=("stem", "hidden")))


def test_where_no_scope_has_anything_that_is_said():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    structure = surgery.analyse(net, (torch.zeros(1, 3, 2, 2),))
    with pytest.raises(UsageError, match="nor has any other scope some; type prune=none"):
        choose(structure, WidthOptions())
