"""Confident learning: find wrong labels by out-of-sample predictions, then train without them.

Northcutt, Jiang, Chuang. JAIR 2021, arXiv:1911.00068; thresholds and confident joint: eq. (1) and
(2), calibration: eq. (3), pruning by noise rate: section 3.2, method 4 (cleanlab's
filter_by="prune_by_noise_rate").
Run: compress-run robust=confident noise=symmetric noise.rate=0.2
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.options import Fraction, Range, checked
from compressor.robust import (
    DROPPED,
    Change,
    EstimateEpochs,
    Folds,
    Remedy,
    Samples,
    folds_within,
    listed,
    with_auxiliary,
)


def confident_joint(given: Tensor, probabilities: Tensor) -> Tensor:
    """C[i, j]: samples given label i that are confidently of class j, as counts.

    given: (n,) int64; probabilities: (n, K), out of sample. A sample is confidently of class j if
    p_j >= t_j, the mean p_j of the samples given label j; of several such classes the likeliest
    counts. Returns (K, K) float64.
    """
    p = probabilities.double()
    k = p.shape[1]
    counts = torch.bincount(given, minlength=k)
    sums = torch.zeros(k, dtype=p.dtype).index_add(0, given, p.gather(1, given[:, None])[:, 0])
    # a class that no label names is one that nobody can be confident of
    threshold = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    sure = p >= threshold - 1e-6  # float32 probabilities
    best = torch.where(sure, p, -1.0).argmax(dim=1)
    of_any = sure.any(dim=1)
    pairs = torch.bincount(given[of_any] * k + best[of_any], minlength=k * k)
    return pairs.view(k, k).double()


def estimated_joint(joint: Tensor, given: Tensor) -> Tensor:
    """Q[i, j] = P(given = i, true = j): rows calibrated to the counts of the given labels.

    joint: (K, K) counts; given: (n,) int64. Returns (K, K) float64 with sum 1; 1 - trace is the
    estimated noise rate.
    """
    counts = torch.bincount(given, minlength=len(joint)).double()
    rows = joint.sum(dim=1, keepdim=True)
    # a class of which nobody was sure keeps its labels
    identity = torch.eye(len(joint), dtype=torch.float64)
    share = torch.where(rows > 0, joint / rows.clamp(min=1e-12), identity)
    calibrated = share * counts[:, None]
    return calibrated / calibrated.sum()


def find_issues(given: Tensor, probabilities: Tensor, joint: Tensor) -> Tensor:
    """Samples whose label is likely wrong, (n,) bool: for every pair of classes (i given, j true)
    the n * Q[i, j] samples given i with the largest margin p_j - p_i.

    joint: Q of `estimated_joint`. A sample whose given label is also the predicted one is none.
    """
    p = probabilities.double()
    issues = torch.zeros(len(given), dtype=torch.bool)
    number = (joint * len(given)).round().long()
    for i in range(p.shape[1]):
        members = torch.nonzero(given == i).flatten()
        for j in range(p.shape[1]):
            count = min(int(number[i, j]), len(members))
            if i == j or count == 0:
                continue
            margin = p[members, j] - p[members, i]
            issues[members[margin.topk(count).indices]] = True
    return issues & (p.argmax(dim=1) != given)


def spare(issues: Tensor, given: Tensor, quality: Tensor, least: int) -> Tensor:
    """The issues without the best ones of classes that would keep fewer than `least` samples.

    issues: (n,) bool; quality: (n,), high means that the label is likely right.
    """
    issues = issues.clone()
    for label in given.unique():
        members = torch.nonzero(given == label).flatten()
        flagged = members[issues[members]]
        lacking = min(least, len(members)) - (len(members) - len(flagged))
        if lacking > 0:
            issues[flagged[quality[flagged].topk(lacking).indices]] = False
    return issues


class Confident(Remedy):
    """K-fold predictions, then one training from scratch on what was made of the labels.

    drop: without the flagged samples; relabel: flagged ones get the likeliest class where it leads
    by more than `margin`, the others go; weight: all samples, each weighted by the probability of
    its label. What drop and relabel leave are the corrected labels. The cost is `folds` further
    trainings of (folds - 1) / folds of the images.
    """

    corrects = ("hard",)
    train_only = True
    per_sample = True

    @checked("robust")
    def __init__(
        self,
        action: Literal["drop", "relabel", "weight"] = "drop",
        folds: Folds = 4,
        estimate_epochs: EstimateEpochs = None,
        margin: Fraction = 0.5,
        min_per_class: Annotated[int, Range(0, 10**9)] = 5,
    ) -> None:
        self.action = action
        self.corrects = () if action == "weight" else ("hard",)
        self.folds = folds
        self.estimate_epochs = estimate_epochs
        self.margin, self.min_per_class = margin, min_per_class
        self._labels: Tensor | None = None
        self._weights: Tensor | None = None

    def rehearsals(self, images: int, epochs: int) -> tuple[int, float]:
        folds = folds_within(self.folds, images)
        return folds, (folds - 1) * (self.estimate_epochs or epochs)

    def begin(self, samples: Samples) -> Change:
        rows = samples.rows
        given = samples.targets[rows]
        p = samples.probabilities(self.folds, self.estimate_epochs or samples.epochs)[rows]
        joint = estimated_joint(confident_joint(given, p), given)
        quality = p.gather(1, given[:, None])[:, 0]
        issues = spare(find_issues(given, p, joint), given, quality, self.min_per_class)
        best, likeliest = p.max(dim=1)
        sure = issues & (best - quality > self.margin) & (self.action == "relabel")
        left = samples.targets.clone()
        left[rows[issues]] = torch.where(sure, likeliest, DROPPED)[issues]
        notes = {
            "estimated_noise_rate": 1 - joint.trace().item(),
            "flagged": int(issues.sum()),
            **listed(joint.T / joint.sum(dim=0)[:, None].clamp(min=1e-12)),
        }
        if self.action == "weight":
            self._weights = torch.ones(len(samples.targets))
            self._weights[rows] = (quality / quality.mean().clamp(min=1e-12)).float()
            return Change(corrected=left, notes=notes)
        self._labels = left
        notes |= {"dropped": int((issues & ~sure).sum()), "relabelled": int(sure.sum())}
        targets = torch.where(left == DROPPED, samples.targets, left)
        return Change(targets, rows[~issues | sure], left, notes)

    def corrected(self, path: Path) -> bool:
        if self._labels is None:
            return False
        np.save(path, self._labels.numpy(), allow_pickle=False)
        return True

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        if self._weights is None:
            return with_auxiliary(outputs, lambda logits: F.cross_entropy(logits, targets))
        return with_auxiliary(outputs, lambda logits: self._each(logits, targets, index).mean())

    def losses(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: self._each(logits, targets, index))

    def _each(self, logits: Tensor, targets: Tensor, index: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets, reduction="none")
        if self._weights is None:
            return found
        self._weights = self._weights.to(targets.device)
        return self._weights[index] * found
