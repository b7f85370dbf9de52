"""ResNet-18, -34 and -50 on torchvision's blocks, with a small-image stem, width and depth.

He, Zhang, Ren, Sun. CVPR 2016, arXiv:1512.03385; the stride of a bottleneck sits on its 3x3
convolution, as in torchvision ("v1.5"; the paper has it on the first 1x1).
Run: compress-run model=resnet50 model.width=0.5
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
    scaled_width,
)
from compressor.models._published import load_published
from compressor.options import checked

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_PLANES = (64, 128, 256, 512)


@checked("model")
def resnet18(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    stem: Stem = "auto",
    zero_init_residual: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """ResNet-18: 11,689,512 parameters at 1000 classes. (B, C, H, W) -> (B, num_classes)."""
    options = (width, depth, stem, zero_init_residual, pretrained)
    return _build("resnet18", "BasicBlock", (2, 2, 2, 2), num_classes, input_size, *options)


@checked("model")
def resnet34(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    stem: Stem = "auto",
    zero_init_residual: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """ResNet-34: 21,797,672 parameters at 1000 classes. (B, C, H, W) -> (B, num_classes)."""
    options = (width, depth, stem, zero_init_residual, pretrained)
    return _build("resnet34", "BasicBlock", (3, 4, 6, 3), num_classes, input_size, *options)


@checked("model")
def resnet50(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    depth: Scaled = 1.0,
    stem: Stem = "auto",
    zero_init_residual: bool = True,
    pretrained: bool = False,
) -> nn.Module:
    """ResNet-50: 25,557,032 parameters at 1000 classes. (B, C, H, W) -> (B, num_classes).

    The last batch norm of every block starts at zero, unlike torchvision's default: the blocks
    start as identities, without which the short recipes on small data do not settle.
    """
    options = (width, depth, stem, zero_init_residual, pretrained)
    return _build("resnet50", "Bottleneck", (3, 4, 6, 3), num_classes, input_size, *options)


def _build(
    name: str,
    block_name: str,
    blocks: tuple[int, ...],
    num_classes: int,
    input_size: tuple[int, int, int],
    width: float,
    depth: float,
    stem: str,
    zero_init_residual: bool,
    pretrained: bool,
) -> nn.Module:
    from torchvision.models import resnet

    width = float(width)
    depth = float(depth)
    small = choose_stem(stem, input_size) == "cifar"
    if pretrained:
        require_unscaled(name, width=width, depth=depth)
    block = getattr(resnet, block_name)
    counts = [scaled_depth(count, depth) for count in blocks]
    net = resnet.ResNet(block, counts, num_classes, zero_init_residual=zero_init_residual)
    if width != 1:
        _rewiden(net, block, counts, width, num_classes)
    channels = input_size[0]
    stem_width = net.bn1.num_features
    if small:
        net.conv1 = initialise(nn.Conv2d(channels, stem_width, 3, padding=1, bias=False))
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = initialise(nn.Conv2d(channels, stem_width, 7, 2, padding=3, bias=False))
    if width != 1 and zero_init_residual:
        last = "bn3" if block_name == "Bottleneck" else "bn2"
        for module in net.modules():
            if isinstance(module, block):
                nn.init.zeros_(getattr(module, last).weight)
    if pretrained:
        load_published(net, name, fresh=("fc", "conv1"))
    return describe(net, num_classes, input_size, "fc", _STAGES)


def _rewiden(net: nn.Module, block: type, counts: list[int], width: float, classes: int) -> None:
    """Rebuild all layers of `net` at `width` with torchvision's own stage builder, in place.

    Every published channel count (64 to 512 per stage, the stem too) goes through the rounding
    rule on its own; a bottleneck's 4x expansion follows its stage. Class count: untouched.
    """
    net.inplanes = scaled_width(64, width)
    net.conv1 = initialise(nn.Conv2d(3, net.inplanes, 7, 2, padding=3, bias=False))
    net.bn1 = nn.BatchNorm2d(net.inplanes)
    for stage, planes, count in zip(_STAGES, _PLANES, counts, strict=True):
        stride = 1 if stage == "layer1" else 2
        layer = net._make_layer(block, scaled_width(planes, width), count, stride)
        setattr(net, stage, initialise(layer))
    net.fc = nn.Linear(net.inplanes, classes)
