import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.robust import Samples
from compressor.robust._transition import anchors, from_joint
from compressor.robust.forward import Forward, forward

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])
SYMMETRIC = torch.full((3, 3), 0.1).double() + 0.7 * torch.eye(3).double()
ONE_WAY = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]]).double()


def samples(**more):
    targets = torch.tensor([0, 1, 2])
    return Samples(targets=targets, num_classes=3, batch_size=2, epochs=4, **more)


@pytest.mark.parametrize(
    "T, answers",
    # a transposed matrix would give (0.4076, 0.9919, 2.4076) for the second
    [(SYMMETRIC, (0.5697, 1.3045, 1.8139)), (ONE_WAY, (0.3029, 1.7643, 2.4076))],
)
def test_known_answers(T, answers):
    found = [forward(LOGITS, torch.tensor([y]), T).item() for y in range(3)]
    assert found == pytest.approx(answers, abs=1e-4)


def test_the_identity_is_cross_entropy_and_extreme_logits_have_finite_gradients():
    logits = torch.tensor([[50.0, -50.0, 0.0], [-50.0, 50.0, 0.0]], requires_grad=True)
    targets = torch.tensor([1, 1])
    loss = forward(logits, targets, torch.eye(3).double())
    # what log 0 stands for bounds the loss: e^-46 of each wrong class
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, targets).item() * 0.46, rel=0.01
    )
    loss.backward()
    assert logits.grad.isfinite().all()


def test_the_known_matrix_is_the_one_of_the_injected_noise():
    robust = Forward()
    notes = robust.begin(samples(transition=ONE_WAY)).notes
    assert notes["transition"] == ONE_WAY.tolist()
    out = robust.loss({"logits": LOGITS}, torch.tensor([1]), torch.tensor([0]))
    assert out.item() == pytest.approx(1.7643, abs=1e-4)


def test_anchors_are_the_answers_at_the_surest_samples():
    # 100 samples: sample i of class 0 is surer the larger i; the 97th percentile is sample 97
    p = torch.zeros(100, 2).double()
    p[:, 0] = torch.arange(100) / 200 + 0.4
    p[:, 1] = 1 - p[:, 0]
    T = anchors(p)
    assert T.tolist() == [pytest.approx([0.885, 0.115]), pytest.approx([0.41, 0.59])]


def test_the_matrix_of_a_joint_has_true_classes_for_rows():
    joint = torch.tensor([[0.4, 0.1], [0.0, 0.5]])  # rows: given
    assert torch.allclose(from_joint(joint), torch.tensor([[1.0, 0.0], [1 / 6, 5 / 6]]).double())


def test_estimates_ask_for_as_many_epochs_as_the_training_has():
    asked = []

    def probabilities(folds, epochs):
        asked.append((folds, epochs))
        return torch.eye(3)

    Forward("anchor").begin(samples(probabilities=probabilities))
    Forward("confident", folds=3, estimate_epochs=2).begin(samples(probabilities=probabilities))
    assert asked == [(1, 4), (3, 2)]


def test_a_matrix_from_a_file_is_checked(tmp_path):
    np.savetxt(tmp_path / "T.csv", ONE_WAY.numpy(), delimiter=",")
    robust = Forward(str(tmp_path / "T.csv"))
    assert robust.begin(samples()).notes["transition"] == ONE_WAY.tolist()
    np.savetxt(tmp_path / "bad.csv", ONE_WAY.numpy() * 0.5, delimiter=",")
    with pytest.raises(UsageError, match="row 0 sums to 0.5"):
        Forward(str(tmp_path / "bad.csv"))
    np.savetxt(tmp_path / "two.csv", np.eye(2), delimiter=",")
    with pytest.raises(UsageError, match="has 2 rows, the data set 3 classes"):
        Forward(str(tmp_path / "two.csv")).begin(samples())
    with pytest.raises(UsageError, match="robust.transition=knwon is neither"):
        Forward("knwon")


def test_without_a_matrix_it_says_what_to_type():
    with pytest.raises(UsageError, match="robust.transition=anchor or confident"):
        Forward().begin(samples())
