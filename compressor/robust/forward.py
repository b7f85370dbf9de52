"""Forward correction: the prediction is sent through the noise before it meets the given label.

Patrini et al. CVPR 2017, arXiv:1609.03683, theorem 2.
Run: compress-run robust=forward noise=asymmetric noise.rate=0.3
     compress-run robust=forward robust.transition=confident
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.options import checked
from compressor.robust import Change, EstimateEpochs, Folds, Remedy, Samples, listed, with_auxiliary
from compressor.robust._transition import FOLDS, Source


def forward(logits: Tensor, targets: Tensor, T: Tensor) -> Tensor:
    """Mean of -log sum_i T[i, y] p_i. logits: (B, K); targets: (B,) int64; T: (K, K)."""
    # in log space: no log of a p that rounds to 0; the floor stands for log 0
    log_t = T.clamp(min=1e-20).log().to(logits.dtype)[:, targets].T
    return -torch.logsumexp(logits.log_softmax(dim=1) + log_t, dim=1).mean()


class Forward(Remedy):
    """The minimiser is that of cross-entropy on clean labels."""

    @checked("robust")
    def __init__(
        self,
        transition: str = "known",
        folds: Folds = FOLDS,
        estimate_epochs: EstimateEpochs = None,
    ) -> None:
        self.source = Source(transition, folds, estimate_epochs)
        self.shares = True  # T holds for the labels as they were given
        self.train_only = True  # a fine-tune reads other labels than those that T belongs to
        self.content = self.source.content
        self.needs_known = self.source.name == "known"
        self.T = torch.empty(0, 0)

    def cautions(self, epochs: int, schedule: str, num_classes: int) -> list[str]:
        return self.source.unread()

    def rehearsals(self, images: int, epochs: int) -> tuple[int, float]:
        return self.source.rehearsals(images, epochs)

    def begin(self, samples: Samples) -> Change:
        self.T = self.source.matrix(samples)
        return Change(notes=listed(self.T))

    def loss(self, outputs: Mapping[str, object], targets: Tensor, index: Tensor) -> Tensor:
        self.T = self.T.to(targets.device)
        return with_auxiliary(outputs, lambda logits: forward(logits, targets, self.T))
