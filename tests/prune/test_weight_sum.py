import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.prune.weight_sum import WeightSum, weight_sum
from compressor.surgery import Group, Slot


def group_of(slots, size, kind="interior"):
    return Group("conv", size, tuple(slots), (), (), kind == "interior", kind, False, ())


def weights_with_sums(sums, fan_in=4):
    values = torch.tensor(sums, dtype=torch.float32)[:, None, None, None] / fan_in
    signs = torch.tensor([1.0, -1.0]).repeat(fan_in // 2).view(1, fan_in, 1, 1)
    return values * signs


def order(group, weights):
    return WeightSum().rank(group, {}, weights, torch.Generator()).order.tolist()


def test_weight_sum_adds_absolute_kernel_weights():
    assert weight_sum(torch.tensor([[[1.0, -2.0]], [[0.0, 0.5]]])).tolist() == [3.0, 0.5]


def test_half_the_filters_with_growing_norms_leaves_the_upper_half():
    weights = {"conv.weight": weights_with_sums([1, 2, 3, 4, 5, 6]), "conv.bias": -torch.arange(6)}
    slots = [
        Slot("conv.weight", 0, torch.arange(6), "conv"),
        Slot("conv.bias", 0, torch.arange(6), "conv"),
    ]
    assert order(group_of(slots, 6), weights) == [5, 4, 3, 2, 1, 0]


def test_of_equal_filters_the_lowest_index_goes_first():
    weights = {"conv.weight": weights_with_sums([2, 1, 1, 2])}
    slots = [Slot("conv.weight", 0, torch.arange(4), "conv")]
    assert order(group_of(slots, 4), weights) == [3, 0, 2, 1]


def test_a_grouped_conv_averages_the_positions_of_all_groups():
    # Two groups of three filters; position 1 is small in both, position 0 only in the first.
    weights = {"conv.weight": weights_with_sums([1, 2, 6, 9, 2, 6])}
    slots = [Slot("conv.weight", 0, torch.arange(3).repeat(2), "conv")]
    assert order(group_of(slots, 3), weights) == [2, 0, 1]


def stream(weights):
    slots = [
        Slot(name, 0, torch.arange(2), name.removesuffix(".weight"), shortcut="downsample" in name)
        for name in weights
    ]
    return group_of(slots, 2, "stream")


def test_the_projection_shortcut_decides_for_its_stage():
    weights = {
        "layer2.0.conv2.weight": weights_with_sums([9, 1]),
        "layer2.0.downsample.0.weight": weights_with_sums([1, 2]),
        "layer2.1.conv2.weight": weights_with_sums([9, 1]),
    }
    assert order(stream(weights), weights) == [1, 0]


def test_a_stream_without_projection_takes_the_mean_over_its_producers():
    weights = {
        "conv1.weight": weights_with_sums([9, 1]),
        "layer1.0.conv2.weight": weights_with_sums([1, 7]),
        "layer1.1.conv2.weight": weights_with_sums([1, 4]),
    }
    assert order(stream(weights), weights) == [1, 0]


def test_a_gate_does_not_vote_on_the_channels_it_multiplies():
    weights = {"conv.weight": weights_with_sums([1, 2]), "se.fc2.weight": weights_with_sums([9, 1])}
    slots = [Slot(name, 0, torch.arange(2), name.removesuffix(".weight")) for name in weights]
    assert order(group_of(slots, 2), weights) == [1, 0]


def test_a_transposed_conv_is_summed_along_its_output_channels():
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 5.0, 0.0], [1.0, 0.0, 0.5]])[:, :, None, None]
    slots = [Slot("conv.weight", 1, torch.arange(3), "conv")]
    assert order(group_of(slots, 3), {"conv.weight": layer.weight}) == [1, 0, 2]


def test_it_needs_no_data():
    assert WeightSum().observers(group_of([], 2), nn.Identity()) == ()


def test_a_group_without_filters_is_refused_by_name():
    with pytest.raises(UsageError, match=r"prune.skip=\[conv\]"):
        order(
            group_of([Slot("conv.bias", 0, torch.arange(2), "conv")], 2),
            {"conv.bias": torch.ones(2)},
        )
