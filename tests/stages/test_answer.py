"""A network is refused at the plan where its answers are no logits of the data's classes."""

import doubles
import pytest
import torch
from torch import nn

from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.stages import _blank
from compressor.stages._answer import check_network
from compressor.tasks.classification import Classification

SIZE = (3, 8, 8)


def look(name, task=None):
    task = task or Classification()
    target = f"doubles.{name}"
    made = Spec(target, {}, SIZE, 10, "classification")
    check_network(_blank.blank(made, (target,), task), task)


@pytest.mark.parametrize(
    ("name", "came"),
    [
        ("TwoAnswers", r"tuple of \(2, 10\) and \(2, 8\)"),
        ("TwoAnswersInTraining", r"tuple of \(2, 10\) and \(2, 8\)"),
        ("AnswersByName", "dict"),
        ("ThreeMore", r"\(2, 13\)"),
        ("ThreeMoreByValues", r"\(2, 13\)"),
    ],
)
def test_answers_that_are_no_logits_of_the_classes_are_refused(name, came):
    expected = (
        rf"doubles.{name} answers 2 images of 3x8x8 with {came}, .* expects one tensor of logits "
        r"\(2, 10\), images x classes: num_classes=10 is passed to a constructor that takes it"
    )
    with pytest.raises(UsageError, match=expected) as caught:
        look(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Net", "Plain", "Untraceable", "ByCount", "Auxiliary"])
def test_logits_pass_and_those_of_auxiliary_classifiers_too(name):
    look(name)


def test_the_modes_of_the_network_stay_as_they_were():
    task, target = Classification(), "doubles.Net"
    found = _blank.blank(Spec(target, {}, SIZE, 10, "classification"), (target,), task)
    found.net.body.eval()
    check_network(found, task)
    assert found.net.training and not found.net.body.training
    found.net.train()


def test_another_task_judges_its_answers_itself():
    look("TwoAnswers", doubles.Segmentation())


class Large(nn.Module):
    """Cannot be built without storage, and would take 4 MB."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if torch.empty(1).is_meta:
            raise RuntimeError("it wants values")
        self.wide = nn.Linear(1000, 1000)
        self.head = nn.Linear(1000, num_classes)


def test_a_network_that_is_built_with_storage_ends_where_it_is_larger_than_the_memory(monkeypatch):
    monkeypatch.setattr(doubles, "Large", Large, raising=False)
    monkeypatch.setattr(_blank, "memory", lambda: 1_000_000)
    with pytest.raises(UsageError, match="weights take more, .* 0.001 GB: lower model.width or sc"):
        look("Large")
