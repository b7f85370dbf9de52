import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.robust import Samples
from compressor.robust.co_teaching import UNKNOWN, CoTeaching, Pair, trusted


def test_the_smallest_losses_are_trusted():
    losses = torch.tensor([3.0, 1.0, 2.0, 9.0])
    assert sorted(trusted(losses, 0.5).tolist()) == [1, 2]
    assert trusted(losses, 0.01).tolist() == [1]


def test_the_kept_share_falls_linearly_to_its_end():
    robust = CoTeaching(forget=0.4, ramp=0.5)
    robust.phases(8)
    kept = []
    for epoch in (0, 2, 4, 7):
        robust.before_epoch(epoch)
        kept.append(robust._keep)
    assert kept == pytest.approx([1.0, 0.8, 0.6, 0.6])


def test_each_network_learns_from_the_samples_that_the_other_trusts():
    robust = CoTeaching(forget=0.5, ramp=0.1)
    robust.phases(10)
    robust.before_epoch(5)
    first = torch.tensor([[5.0, 0.0], [0.0, 5.0]], requires_grad=True)
    second = torch.tensor([[0.0, 5.0], [5.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0, 0])
    loss = robust.loss({"logits": first, "aux": ((1.0, second),)}, targets, torch.arange(2))
    loss.backward()
    # the first trusts sample 0, the second sample 1
    assert first.grad[0].abs().sum() == 0 and first.grad[1].abs().sum() > 0
    assert second.grad[1].abs().sum() == 0 and second.grad[0].abs().sum() > 0
    expected = F.cross_entropy(first[1:], targets[:1]) + F.cross_entropy(second[:1], targets[:1])
    assert loss.item() == pytest.approx(expected.item())


def test_the_first_network_answers_and_goes_on():
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    robust = CoTeaching()
    pair = robust.networks(one, lambda: two)
    assert isinstance(pair, Pair) and robust.chosen(pair) is one
    x = torch.randn(4, 2)
    assert torch.equal(pair.eval()(x), one(x))
    assert [tuple(part.shape) for part in pair.train()(x)] == [(4, 3), (4, 3)]


@pytest.mark.parametrize(
    "asked, rate, used, line",
    [
        (None, 0.225, 0.225, "robust.forget=0.225 is the share of labels that the noise changed"),
        (None, 0.0, 0.0, "robust.forget=0 is the share"),
        (None, 1.0, 0.99, "robust.forget=0.99 is the share"),
        (None, None, UNKNOWN, "robust.forget=0.4 is a guess: how many labels are wrong is unknown"),
        (0.3, 0.225, 0.3, None),
        (0.3, None, 0.3, None),
    ],
)
def test_what_is_forgotten_follows_the_noise_where_it_is_known_and_that_is_said(
    asked, rate, used, line
):
    robust = CoTeaching(asked)
    change = robust.begin(
        Samples(
            targets=torch.zeros(4, dtype=torch.long), num_classes=2, batch_size=2, epochs=4,
            noise_rate=rate,
        )
    )  # fmt: skip
    assert robust.forget == used == change.notes["forget"]
    assert change.targets is None and change.index is None
    told = CoTeaching(asked).follows(rate)
    assert told == [] if line is None else told[0].startswith(line)


def test_all_samples_cannot_be_forgotten():
    with pytest.raises(UsageError, match="robust.forget=1"):
        CoTeaching(forget=1)
