import pytest
import torch
from torch.nn import functional as F

from compressor.distill.ensemble_net import EnsembleNet, combined, ensemble_loss
from compressor.errors import UsageError
from compressor.models import build

HEADS = [
    torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    torch.tensor([[0.0, 2.0, 0.0], [0.0, 3.0, 1.0]]),
]
TARGETS = torch.tensor([0, 1])


def criterion(logits):
    return F.cross_entropy(logits, TARGETS)


def net(seed=0):
    torch.manual_seed(seed)
    return build("compressor.models.resnet20", {"width": 0.5}, 4, (3, 8, 8))


@pytest.mark.parametrize("lam, value", [(1, 0.584175), (0, 0.800095), (-1.5, 1.123975)])
def test_known_answers(lam, value):
    assert ensemble_loss(HEADS, criterion, lam).item() == pytest.approx(value, abs=2e-6)


def test_the_gain_of_the_ensemble_is_the_mean_divergence_of_the_heads_from_it():
    gap = ensemble_loss(HEADS, criterion, 0) - ensemble_loss(HEADS, criterion, 1)
    mean = combined(HEADS).log_softmax(1)
    divergence = [(mean.exp() * (mean - z.log_softmax(1))).sum(1).mean() for z in HEADS]
    assert gap.item() == pytest.approx(0.215920, abs=2e-6)
    assert gap.item() == pytest.approx(torch.stack(divergence).mean().item(), abs=1e-6)


def test_mean_probabilities_sum_to_1():
    probs = combined(HEADS, "probs").exp()
    expected = torch.stack([z.softmax(1) for z in HEADS]).mean(0)
    torch.testing.assert_close(probs, expected)


def test_heads_share_the_trunk_and_begin_apart():
    grown = EnsembleNet().student(net(0), net).train()
    plain = sum(p.numel() for p in net().parameters())
    upper = sum(p.numel() for p in (*net().layer3.parameters(), *net().fc.parameters()))
    assert sum(p.numel() for p in grown.parameters()) == plain + upper
    assert not torch.equal(grown.parts["0-1"].fc.weight, grown.parts["1-1"].fc.weight)
    assert grown.parts["0-1"].fc.weight is grown.net.fc.weight


def test_heads_that_begin_alike_are_refused():
    with pytest.raises(UsageError, match="same weights"):
        EnsembleNet().student(net(0), lambda head: net(0))


@pytest.mark.parametrize(
    "options", [{"heads": 1}, {"lam": 1.5}, {"combine": "votes"}, {"weight": -1}]
)
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"distill.terms.ensemble_net.{key}={options[key]}"):
        EnsembleNet(**options)


def test_a_stage_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no module 'layer9'"):
        EnsembleNet(split_at="layer9").student(net(0), net)
