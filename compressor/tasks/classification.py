"""Image classification: logits (N, K), accuracy, its likes for unequal classes, cross-entropy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from compressor.robust import with_auxiliary
from compressor.tasks import Task

# Weight of an auxiliary classifier's loss: 0.3 in GoogLeNet (Szegedy et al. 2015, section 5).
AUXILIARY_WEIGHT = 0.3


class Accuracy(Metric):
    """Fraction of samples whose largest logit is the target's, in [0, 1].

    Targets are labels, or distributions (floats), whose largest entry counts.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: dict[str, Any], targets: Tensor) -> None:
        labels = targets.argmax(dim=1) if targets.is_floating_point() else targets
        self.correct += (outputs["logits"].argmax(dim=1) == labels).sum()
        self.total += labels.numel()

    def compute(self) -> Tensor:
        return self.correct.double() / self.total


class CrossEntropy(Metric):
    """Mean cross-entropy in nats, whatever loss the training uses."""

    full_state_update = False
    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: dict[str, Any], targets: Tensor) -> None:
        loss = F.cross_entropy(outputs["logits"].float(), targets, reduction="sum")
        self.sum += loss.double()
        self.total += len(targets) if targets.is_floating_point() else targets.numel()

    def compute(self) -> Tensor:
        return self.sum / self.total


class _Counts(Metric):
    """Counts of every class; what they come to is the subclass's business.

    right: samples of the class that were told as such, support: samples of it, answers: samples
    that were told as it, each (K,). Targets as in Accuracy.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("right", "support", "answers"):
            zeros = torch.zeros(num_classes, dtype=torch.long)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, outputs: dict[str, Any], targets: Tensor) -> None:
        labels = targets.argmax(dim=1) if targets.is_floating_point() else targets
        labels, answers = labels.flatten(), outputs["logits"].argmax(dim=1).flatten()
        # no bincount and no mask, for which a GPU would be waited for in every step
        one = torch.ones_like(labels)
        self.right = self.right.index_add(0, labels, (answers == labels).long())
        self.support = self.support.index_add(0, labels, one)
        self.answers = self.answers.index_add(0, answers, one)


class ClassRecall(_Counts):
    """(K,) fraction of each class's samples that were told as such; NaN where there is none."""

    def compute(self) -> Tensor:
        return self.right.double() / self.support


class BalancedAccuracy(_Counts):
    """Mean recall of the classes that have a sample, in [0, 1] (Brodersen et al. ICPR 2010)."""

    def compute(self) -> Tensor:
        return (self.right.double() / self.support).nanmean()


class MacroF1(_Counts):
    """Mean over the classes of 2 right / (support + answers), in [0, 1].

    Classes that no sample has and no answer names are left out, as in scikit-learn.
    """

    def compute(self) -> Tensor:
        return (2 * self.right.double() / (self.support + self.answers)).nanmean()


class Classification(Task):
    """Task object of `task=classification`."""

    name = "classification"
    figures = MappingProxyType(
        {"accuracy": "max", "balanced_accuracy": "max", "macro_f1": "max", "loss": "min"}
    )
    labelled = True

    def outputs(self, net_out: Any) -> dict[str, Any]:
        """Networks with auxiliary classifiers answer a named tuple (logits, aux...) in training."""
        if isinstance(net_out, Tensor):
            return {"logits": net_out, "aux": ()}
        logits, *others = net_out
        aux = tuple((AUXILIARY_WEIGHT, value) for value in others if value is not None)
        return {"logits": logits, "aux": aux}

    def loss(self, outputs: Mapping[str, Any], targets: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: F.cross_entropy(logits, targets))

    def metrics(self, num_classes: int) -> MetricCollection:
        counted = {
            "balanced_accuracy": BalancedAccuracy(num_classes),
            "macro_f1": MacroF1(num_classes),
            "class_recall": ClassRecall(num_classes),
        }
        return MetricCollection({"accuracy": Accuracy(), "loss": CrossEntropy(), **counted})

    def teacher_view(self, outputs: Mapping[str, Any]) -> Tensor:
        return outputs["logits"]

    def misfit(self, answer: Any, images: int, num_classes: int) -> str | None:
        expected = (images, num_classes)
        try:
            found = self.outputs(answer)
            parts = [found["logits"], *(value for _, value in found["aux"])]
        except (TypeError, ValueError):  # nothing that holds tensors
            parts = [answer]
        if all(isinstance(part, Tensor) and tuple(part.shape) == expected for part in parts):
            return None
        return (
            f"one tensor of logits {expected}, images x classes: num_classes={num_classes} is "
            "passed to a constructor that takes it"
        )
