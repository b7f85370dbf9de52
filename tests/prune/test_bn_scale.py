import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.prune.bn_scale import BNScale, bn_scale
from compressor.surgery import Group, Slot


def group_of(*norms, size=3, kind="interior"):
    """A group behind these batch norms: (module, class of every channel)."""
    followers = [
        Slot(f"{name}.{tensor}", 0, torch.tensor(classes), name)
        for name, classes in norms
        for tensor in ("weight", "bias", "running_mean", "running_var")
    ]
    producer = Slot("conv.weight", 0, torch.arange(size), "conv")
    return Group("conv", size, (producer,), (), tuple(followers), True, kind, False, ())


def tensors(**gammas):
    found = {}
    for name, gamma in gammas.items():
        gamma = torch.tensor(gamma)
        found |= {
            f"{name}.weight": gamma, f"{name}.bias": 9 - gamma,
            f"{name}.running_mean": -gamma, f"{name}.running_var": 9 - gamma,
        }  # fmt: skip
    return found


def order(group, weights):
    return BNScale().rank(group, {}, weights, torch.Generator()).order.tolist()


def test_the_score_is_the_mean_absolute_scale():
    assert bn_scale([torch.tensor([0.5, 2.0]), torch.tensor([1.5, 0.0])]).tolist() == [1.0, 1.0]


def test_the_smallest_absolute_scale_goes_first_whatever_the_shift():
    assert order(group_of(("bn", [0, 1, 2])), tensors(bn=[-3.0, 0.1, 1.0])) == [0, 2, 1]


def test_of_equal_scales_the_lowest_index_goes_first():
    assert order(group_of(("bn", [0, 1, 2])), tensors(bn=[1.0, 1.0, 1.0])) == [2, 1, 0]


def test_several_batch_norms_are_averaged_each_by_its_own_places():
    # the second norm stands behind a concatenation: one channel before it, in another order
    group = group_of(("bn", [0, 1, 2]), ("late", [-1, 2, 0, 1]))
    weights = tensors(bn=[1.0, 1.0, 1.0], late=[9.0, 3.0, 1.0, 2.0])
    assert order(group, weights) == [2, 1, 0]


def test_positions_of_a_grouped_layer_are_averaged():
    assert order(group_of(("bn", [0, 1, 2] * 2)), tensors(bn=[1.0, 2, 3, 5, 2, 1])) == [0, 2, 1]


def test_layer_norms_and_layer_scales_are_no_batch_norms():
    group = group_of(("bn", [0, 1, 2]))
    scale = Slot("scale.weight", 0, torch.arange(3), "scale")
    both = Group("conv", 3, group.producers, (), (scale, *group.followers), True, "interior",
                 False, ())  # fmt: skip
    weights = {**tensors(bn=[3.0, 2.0, 1.0]), "scale.weight": torch.tensor([1.0, 5.0, 9.0])}
    assert order(both, weights) == [0, 1, 2]


def test_a_channel_whose_scale_is_zero_goes_first_in_a_real_network():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip
    with torch.no_grad():
        net[1].weight[4] = 0
    group = surgery.analyse(net, (torch.zeros(1, 3, 6, 6),)).group("0")
    assert BNScale().observers(group, net) == ()
    assert int(BNScale().rank(group, {}, net.state_dict(), None).order[-1]) == 4


@pytest.mark.parametrize(
    "norm",
    [nn.Identity(), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6, track_running_stats=False)],
    ids=["no norm", "no scale", "no statistics"],
)
def test_a_layer_without_a_batch_norm_is_refused_by_name(norm):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())
    group = surgery.analyse(net, (torch.zeros(1, 3, 6, 6),)).group("0")
    with pytest.raises(UsageError, match=r"no batch norm.*behind '0'.*prune.skip=\[0\]"):
        BNScale().observers(group, net)


def test_a_scale_that_is_no_number_is_an_error():
    with pytest.raises(RunError, match="channel 1 .*look for NaN"):
        order(group_of(("bn", [0, 1, 2])), tensors(bn=[1.0, float("nan"), 1.0]))
