import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.prune import Gate
from compressor.prune.taylor import Taylor, taylor
from compressor.surgery import Group, Slot


def group_of(*consumers, size=3):
    return Group("0", size, (), consumers, (), True, "interior", False, ())


def test_the_score_is_the_mean_square_over_the_images():
    assert taylor(torch.tensor([[1.0, 0.0], [-3.0, 2.0]])).tolist() == [5.0, 2.0]


def test_opposite_effects_on_two_images_do_not_cancel():
    assert taylor(torch.tensor([[1.0, 0.1], [-1.0, 0.1]])).argmin() == 1


def test_batches_of_any_size_add_up_to_the_same_score():
    derivative = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    (gate,) = Taylor().observers(group_of(), None)
    assert isinstance(gate, Gate)
    sums = {"square": 0, "images": 0}
    for part in derivative.split(4):
        for name, value in gate.measure(part).items():
            sums[name] = sums[name] + value
    assert float(sums["images"]) == 10
    torch.testing.assert_close(sums["square"] / 10, taylor(derivative))


def test_the_smallest_effect_goes_first_and_of_equals_the_lowest_index():
    sums = {"gate/square": torch.tensor([4.0, 1.0, 1.0]), "gate/images": torch.tensor(2.0)}
    assert Taylor().rank(group_of(), sums, {}, None).order.tolist() == [0, 2, 1]


def test_a_reader_that_is_neither_conv_nor_linear_is_refused_by_name():
    net = nn.Sequential(nn.Identity(), nn.Bilinear(3, 3, 2))
    slot = Slot("1.weight", 1, torch.arange(3), "1")
    with pytest.raises(UsageError, match=r"'1', .* '1.weight', is a Bilinear.*prune.skip=\[0\]"):
        Taylor().observers(group_of(slot), net)
