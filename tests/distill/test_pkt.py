import pytest
import torch

from compressor.distill.pkt import PKT, neighbours, transfer
from compressor.errors import UsageError

STUDENT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TEACHER = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])


@pytest.mark.parametrize("form, value", [("reference", 0.0283558), ("paper", 0.362199)])
def test_known_answers(form, value):
    assert transfer(STUDENT, TEACHER, form).item() == pytest.approx(value, abs=2e-6)


def test_the_row_mean_is_the_reference_times_the_samples():
    mean, rows = (transfer(STUDENT, TEACHER, form) for form in ("reference", "row_mean"))
    assert rows.item() == pytest.approx(3 * mean.item())


@pytest.mark.parametrize("form", ["reference", "paper", "row_mean"])
def test_features_of_another_length_are_no_difference_and_pull_nowhere(form):
    own = (3 * TEACHER).requires_grad_()
    loss = transfer(own, TEACHER, form)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert own.grad.abs().max() < 1e-6


def test_rows_are_probabilities_of_the_other_samples():
    p = neighbours(torch.randn(5, 4), diagonal=False)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(5))
    assert p.diagonal().tolist() == [0] * 5 and (p >= 0).all()


def test_features_of_zeros_leave_finite_gradients():
    own = torch.zeros(4, 3, requires_grad=True)
    transfer(own, torch.randn(4, 3)).backward()
    assert own.grad.isfinite().all()


def test_the_term_reads_penultimate_features():
    own, other = ({"features": {"penultimate": [f]}} for f in (STUDENT, TEACHER))
    assert PKT().loss(own, other, None).item() == pytest.approx(0.0283558, abs=2e-6)
    assert PKT().layers() == (("penultimate",), ("penultimate",))


def test_an_unknown_form_is_named():
    with pytest.raises(UsageError, match="form=sum"):
        PKT(form="sum")
