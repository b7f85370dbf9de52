"""Co-teaching: two networks train at the same time, each on the samples that the other trusts.

Han et al. NeurIPS 2018, arXiv:1804.06872, algorithm 1.
Run: compress-run robust=co_teaching noise=symmetric noise.rate=0.4
With robust.forget=null the share that is left out follows the noise, where it was injected.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.options import Fraction, Range, checked
from compressor.robust import Change, Phase, Remedy, Samples

UNKNOWN = 0.4  # forget where nobody knows how many labels are wrong
_MOST = 0.99


class Pair(nn.Module):
    """Two networks of one architecture; in eval mode the first one answers alone."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Any:
        answer = self.first(x)
        if not self.training:
            return answer
        return _main(answer), _main(self.second(x))


def _main(answer: Any) -> Tensor:
    """The logits, without those of auxiliary classifiers."""
    return answer if isinstance(answer, Tensor) else answer[0]


def trusted(losses: Tensor, keep: float) -> Tensor:
    """Positions of the round(keep * B) smallest losses, at least one. losses: (B,)."""
    count = max(1, round(keep * len(losses)))
    return losses.topk(count, largest=False).indices


class CoTeaching(Remedy):
    """keep(e) = 1 - forget * min(e / ramp, 1) of every batch, e in epochs, ramp in epochs.

    forget: the share of wrong labels, or a guess at it; None: the rate of the noise that was
    injected, as in the paper, and 0.4 where there is none to know of. The training costs twice as
    much; the first network goes on.
    """

    train_only = True
    twofold = True

    @checked("robust")
    def __init__(
        self,
        forget: Annotated[
            float | None, Range(0, _MOST, remedy="give the share of wrong labels, or null")
        ] = None,
        ramp: Fraction = 0.05,
    ) -> None:
        self.asked = forget
        self.forget = UNKNOWN if forget is None else forget
        self.ramp = ramp
        self._ramp_epochs = 1.0
        self._keep = 1.0

    def follows(self, noise_rate: float | None) -> list[str]:
        if self.asked is not None:
            return []
        if noise_rate is None:
            return [
                f"robust.forget={UNKNOWN} is a guess: how many labels are wrong is unknown here; "
                "type robust.forget=SHARE if you know better"
            ]
        share = min(noise_rate, _MOST)
        return [f"robust.forget={share:.3g} is the share of labels that the noise changed"]

    def begin(self, samples: Samples) -> Change:
        if self.asked is None and samples.noise_rate is not None:
            self.forget = min(samples.noise_rate, _MOST)
        return Change(notes={"forget": self.forget})

    def networks(self, net: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        return Pair(net, build())

    def chosen(self, net: nn.Module) -> nn.Module:
        return net.first

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        self._ramp_epochs = max(1.0, self.ramp * epochs)
        return (Phase(epochs, self),)

    def before_epoch(self, epoch: int) -> None:
        self._keep = 1 - self.forget * min(epoch / self._ramp_epochs, 1.0)

    def loss(self, outputs: Mapping[str, Any], targets: Tensor, index: Tensor) -> Tensor:
        first = outputs["logits"].float()
        ((_, second),) = outputs["aux"]
        mine = F.cross_entropy(first, targets, reduction="none")
        others = F.cross_entropy(second.float(), targets, reduction="none")
        with torch.no_grad():
            for_second, for_first = trusted(mine, self._keep), trusted(others, self._keep)
        return mine[for_first].mean() + others[for_second].mean()
