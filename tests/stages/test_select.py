from collections import OrderedDict
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.prune import Ranking, thinet
from compressor.prune.apoz import APoZ
from compressor.prune.bn_scale import BNScale
from compressor.prune.fpgm import FPGM
from compressor.prune.group_l2 import GroupL2
from compressor.prune.random import Random
from compressor.prune.thinet import ThiNet
from compressor.prune.weight_sum import WeightSum
from compressor.seeding import generator
from compressor.stages import _select, _sequential
from compressor.stages._counts import choose, uniform
from compressor.stages._options import RepairOptions, WidthOptions
from compressor.stages._pruning import Pruning
from compressor.stages._rescale import apply_rescale
from compressor.stages._statistics import collect, trace
from compressor.surgery import Activation, Group, Slot

WIDTHS = (8, 10, 12)


def small_cnn():
    torch.manual_seed(0)
    layers = OrderedDict()
    previous = 3
    for i, width in enumerate(WIDTHS):
        layers[f"conv{i}"] = nn.Conv2d(previous, width, 3, stride=1 + i % 2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(width)
        layers[f"act{i}"] = nn.ReLU()
        previous = width
    layers["pool"], layers["flat"] = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    layers["head"] = nn.Linear(4 * previous, 5)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def groups_of_cnn():
    groups = []
    for i, width in enumerate(WIDTHS):
        c = torch.arange(width)
        nxt = f"conv{i + 1}" if i < 2 else "head"
        into = c if i < 2 else c.repeat_interleave(4)
        groups.append(
            Group(
                f"conv{i}", width,
                tuple(Slot(f"conv{i}.{p}", 0, c, f"conv{i}") for p in ("weight", "bias")),
                (Slot(f"{nxt}.weight", 1, into, nxt, "relu" if i < 2 else "view"),),
                tuple(Slot(f"bn{i}.{p}", 0, c, f"bn{i}")
                      for p in ("weight", "bias", "running_mean", "running_var")),
                True, "interior", False, (Activation("relu", f"act{i}", 0, True, c, 1, i),),
            )
        )  # fmt: skip
    return tuple(groups)


def select(net, groups, selector, statistics, widths, seed):
    rankings = _select.judge(net, groups, selector, statistics, seed)
    return _select.prefixes(groups, rankings, uniform(groups, widths))


HALF = WidthOptions()


def sequential(net, groups, selector, repair, batches, seed, widths=HALF, **more):
    counts = uniform(groups, widths)
    return _sequential.sequential(net, groups, selector, counts, repair, batches, seed, **more)


def structure_of(groups):
    return SimpleNamespace(groups=groups, select=lambda scope: groups)


@pytest.fixture
def net():
    return small_cnn()


@pytest.fixture
def batches():
    x = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return [(x[:10], None), (x[10:20], None), (x[20:], None)]


def brute_force(net, groups, selector, repair, batches, seed):
    """Re-runs the network from the start for every layer."""
    keep = {}
    for group in groups:
        found = collect(net, [group], selector, repair.reconstruct, batches, seed)
        chosen = select(net, [group], selector, found, WidthOptions(), seed).keep
        surgery.cut_group(net, group, chosen[group.name])
        if repair.reconstruct == "rescale":
            apply_rescale(net, [group], chosen, found)
        keep |= chosen
    return keep


METHODS = [
    (ThiNet(), "rescale"), (ThiNet("forward"), "rescale"), (ThiNet(), "none"),
    (APoZ(), "none"), (APoZ(), "rescale"), (WeightSum(), "rescale"), (Random(), "none"),
    (BNScale(), "rescale"), (FPGM(), "none"), (GroupL2(), "rescale"),
]  # fmt: skip


@pytest.mark.parametrize("memory_limit", [1 << 40, 0], ids=["one forward", "own passes"])
@pytest.mark.parametrize("selector, reconstruct", METHODS)
def test_sequential_equals_running_the_network_again_for_every_layer(
    net, batches, selector, reconstruct, memory_limit
):
    groups, repair = groups_of_cnn(), RepairOptions(reconstruct=reconstruct)
    expected_net = deepcopy(net)
    expected = brute_force(expected_net, groups, selector, repair, batches, 7)
    found = sequential(net, groups, selector, repair, batches, 7, memory_limit=memory_limit)
    assert {k: v.tolist() for k, v in found.keep.items()} == {
        k: v.tolist() for k, v in expected.items()
    }
    assert [len(found.keep[g.name]) for g in groups] == [4, 5, 6]
    for name, value in expected_net.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    assert set(found.residual) == (
        {"conv0", "conv1", "conv2"} if reconstruct == "rescale" else set()
    )


def test_sequential_needs_one_forward_and_stops_after_the_last_consumer(net, batches):
    seen = []
    net.conv0.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    net.head.register_forward_hook(lambda m, args, out: seen.append("head"))
    groups = groups_of_cnn()
    sequential(net, groups, ThiNet(), RepairOptions(), batches, 0)
    assert seen == [1, "head", 24]


def test_dense_statistics_take_one_pass_and_leave_the_network_as_it_is(net, batches):
    before, seen = deepcopy(net.state_dict()), []
    handle = net.conv0.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    net.train()
    net.bn1.eval()
    collect(net, groups_of_cnn(), ThiNet(), "rescale", batches, 0)
    handle.remove()
    assert seen == [10, 10, 4]
    assert net.training and not net.bn1.training and net.conv1.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_one_collection_serves_every_ratio_by_prefixes(net, batches):
    groups = groups_of_cnn()
    found = collect(net, groups, ThiNet(), "none", batches, 0)
    kept = [
        select(net, groups, ThiNet(), found, WidthOptions(ratio=r), 0).keep for r in (0.3, 0.5, 0.7)
    ]
    for group in groups:
        wide, half, thin = (set(k[group.name].tolist()) for k in kept)
        assert thin < half < wide


def test_statistics_do_not_depend_on_the_batch_size_and_add_up_in_float64(net, batches):
    whole = [torch.cat([b[0] for b in batches])]
    parts = collect(net, groups_of_cnn(), ThiNet(), "rescale", batches, 3)
    joined = collect(net, groups_of_cnn(), ThiNet(), "rescale", whole, 3)
    assert parts.keys() == joined.keys() and len(parts) == 6
    for name, value in parts.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, joined[name], rtol=1e-4, atol=1e-4)


def test_weight_sum_collects_rows_only_for_rescaling(net, batches):
    groups = groups_of_cnn()
    assert collect(net, groups, WeightSum(), "none", iter(()), 0) == {}
    assert set(collect(net, groups[:1], WeightSum(), "rescale", batches, 0)) == {
        "conv0/rows:conv1.weight/gram", "conv0/rows:conv1.weight/energy",
    }  # fmt: skip


def test_a_thinet_of_more_samples_rescales_from_its_own_rows(net, batches):
    few = collect(net, groups_of_cnn(), ThiNet(samples=2), "rescale", batches, 0)
    more = collect(net, groups_of_cnn(), ThiNet(samples=50), "rescale", batches, 0)
    name = "conv1/rows:conv2.weight/gram"
    assert float(more[name].trace()) > 10 * float(few[name].trace())


def next_layer_error(net, selector, reconstruct, batches, seed=0):
    """Mean over layers of the relative error of the next layer's output, cutting one layer."""
    images = torch.cat([b[0] for b in batches])
    groups = groups_of_cnn()
    errors = []
    for group in groups:
        cut = deepcopy(net)
        found = collect(cut, [group], selector, reconstruct, batches, seed)
        keep = select(cut, [group], selector, found, WidthOptions(), seed).keep
        surgery.cut_group(cut, group, keep[group.name])
        if reconstruct == "rescale":
            apply_rescale(cut, [group], keep, found)
        end = [name for name, _ in net.named_children()].index(group.consumers[0].module) + 1
        with torch.no_grad():
            bias = net[end - 1].bias.view(1, -1, *[1] * (net[:end](images).dim() - 2))
            wanted = net[:end](images) - bias
            errors.append(float((cut[:end](images) - bias - wanted).norm() / wanted.norm()))
    return sum(errors) / len(errors)


def test_thinet_rebuilds_the_next_layer_better_than_weight_sum_and_random(net):
    x = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    batches = [(x, None)]
    ours = next_layer_error(net, ThiNet(), "rescale", batches)
    plain = next_layer_error(net, ThiNet(), "none", batches)
    sums = next_layer_error(net, WeightSum(), "none", batches)
    chance = sum(next_layer_error(net, Random(), "none", batches, s) for s in range(3)) / 3
    assert ours < plain < min(sums, chance)


def test_a_planted_silent_channel_is_cut_and_changes_nothing(net, batches):
    net.conv0.weight.data[[1, 4]] = 0
    net.conv0.bias.data[[1, 4]] = 0
    net.bn0.bias.data[[1, 4]], net.bn0.running_mean[[1, 4]] = -1, 0
    groups, images = groups_of_cnn()[:1], batches[0][0]
    before = net(images)
    for selector in (ThiNet(), ThiNet("forward"), APoZ(), WeightSum()):
        cut = deepcopy(net)
        found = sequential(
            cut, groups, selector, RepairOptions(), batches, 0, WidthOptions(ratio=0.25)
        )
        assert found.keep["conv0"].tolist() == [0, 2, 3, 5, 6, 7]
        torch.testing.assert_close(cut(images), before, atol=1e-5, rtol=1e-5)


def test_rescaling_one_channel_by_hand(net, batches):
    (group,) = groups_of_cnn()[2:]
    found = collect(net, [group], ThiNet(), "rescale", batches, 0)
    keep = {"conv2": torch.tensor([0, 3, 7])}
    before = net.head.weight.detach().clone()
    surgery.cut_group(net, group, keep["conv2"])
    rest = apply_rescale(net, [group], keep, found)
    w = thinet.rescale(found["conv2/rows:head.weight/gram"], keep["conv2"]).float()
    columns = torch.tensor([0, 1, 2, 3, 12, 13, 14, 15, 28, 29, 30, 31])
    torch.testing.assert_close(net.head.weight, before[:, columns] * w.repeat_interleave(4))
    assert 0 < rest["conv2"] < 1
    with pytest.raises(RunError, match="'head.weight' has 12 inputs"):
        apply_rescale(net, [group], {"conv2": torch.tensor([0])}, found)


def test_the_same_seed_gives_the_same_choice_and_another_seed_another(net, batches):
    groups = groups_of_cnn()

    def choice(seed):
        return select(net, groups, Random(), {}, WidthOptions(), seed).keep["conv2"].tolist()

    torch.manual_seed(5)
    assert choice(1) == choice(1) != choice(2)


def resnet(block="BasicBlock", **options):
    resnets = pytest.importorskip("torchvision.models.resnet")
    net = resnets.ResNet(getattr(resnets, block), [1, 2, 1, 1], num_classes=5, **options)
    net.maxpool = nn.Identity()
    return net


def mobilenet(name, **options):
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(num_classes=5, width_mult=0.25, **options)


def densenet():
    models = pytest.importorskip("torchvision.models")
    return models.DenseNet(8, (2, 2), 8, num_classes=5)


NETWORKS = {
    "resnet": resnet,
    "resnext": lambda: resnet("Bottleneck", groups=4, width_per_group=8),
    "mobilenet_v2": lambda: mobilenet("mobilenet_v2"),
    "mobilenet_v3 with gates": lambda: mobilenet("mobilenet_v3_small"),
    "densenet": densenet,
}


@pytest.mark.parametrize("scope", ["interior", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_sequential_agrees_with_brute_force_and_with_the_plan_on_real_architectures(name, scope):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    structure = surgery.analyse(net, (x[:1],))
    widths, plain = WidthOptions(scope=scope, ratio=0.4), RepairOptions()
    groups = choose(structure, widths)
    selector = ThiNet(samples=60)
    expected = sequential(deepcopy(net), groups, selector, plain, [x], 0, widths, memory_limit=0)
    cut = deepcopy(net)
    found = sequential(cut, groups, selector, plain, [x], 0, widths)
    assert found.keep.keys() == expected.keep.keys()
    assert all(torch.equal(v, expected.keep[k]) for k, v in found.keep.items())
    planned = surgery.replay(deepcopy(net), surgery.plan_cut(structure, found.keep))
    with torch.no_grad():
        torch.testing.assert_close(cut(x), planned(x))
    cut = deepcopy(net)
    rescale = RepairOptions(reconstruct="rescale")
    found = sequential(cut, groups, selector, rescale, [x], 0, widths)
    assert all(0 <= rest <= 1 + 1e-9 for rest in found.residual.values())
    planned = surgery.replay(deepcopy(net), surgery.plan_cut(structure, found.keep))
    planned.load_state_dict(cut.state_dict())
    dense = deepcopy(net)
    statistics = collect(dense, groups, selector, "rescale", [x], 0)
    keep = select(dense, groups, selector, statistics, widths, 0).keep
    surgery.replay(dense, surgery.plan_cut(structure, keep))
    apply_rescale(dense, groups, keep, statistics)
    with torch.no_grad():
        assert dense(x).isfinite().all() and torch.equal(planned(x), cut(x))


class Shared(nn.Module):
    """One producer with two consumers, then a module that runs twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left, self.right = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 4, 1),
        )
        self.twice = nn.Conv2d(4, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(self.twice(self.left(x)).relu() + self.twice(self.right(x)).relu())


def groups_of_shared():
    def group(name, size, *consumers):
        c = torch.arange(size)
        return Group(
            name, size, (Slot(f"{name}.weight", 0, c, name), Slot(f"{name}.bias", 0, c, name)),
            tuple(Slot(f"{n}.weight", 1, c, n, "relu") for n in consumers), (), True, "interior",
            False, (),
        )  # fmt: skip

    return group("stem", 8, "left", "right"), group("twice", 6, "last")


def test_several_consumers_and_repeated_modules_take_passes_of_their_own(batches):
    net, groups, repair = Shared(), groups_of_shared(), RepairOptions(reconstruct="rescale")
    expected_net = deepcopy(net)
    expected = brute_force(expected_net, groups, ThiNet(), repair, batches, 0)
    found = sequential(net, groups, ThiNet(), repair, batches, 0)
    assert all(torch.equal(found.keep[k], v) for k, v in expected.items())
    for name, value in expected_net.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, atol=1e-4, rtol=1e-3)


def test_each_consumer_is_rescaled_from_its_own_rows(batches):
    net = Shared()
    net.right.weight.data[:, :4] = 0
    found = collect(net, groups_of_shared()[:1], ThiNet(), "rescale", batches, 0)
    assert float(found["stem/rows:right.weight/gram"][:4].abs().max()) == 0
    assert float(found["stem/rows:left.weight/gram"][:4].abs().max()) > 0


def test_a_grouped_consumer_is_narrowed_in_each_of_its_groups():
    x = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    slot = Slot("grouped.weight", 1, torch.arange(4), "grouped")
    narrow = _sequential._narrowed(nn.Conv2d(8, 6, 3, groups=2), x, slot, torch.tensor([1, 2]))
    assert torch.equal(narrow, x[:, [1, 2, 5, 6]])


class Backwards:
    """A selector with a cost, whose order is that of the indices."""

    def observers(self, group, net):
        return ()

    def rank(self, group, statistics, weights, generator):
        return Ranking(torch.arange(group.size), torch.ones(group.size))


def test_any_selector_fits(net):
    options = WidthOptions(ratio=0.9, min_channels=1)
    found = select(net, groups_of_cnn(), Backwards(), {}, options, 0)
    assert [v.tolist() for v in found.keep.values()] == [[0], [0], [0]]


def test_counts_follow_round_to_and_min_channels(net):
    def counts(**options):
        found = select(net, groups_of_cnn(), Backwards(), {}, WidthOptions(**options), 0)
        return [len(v) for v in found.keep.values()]

    assert counts(ratio=0.5, round_to=4) == [4, 4, 8] or counts(ratio=0.5, round_to=4) == [4, 4, 4]
    assert counts(ratio=0.99, min_channels=1) == [1, 1, 1]
    assert counts(ratio=0.99, min_channels=3) == [3, 3, 3]
    # A layer that has no channel to spare is left out of the plan.
    assert counts(ratio=0.5, min_channels=9) == [9, 9]


def test_a_ranking_that_is_no_order_is_an_error(net):
    class Broken(Backwards):
        def rank(self, group, statistics, weights, generator):
            return Ranking(torch.zeros(group.size, dtype=torch.long))

    with pytest.raises(RunError, match="Broken ranked 'conv0'"):
        select(net, groups_of_cnn(), Broken(), {}, WidthOptions(), 0)


def test_skip_takes_groups_producers_and_whole_parts():
    groups = groups_of_cnn()

    def names(*skip):
        return [g.name for g in choose(structure_of(groups), WidthOptions(skip=skip))]

    assert names() == ["conv0", "conv1", "conv2"]
    assert names("conv1") == ["conv0", "conv2"]
    nested = Group("body.conv", 2, (Slot("body.conv.weight", 0, torch.arange(2), "body.conv"),),
                   (), (), True, "interior", False, ())  # fmt: skip
    both = structure_of((*groups[:1], nested))
    assert [g.name for g in choose(both, WidthOptions(skip=("body",)))] == ["conv0"]


def test_an_unknown_skip_is_refused_with_near_names():
    with pytest.raises(UsageError, match="prune.skip names 'cnv1'.*conv1"):
        choose(structure_of(groups_of_cnn()), WidthOptions(skip=("cnv1",)))
    with pytest.raises(UsageError, match="'nonsense'.*; such are conv0, conv1, conv2$"):
        choose(structure_of(groups_of_cnn()), WidthOptions(skip=("nonsense",)))


def test_nothing_left_to_cut_is_refused():
    with pytest.raises(UsageError, match="leaves no channels"):
        choose(structure_of(groups_of_cnn()), WidthOptions(skip=("conv0", "conv1", "conv2")))


TREE = {"_target_": "compressor.prune.weight_sum.WeightSum"}


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.1, float("nan")])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(UsageError, match=f"prune.ratio={ratio} (must be|is out of range)"):
        WidthOptions(ratio=ratio)


@pytest.mark.parametrize(
    "name, value",
    [("scope", "outer"), ("reconstruct", "refine"), ("statistics", "sparse"), ("round_to", 0),
     ("min_channels", 0), ("images", 0), ("positions", 0), ("ridge", 0)],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"prune.{name}="):
        Pruning.read({**TREE, name: value})


@pytest.mark.parametrize(
    "tree, text",
    [
        ({"budget": {"macs": "abc"}}, "prune.budget.macs=abc: a number is expected"),
        ({"budget": {"macs": [0.5]}}, "prune.budget.macs="),
        ({"ratios": 0.5}, "prune.ratios=0.5 names nothing: type prune.ratios="),
        ({"ratios": [0.5]}, "prune.ratios=[0.5] names nothing"),
        ({"round_to": 2.5}, "prune.round_to=2.5: a whole number is expected"),
        ({"min_channels": "abc"}, "prune.min_channels=abc: a whole number is expected"),
        ({"skip": [3]}, "prune.skip names '3': give paths of modules"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_where_no_default_tells_it(tree, text):
    with pytest.raises(UsageError) as caught:
        Pruning.read({**TREE, **tree})
    assert text in str(caught.value)


def test_layers_that_a_criterion_cannot_judge_are_named_together(net):
    from compressor.stages._statistics import watched

    class Blind:
        def observers(self, group, net):
            raise UsageError(f"sees nothing of {group.name}")

    groups = groups_of_cnn()
    with pytest.raises(UsageError) as caught:
        watched(net, groups, Blind(), "none")
    names = ",".join(group.name for group in groups)
    assert str(caught.value) == (
        f"sees nothing of {groups[0].name} (it is one of {len(groups)} such layers: "
        f"prune.skip=[{names}])"
    )


def test_shared_options_are_told_from_the_selectors_own():
    own = {"_target_": "compressor.prune.thinet.ThiNet", "samples": 4}
    found = Pruning.read({"ratio": 0.3, "skip": ["a"], "ridge": 0.1, "rounds": 2, **own})
    assert found.widths == WidthOptions(ratio=0.3, skip=("a",))
    assert found.repair == RepairOptions(ridge=0.1) and found.schedule.rounds == 2
    assert found.arguments == own and found.method.samples == 4


def test_a_selector_gets_the_shared_options_that_its_constructor_takes():
    tree = {"_target_": "compressor.prune.obs.OBS", "ridge": 0.1, "positions": 3, "ratio": 0.3}
    found = Pruning.read(tree)
    assert (found.repair.ridge, found.repair.positions) == (0.1, 3)
    assert (found.method.ridge, found.method.positions) == (0.1, 3)
    assert found.arguments == {"_target_": "compressor.prune.obs.OBS", "ridge": 0.1, "positions": 3}


def test_images_that_never_come_are_an_error(net):
    groups = groups_of_cnn()
    with pytest.raises(RunError, match="saw no image"):
        sequential(net, groups, ThiNet(), RepairOptions(), [], 0)
    with pytest.raises(RunError, match="'conv0' saw no data"):
        collect(net, groups, ThiNet(), "none", [], 0)


@pytest.mark.parametrize("statistics", ["dense", "sequential"])
def test_a_network_that_answers_nan_is_an_error(net, batches, statistics):
    net.conv1.weight.data[0, 0] = float("nan")
    groups = groups_of_cnn()
    with pytest.raises(RunError, match="ranked 'conv0'.*look for NaN"):
        if statistics == "dense":
            found = collect(net, groups, ThiNet(), "none", batches, 0)
            select(net, groups, ThiNet(), found, WidthOptions(), 0)
        else:
            sequential(net, groups, ThiNet(), RepairOptions(), batches, 0)


def test_the_traced_peak_counts_what_lives_at_one_time():
    net = nn.Sequential(*[nn.Conv2d(4, 4, 1, bias=False) for _ in range(6)])
    with torch.no_grad():
        calls, peak = trace(net, torch.zeros(1, 4, 10, 10))
    # Input and output of one layer, each 4 * 100 floats, and not all six outputs.
    assert 1600 <= peak <= 2 * 1600 + 600
    assert calls["3"] == 1


def test_parameters_made_by_a_cut_can_be_trained(net, batches):
    groups = groups_of_cnn()
    sequential(net, groups, ThiNet(), RepairOptions(), batches, 0)
    net.train()(batches[0][0]).sum().backward()
    assert net.conv1.weight.grad.shape == net.conv1.weight.shape == (5, 4, 3, 3)


def test_generators_belong_to_names_and_not_to_the_order_of_visits(net, batches):
    groups = groups_of_cnn()
    forward = collect(net, groups, ThiNet(), "none", batches, 0)
    backward = collect(net, groups[::-1], ThiNet(), "none", batches, 0)
    assert all(torch.equal(v, backward[k]) for k, v in forward.items())
    assert generator(0, "a").initial_seed() != generator(0, "b").initial_seed()
