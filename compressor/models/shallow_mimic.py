"""A shallow student for mimic: one convolution, a linear bottleneck, one wide hidden layer.

Ba, Caruana. NIPS 2014, arXiv:1312.6184, section 2.3 and 4: SNN-CNN-MIMIC-30k has 128 filters, 1,200
linear units and 30,000 hidden ones. The defaults here are a size for small images.
Run: compress-run model=shallow_mimic distill=mimic distill.at=train distill.teacher.source=model
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.models._construction import describe
from compressor.options import Count, Range, checked

Bottleneck = Annotated[int, Range(0)]


class ShallowMimic(nn.Module):
    """conv -> ReLU -> max-pool -> bottleneck V, then U: linear, so that UV is one matrix -> ReLU
    -> classes. With the bottleneck, k (H + D) weights are learned in place of H * D.
    """

    def __init__(
        self,
        num_classes: int,
        input_size: tuple[int, int, int],
        filters: int,
        pool: int,
        bottleneck: int,
        hidden: int,
    ) -> None:
        super().__init__()
        channels, height, width = input_size
        self.conv = nn.Conv2d(channels, filters, 5, padding=2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(pool)
        inputs = filters * (height // pool) * (width // pool)
        if bottleneck:
            # V has neither activation nor bias, or UV would be no matrix of rank k
            self.hidden = nn.Sequential(
                nn.Linear(inputs, bottleneck, bias=False), nn.Linear(bottleneck, hidden)
            )
        else:
            self.hidden = nn.Linear(inputs, hidden)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, H, W). Returns logits (B, num_classes)."""
        x = self.pool(self.relu(self.conv(x))).flatten(1)
        return self.fc(self.act(self.hidden(x)))

    def fold(self) -> None:
        """Put W = UV in place of the bottleneck, exact up to rounding."""
        if isinstance(self.hidden, nn.Linear):
            return
        v, u = self.hidden
        folded = nn.Linear(v.in_features, u.out_features).to(v.weight)
        with torch.no_grad():
            folded.weight.copy_(u.weight.double() @ v.weight.double())
            folded.bias.copy_(u.bias)
        self.hidden = folded


@checked("model")
def shallow_mimic(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    filters: Count = 64,
    pool: Count = 4,
    bottleneck: Bottleneck = 100,
    hidden: Count = 1200,
    fold: bool = True,
) -> nn.Module:
    """fold: whether the bottleneck is multiplied out once the network is trained."""
    _check_pool(pool, input_size)
    net = ShallowMimic(num_classes, input_size, filters, pool, bottleneck, hidden)
    return describe(net, num_classes, input_size, "fc")


@checked("model")
def check_bottleneck(
    input_size: tuple[int, int, int],
    *,
    filters: Count,
    pool: Count,
    bottleneck: Bottleneck,
    hidden: Count,
    fold: bool,
) -> None:
    """Refuse a bottleneck k with k (H + D) >= H D: it would be more to learn, not less.

    Not the builder's business: a network that was once saved in this form is loaded all the same.
    """
    _check_pool(pool, input_size)
    inputs = filters * (input_size[1] // pool) * (input_size[2] // pool)
    with_it, without = bottleneck * (hidden + inputs), hidden * inputs
    if bottleneck and with_it >= without:
        most = (without - 1) // (hidden + inputs)
        raise UsageError(
            f"model.bottleneck={bottleneck} saves nothing: {with_it:,} weights take the place of "
            f"{without:,}; give at most {most}, or 0 for none"
        )


def _check_pool(pool: int, input_size: tuple[int, int, int]) -> None:
    if pool > min(input_size[1:]):
        raise UsageError(
            f"model.pool={pool} is more than the image, {input_size[1]}x{input_size[2]}: lower it"
        )
