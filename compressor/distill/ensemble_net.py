"""EnsembleNet: several heads on one trunk, trained on their own and their mean's loss.

Li, Ng, Natsev: EnsembleNet. 2019, arXiv:1905.09979. The form is rebuilt from the paper's remark
that lambda = 1 trains the ensemble alone, 0 the heads alone, and negative values do best.
Run: compress-run distill=ensemble_net distill.terms.ensemble_net.lam=-1.5
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from compressor.distill import Batch, Layers, Term
from compressor.distill._fork import Forked, alike, split_stages
from compressor.errors import UsageError
from compressor.options import NotNegative, Range, checked


def combined(heads: Sequence[Tensor], combine: str = "logits") -> Tensor:
    """The ensemble's logits: the heads' mean, or the logarithm of their mean probabilities."""
    stacked = torch.stack([z.float() for z in heads])
    if combine == "logits":
        return stacked.mean(dim=0)
    return torch.logsumexp(stacked.log_softmax(dim=2), dim=0) - torch.log(
        torch.tensor(float(len(heads)))
    )


def ensemble_loss(
    heads: Sequence[Tensor],
    criterion: Callable[[Tensor], Tensor],
    lam: float,
    combine: str = "logits",
) -> Tensor:
    """lam * CE(ensemble) + (1 - lam) * mean_j CE(head j).

    For averaged logits this is mean_j CE_j - lam * mean_j KL(p_ensemble || p_j): a negative lam
    pulls the heads together (co-distillation), a positive one lets them part. Never below the mean
    cross-entropy for lam <= 0, so nothing need be clamped. The ensemble is not detached.
    """
    own = torch.stack([criterion(z) for z in heads]).mean()
    return lam * criterion(combined(heads, combine)) + (1 - lam) * own


class EnsembleNet(Term):
    """Trains `heads` networks that share their lower stages; head 0, a plain network, is left."""

    needs_teacher, owns_training, only_at = False, True, "train"

    @checked("distill.terms.ensemble_net")
    def __init__(
        self,
        weight: NotNegative = 1.0,
        heads: Annotated[int, Range(2)] = 2,
        lam: Annotated[float, Range(high=1)] = -1.0,  # above, heads are rewarded for being wrong
        combine: Literal["logits", "probs"] = "logits",
        split_at: str | None = None,
    ) -> None:
        self.weight = weight
        self.heads, self.lam, self.combine, self.split_at = heads, lam, combine, split_at

    def layers(self) -> Layers:
        return tuple(f"out.{head}" for head in range(self.heads)), ()

    def check_student(self, net: nn.Module) -> None:
        self.forks(net)

    def kept(self, net: nn.Module) -> nn.Module:
        """Head 0, a plain network."""
        return net.net

    def student(self, net: nn.Module, another: Callable[[int], nn.Module] | None) -> nn.Module:
        """A `Forked`. another: the number of a head -> a network like `net` of other weights."""
        forks = self.forks(net)
        nets = [net, *(another(head) for head in range(1, self.heads))]
        if alike(nets[0], nets[1]):
            raise UsageError(
                "ensemble_net needs heads that begin differently: all of them have the same "
                "weights; set model.pretrained=false"
            )
        return Forked(nets, forks, rescale=False)

    def forks(self, net: nn.Module) -> list[tuple[str, int]]:
        """(stage, children): the heads part once, after one stage."""
        key = "distill.terms.ensemble_net.split_at"
        stages = split_stages(net, [self.split_at] if self.split_at else [], key)
        return [(stages[0], self.heads)]

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        heads = [student["features"][f"out.{head}"][0] for head in range(self.heads)]
        return ensemble_loss(heads, batch.criterion, self.lam, self.combine)

    def ensemble(self, heads: Sequence[Tensor]) -> Tensor:
        return combined(heads, self.combine)
