import pytest
import torch
from torch.nn import functional as F

from compressor.distill.kd import KD, soft_divergence
from compressor.errors import UsageError

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
TEACHER = torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.0, -1.0]])


@pytest.mark.parametrize("temperature, value", [(1, 0.708319), (4, 0.823916), (20, 0.832952)])
def test_known_answers(temperature, value):
    # 1e-5: at T = 20 the small divergence is multiplied by 400, and float32's rounding with it
    assert soft_divergence(STUDENT, TEACHER, temperature).item() == pytest.approx(value, abs=1e-5)


def test_a_tenth_of_the_labels_and_nine_tenths_of_the_teacher():
    kd = KD()
    soft = kd.loss({"logits": STUDENT}, {"logits": TEACHER}, None)
    total = 0.1 * F.cross_entropy(STUDENT, torch.tensor([2, 0])) + kd.weight * soft
    assert total.item() == pytest.approx(0.816835, abs=1e-6)


def test_a_network_distilled_from_itself_has_no_loss():
    assert soft_divergence(TEACHER, TEACHER, 4.0).item() == 0.0


def test_gradient_is_temperature_times_the_difference_of_probabilities():
    student = STUDENT.clone().requires_grad_()
    soft_divergence(student, TEACHER, 4.0).backward()
    difference = (STUDENT / 4).softmax(1) - (TEACHER / 4).softmax(1)
    assert torch.allclose(student.grad, 4.0 * difference / len(STUDENT), atol=1e-6)


def test_high_temperature_tends_to_logit_matching():
    a, b = (x - x.mean(1, keepdim=True) for x in (STUDENT.double(), TEACHER.double()))
    limit = (((a - b) ** 2).sum(1).mean() / (2 * 3)).item()
    assert soft_divergence(a.float(), b.float(), 100.0).item() == pytest.approx(limit, rel=1e-3)


def test_loss_is_float32_under_autocast_and_finite_at_extreme_logits():
    student = torch.tensor([[80.0, -80.0]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = KD().loss({"logits": student}, {"logits": -student}, None)
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_only_the_logits_are_read():
    assert KD().layers() == ((), ())


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": -1.0}, {"weight": -0.1}])
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"distill.terms.kd.{key}={options[key]}"):
        KD(**options)
