import pytest
import torch

from compressor.errors import UsageError
from compressor.robust import Phase
from compressor.robust.gce import GCE
from compressor.robust.none import CrossEntropy

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])
INDEX = torch.tensor([0])


def loss(robust, logits, target, **outputs):
    return robust.loss({"logits": logits, **outputs}, torch.tensor([target]), INDEX)


@pytest.mark.parametrize("target, value", [(0, 0.407606), (1, 1.407606), (2, 2.407606)])
def test_cross_entropy_of_three_logits(target, value):
    assert loss(CrossEntropy(), LOGITS, target).item() == pytest.approx(value, abs=1e-6)


def test_distributions_weigh_the_losses_of_the_classes():
    soft = torch.tensor([[0.5, 0.25, 0.25]])
    out = CrossEntropy().loss({"logits": LOGITS}, soft, INDEX)
    assert out.item() == pytest.approx(0.5 * 0.407606 + 0.25 * (1.407606 + 2.407606), abs=1e-6)


def test_smoothing_spreads_its_mass_over_all_classes():
    # 0.9 of the true class plus 0.1 of the mean over the three classes
    expected = 0.9 * 0.407606 + 0.1 * (0.407606 + 1.407606 + 2.407606) / 3
    assert loss(CrossEntropy(0.1), LOGITS, 0).item() == pytest.approx(expected, abs=1e-6)


def test_auxiliary_heads_are_added_by_their_weight():
    aux = ((0.3, LOGITS), (0.5, LOGITS.flip(1)))
    total = loss(CrossEntropy(), LOGITS, 0, aux=aux).item()
    assert total == pytest.approx(0.407606 * 1.3 + 0.5 * 2.407606, abs=1e-5)


def test_half_precision_logits_are_judged_in_float32():
    assert loss(CrossEntropy(), LOGITS.bfloat16(), 0).dtype == torch.float32


def test_one_phase_holds_all_epochs_and_nothing_is_kept_per_sample():
    robust = CrossEntropy()
    assert robust.phases(7) == (Phase(7, robust, 1.0, None),)
    assert robust.after_backward(INDEX) is None and robust.store is None


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_smoothing_out_of_range_is_named(value):
    with pytest.raises(UsageError, match=f"robust.label_smoothing={value}"):
        CrossEntropy(value)


def test_cross_entropy_alone_is_no_remedy():
    assert CrossEntropy(0.1).is_none and not GCE().is_none
