import pytest
import torch
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.robust import Phase
from compressor.robust.gce import GCE, gce

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])
P = (0.665241, 0.244728, 0.090031)
INDEX = torch.tensor([0])


def test_known_answer_at_the_papers_q():
    out = GCE().loss({"logits": LOGITS}, torch.tensor([0]), INDEX)
    assert out.item() == pytest.approx(0.354614, abs=1e-6)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_q_of_one_is_half_the_mean_absolute_error(target):
    assert gce(LOGITS, torch.tensor([target]), 1.0).item() == pytest.approx(1 - P[target], abs=1e-6)


def test_small_q_tends_to_cross_entropy():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 10
    ce = F.cross_entropy(logits, targets).item()
    assert gce(logits, targets, 1e-4).item() == pytest.approx(ce, rel=1e-3)


def test_loss_is_the_mean_over_the_batch_only():
    logits = torch.cat([LOGITS, LOGITS])
    both = gce(logits, torch.tensor([0, 2]), 0.7)
    each = [gce(LOGITS, torch.tensor([k]), 0.7) for k in (0, 2)]
    assert both.item() == pytest.approx((each[0] + each[1]).item() / 2, abs=1e-6)


@pytest.mark.parametrize("q", [1e-3, 0.7, 1.0])
@pytest.mark.parametrize("k", [None, 0.5])
def test_gradients_stay_finite_at_extreme_logits(q, k):
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0], [1e4, -1e4]], requires_grad=True)
    loss = gce(logits, torch.tensor([0, 0, 1]), q, k)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_truncated_form_is_constant_where_the_given_label_is_unlikely():
    logits = torch.cat([LOGITS, LOGITS]).requires_grad_()
    robust = GCE(truncated=True)
    loss = robust.loss({"logits": logits}, torch.tensor([0, 1]), torch.tensor([0, 1]))
    constant = (1 - 0.5**0.7) / 0.7
    assert loss.item() == pytest.approx((0.354614 + constant) / 2, abs=1e-6)
    loss.backward()
    assert logits.grad[0].abs().sum() > 0 and logits.grad[1].abs().sum() == 0


def test_truncation_begins_after_the_warm_up():
    robust = GCE(truncated=True, warmup=0.5)
    robust.phases(4)
    values = []
    for epoch in range(4):
        robust.before_epoch(epoch)
        values.append(robust.loss({"logits": LOGITS}, torch.tensor([2]), INDEX).item())
    full, cut = gce(LOGITS, torch.tensor([2]), 0.7).item(), (1 - 0.5**0.7) / 0.7
    assert values == pytest.approx([full, full, cut, cut])


def test_auxiliary_heads_get_the_same_loss_by_their_weight():
    out = GCE().loss({"logits": LOGITS, "aux": ((0.4, LOGITS),)}, torch.tensor([0]), INDEX)
    assert out.item() == pytest.approx(1.4 * 0.354614, abs=1e-6)


def test_one_phase_holds_all_epochs():
    robust = GCE()
    assert robust.phases(5) == (Phase(5, robust),)


@pytest.mark.parametrize("options", [{"q": 0}, {"q": 1.1}, {"k": 0.0}, {"k": 1.0}])
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"robust.{key}={options[key]}"):
        GCE(**options)
