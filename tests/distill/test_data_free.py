import math

import pytest
import torch

from compressor.distill.data_free import (
    DataFree,
    EnlargingConv2d,
    Generator,
    activation,
    information_entropy,
    one_hot,
)
from compressor.errors import UsageError

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
FEATURES = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 4.0, 1.0, 0.0]])


def test_known_answers():
    assert one_hot(LOGITS).item() == pytest.approx(0.132384, abs=1e-6)
    assert activation(FEATURES).item() == pytest.approx(-1.0)
    assert information_entropy(LOGITS, math.e).item() == pytest.approx(-0.839884, abs=1e-6)
    assert information_entropy(LOGITS, 10).item() == pytest.approx(-0.364757, abs=1e-6)


def test_balanced_classes_have_the_lowest_information_loss():
    sure = 20 * torch.eye(4)
    assert information_entropy(sure).item() == pytest.approx(-math.log10(4), abs=1e-5)
    assert information_entropy(sure[:1].repeat(4, 1)).item() == pytest.approx(0, abs=1e-5)


def test_made_images_have_mean_0_and_variance_1_in_each_channel():
    torch.manual_seed(0)
    images = Generator(10, (3, 8, 12), 0.8)(torch.randn(64, 10))
    assert tuple(images.shape) == (64, 3, 8, 12)
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_enlarging_convolution_is_doubling_and_convolving(layout):
    torch.manual_seed(0)
    conv = EnlargingConv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=layout)
    doubled = torch.nn.functional.interpolate(x, scale_factor=2)
    expected = torch.nn.functional.conv2d(doubled, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)


def test_the_makers_loss_is_the_weighted_sum():
    term = DataFree(one_hot=1.0, activation=0.1, entropy=5.0)
    parts, loss = term.judge({"logits": LOGITS, "features": {"penultimate": [FEATURES]}})
    assert loss.item() == pytest.approx(0.132384 - 0.1 - 5 * 0.364757, abs=1e-5)
    assert parts["confidence"].item() == pytest.approx(LOGITS.softmax(1).amax(1).mean().item())


def test_turns_are_at_once_or_one_half_each_and_a_baseline_makes_nothing():
    assert DataFree().turn(0.1) == (True, True)
    assert DataFree(schedule="two_stage").turn(0.49) == (True, False)
    assert DataFree(schedule="two_stage").turn(0.5) == (False, True)
    assert DataFree(images="untrained").turn(0.1) == (False, True)
    maker = DataFree(images="noise").adapter({}, {}, (1, 5, 7))
    images = DataFree(images="noise").draw(maker, 3, torch.device("cpu"), None)
    assert tuple(images.shape) == (3, 1, 5, 7)


def test_a_size_that_cannot_be_doubled_twice_is_told():
    with pytest.raises(UsageError, match="10x12 is no multiple of 4"):
        DataFree().adapter({}, {}, (1, 10, 12))


@pytest.mark.parametrize(
    "options",
    [{"images": "real"}, {"schedule": "x"}, {"count": 1}, {"latent": 0}, {"generator_lr": 0}],
)
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"data_free.*{key}={options[key]}"):
        DataFree(**options)
