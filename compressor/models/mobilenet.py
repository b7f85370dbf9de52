"""MobileNetV2 on torchvision's class, with a small-image stem, width and depth.

Sandler, Howard, Zhu, Zhmoginov, Chen. CVPR 2018, arXiv:1801.04381, table 2.
Run: compress-run model=mobilenet_v2 model.width=0.5
"""

from torch import nn

from compressor.models._construction import (
    Scaled,
    Stem,
    choose_stem,
    describe,
    initialise,
    require_unscaled,
    scaled_depth,
)
from compressor.models._published import load_published
from compressor.options import BelowOne, checked

# Table 2 of the paper: expansion t, channels c, repeats n, stride s of the first repeat.
_SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@checked("model")
def mobilenet_v2(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    stem: Stem = "auto",
    dropout: BelowOne = 0.2,
    pretrained: bool = False,
) -> nn.Module:
    """MobileNetV2: 3,504,872 parameters at 1000 classes. (B, C, H, W) -> (B, num_classes).

    stem "cifar": the first two of the five stride-2 layers get stride 1, so that a 32x32 image
    ends at 4x4 and not at 1x1; no parameter changes. The last convolution keeps at least 1280
    channels at any width, as in the paper.
    """
    from torchvision.models import MobileNetV2

    width = float(width)
    depth = float(depth)
    small = choose_stem(stem, input_size) == "cifar"
    if pretrained:
        require_unscaled("mobilenet_v2", width=width, depth=depth)
    setting = [[t, c, scaled_depth(n, depth), s] for t, c, n, s in _SETTING]
    if small:
        setting[1][3] = 1
    net = MobileNetV2(num_classes, width, setting, dropout=dropout)
    convolution = net.features[0][0]
    if input_size[0] != 3:
        outputs = convolution.out_channels
        convolution = nn.Conv2d(input_size[0], outputs, 3, stride=2, padding=1, bias=False)
        net.features[0][0] = initialise(convolution)
    if small:
        convolution.stride = (1, 1)
    if pretrained:
        load_published(net, "mobilenet_v2", fresh=("classifier.1", "features.0.0"))
    ends = [sum(row[2] for row in setting[: index + 1]) for index in range(len(setting))]
    stages = tuple(f"features.{end}" for end in ends)
    return describe(net, num_classes, input_size, "classifier.1", stages)
