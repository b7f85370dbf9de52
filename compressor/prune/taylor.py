"""Taylor: what the loss changes by when a channel goes, to first order, squared.

Molchanov, Mallya, Tyree, Frosio, Kautz. CVPR 2019, arXiv:1906.10771, eq. (8) on gates (section
3.2). Run: compress-run prune=taylor prune.ratio=0.5
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor.errors import UsageError
from compressor.prune import Gate, Ranking, Selector, by_score
from compressor.prune._product import told
from compressor.surgery import Group


def taylor(derivative: Tensor) -> Tensor:
    """Mean over the images of (dE/dz)^2, with E an image's own loss and z = 1 a channel's factor.

    derivative: (N, C). Returns (C,) float64; low means prunable.
    """
    return derivative.double().square().mean(0)


class Taylor(Selector):
    """The gates stand where the next layers read the channel, which is where a cut takes it away.

    Behind a ReLU that is (sum of g_s * w_s)^2 over a filter and its bias, or over gamma and beta of
    its batch norm, as in the paper. The paper squares the gradient of a mini-batch, which depends
    on the batch size; here it is that of every image.
    """

    def observers(self, group: Group, net: nn.Module) -> tuple[Gate, ...]:
        for slot in group.consumers:
            for path in slot.callers:
                module = net.get_submodule(path)
                if not isinstance(module, nn.Linear | _ConvNd):
                    raise UsageError(
                        f"prune=taylor puts factors in front of conv and linear layers, and "
                        f"{told(path)}, which reads with '{slot.parameter}', is a "
                        f"{type(module).__name__}; leave it out with prune.skip=[{group.name}]"
                    )
        return (Gate("gate", _observe),)

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        return by_score(statistics["gate/square"] / statistics["gate/images"])


def _observe(derivative: Tensor) -> dict[str, Tensor]:
    images = torch.tensor(len(derivative), dtype=torch.float64)
    return {"square": taylor(derivative) * images, "images": images}
