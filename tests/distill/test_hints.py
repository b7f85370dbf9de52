import pytest
import torch

from compressor.distill.hints import Hints
from compressor.errors import UsageError


def test_a_1x1_convolution_maps_the_students_channels_to_the_teachers():
    term = Hints()
    regressor = term.adapter({"middle": [(2, 4, 5, 5)]}, {"middle": [(2, 6, 5, 5)]}, (3, 8, 8))
    assert tuple(regressor.weight.shape) == (6, 4, 1, 1)
    own, other = torch.randn(3, 4, 5, 5), torch.randn(3, 6, 5, 5)
    names = [{"features": {"middle": [x]}} for x in (own, other)]
    expected = ((regressor(own) - other) ** 2).mean()
    assert term.loss(*names, None).item() == pytest.approx(expected.item())


def test_a_perfect_guess_has_no_loss():
    term = Hints()
    regressor = term.adapter({"middle": [(2, 4, 5, 5)]}, {"middle": [(2, 6, 5, 5)]}, (3, 8, 8))
    own = torch.randn(3, 4, 5, 5)
    names = [{"features": {"middle": [x]}} for x in (own, regressor(own).detach())]
    assert term.loss(*names, None).item() == 0


def test_vectors_get_a_linear_layer():
    made = Hints().adapter({"middle": [(2, 4)]}, {"middle": [(2, 6)]}, (3, 8, 8))
    assert isinstance(made, torch.nn.Linear)


def test_features_that_do_not_meet_name_the_adapter_and_both_shapes():
    with pytest.raises(UsageError, match="adapter of distill.terms.hints.*4x5x5.*6x3x3"):
        Hints().adapter({"middle": [(2, 4, 5, 5)]}, {"middle": [(2, 6, 3, 3)]}, (3, 8, 8))
