import pytest
import torch

from compressor.errors import UsageError
from compressor.prune.fpgm import FPGM, fpgm
from compressor.surgery import Group, Slot


def group_of(*slots, size, kind="interior"):
    return Group("conv", size, slots, (), (), kind == "interior", kind, False, ())


def slot_of(name, classes):
    shortcut = name.startswith("downsample")
    return Slot(f"{name}.weight", 0, torch.as_tensor(classes), name, shortcut=shortcut)


def order(group, weights):
    return FPGM().rank(group, {}, weights, torch.Generator()).order.tolist()


def test_the_score_is_the_sum_of_distances_to_all_filters():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert fpgm(corners).tolist() == [7.0, 8.0, 9.0]


def test_it_equals_the_distances_taken_one_at_a_time():
    x = torch.randn(7, 4, 3, 3, generator=torch.Generator().manual_seed(0)).flatten(1).double()
    expected = torch.stack([sum((a - b).norm() for b in x) for a in x])
    torch.testing.assert_close(fpgm(x), expected)


def test_the_filter_at_the_geometric_median_goes_first_though_its_norm_is_the_largest():
    # four filters around one centre far from the origin; the centre is the median
    centre = torch.full((4,), 10.0)
    around = centre + torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, -2, 0, 0]])
    filters = torch.cat([around[:2], centre[None], around[2:]])[:, :, None, None]
    assert order(group_of(slot_of("conv", range(5)), size=5), {"conv.weight": filters})[-1] == 2


def test_planted_duplicates_are_nearer_to_the_others_than_an_outlier():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    x[4], x[5] = x[1], 20 * x[5]
    found = order(group_of(slot_of("fc", range(6)), size=6), {"fc.weight": x})
    assert found[0] == 5


def test_of_equal_filters_the_lowest_index_goes_first():
    weights = {"conv.weight": torch.ones(3, 2, 1, 1)}
    assert order(group_of(slot_of("conv", range(3)), size=3), weights) == [2, 1, 0]


def test_near_equal_filters_far_from_the_origin_keep_their_order():
    x = 1000 + torch.tensor([[0.0], [0.25], [0.5], [4.0]])
    weights = {"fc.weight": x}
    assert order(group_of(slot_of("fc", range(4)), size=4), weights) == [3, 0, 2, 1]


def test_a_class_of_a_grouped_conv_is_one_vector_of_all_its_filters():
    # positions 0, 1, 2 in both groups; only together do they tell that 1 lies between 0 and 2
    weights = {"conv.weight": torch.tensor([0.0, 1, 2, 0, 1, 2])[:, None]}
    group = group_of(slot_of("conv", [0, 1, 2] * 2), size=3)
    assert order(group, weights) == [2, 0, 1]
    joined = torch.tensor([[0.0, 0], [1, 1], [2, 2]])
    assert fpgm(joined).tolist() == pytest.approx([3 * 2**0.5, 2 * 2**0.5, 3 * 2**0.5])


def test_a_gate_does_not_vote_and_the_projection_shortcut_decides_for_a_stream():
    median_first = torch.tensor([[0.0], [-1], [1]])
    median_last = torch.tensor([[-1.0], [1], [0]])
    weights = {"conv.weight": median_first, "gate.weight": median_last}
    slots = [slot_of(name, range(3)) for name in ("conv", "gate")]
    assert order(group_of(*slots, size=3), weights)[-1] == 0
    weights = {"conv.weight": median_first, "downsample.0.weight": median_last}
    slots = [slot_of(name, range(3)) for name in ("conv", "downsample.0")]
    assert order(group_of(*slots, size=3, kind="stream"), weights)[-1] == 2


def test_a_group_without_filters_is_refused_by_name():
    bias = Slot("conv.bias", 0, torch.arange(2), "conv")
    with pytest.raises(UsageError, match=r"prune=fpgm finds no filter.*prune.skip=\[conv\]"):
        order(group_of(bias, size=2), {"conv.bias": torch.ones(2)})


def test_it_needs_no_data():
    assert FPGM().observers(group_of(size=2), None) == ()
