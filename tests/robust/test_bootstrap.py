import pytest
import torch

from compressor.errors import UsageError
from compressor.robust.bootstrap import Bootstrap, hard, soft

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "form, b, target, value",
    [
        ("soft", 0.95, 0, 0.428845), ("soft", 0.95, 1, 1.378845),
        ("hard", 0.8, 0, 0.407606), ("hard", 0.8, 1, 1.207606),
    ],
)  # fmt: skip
def test_known_answers(form, b, target, value):
    out = Bootstrap(b, form).loss({"logits": LOGITS}, torch.tensor([target]), torch.tensor([0]))
    assert out.item() == pytest.approx(value, abs=1e-5)


def test_the_gradient_of_the_soft_form_flows_through_the_opinion_of_the_hard_form_not():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    logits.requires_grad_()
    targets = torch.tensor([0, 1, 2, 0])
    p = logits.softmax(1)
    expected = 0.5 * torch.nn.functional.cross_entropy(logits, targets)
    expected = expected - 0.5 * (p * p.log()).sum(1).mean()
    (by_hand,) = torch.autograd.grad(expected, logits)
    (found,) = torch.autograd.grad(soft(logits, targets, 0.5), logits)
    assert torch.allclose(found, by_hand)
    (found,) = torch.autograd.grad(hard(logits, targets, 0.0), logits)
    z = torch.nn.functional.one_hot(p.argmax(1), 3)
    assert torch.allclose(found, ((p - z) / 4).detach())


@pytest.mark.parametrize("options", [{"b": 1.5}, {"form": "firm"}])
def test_options_out_of_range_are_named(options):
    ((key, value),) = options.items()
    with pytest.raises(UsageError, match=f"robust.{key}={value}"):
        Bootstrap(**options)
