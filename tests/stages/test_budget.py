import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.artefact import Spec
from compressor.errors import RunError, UsageError
from compressor.models.resnet_cifar import resnet20, resnet56
from compressor.stages import _budget, compress
from compressor.stages._blank import blank
from compressor.stages._budget import reach, solve
from compressor.stages._counts import choose, in_part, uniform
from compressor.stages._options import WidthOptions
from compressor.stages._pruning import Pruning
from compressor.tasks.classification import Classification


def structure_of(net, size):
    return surgery.analyse(net.eval(), (torch.zeros(2, *size),))


def figures(structure, counts):
    return structure.params(counts), structure.macs(counts)


def ratios(structure, **options):
    options = WidthOptions(**options)
    return uniform(choose(structure, options), options)


# --- the papers' networks, exactly ----------------------------------------------------------------


def vgg(layers, head):
    from torchvision.models.vgg import make_layers

    return nn.Sequential(make_layers(layers, batch_norm=True), nn.Flatten(), *head)


VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


def test_the_cifar_vgg_of_li_et_al():
    head = nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10)
    net = vgg([*VGG16, "M"], head)
    # the reference has no biases in its convolutions, and a pooling of two in front of the head
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_parameter("bias", None)
    structure = structure_of(net, (3, 32, 32))
    assert figures(structure, {}) == (14_987_722, 313_463_808)
    convolutions = [f"0.{i}" for i, m in enumerate(net[0]) if isinstance(m, nn.Conv2d)]
    halved = {name: 0.5 for name in (convolutions[0], *convolutions[7:])}
    counts = ratios(structure, scope="all", ratios={"0": 0, **halved})
    counts = {name: count for name, count in counts.items() if name.startswith("0.")}
    assert [counts[name] for name in convolutions] == [
        32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256
    ]  # fmt: skip
    assert figures(structure, counts) == (5_397_034, 206_279_680)


def stages_of_resnet56(shares, skipped):
    """Li et al. count convolutions: block b of 27 has the even id 2 b in front."""
    blocks = [(stage, block) for stage in (1, 2, 3) for block in range(9)]
    names = {2 * (i + 1): f"layer{s}.{b}" for i, (s, b) in enumerate(blocks)}
    return {
        **{f"layer{stage}": share for stage, share in zip((1, 2, 3), shares, strict=True)},
        **{names[number]: 0 for number in skipped},
    }


@pytest.mark.parametrize(
    "shares, skipped, widths, params, macs, share",
    [((0.1, 0.1, 0.1), (16, 20, 38, 54), (14, 28, 57), 773_336, 112_435_840, 10.4),
     ((0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54), (6, 22, 57), 735_712, 90_907_264, 27.6)],
    ids="AB",
)  # fmt: skip
def test_resnet56_a_and_b_of_li_et_al(shares, skipped, widths, params, macs, share):
    # the paper's table 1: 1.25e8, 1.12e8 and 9.09e7 MACs; 0.85, 0.77 and 0.73 million parameters
    structure = structure_of(resnet56(10, (3, 32, 32), shortcut="A"), (3, 32, 32))
    counts = ratios(structure, ratios=stages_of_resnet56(shares, skipped))
    whole = {f"layer{s}.{b}.conv1": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in range(9)}
    expected = {name: widths[int(name[5]) - 1] for name in whole}
    for number in skipped:
        stage, block = divmod(number // 2 - 1, 9)
        name = f"layer{stage + 1}.{block}.conv1"
        expected[name] = whole[name]
    assert counts == expected
    assert figures(structure, {}) == (853_018, 125_485_696)
    assert figures(structure, counts) == (params, macs)
    assert round(100 * (1 - macs / 125_485_696), 1) == share


@pytest.mark.parametrize(
    "shares, params, macs",
    [((0.3, 0.3, 0.3, 0), 20_151_764, 3_100_184_576),
     ((0.5, 0.6, 0.4, 0), 19_469_372, 2_782_269_440)],
    ids="AB",
)  # fmt: skip
def test_resnet34_a_and_b_of_li_et_al(shares, params, macs):
    # the paper's table 1: 3.08e9 and 2.76e9 MACs of 3.64e9, 20.1 and 19.3 million parameters
    models = pytest.importorskip("torchvision.models")
    structure = structure_of(models.resnet34(), (3, 224, 224))
    blocks = [f"layer{s + 1}.{b}" for s, n in enumerate((3, 4, 6, 3)) for b in range(n)]
    skipped = {blocks[number // 2 - 1]: 0 for number in (2, 8, 14, 16, 26, 28, 30, 32)}
    stages = {f"layer{s + 1}": share for s, share in enumerate(shares)}
    counts = ratios(structure, ratios={**stages, **skipped})
    assert figures(structure, counts) == (params, macs)


@pytest.mark.parametrize(
    "ratio, widths, params, macs",
    [(0.3, (44, 89, 179, 358), 16_945_246, 2_601_392_356),
     (0.5, (32, 64, 128, 256), 12_381_864, 1_822_031_872),
     (0.7, (19, 38, 76, 153), 8_665_318, 1_166_283_835)],
    ids=["ThiNet-70", "ThiNet-50", "ThiNet-30"],
)  # fmt: skip
def test_thinet_of_resnet50(resnet50, ratio, widths, params, macs):
    # the paper's table 3: 16.94, 12.38 and 8.66 million parameters; its stride stands elsewhere
    assert figures(resnet50, {}) == (25_557_032, 4_089_184_256)
    counts = ratios(resnet50, ratio=ratio)
    for name, count in counts.items():
        assert count == widths[int(name[5]) - 1], name
    assert len(counts) == 32
    assert figures(resnet50, counts) == (params, macs)


@pytest.fixture(scope="module")
def resnet50():
    models = pytest.importorskip("torchvision.models")
    return structure_of(models.resnet50(), (3, 224, 224))


def test_thinet_conv_of_vgg16():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    structure = structure_of(models.vgg16(init_weights=False), (3, 224, 224))
    last = [f"features.{i}" for i in (24, 26, 28)]
    counts = ratios(structure, skip=last)
    assert list(counts.values()) == [32, 32, 64, 64, 128, 128, 128, 256, 256, 256]
    assert figures(structure, counts) == (131_452_552, 4_791_205_888)
    named = ratios(structure, ratios=dict.fromkeys(last, 0.0))
    assert figures(structure, named) == (131_452_552, 4_791_205_888)


# --- budgets --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return structure_of(resnet20(10, (3, 16, 16)), (3, 16, 16))


@pytest.mark.parametrize("scope", ["interior", "all"])
@pytest.mark.parametrize("name", ["macs", "params"])
@pytest.mark.parametrize("share", [0.5, 0.3, 0.15])
@pytest.mark.parametrize("round_to, slack", [(None, 0.01), (4, 0.02)])
def test_a_budget_is_met(small, scope, name, share, round_to, slack):
    options = WidthOptions(scope=scope, round_to=round_to, budget=(name, share))
    groups = choose(small, options)
    counts = solve(small, groups, options)
    figure = getattr(small, name)
    assert abs(figure(counts) / figure({}) - share) <= slack
    assert all(count % (round_to or 1) == 0 for count in counts.values())
    if round_to is None:  # one ratio for all layers, up to the steps that meet the figure
        kept = [counts[g.name] / g.size for g in groups]
        assert max(kept) - min(kept) < 0.15


def test_a_layer_with_its_own_ratio_keeps_it_under_a_budget(small):
    options = WidthOptions(budget=("macs", 0.6), ratios={"layer1": 0.25, "layer1.1": 0})
    counts = solve(small, choose(small, options), options)
    assert [counts[f"layer1.{i}.conv1"] for i in range(3)] == [12, 16, 12]
    assert small.macs(counts) / small.macs({}) == pytest.approx(0.6, abs=0.01)


def test_an_unreachable_budget_is_refused_with_the_range(small):
    options = WidthOptions(budget=("macs", 0.02))
    groups = choose(small, options)
    low, high = reach(small, groups, options)["macs"]
    assert 0.03 < low < 0.06 and high == 1
    with pytest.raises(UsageError, match=f"budget.macs=0.02 cannot be reached.*{low:.3f} to 1.000"):
        solve(small, groups, options)
    options = WidthOptions(budget=("macs", 0.9), ratios={"layer1": 0.5, "layer2": 0.5})
    with pytest.raises(UsageError, match="cannot be reached"):
        solve(small, choose(small, options), options)


def test_a_measured_figure_that_misses_the_budget_is_an_error():
    options = WidthOptions(budget=("macs", 0.5))
    dense = {"macs": 1000, "params": 1000}
    _budget.check(options, dense, {"macs": 509, "params": 1})
    with pytest.raises(RunError, match="budget.macs=0.5 asks for 0.500 .* has 0.5110"):
        _budget.check(options, dense, {"macs": 511, "params": 1})
    _budget.check(WidthOptions(), dense, {"macs": 1, "params": 1})


@pytest.mark.parametrize("name", ["macs", "params", "latency"])
@pytest.mark.parametrize("share", [0, 1, 1.5, -1])
def test_a_budget_outside_zero_and_one_is_refused(name, share):
    with pytest.raises(UsageError, match=f"prune.budget.{name}={share} .*KEPT"):
        WidthOptions.read({"budget": {"macs": None, "params": None, name: share}})


@pytest.mark.parametrize(
    "options, message",
    [({"ratio": 0.95}, "prune.ratio=0.95 leaves 0 of 16 channels in 'layer1.0.conv1'"),
     ({"ratios": {"layer1": 0.95}}, "prune.ratios=0.95 leaves 0 of 16 .* prune.min_channels=1")],
)  # fmt: skip
def test_a_ratio_that_empties_a_layer_is_refused(small, options, message):
    with pytest.raises(UsageError, match=message):
        ratios(small, **options)
    assert ratios(small, min_channels=1, **options)["layer1.0.conv1"] == 1
    assert ratios(small, round_to=4, **options)["layer1.0.conv1"] == 4


def test_one_target_at_a_time():
    with pytest.raises(UsageError, match="macs=0.5 and prune.budget.params=0.5 both say"):
        WidthOptions.read({"budget": {"macs": 0.5, "params": 0.5}})
    with pytest.raises(UsageError, match="prune.ratio=0.3 and prune.budget.macs=0.5"):
        WidthOptions.read({"ratio": 0.3, "budget": {"macs": 0.5, "params": None}})
    options = WidthOptions.read({"ratio": 0.3, "budget": {"macs": None, "params": None}})
    assert options.budget is None


def test_ratios_name_layers_and_stay_in_range(small):
    with pytest.raises(UsageError, match="prune.ratios names 'layer9'"):
        choose(small, WidthOptions(ratios={"layer9": 0.5}))
    with pytest.raises(UsageError, match="prune.ratios.layer1=1 must be below 1"):
        WidthOptions(ratios={"layer1": 1})


# --- steps of several channels --------------------------------------------------------------------


@pytest.fixture(scope="module")
def halved():
    return structure_of(resnet20(10, (3, 8, 8), width=0.5), (3, 8, 8))


def test_a_budget_that_several_layers_meet_together_is_found(halved):
    # moves of one layer end at 0.7223; by enumeration of all widths 0.6974 is the nearest
    options = WidthOptions(round_to=8, budget=("params", 0.7))
    counts = solve(halved, choose(halved, options), options)
    assert abs(halved.params(counts) / halved.params({}) - 0.7) <= 0.02
    assert all(count % 8 == 0 for count in counts.values())


def test_all_channels_of_a_layer_may_stay_though_they_are_no_multiple():
    net = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, 9), (9, 20))),
        nn.Flatten(), nn.Linear(20 * 16, 4),
    )  # fmt: skip
    structure = structure_of(net, (3, 4, 4))
    assert ratios(structure, round_to=8, ratios={"0": 0})["0.0"] == 9
    for share in (0.99, 0.93, 0.82, 0.76):
        options = WidthOptions(round_to=8, budget=("params", share))
        counts = solve(structure, choose(structure, options), options)
        assert counts["0.0"] in (8, 9) and counts["1.0"] in (8, 16, 20)
        assert abs(structure.params(counts) / structure.params({}) - share) <= 0.02


def test_a_budget_between_coarse_steps_is_refused_by_the_plan(halved):
    options = {
        "budget": {"macs": 0.97},
        "round_to": 16,
        "skip": ["layer3.0", "layer3.1"],
        "min_channels": 16,
    }
    spec = Spec("compressor.models.resnet20", {"width": 0.5}, (3, 8, 8), 10, "classification")
    dense = blank(spec, (), Classification())
    prune = {"_target_": "compressor.prune.weight_sum.WeightSum", **options}
    with pytest.raises(UsageError, match=r"prune.budget.macs=0.97 cannot be met: .* keep 0\.9428"):
        compress.preview(dense, Pruning.read(prune))
    # nor by a threshold, which can choose among the same widths
    with pytest.raises(UsageError, match="cannot be met"):
        compress.preview(dense, Pruning.read({**prune, "allocation": "global"}))


# --- names that hold a part of a layer ------------------------------------------------------------


def test_what_runs_through_a_protected_part_is_not_cut():
    structure = structure_of(resnet20(10, (3, 8, 8)), (3, 8, 8))
    skipped = WidthOptions(scope="all", skip=["layer1"])
    groups = [group.name for group in choose(structure, skipped)]
    assert "conv1" not in groups and not any(name.startswith("layer1.") for name in groups)
    # a batch norm's channels are those that it passes on
    beside = WidthOptions(scope="all", skip=["layer1.1.bn2"])
    assert "conv1" not in [group.name for group in choose(structure, beside)]
    counts = ratios(structure, scope="all", ratios={"layer1": 0.0})
    assert counts["conv1"] == 16 and counts["layer1.0.conv1"] == 16


def test_of_two_names_that_hold_a_part_each_the_smaller_ratio_counts():
    structure = structure_of(resnet20(10, (3, 8, 8)), (3, 8, 8))
    counts = ratios(structure, scope="all", ratios={"layer1.0": 0.25, "layer1.1": 0.75})
    assert counts["conv1"] == 12
    assert counts["layer1.0.conv1"] == 12 and counts["layer1.1.conv1"] == 4
    named = ratios(structure, scope="all", ratios={"layer1": 0.25, "conv1": 0.75})
    assert named["conv1"] == 4
    stage = ratios(structure, scope="all", ratios={"layer2": 0.5, "layer2.0": 0.0})
    assert [stage[f"layer2.{name}"] for name in ("0.conv1", "0.conv2", "1.conv1")] == [32, 32, 16]


def test_the_plan_tells_of_names_that_hold_a_part_of_a_layer():
    structure = structure_of(resnet20(10, (3, 8, 8)), (3, 8, 8))
    made = "(they are made by conv1, layer1.0.conv2, layer1.1.conv2, layer1.2.conv2)"
    whole = f"'conv1', whose channels run through 'layer1' {made}"
    skipped = WidthOptions(scope="all", skip=["layer1", "layer2"])
    assert in_part(structure, skipped) == [f"prune.skip=[layer1] also leaves {whole} as it is"]
    shares = WidthOptions(scope="all", ratios={"layer1": 0.25, "layer3": 0.5, "conv1": 0.5})
    assert in_part(structure, shares) == []  # the group's own name counts
    shares = WidthOptions(scope="all", ratios={"layer1": 0.25})
    assert in_part(structure, shares) == [
        f"prune.ratios: the 0.25 of 'layer1' holds for all of {whole}"
    ]
    assert in_part(structure, WidthOptions(skip=["layer1"])) == []  # nothing else is in scope
