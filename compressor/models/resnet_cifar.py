"""ResNet-20 and ResNet-56, the CIFAR form: three stages of 16, 32 and 64 channels.

He, Zhang, Ren, Sun. CVPR 2016, arXiv:1512.03385, section 4.2; published test accuracy on
CIFAR-10: 91.25 (20 layers), 93.03 (56 layers), with shortcut A.
Run: compress-run model=resnet20 dataset=cifar10
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from compressor.models._construction import (
    Scaled,
    describe,
    initialise,
    scaled_depth,
    scaled_width,
)
from compressor.options import checked


class Subsample(nn.Module):
    """Shortcut A: every second pixel, and zeros for the channels that are new; no parameters."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W). Returns (B, C + new, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.new_channels // 2
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU after the addition."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = Subsample(out_channels - in_channels, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, H, W). Returns (B, out_channels, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3x3 stem, three stages of n blocks, global average pooling, one linear."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        widths: tuple[int, int, int],
        blocks: int,
        shortcut: str,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        inputs = (widths[0], *widths[:-1])
        stages = [
            nn.Sequential(
                Block(before, after, stride, shortcut),
                *(Block(after, after, 1, shortcut) for _ in range(1, blocks)),
            )
            for before, after, stride in zip(inputs, widths, (1, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, H, W). Returns logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


@checked("model")
def resnet20(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    shortcut: Literal["A", "B"] = "B",
) -> nn.Module:
    """ResNet-20, 3 blocks a stage: 272,474 parameters at 10 classes (shortcut A: 269,722)."""
    return _build(3, num_classes, input_size, width, depth, shortcut)


@checked("model")
def resnet56(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    shortcut: Literal["A", "B"] = "B",
) -> nn.Module:
    """ResNet-56, 9 blocks a stage: 855,770 parameters at 10 classes (shortcut A: 853,018)."""
    return _build(9, num_classes, input_size, width, depth, shortcut)


def _build(
    blocks: int,
    num_classes: int,
    input_size: tuple[int, int, int],
    width: float,
    depth: float,
    shortcut: str,
) -> nn.Module:
    width = float(width)
    depth = float(depth)
    widths = (scaled_width(16, width), scaled_width(32, width), scaled_width(64, width))
    net = CifarResNet(num_classes, input_size[0], widths, scaled_depth(blocks, depth), shortcut)
    return describe(net, num_classes, input_size, "fc", ("layer1", "layer2", "layer3"))
