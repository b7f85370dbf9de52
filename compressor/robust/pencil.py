"""PENCIL: learn a label distribution for every sample, together with the network.

Yi, Wu. CVPR 2019, arXiv:1903.07788, eq. (5) to (10), algorithm 1.
Run: compress-run robust=pencil noise=symmetric noise.rate=0.4 finetune.labels=corrected_soft
     train.optimizer=sgd train.lr=0.1 train.weight_decay=1e-4
Label logits Y (n, K), y_d = softmax(Y), start at 10 * onehot(given label). Three phases:
cross-entropy; L = Lc / K + alpha * Lo + beta * Le / K with a plain gradient step on Y beside the
network's; then Lc / K alone with Y at rest.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.options import Fraction, NotNegative, Positive, Range, checked
from compressor.robust import Change, Phase, Remedy, Samples, with_auxiliary
from compressor.robust._store import LabelStore, exchange

INIT = 10.0  # of the given label's logit; the paper's K_init
_BATCH = 128  # the paper's: label_lr is given for it
_WAY = 52_000  # label_lr times epochs that a label needs to change: the paper's 400 in 130 epochs
_MOST = 4000.0  # the largest label_lr that the paper uses
_SLOW = 5  # epochs of the second phase after which labels should have begun to change


def classification(logits: Tensor, y_d: Tensor) -> Tensor:
    """Lc per sample: KL(p || y_d), the reverse of the usual order. Both (B, K). Returns (B,)."""
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * (log_p - y_d.clamp(min=1e-20).log())).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Le per sample: -sum_k p_k log p_k. logits: (B, K). Returns (B,)."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def compatibility(Y: Tensor, targets: Tensor, compat: str) -> Tensor:
    """Lo per sample. Y: (B, K) label logits; targets: (B,) given labels. Returns (B,).

    literal: -log y_d of the given label, as the paper writes it. released: the authors' code, which
    applies softmax to y_d once more; its pull back to the given label is weaker.
    """
    y_d = Y.softmax(dim=1)
    if compat == "released":
        return F.cross_entropy(y_d, targets, reduction="none")
    return F.cross_entropy(Y, targets, reduction="none")


def label_gradient(
    p: Tensor, Y: Tensor, targets: Tensor, alpha: float, compat: str = "released"
) -> Tensor:
    """d(Lc / K + alpha * Lo) / dY of every sample. p, Y: (B, K); targets: (B,). Returns (B, K)."""
    y_d = Y.softmax(dim=1)
    one_hot = F.one_hot(targets, Y.shape[1]).to(Y.dtype)
    if compat == "released":
        inner = y_d.softmax(dim=1) - one_hot
        pull = y_d * (inner - (y_d * inner).sum(dim=1, keepdim=True))
    else:
        pull = y_d - one_hot
    return (y_d - p) / Y.shape[1] + alpha * pull


class Pencil(Remedy):
    """warmup, correct: fractions of the epochs in the first two phases; the rest is the third.

    The warm-up must end before the network has memorised the labels: 15 epochs instead of 3 on
    digits, and no label is corrected any more. A label moves by label_lr / 128 times its gradient
    whatever the batch size, so that it does not depend on the batch that a sample falls into.
    With alpha >= 2 / K (literal: 1 / K) the pull to the given label wins and none can change,
    except by the overshoot of a large label_lr.
    """

    corrects = ("soft", "hard")
    train_only = True
    optimizer = "sgd"

    @checked("robust")
    def __init__(
        self,
        warmup: Fraction = 0.22,
        correct: Fraction = 0.41,
        alpha: NotNegative = 0.1,
        beta: NotNegative = 0.8,
        label_lr: Annotated[float | None, Range(0, above=True, remedy="or null")] = None,
        compat: Literal["released", "literal"] = "released",
        refine_lr_scale: Positive = 1.0,
    ) -> None:
        if warmup + correct > 1:
            raise UsageError(
                f"robust.warmup={warmup} and robust.correct={correct} are more than all epochs: "
                "their sum may be 1 at most"
            )
        self.warmup, self.correct = warmup, correct
        self.alpha, self.beta = alpha, beta
        self.label_lr, self.compat, self.refine_lr_scale = label_lr, compat, refine_lr_scale
        self._shape = (0, 0)
        self._targets = torch.empty(0, dtype=torch.int64)

    def cautions(self, epochs: int, schedule: str, num_classes: int) -> list[str]:
        found, (first, second, third) = [], self.epochs(epochs)
        limit = (2 if self.compat == "released" else 1) / num_classes
        if self.alpha >= limit:
            found.append(
                f"robust.alpha={self.alpha} is at least {limit:.3g}: with {num_classes} classes "
                f"and robust.compat={self.compat} labels are softened, hardly ever changed"
            )
        if first and second and third and self.step(second) * second < _WAY / 1.5:
            enough = math.ceil(_WAY / (self.label_lr or _MOST) / self.correct)
            found.append(
                f"robust=pencil moves labels in {second} of these epochs, which may be too few for "
                f"most wrong ones to change: train.epochs={enough} or more, or a robust.label_lr "
                f"over {self.step(second):g}"
            )
        if schedule != "constant":
            found.append(
                f"robust=pencil has a schedule of its own, train.lr for {first + second} epochs, "
                f"then a tenth and a hundredth: train.schedule={schedule} is not read"
            )
        return found

    def begin(self, samples: Samples) -> Change:
        self._shape = (len(samples.targets), samples.num_classes)
        self._targets = samples.targets
        first, second, _ = self.epochs(samples.epochs)
        return Change(notes={"label_lr": self.step(second), "phases": [first, second]})

    def epochs(self, total: int) -> tuple[int, int, int]:
        """How many epochs each phase takes."""
        first = round(self.warmup * total)
        second = min(round(self.correct * total), total - first)
        return first, second, total - first - second

    def step(self, epochs: int) -> float:
        """lambda; by default the paper's 400 at 130 epochs, more the shorter the phase is.

        Not above 4000, the largest that the paper uses: at 10,000 a label follows the network's
        first doubt (digits, 12 epochs: 0.73 of the labels right instead of 0.86).
        """
        if self.label_lr is not None:
            return self.label_lr
        return min(_MOST, _WAY / max(1, epochs))

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        first, second, third = self.epochs(epochs)
        learn = _Learn(self, self.step(second))
        # the learning rate is high and constant until the labels rest: decay would let the network
        # memorise them
        return (
            Phase(first, _WarmUp(self), schedule="constant"),
            Phase(second, learn, schedule="constant"),
            Phase(third, _Refine(self), self.refine_lr_scale, "step", (1 / 3, 2 / 3), 0.1),
        )

    def open(self, folder: Path, saved: Path | None) -> None:
        working = folder / "labels.working"
        working.unlink(missing_ok=True)
        self.store = LabelStore(working, *self._shape)
        if saved is not None:
            self.store.restore(saved)
            return
        for part, rows in self.store.chunks():
            rows.scatter_(1, self._targets[part][:, None], INIT)

    def corrected(self, path: Path) -> bool:
        out = np.lib.format.open_memmap(path, "w+", np.float32, self._shape)
        for part, rows in self.store.chunks():
            out[part] = rows.softmax(dim=1).numpy()
        out.flush()
        return True

    def figures(
        self, targets: Tensor, clean: Tensor | None, index: Tensor | None = None
    ) -> dict[str, float]:
        """Shares of the labels argmax(Y) that left the given one, and that equal the true one."""
        now = torch.cat([rows.argmax(dim=1) for _, rows in self.store.chunks()])
        rows = slice(None) if index is None else index
        found = {"labels_changed": (now != targets)[rows].double().mean().item()}
        if clean is not None:
            found["labels_right"] = (now == clean)[rows].double().mean().item()
        return found


class _Phase(Remedy):
    """One of the three; the store is the method's own."""

    def __init__(self, method: Pencil) -> None:
        self.method = method

    @property
    def store(self) -> LabelStore | None:
        return self.method.store

    def figures(
        self, targets: Tensor, clean: Tensor | None, index: Tensor | None = None
    ) -> dict[str, float]:
        return self.method.figures(targets, clean, index)


class _WarmUp(_Phase):
    def loss(self, outputs: Mapping[str, Any], targets: Tensor, index: Tensor) -> Tensor:
        return with_auxiliary(outputs, lambda logits: F.cross_entropy(logits, targets))


class _Learn(_Phase):
    """The network and the labels, from one forward pass."""

    def __init__(self, method: Pencil, label_lr: float) -> None:
        super().__init__(method)
        self.rate = label_lr / _BATCH
        self._seen = torch.empty(0, dtype=torch.bool)
        self._rows: Tensor | None = None  # of this step; made once, whoever else asks for the loss
        self._epochs = 0

    def before_epoch(self, epoch: int) -> None:
        # a sampler of several processes repeats samples until all have as many
        self._seen = torch.zeros(self.method._shape[0], dtype=torch.bool)

    def loss(self, outputs: Mapping[str, Any], targets: Tensor, index: Tensor) -> Tensor:
        method, k = self.method, self.method._shape[1]
        Y = self.store.read(index).to(targets.device)
        y_d = Y.softmax(dim=1)
        with torch.no_grad():
            if self._rows is None:
                p = outputs["logits"].float().softmax(dim=1)
                gradient = label_gradient(p, Y, targets, method.alpha, method.compat)
                self._rows = Y - self.rate * gradient
            fixed = method.alpha * compatibility(Y, targets, method.compat).mean()
        network = with_auxiliary(
            outputs,
            lambda logits: (classification(logits, y_d) + method.beta * entropy(logits)).mean() / k,
        )
        return network + fixed

    def after_backward(self, index: Tensor) -> None:
        # distillation asks for the loss of other heads too: the labels follow the kept network
        index, rows = exchange(index, self._rows)
        self._rows = None
        index, rows = index.cpu(), rows.cpu()
        # the first of every sample counts, once an epoch
        order = index.argsort(stable=True)
        ordered = index[order]
        first = torch.ones(len(index), dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        keep = order[first & ~self._seen[ordered]]
        self._seen[index[keep]] = True
        self.store.write(index[keep], rows[keep])

    def figures(
        self, targets: Tensor, clean: Tensor | None, index: Tensor | None = None
    ) -> dict[str, float]:
        found = super().figures(targets, clean, index)
        self._epochs += 1
        if self._epochs == _SLOW and found["labels_changed"] < 0.01:
            warnings.warn(
                f"after {_SLOW} epochs of correction {found['labels_changed']:.2%} of the labels "
                "have changed: raise robust.label_lr, or lower robust.warmup if the network has "
                "memorised the labels",
                stacklevel=2,
            )
        return found


class _Refine(_Phase):
    def loss(self, outputs: Mapping[str, Any], targets: Tensor, index: Tensor) -> Tensor:
        y_d = self.store.read(index).to(targets.device).softmax(dim=1)
        k = self.method._shape[1]
        return with_auxiliary(outputs, lambda logits: classification(logits, y_d).mean() / k)
