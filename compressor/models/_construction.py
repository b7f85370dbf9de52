"""What the builders share: checked options, the rounding rule, the stem rule, a network's facts."""

import math
from typing import Annotated, Literal

from torch import nn

from compressor.errors import UsageError
from compressor.options import LARGEST_FACTOR, Range

# CIFAR's 32 and the 64 of the down-sampled ImageNet are the sizes for which papers drop the
# stride-4 stem; on larger images it costs little accuracy and saves most of the arithmetic.
LARGEST_CIFAR_STEM = 64


# A width or depth as the builders get it, that of the group `scale` multiplied in.
Scaled = Annotated[
    float,
    Range(0, LARGEST_FACTOR, above=True, remedy="scale multiplied in; 1.0 leaves it unscaled"),
]
Stem = Literal["auto", "cifar", "imagenet"]


def scaled_width(channels: int, width: float) -> int:
    """Channels times `width`, as a multiple of 8, at most 10 % below (MobileNetV2's rule)."""
    if width == 1.0:
        return channels
    from torchvision.models._utils import _make_divisible

    return _make_divisible(channels * width, 8)


def scaled_depth(blocks: int, depth: float) -> int:
    """Blocks times `depth`: up by ceil (EfficientNet), down by round, at least one."""
    # 3 * 1.0000000002 must not become 4: floating noise is cut off before the ceil.
    product = round(blocks * depth, 6)
    return max(1, math.ceil(product) if depth >= 1 else round(product))


def choose_stem(stem: str, input_size: tuple[int, int, int]) -> str:
    """The stem that `auto` stands for at this input size: "cifar" or "imagenet"."""
    if stem != "auto":
        return stem
    return "cifar" if max(input_size[1:]) <= LARGEST_CIFAR_STEM else "imagenet"


def require_unscaled(name: str, **factors: float) -> None:
    """UsageError when published weights are asked for a width or depth they were not made for."""
    for option, factor in factors.items():
        if factor != 1:
            raise UsageError(
                f"model.pretrained=true with {option}={factor} for {name}: published weights exist "
                f"at {option} 1.0 only; set {option} to 1.0 or model.pretrained=false"
            )


def initialise(net: nn.Module) -> nn.Module:
    """Kaiming fan-out normal convolutions, batch norm 1 and 0; other layers stay. Returns `net`."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return net


def class_layers(net: nn.Module, num_classes: int) -> list[str]:
    """Paths of the layers that end in the classes (auxiliary heads too), in order of definition."""
    heads = []
    for path, module in net.named_modules():
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        if isinstance(module, nn.Linear | nn.Conv2d) and outputs == num_classes:
            heads.append(path)
    return heads


def describe(
    net: nn.Module,
    num_classes: int,
    input_size: tuple[int, int, int],
    head_name: str,
    stages: tuple[str, ...] = (),
) -> nn.Module:
    """Note the facts other rooms ask for on the network: task, sizes, head, feature stages.

    Returns `net`. A foreign network's own attribute of the same name is left alone.
    """
    facts = {
        "task": "classify",
        "num_classes": num_classes,
        "input_size": tuple(input_size),
        "head_name": head_name,
        "stages": stages,
    }
    for name, fact in facts.items():
        if not hasattr(net, name):
            setattr(net, name, fact)
    return net
