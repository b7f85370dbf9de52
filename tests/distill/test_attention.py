import pytest
import torch

from compressor.distill.attention import Attention, attention_gap, attention_map
from compressor.errors import UsageError


def test_the_map_is_the_mean_square_over_channels_of_length_1():
    x = torch.zeros(1, 2, 1, 2)
    x[0, :, 0, 0] = torch.tensor([3.0, -1.0])  # mean square 5
    x[0, :, 0, 1] = torch.tensor([0.0, 2.0])  # 2
    expected = torch.tensor([[5.0, 2.0]]) / 29**0.5
    torch.testing.assert_close(attention_map(x), expected)


def test_known_answer():
    own, other = torch.zeros(1, 1, 1, 2), torch.zeros(1, 3, 1, 2)
    own[..., 0] = 2.0
    other[..., 1] = 5.0
    assert attention_gap(own, other).item() == pytest.approx(1.0)  # (1 + 1) / 2


def test_features_of_another_scale_or_width_are_no_difference():
    x = torch.randn(2, 4, 3, 3)
    assert attention_gap(5 * x, x.repeat(1, 2, 1, 1)).item() == pytest.approx(0, abs=1e-12)


def test_a_larger_map_is_averaged_down():
    assert attention_gap(torch.randn(2, 4, 6, 6), torch.randn(2, 3, 3, 3)).isfinite()


def test_pairs_are_summed():
    a, b = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 3, 3)
    own, other = ({"features": {"stages": [x, x]}} for x in (a, b))
    loss = Attention().loss(own, other, None).item()
    assert loss == pytest.approx(2 * attention_gap(a, b).item())


def test_stages_that_cannot_be_paired_are_told():
    term = Attention()
    with pytest.raises(UsageError, match="student has 1, the teacher 2"):
        term.adapter({"stages": [(2, 3, 4, 4)]}, {"stages": [(2, 3, 4, 4)] * 2}, (3, 8, 8))
    with pytest.raises(UsageError, match="has no height and width"):
        term.adapter({"stages": [(2, 3)]}, {"stages": [(2, 3, 4, 4)]}, (3, 8, 8))
