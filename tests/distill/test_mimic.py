import pytest
import torch
from torch.nn import functional as F

from compressor.distill.mimic import Mimic, deviations, logit_regression
from compressor.errors import UsageError
from compressor.models import build, check_trained, handed_on

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
TEACHER = torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.0, -1.0]])


def test_known_answer_is_the_papers_form_not_the_mean_over_classes():
    assert logit_regression(STUDENT, TEACHER).item() == pytest.approx(2.5)
    assert F.mse_loss(STUDENT, TEACHER).item() == pytest.approx(2.5 * 2 / 3)


def test_a_shift_of_all_logits_is_seen():
    assert logit_regression(TEACHER + 1, TEACHER).item() == pytest.approx(1.5)


def test_standardised_it_is_the_regression_of_standardised_logits():
    teacher = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 7 + 2
    student = teacher + torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    term = Mimic(standardize="per_class")
    term.survey(teacher)
    mean, std = teacher.mean(0), teacher.std(0, correction=0)
    expected = logit_regression((student - mean) / std, (teacher - mean) / std)
    loss = term.loss({"logits": student}, {"logits": teacher}, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_folding_the_bottleneck_leaves_the_answers_and_h_times_d_weights():
    torch.manual_seed(0)
    arguments = {"filters": 4, "pool": 2, "bottleneck": 5, "hidden": 20}
    net = build("compressor.models.shallow_mimic", arguments, 3, (1, 8, 8))
    x = torch.randn(6, 1, 8, 8)
    width = 4 * 4 * 4
    weights = sum(p.numel() for n, p in net.hidden.named_parameters() if "weight" in n)
    assert weights == 5 * (20 + width)
    before = net.double()(x.double())
    net.fold()
    torch.testing.assert_close(net(x.double()), before, rtol=1e-5, atol=1e-6)
    assert net.hidden.weight.numel() == 20 * width
    plain = build(
        "compressor.models.shallow_mimic",
        handed_on("compressor.models.shallow_mimic", arguments), 3, (1, 8, 8),
    )  # fmt: skip
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e4])
def test_a_constant_logit_leaves_the_other_classes_what_they_were(constant):
    g = torch.Generator().manual_seed(0)
    teacher = torch.randn(50, 4, generator=g) * 5
    student = teacher + torch.randn(50, 4, generator=g)
    teacher[:, 3] = constant
    teacher[0, 3] = torch.nextafter(teacher[0, 3], torch.tensor(1e9))  # rounding, no deviation
    student[:, 3] = constant + 0.1
    term = Mimic(standardize="per_class")
    term.survey(teacher)
    loss = term.loss({"logits": student}, {"logits": teacher}, None)
    assert 0 < loss.item() < 10
    torch.testing.assert_close(term.std[:3], teacher[:, :3].std(0, correction=0))


def test_a_teacher_of_constant_logits_is_not_standardised():
    assert deviations(torch.full((5, 3), 2.5)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 7, 5)])
def test_a_bottleneck_that_saves_nothing_is_refused_with_the_most_that_saves(size):
    factory = "compressor.models.shallow_mimic"
    arguments = {"filters": 8, "pool": 2, "hidden": 20}
    inputs = arguments["filters"] * (size[1] // 2) * (size[2] // 2)
    most = (20 * inputs - 1) // (20 + inputs)
    check_trained(factory, {**arguments, "bottleneck": most}, size)
    check_trained(factory, {**arguments, "bottleneck": 0}, size)
    with pytest.raises(UsageError, match=f"saves nothing.*at most {most}, or 0"):
        check_trained(factory, {**arguments, "bottleneck": most + 1}, size)
    # one that was saved so is loaded
    build(factory, {**arguments, "bottleneck": most + 1, "fold": False}, 3, size)


def test_an_unknown_way_to_standardise_is_named():
    with pytest.raises(UsageError, match="standardize=all"):
        Mimic(standardize="all")
