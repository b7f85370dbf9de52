import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.robust import Samples
from compressor.robust._store import LabelStore
from compressor.robust.pencil import (
    Pencil,
    classification,
    compatibility,
    entropy,
    label_gradient,
)

K = 10


def samples(targets, k=K, epochs=10):
    return Samples(targets=targets, num_classes=k, batch_size=128, epochs=epochs)


def ready(tmp_path, targets=None, k=K, epochs=10, **options):
    robust = Pencil(**options)
    robust.begin(
        samples(torch.zeros(4, dtype=torch.int64) if targets is None else targets, k, epochs)
    )
    robust.open(tmp_path, None)
    return robust


def test_labels_start_at_ten_times_the_given_one(tmp_path):
    robust = ready(tmp_path, torch.tensor([3, 0]))
    rows = robust.store.read(torch.arange(2))
    assert rows[0, 3] == 10 and rows.sum() == 20
    assert rows.softmax(1).max().item() == pytest.approx(0.99959, abs=1e-5)


def test_the_gradient_of_the_labels_is_that_of_the_loss():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, K, generator=g).double()
    Y = torch.randn(6, K, generator=g).double().requires_grad_()
    targets = torch.randint(K, (6,), generator=g)
    p = logits.softmax(1)
    for compat in ("released", "literal"):
        lc = classification(logits, Y.softmax(1)) / K
        loss = (lc + 0.1 * compatibility(Y, targets, compat)).mean()
        (by_hand,) = torch.autograd.grad(loss, Y)
        found = label_gradient(p, Y.detach(), targets, 0.1, compat) / 6
        assert torch.allclose(found, by_hand), compat
    # dLc/dY = (y_d - p) / (B K)
    expected = (Y.detach().softmax(1) - p) / (6 * K)
    assert torch.allclose(label_gradient(p, Y.detach(), targets, 0.0) / 6, expected)


def test_the_classification_loss_is_the_reverse_divergence():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    y_d = torch.tensor([[0.2, 0.3, 0.5]])
    p = logits.softmax(1)
    expected = F.kl_div(y_d.log(), p, reduction="sum")
    assert classification(logits, y_d).item() == pytest.approx(expected.item(), rel=1e-6)
    assert classification(logits, p).item() == pytest.approx(0, abs=1e-6)
    assert entropy(torch.zeros(1, 3)).item() == pytest.approx(np.log(3))


def flips_at(label_lr, alpha, compat, most=3000):
    """Updates until argmax(Y) leaves class 0, the network being sure of class 1."""
    p = torch.full((1, K), 0.001 / 9)
    p[0, 1] = 0.999
    Y = torch.zeros(1, K)
    Y[0, 0] = 10.0
    for update in range(1, most):
        Y = Y - label_lr / 128 * label_gradient(p, Y, torch.tensor([0]), alpha, compat)
        if Y.argmax() != 0:
            return update
    return Y[0, 0].item() - Y[0, 1].item()


def test_labels_flip_when_the_paper_says_and_never_where_the_pull_is_too_strong():
    assert flips_at(200, 0.1, "released") == 40
    assert flips_at(4000, 0.0, "released") == 2
    assert flips_at(600, 0.4, "released") == pytest.approx(1.0, abs=0.1)
    assert isinstance(flips_at(200, 0.1, "literal"), float)


def test_the_loss_and_the_step_come_from_one_forward_pass(tmp_path):
    robust = ready(tmp_path, torch.tensor([0, 1, 2]), label_lr=1280.0)
    learn = robust.phases(10)[1].loss
    learn.before_epoch(2)
    logits = torch.randn(2, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    index, targets = torch.tensor([2, 0]), torch.tensor([2, 0])
    before = robust.store.read(torch.arange(3))
    loss = learn.loss({"logits": logits}, targets, index)
    y_d = before[index].softmax(1)
    lc, le = classification(logits, y_d).mean() / K, entropy(logits).mean() / K
    lo = compatibility(before[index], targets, "released").mean()
    assert loss.item() == pytest.approx((lc + 0.1 * lo + 0.8 * le).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(lc + 0.8 * le, logits)
    assert torch.allclose(gradient, expected)
    learn.after_backward(index)
    after = robust.store.read(torch.arange(3))
    assert torch.equal(after[1], before[1])
    step = 10 * label_gradient(logits.detach().softmax(1), before[index], targets, 0.1)
    assert torch.allclose(after[index], before[index] - step)


def test_labels_follow_the_first_of_several_answers_of_a_step(tmp_path):
    robust = ready(tmp_path, label_lr=4000.0)
    learn = robust.phases(10)[1].loss
    learn.before_epoch(3)
    index, targets = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    mine, others = torch.eye(K)[[1, 2]] * 8, torch.eye(K)[[2, 1]] * 8
    Y = robust.store.read(index)
    learn.loss({"logits": mine}, targets, index)
    learn.loss({"logits": others}, targets, index)  # a head that is not kept
    learn.after_backward(index)
    step = 4000 / 128 * label_gradient(mine.softmax(1), Y, targets, 0.1)
    assert torch.allclose(robust.store.read(index), Y - step)


def test_a_row_moves_once_an_epoch_however_often_it_is_seen(tmp_path):
    robust = ready(tmp_path, label_lr=4000.0)
    learn = robust.phases(10)[1].loss
    learn.before_epoch(3)
    logits = torch.eye(K)[[1, 2, 1]] * 8
    learn.loss({"logits": logits}, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    learn.after_backward(torch.tensor([0, 0, 1]))
    rows = robust.store.read(torch.arange(2))
    assert torch.equal(rows[0], rows[1])  # the first of the two counted
    learn.loss({"logits": logits}, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    learn.after_backward(torch.tensor([0, 0, 1]))
    assert torch.equal(robust.store.read(torch.arange(2)), rows)
    learn.before_epoch(4)
    learn.loss({"logits": logits}, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    learn.after_backward(torch.tensor([0, 0, 1]))
    assert not torch.equal(robust.store.read(torch.arange(2)), rows)


def test_the_three_phases_share_out_the_epochs(tmp_path):
    robust = ready(tmp_path, epochs=320, refine_lr_scale=5.0, warmup=70 / 320, correct=130 / 320)
    first, second, third = robust.phases(320)
    assert [first.epochs, second.epochs, third.epochs] == [70, 130, 120]
    assert first.schedule == second.schedule == "constant" and first.lr_scale == 1
    assert third.schedule == "step" and third.milestones == (1 / 3, 2 / 3) and third.lr_scale == 5
    assert robust.step(130) == 400 and robust.step(26) == 2000 and robust.step(5) == 4000
    assert Pencil(label_lr=7.0).step(13) == 7.0


def test_the_last_phase_leaves_the_labels_alone(tmp_path):
    robust = ready(tmp_path)
    refine = robust.phases(10)[2].loss
    before = robust.store.read(torch.arange(4))
    logits = torch.randn(2, K, requires_grad=True)
    loss = refine.loss({"logits": logits}, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    expected = classification(logits, before[:2].softmax(1)).mean() / K
    assert loss.item() == pytest.approx(expected.item())
    refine.after_backward(torch.arange(2))
    assert torch.equal(robust.store.read(torch.arange(4)), before)


def test_corrected_labels_are_a_plain_file_of_distributions(tmp_path):
    robust = ready(tmp_path, torch.tensor([0, 1]))
    robust.store.write(torch.tensor([1]), torch.eye(K)[[7]] * 9)
    assert robust.corrected(tmp_path / "corrected.npy")
    soft = np.load(tmp_path / "corrected.npy")
    assert soft.shape == (2, K) and soft.sum(1) == pytest.approx([1, 1])
    assert soft.argmax(1).tolist() == [0, 7]
    figures = robust.figures(torch.tensor([0, 1]), torch.tensor([0, 7]))
    assert figures == {"labels_changed": 0.5, "labels_right": 1.0}
    assert robust.figures(torch.tensor([0, 1]), None) == {"labels_changed": 0.5}
    read = torch.tensor([1])
    assert robust.figures(torch.tensor([0, 1]), None, read) == {"labels_changed": 1.0}


def test_what_a_plan_says_of_pencil():
    """A pull that lets no label change, too few epochs for one to, and a schedule of its own."""
    fine = {"epochs": 60, "schedule": "constant"}
    assert Pencil().cautions(**fine, num_classes=10) == []
    (line,) = Pencil(alpha=0.2).cautions(**fine, num_classes=10)
    assert "robust.alpha=0.2 is at least 0.2" in line and "hardly ever changed" in line
    (line,) = Pencil(alpha=0.1, compat="literal").cautions(**fine, num_classes=10)
    assert "robust.compat=literal" in line
    (line,) = Pencil().cautions(**{**fine, "epochs": 20}, num_classes=10)
    assert "labels in 8 of these epochs" in line and "train.epochs=32" in line
    assert Pencil().cautions(**{**fine, "epochs": 32}, num_classes=10) == []
    (line,) = Pencil(label_lr=1000.0).cautions(**fine, num_classes=10)
    assert "train.epochs=127" in line
    (line,) = Pencil().cautions(**{**fine, "schedule": "onecycle"}, num_classes=10)
    assert "train.lr for 38 epochs" in line and "train.schedule=onecycle is not read" in line


def test_labels_that_do_not_move_warn_after_five_epochs(tmp_path):
    robust = ready(tmp_path)
    learn = robust.phases(10)[1].loss
    targets = torch.zeros(4, dtype=torch.int64)
    for _ in range(4):
        learn.figures(targets, None)
    with pytest.warns(UserWarning, match="raise robust.label_lr"):
        learn.figures(targets, None)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"warmup": 0.7, "correct": 0.4}, "more than all epochs"),
        ({"alpha": -1}, "robust.alpha=-1"),
        ({"label_lr": 0.0}, "robust.label_lr=0.0"),
        ({"compat": "loose"}, "robust.compat=loose"),
        ({"refine_lr_scale": 0}, "robust.refine_lr_scale=0"),
    ],
)
def test_options_out_of_range_are_named(options, text):
    with pytest.raises(UsageError, match=text):
        Pencil(**options)


# -- the store ------------------------------------------------------------------------------------


def test_a_stores_copy_brings_back_what_it_held(tmp_path):
    store = LabelStore(tmp_path / "working", 5, 3)
    store.write(torch.tensor([4, 1]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    path = store.save(tmp_path / "one")
    assert store.save(tmp_path / "two") == path  # nothing was written since
    before = store.read(torch.arange(5))
    store.write(torch.tensor([0]), torch.ones(1, 3))
    assert store.save(tmp_path / "two") == tmp_path / "two"
    store.restore(path)
    assert torch.equal(store.read(torch.arange(5)), before)


def test_a_pickled_store_is_the_same_file(tmp_path):
    store = LabelStore(tmp_path / "working", 5, 3)
    other = pickle.loads(pickle.dumps(store))
    other.write(torch.tensor([2]), torch.ones(1, 3))
    assert store.read(torch.tensor([2])).tolist() == [[1, 1, 1]]
    assert len(pickle.dumps(store)) < 2000


@pytest.mark.slow
def test_a_tenth_of_a_million_samples_of_a_thousand_classes(tmp_path):
    """400 MB of labels: one epoch of updates, a checkpoint's copy, and what a process carries."""
    n, k, batch = 100_000, 1000, 256
    targets = torch.arange(n) % k
    robust = ready(tmp_path, targets, k, alpha=0.001)
    learn = robust.phases(10)[1].loss
    learn.before_epoch(3)
    g = torch.Generator().manual_seed(0)
    for index in torch.randperm(n, generator=g)[: 64 * batch].split(batch):
        learn.loss({"logits": torch.randn(batch, k, generator=g)}, targets[index], index)
        learn.after_backward(index)
    assert (tmp_path / "labels.working").stat().st_size == n * k * 4
    path = robust.store.save(tmp_path / "rows-1")
    assert path.stat().st_size == n * k * 4
    assert len(pickle.dumps(robust.store)) < 2000
    # every row either still points at the given label or was one of those that were visited
    moved = sum(int((rows.max(dim=1).values != 10).sum()) for _, rows in robust.store.chunks())
    assert moved <= 64 * batch
