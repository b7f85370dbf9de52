import pytest
import torch

from compressor.errors import UsageError
from compressor.robust import Samples
from compressor.robust.backward import Backward, backward

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])
SYMMETRIC = torch.full((3, 3), 0.1).double() + 0.7 * torch.eye(3).double()
ONE_WAY = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]]).double()


def samples(T):
    return Samples(
        targets=torch.tensor([0, 1, 2]), num_classes=3, batch_size=2, epochs=4, transition=T
    )


@pytest.mark.parametrize(
    "T, answers",
    [(SYMMETRIC, (-0.0210, 1.4076, 2.8362)), (ONE_WAY, (0.4076, 1.8362, 2.4076))],
)
def test_known_answers(T, answers):
    robust = Backward()
    robust.begin(samples(T))
    found = [
        robust.loss({"logits": LOGITS}, torch.tensor([y]), torch.tensor([0])).item()
        for y in range(3)
    ]
    assert found == pytest.approx(answers, abs=1e-4)


def test_the_mean_over_given_labels_is_the_clean_loss():
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(0)).double()
    inverse = torch.linalg.inv(ONE_WAY)
    losses = torch.stack([backward(logits, torch.tensor([j]), inverse) for j in range(3)])
    assert torch.allclose(ONE_WAY @ losses, -logits.log_softmax(1)[0])


def test_a_matrix_near_a_singular_one_is_refused():
    T = torch.tensor([[0.5, 0.5, 0.0], [0.4999, 0.5001, 0.0], [0.0, 0.0, 1.0]]).double()
    with pytest.raises(UsageError, match="condition number .* type robust=forward"):
        Backward().begin(samples(T))


def test_an_estimate_of_a_diverged_network_is_refused():
    with pytest.raises(UsageError, match="condition number is inf.* type robust=forward"):
        Backward().begin(samples(torch.full((3, 3), float("nan")).double()))
