"""Classes that are not equally frequent: weights, refusals, the figures that look at each class."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.errors import UsageError
from compressor.regularize.none import NoRegularizer
from compressor.robust.backward import Backward
from compressor.robust.bootstrap import Bootstrap
from compressor.robust.co_teaching import CoTeaching
from compressor.robust.confident import Confident
from compressor.robust.forward import Forward
from compressor.robust.gce import GCE
from compressor.robust.mae import MAE
from compressor.robust.none import CrossEntropy
from compressor.robust.pencil import Pencil
from compressor.robust.sce import SCE
from compressor.stages._classes import (
    balanced_weights,
    check,
    check_figures,
    counts,
    ratio,
)
from compressor.stages._distill.options import Grouping, Teaching
from compressor.stages._recipe import Recipes
from compressor.tasks.classification import Classification
from compressor.tasks.supervised import Supervised
from compressor.tasks.training import Distillation, KnownLabels, Leg, Training


def test_ninety_and_ten_samples_weigh_five_ninths_and_five():
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced_weights(counts(labels, None, 2))
    assert weights.tolist() == pytest.approx([100 / 180, 100 / 20])
    assert weights[labels].mean().item() == pytest.approx(1.0)
    known = compute_class_weight("balanced", classes=np.arange(2), y=labels.numpy())
    assert weights.tolist() == pytest.approx(known.tolist())


def test_labels_that_are_not_read_do_not_count_and_absent_classes_weigh_nothing():
    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 50)
    found = counts(labels, torch.arange(100), 3)
    assert found.tolist() == [90, 10, 0] and ratio(found) == 9
    assert balanced_weights(found).tolist() == pytest.approx([100 / 180, 5, 0])


def test_distributions_for_labels_count_by_their_masses():
    soft = torch.tensor([[0.75, 0.25]] * 4)
    found = counts(soft, None, 2)
    assert found.tolist() == [3, 1]
    assert (soft @ balanced_weights(found)).mean().item() == pytest.approx(1.0)


class Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.numbers = max(self.numbers, out.numel())
        return out


def test_of_distributions_in_a_file_a_part_is_read_at_a_time():
    soft = torch.full((50_000, 4), 0.25)
    for index in (None, torch.arange(1, 50_000)):
        with Largest() as seen:
            found = counts(soft, index, 4)
        assert found.tolist() == [0.25 * (50_000 if index is None else 49_999)] * 4
        assert seen.numbers < soft.numel() / 2


def module(robust, weights):
    return Training(
        torch.nn.Linear(2, 2), Supervised(), Leg(loss=robust, optimizer=None),
        task=Classification(), num_classes=2, distillation=Distillation(),
        regularizer=NoRegularizer(), seed=0, labels=KnownLabels(weights=weights),
    )  # fmt: skip


def test_a_weighted_loss_is_the_mean_of_weight_times_loss():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    targets, weights = torch.tensor([0, 0, 1]), torch.tensor([0.5, 5.0])
    outputs, index = {"logits": logits, "aux": ((0.3, -logits),)}, torch.arange(3)
    made = module(CrossEntropy(), weights).label_loss(outputs, targets, index)
    each = F.cross_entropy(logits, targets, reduction="none")
    aux = F.cross_entropy(-logits, targets, reduction="none")
    by_hand = sum(w * (a + 0.3 * b) for w, a, b in zip([0.5, 0.5, 5.0], each, aux, strict=True)) / 3
    torch.testing.assert_close(made, by_hand)
    # a label that is sure is a distribution like any other
    soft = module(CrossEntropy(), weights).label_loss(outputs, F.one_hot(targets).float(), index)
    torch.testing.assert_close(soft, by_hand)


WEIGHABLE = [
    CrossEntropy(label_smoothing=0.1), GCE(), GCE(truncated=True, warmup=0.0), MAE(), SCE(),
    Bootstrap(form="soft"), Bootstrap(form="hard"), Confident(),
]  # fmt: skip


@pytest.mark.parametrize("robust", WEIGHABLE, ids=lambda robust: type(robust).__name__)
def test_the_losses_of_a_remedy_are_those_whose_mean_it_takes(robust):
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    outputs = {"logits": logits, "aux": ((0.3, logits.flip(0)),)}
    given = torch.arange(7) % 4, torch.arange(7)
    each = robust.losses(outputs, *given)
    assert robust.per_sample and each.shape == (7,)
    torch.testing.assert_close(each.mean(), robust.loss(outputs, *given))
    unweighted, even = module(robust, None), module(robust, torch.ones(4))
    torch.testing.assert_close(
        unweighted.label_loss(outputs, *given), even.label_loss(outputs, *given)
    )


RECIPE = {
    "epochs": 1, "batch_size": 8, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9,
    "nesterov": False, "weight_decay": 0.0, "decay_norm_and_bias": True, "schedule": "constant",
    "warmup_epochs": 0.0, "milestones": [], "gamma": 0.1, "clip_norm": None, "select": "best",
    "select_by": "accuracy", "class_weights": "none", "patience": None,
}  # fmt: skip
RECOVERY = {
    **RECIPE, "labels": "auto", "clean_fraction": 1.0, "clean_seed": 0, "robust": "none",
    "mode": "finetune", "epoch_cap": None, "rewind_epoch": 0,
}  # fmt: skip


def recipes(sampler="none", train=None, finetune=None):
    """Those of a config that asks for these."""
    return Recipes.read({
        "dataset": {"sampler": sampler},
        "pretrain": {**RECIPE, "pretext": None, "frozen": False},
        "train": {**RECIPE, **(train or {})},
        "finetune": {**RECOVERY, **(finetune or {})},
    })  # fmt: skip


def refused(remedy, sampler="none", train="none", finetune="none", draw="none"):
    """Check the trainings of a config that asks for these."""
    asked = recipes(sampler, train={"class_weights": train}, finetune={"class_weights": finetune})
    grouping = Grouping(sampler=draw, per_group=4, superclasses=5) if draw != "none" else None
    check(asked, remedy, Teaching(grouping=grouping))


@pytest.mark.parametrize("robust", [Pencil(), CoTeaching()])
def test_weights_are_refused_where_a_loss_is_no_mean_over_samples(robust):
    name = type(robust).__module__.rpartition(".")[2]
    with pytest.raises(UsageError, match=f"robust={name} has not: type dataset.sampler=balanced"):
        refused(robust, train="balanced")
    refused(robust, sampler="balanced")
    refused(robust, finetune="balanced")  # which has a loss of its own


@pytest.mark.parametrize("robust", [Forward(), Backward()])
@pytest.mark.parametrize("words", [{"train": "balanced"}, {"sampler": "balanced"}])
def test_a_transition_matrix_and_other_shares_of_labels_exclude_each_other(robust, words):
    with pytest.raises(UsageError, match="=balanced makes another matrix of robust="):
        refused(robust, **words)


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"train": "balanced", "sampler": "balanced"}, "give one of them"),
        ({"sampler": "balanced", "draw": "class_uniform"}, "both choose the images of a batch"),
        ({"sampler": "some"}, "dataset.sampler=some is not known: choose one of none, balanced"),
        ({"finetune": "some"}, "finetune.class_weights=some is not known"),
    ],
)
def test_what_excludes_each_other_is_refused(wrong, line):
    with pytest.raises(UsageError, match=line):
        refused(CrossEntropy(), **wrong)


def test_figures_that_look_at_every_class_alike_by_hand_and_against_scikit_learn():
    # 6 of class 0, all right but one; 3 of class 1, one right; class 2 is told but never there
    truth = torch.tensor([0] * 6 + [1] * 3)
    told = torch.tensor([0, 0, 0, 0, 0, 1, 1, 0, 2])
    meter = Classification().metrics(4)
    for rows in (slice(0, 4), slice(4, 9)):
        meter.update({"logits": F.one_hot(told[rows], 4).float()}, truth[rows])
    found = meter.compute()
    assert found["balanced_accuracy"].item() == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert found["class_recall"][:2].tolist() == pytest.approx([5 / 6, 1 / 3])
    assert found["class_recall"][2:].isnan().all()
    f1 = [2 * 5 / (6 + 6), 2 * 1 / (3 + 2), 0.0]
    assert found["macro_f1"].item() == pytest.approx(sum(f1) / 3)
    truth, told = truth.numpy(), told.numpy()
    assert found["macro_f1"].item() == pytest.approx(f1_score(truth, told, average="macro"))
    recall = recall_score(truth, told, average=None, labels=[0, 1])
    assert found["class_recall"][:2].tolist() == pytest.approx(recall.tolist())


def test_they_agree_with_scikit_learn_on_many_answers():
    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (400,), generator=rng) * (torch.rand(400, generator=rng) < 0.4)
    logits = torch.randn(400, 5, generator=rng)
    logits[torch.arange(400), truth] += 1
    meter = Classification().metrics(5)
    meter.update({"logits": logits}, truth)
    found, told = meter.compute(), logits.argmax(dim=1)
    assert found["balanced_accuracy"].item() == pytest.approx(balanced_accuracy_score(truth, told))
    assert found["macro_f1"].item() == pytest.approx(f1_score(truth, told, average="macro"))


def test_a_figure_that_another_task_does_not_measure_is_refused():
    class Hits(Classification):
        figures = MappingProxyType({"hits": "max", "loss": "min"})

    check_figures(recipes(), Hits())
    with pytest.raises(UsageError, match="finetune.select_by=macro_f1 .* has hits, loss: type"):
        check_figures(recipes(finetune={"select_by": "macro_f1"}), Hits())
