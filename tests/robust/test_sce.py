import pytest
import torch

from compressor.errors import UsageError
from compressor.robust.sce import SCE, sce

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


@pytest.mark.parametrize("alpha, beta, value", [(0.1, 1.0, 1.379797), (6.0, 0.1, 2.579539)])
def test_known_answers(alpha, beta, value):
    out = SCE(alpha, beta).loss({"logits": LOGITS}, torch.tensor([0]), torch.tensor([0]))
    assert out.item() == pytest.approx(value, abs=1e-5)


def test_gradients_stay_finite_at_extreme_logits():
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0]], requires_grad=True)
    sce(logits, torch.tensor([0, 0]), 0.1, 1.0, -4.0).backward()
    assert logits.grad.isfinite().all()


def test_what_stands_for_log_zero_is_negative():
    with pytest.raises(UsageError, match="robust.A=4"):
        SCE(A=4.0)
