"""Whole networks: parity, exact predictions, replay, and the figures of the papers."""

import copy

import pytest
import torch
import torchvision
from torch.nn import functional

from compressor.surgery import Plan, analyse, check_parity, keep_count, plan_cut, replay

FAST = (
    "resnet18",
    "mobilenet_v2",
    "shufflenet_v2_x1_0",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "googlenet",
    "densenet121",
)
SLOW = ("resnet50", "vgg16_bn", "efficientnet_b0", "resnext50_32x4d", "regnet_y_400mf")
ARGUMENTS = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


def build(name: str, device: str = "cpu") -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = ARGUMENTS.get(name, {})
    if device == "cpu" or name.startswith("regnet"):  # regnet computes its widths with tensors
        return getattr(torchvision.models, name)(weights=None, **arguments).to(device)
    with torch.device("meta"):
        return getattr(torchvision.models, name)(weights=None, **arguments)


def half(groups) -> dict[str, torch.Tensor]:
    return {g.name: torch.arange(keep_count(g.size, 0.5)) for g in groups}


def counts(keep) -> dict[str, int]:
    return {name: len(classes) for name, classes in keep.items()}


def check_network(name, size, lively, counted, halves):
    dense = lively(build(name))
    structure = analyse(dense, (torch.zeros(1, 3, size, size),))
    assert (structure.macs({}), structure.params({})) == counted(dense, 3, size, size)
    inputs = (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),)
    for scope in ("interior", "all"):
        keep = halves(structure.select(scope))
        plan = plan_cut(structure, keep)
        assert check_parity(dense, structure, plan, inputs) <= 1e-5
        small = replay(build(name, "meta"), Plan.from_json(plan.to_json()))
        predicted = structure.macs(counts(keep)), structure.params(counts(keep))
        assert predicted == counted(small, 3, size, size)
        assert predicted[0] < 0.95 * structure.macs({})
        cut = replay(copy.deepcopy(dense), plan)
        assert {n: t.shape for n, t in cut.state_dict().items()} == {
            n: t.shape for n, t in small.state_dict().items()
        }
    return dense, structure


@pytest.mark.parametrize("name", FAST)
def test_a_network_of_torchvision_is_cut_without_changing_what_is_left(
    name, lively, counted, halves
):
    check_network(name, 64, lively, counted, halves)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_larger_network_of_torchvision_is_cut_without_changing_what_is_left(
    name, lively, counted, halves
):
    check_network(name, 64, lively, counted, halves)


@pytest.mark.slow
def test_inception_with_its_auxiliary_head_is_cut_without_changing_what_is_left(
    lively, counted, halves
):
    check_network("inception_v3", 299, lively, counted, halves)


def test_googlenet_trains_with_both_auxiliary_losses_after_the_cut(lively, halves):
    net = lively(build("googlenet")).train()
    structure = analyse(net, (torch.zeros(1, 3, 64, 64),))
    replay(net, plan_cut(structure, halves(structure.select("all"))))
    assert net.aux1.conv.conv.out_channels == 64
    targets = torch.tensor([1, 2])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    out = net(torch.randn(2, 3, 64, 64))
    heads = (out.logits, 0.3 * out.aux_logits1, 0.3 * out.aux_logits2)
    sum(functional.cross_entropy(logits, targets) for logits in heads).backward()
    before = net.aux2.conv.conv.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, net.aux2.conv.conv.weight)


def test_heads_that_only_train_cost_parameters_but_no_macs(counted):
    net = build("googlenet", "meta")
    structure = analyse(net, (torch.zeros(1, 3, 64, 64),))
    name = structure.group("aux1.conv.conv").name
    keep = {name: 64}
    assert structure.macs(keep) == structure.macs({})
    # 128 -> 64: the 1x1 convolution of 512 inputs, its batch norm, and fc1 with 4x4 positions
    assert structure.params({}) - structure.params(keep) == 64 * (512 + 2 + 16 * 1024)


# --- known answers -------------------------------------------------------------------------------


def test_resnet50_interior_is_the_first_two_convolutions_of_each_block():
    structure = analyse(build("resnet50", "meta"), (torch.zeros(1, 3, 224, 224),))
    expected = [
        f"layer{stage}.{block}.conv{conv}"
        for stage, blocks in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
        for block in range(blocks)
        for conv in (1, 2)
    ]
    interior = structure.select("interior")
    assert [g.name for g in interior] == expected
    assert all(g.interior and g.kind == "interior" for g in interior)
    streams = [g for g in structure.select("all") if g.kind == "stream"]
    assert [g.size for g in streams] == [64, 256, 512, 1024, 2048]
    assert structure.macs({}) == 4_089_184_256 and structure.params({}) == 25_557_032
    keep = counts(half(interior))
    assert structure.macs(keep) == 1_822_031_872
    assert structure.params(keep) == 12_381_864


def test_resnet18_interior_is_the_first_convolution_of_each_block():
    structure = analyse(build("resnet18", "meta"), (torch.zeros(1, 3, 64, 64),))
    expected = [f"layer{s}.{b}.conv1" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert [g.name for g in structure.select("interior")] == expected


def test_thinet_conv_has_the_size_that_the_paper_reports():
    structure = analyse(build("vgg16", "meta"), (torch.zeros(1, 3, 224, 224),))
    assert structure.macs({}) == 15_470_264_320 and structure.params({}) == 138_357_544
    interior = structure.select("interior")
    assert len(interior) == 13 and interior[-1].consumers[0].parameter == "classifier.0.weight"
    keep = counts(half(interior[:10]))
    assert structure.macs(keep) == 4_791_205_888  # twice this is the paper's 9.58 GFLOPs
    assert structure.params(keep) == 131_452_552
    hidden = [g for g in structure.groups if g.kind == "fc"]
    assert [g.name for g in hidden] == ["classifier.0", "classifier.3"]
    assert set(hidden) < set(structure.select("all"))


def test_mobilenet_v2_interior_is_every_expansion_with_its_depthwise_convolution():
    structure = analyse(build("mobilenet_v2", "meta"), (torch.zeros(1, 3, 64, 64),))
    interior = structure.select("interior")
    # the first block has no expansion: its depthwise convolution follows the stem
    expected = ["features.0.0"] + [f"features.{i}.conv.0.0" for i in range(2, 18)]
    assert [g.name for g in interior] == expected
    first = interior[1]
    assert first.size == 96
    followers = [s.parameter for s in first.followers]
    assert "features.2.conv.1.0.weight" in followers  # the depthwise convolution
    assert [s.after for s in first.consumers] == ["hardtanh"]
    assert [a.module for a in first.activations] == ["features.2.conv.0.2", "features.2.conv.1.2"]
    assert all(a.op == "hardtanh" and a.leaf for a in first.activations)


def test_a_squeeze_width_is_its_own_kind_and_the_gated_width_stays_interior():
    structure = analyse(build("mobilenet_v3_small", "meta"), (torch.zeros(1, 3, 64, 64),))
    squeezes = [g for g in structure.groups if g.kind == "se"]
    assert len(squeezes) == 9 and all(g.name.endswith("fc1") for g in squeezes)
    assert not set(squeezes) & set(structure.select("all"))
    gated = structure.group("features.4.block.0.0")
    assert gated.kind == "interior"
    makers = [s.module for s in gated.producers if s.parameter.endswith("weight")]
    assert makers == ["features.4.block.0.0", "features.4.block.2.fc2"]


def test_densenet121_has_its_bottlenecks_inside_and_its_growth_concatenated():
    structure = analyse(build("densenet121", "meta"), (torch.zeros(1, 3, 64, 64),))
    interior = structure.select("interior")
    assert len(interior) == 58 and all(g.name.endswith("conv1") for g in interior)
    growth = structure.group("features.denseblock1.denselayer1.conv2")
    assert growth.kind == "concat" and growth.size == 32
    assert len([s for s in growth.consumers]) == 6  # five later layers and the transition


def test_no_group_of_any_network_makes_its_logits():
    for name, head in (("resnet18", "fc"), ("squeezenet1_1", "classifier.1")):
        structure = analyse(build(name, "meta"), (torch.zeros(1, 3, 64, 64),))
        makers = {s.module for g in structure.groups for s in g.producers}
        assert head not in makers
        assert [f.channels for f in structure.frozen if f.operator == "output"] == [1000]


def test_analysis_leaves_weights_mode_and_gradients_alone():
    net = build("resnet18").eval()
    net.conv1.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    analyse(net, (torch.zeros(1, 3, 64, 64),))
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert not net.conv1.weight.requires_grad and bool((net.fc.weight.grad == 1).all())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
