import pytest
import torch

from compressor.robust.mae import MAE, mae

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


def test_known_answer():
    out = MAE().loss({"logits": LOGITS}, torch.tensor([0]), torch.tensor([0]))
    assert out.item() == pytest.approx(0.669518, abs=1e-5)


def test_the_sum_over_all_labels_is_a_constant():
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = sum(mae(logits, torch.full((20,), k)) for k in range(7))
    assert total.item() == pytest.approx(2 * 7 - 2)


def test_gradients_stay_finite_at_extreme_logits():
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0]], requires_grad=True)
    mae(logits, torch.tensor([0, 0])).backward()
    assert logits.grad.isfinite().all()
