import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.noise import Part
from compressor.noise.symmetric import Symmetric
from compressor.robust import DROPPED, Samples
from compressor.robust.confident import (
    Confident,
    confident_joint,
    estimated_joint,
    find_issues,
    spare,
)

GIVEN = torch.tensor([0, 0, 0, 1, 1, 1])
P = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])


def test_the_confident_joint_counts_by_the_classes_own_thresholds():
    # thresholds: 0.6 for class 0, 0.7 for class 1; the last sample reaches neither
    assert confident_joint(GIVEN, P).tolist() == [[2, 1], [0, 2]]


def test_the_joint_is_calibrated_to_the_given_counts():
    joint = estimated_joint(confident_joint(GIVEN, P), GIVEN)
    assert torch.allclose(joint, torch.tensor([[2 / 6, 1 / 6], [0, 0.5]]).double())


def test_the_sample_with_the_largest_margin_is_flagged():
    joint = estimated_joint(confident_joint(GIVEN, P), GIVEN)
    assert find_issues(GIVEN, P, joint).tolist() == [False, False, True, False, False, False]


def test_a_class_keeps_its_best_samples():
    flagged = torch.tensor([True, True, True, False, False, False])
    quality = P.gather(1, GIVEN[:, None])[:, 0]
    assert spare(flagged, GIVEN, quality, 2).tolist() == [False, False, True] + [False] * 3


def samples(given, p):
    return Samples(
        targets=given, num_classes=p.shape[1], batch_size=2, epochs=3,
        probabilities=lambda folds, epochs: p,
    )  # fmt: skip


def test_drop_relabel_and_weight():
    drop = Confident(min_per_class=0).begin(samples(GIVEN, P))
    assert drop.index.tolist() == [0, 1, 3, 4, 5] and drop.targets.equal(GIVEN)
    assert drop.corrected.tolist() == [0, 0, DROPPED, 1, 1, 1]
    assert drop.notes["estimated_noise_rate"] == pytest.approx(1 / 6)
    relabel = Confident("relabel", min_per_class=0).begin(samples(GIVEN, P))
    assert relabel.targets.tolist() == [0, 0, 1, 1, 1, 1] and len(relabel.index) == 6
    doubtful = Confident("relabel", margin=0.9, min_per_class=0).begin(samples(GIVEN, P))
    assert doubtful.index.tolist() == [0, 1, 3, 4, 5]
    assert doubtful.corrected.tolist() == [0, 0, DROPPED, 1, 1, 1]
    assert (doubtful.notes["dropped"], doubtful.notes["relabelled"]) == (1, 0)
    assert relabel.corrected.tolist() == [0, 0, 1, 1, 1, 1]
    weigh = Confident("weight", min_per_class=0)
    assert weigh.corrects == () and drop.notes["flagged"] == 1
    assert weigh.begin(samples(GIVEN, P)).index is None
    logits = torch.zeros(2, 2)
    out = weigh.loss({"logits": logits}, torch.tensor([0, 0]), torch.tensor([0, 2]))
    mean = (0.9 + 0.8 + 0.1 + 0.8 + 0.7 + 0.6) / 6
    assert out.item() == pytest.approx(np.log(2) * (0.9 + 0.1) / 2 / mean, rel=1e-5)


def test_samples_without_a_label_take_no_part():
    index = torch.tensor([0, 2, 3, 4])
    given = Samples(
        targets=GIVEN, num_classes=2, batch_size=2, epochs=3, index=index,
        probabilities=lambda folds, epochs: P,
    )  # fmt: skip
    change = Confident(min_per_class=0).begin(given)
    assert set(change.index.tolist()) <= set(index.tolist())


def test_wrong_digits_are_found_by_a_cross_validated_classifier():
    """Symmetric 0.2, 5 folds of logistic regression: precision .88, recall .82 and more."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict, train_test_split

    x, y = load_digits(return_X_y=True)
    x, _, y, _ = train_test_split(x / 16, y, test_size=447, stratify=y, random_state=0)
    clean = torch.from_numpy(y).long()
    given = Symmetric(0.2).corrupt(Part(clean, 10))
    model = LogisticRegression(C=0.3, max_iter=500)
    p = torch.from_numpy(cross_val_predict(model, x, given.numpy(), cv=5, method="predict_proba"))
    joint = estimated_joint(confident_joint(given, p), given)
    flagged, wrong = find_issues(given, p, joint), given != clean
    hits = int((flagged & wrong).sum())
    assert hits / int(flagged.sum()) >= 0.88 and hits / int(wrong.sum()) >= 0.82
    assert abs(1 - joint.trace().item() - 0.2) < 0.05


@pytest.mark.parametrize(
    "options", [{"action": "burn"}, {"folds": 1}, {"margin": 2}, {"estimate_epochs": 0}]
)
def test_options_out_of_range_are_named(options):
    ((key, value),) = options.items()
    with pytest.raises(UsageError, match=f"robust.{key}={value}"):
        Confident(**options)


@pytest.mark.parametrize("n, k, rate", [(500, 3, 0.4), (1500, 10, 0.5), (3000, 10, 0.3)])
def test_it_finds_what_cleanlab_finds(n, k, rate):
    """But for a few: of several confident classes cleanlab counts the likeliest of all, the paper
    of these; and it rounds calibrated counts.
    """
    count = pytest.importorskip("cleanlab.count")
    filters = pytest.importorskip("cleanlab.filter")
    g = torch.Generator().manual_seed(n)
    true = torch.randint(k, (n,), generator=g)
    flipped = torch.rand(n, generator=g) < rate
    given = torch.where(flipped, torch.randint(k, (n,), generator=g), true)
    logits = torch.randn(n, k, generator=g) * 1.2 + 2 * torch.eye(k)[true]
    p = logits.double().softmax(1)
    labels, theirs = given.numpy(), p.numpy()
    joint = confident_joint(given, p)
    counted = count.compute_confident_joint(labels, theirs, calibrate=False)
    assert abs(joint.numpy() - counted).sum() < 0.004 * n
    expected = filters.find_label_issues(
        labels, theirs, filter_by="prune_by_noise_rate", min_examples_per_class=0, n_jobs=1
    )
    issues = find_issues(given, p, estimated_joint(joint, given)).numpy()
    assert (issues != expected).mean() < 0.01


def test_what_was_found_is_counted_among_the_labels_that_may_be_read():
    from types import SimpleNamespace

    from compressor.stages.train import _found

    clean = torch.zeros(100, dtype=torch.long)
    given = clean.clone()
    given[::5] = 1  # 20 wrong ones, half of them among the labels that may be read
    corrected = given.clone()
    corrected[[0, 5, 10, 15, 20, 25, 30]] = 0
    corrected[1] = DROPPED
    context = SimpleNamespace(targets=given, clean_targets=clean, labelled=torch.arange(50))
    assert _found(corrected, context) == {"precision": 7 / 8, "recall": 7 / 10}
    context.labelled = None
    assert _found(corrected, context)["recall"] == 7 / 20
