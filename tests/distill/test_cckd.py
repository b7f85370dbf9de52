import pytest
import torch

from compressor.distill.cckd import CCKD, congruence, correlation
from compressor.errors import UsageError

STUDENT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TEACHER = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])


def features(own, other):
    return {"features": {"penultimate": [own]}}, {"features": {"penultimate": [other]}}


def test_known_answer():
    assert congruence(STUDENT, TEACHER).item() == pytest.approx(0.103534, abs=1e-6)


def test_the_truncated_series_is_not_1_on_the_diagonal():
    diagonal = correlation(STUDENT, "gaussian", 0.4, 2).diagonal()
    torch.testing.assert_close(diagonal, torch.full((3,), 0.952577), atol=1e-6, rtol=0)


def test_the_series_tends_to_the_gaussian_kernel():
    rows = torch.nn.functional.normalize(torch.randn(5, 4))
    expected = torch.exp(-0.4 * torch.cdist(rows, rows) ** 2)
    torch.testing.assert_close(correlation(rows, "gaussian", 0.4, 12), expected)


def test_turning_or_scaling_all_features_is_no_difference():
    f = torch.randn(8, 6)
    q, _ = torch.linalg.qr(torch.randn(6, 6))
    assert congruence(f, f @ q).item() == pytest.approx(0, abs=1e-10)
    assert congruence(7 * f, f).item() == pytest.approx(0, abs=1e-10)


def test_widths_and_maps_need_not_match():
    own, other = torch.randn(4, 8, 3, 3), torch.randn(4, 16)
    assert CCKD().loss(*features(own, other), None).isfinite()


def test_one_sample_has_no_relation():
    own = torch.randn(1, 4, requires_grad=True)
    loss = CCKD().loss(*features(own, torch.randn(1, 4)), None)
    loss.backward()
    assert loss.item() == 0 and own.grad.abs().sum() == 0


def test_an_embedding_learns_on_the_students_side_alone():
    term = CCKD(embed_dim=5)
    made = term.adapter({"penultimate": [(2, 8)]}, {"penultimate": [(2, 3)]}, (1, 8, 8))
    assert [p.requires_grad for p in made.parameters()] == [True, False]
    loss = term.loss(*features(torch.randn(6, 8), torch.randn(6, 3)), None)
    loss.backward()
    assert made["student"].weight.grad.abs().sum() > 0


def test_features_of_zeros_leave_finite_gradients():
    own = torch.zeros(4, 3, requires_grad=True)
    congruence(own, torch.randn(4, 3)).backward()
    assert own.grad.isfinite().all()


@pytest.mark.parametrize(
    "options", [{"kernel": "cosine"}, {"gamma": 0}, {"order": 0}, {"embed_dim": 0}, {"weight": -1}]
)
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"distill.terms.cckd.{key}={options[key]}"):
        CCKD(**options)
