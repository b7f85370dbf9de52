import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.regularize.slimming import Slimming, l1_of_scales


def net_with(*gammas):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), *[nn.BatchNorm2d(len(gamma)) for gamma in gammas])
    for layer, gamma in zip(net[1:], gammas, strict=True):
        layer.weight.data = torch.tensor(gamma)
    return net


def test_the_penalty_is_lambda_times_the_sum_of_absolute_scales():
    net = net_with([1.0, -2.0], [0.5])
    assert float(l1_of_scales(net).detach()) == 3.5
    (penalty,) = Slimming(weight=0.5).penalties(net).values()
    assert float(penalty.detach()) == 1.75


def test_its_gradient_is_lambda_times_the_sign_and_reaches_scales_only():
    net = net_with([1.0, -2.0, 0.0])
    (penalty,) = Slimming(weight=0.5).penalties(net).values()
    penalty.backward()
    assert net[1].weight.grad.tolist() == [0.5, -0.5, 0.0]
    assert net[0].weight.grad is None and net[1].bias.grad is None


def test_norms_without_a_scale_and_other_norms_do_not_enter():
    net = nn.Sequential(
        nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.LayerNorm(2), nn.GroupNorm(1, 2)
    )
    assert float(l1_of_scales(net).detach()) == 2.0


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(UsageError, match="no batch norm.*regularize=none"):
        Slimming().penalties(nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(UsageError, match=f"regularize.weight={weight}"):
        Slimming(weight)
