"""VGG-16 with batch norm: torchvision's ImageNet form, and the CIFAR form with one linear layer.

Simonyan, Zisserman. ICLR 2015, arXiv:1409.1556, configuration D; batch norm as in torchvision.
Run: compress-run model=vgg16_bn dataset=cifar10
"""

import torch
from torch import nn

from compressor.errors import UsageError
from compressor.models._construction import (
    Scaled,
    Stem,
    choose_stem,
    describe,
    initialise,
    require_unscaled,
    scaled_width,
)
from compressor.models._published import load_published
from compressor.options import checked

_CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_POOLS = ("features.6", "features.13", "features.23", "features.33", "features.43")


@checked("model")
def vgg16_bn(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    width: Scaled = 1.0,
    stem: Stem = "auto",
    pretrained: bool = False,
) -> nn.Module:
    """VGG-16-BN, 13 convolutions. (B, C, H, W) -> (B, num_classes).

    stem "imagenet": pooled to 7x7, then the three linear layers with dropout: 138,365,992
    parameters at 1000 classes. stem "cifar": global average pooling and one linear layer:
    14,728,266 parameters at 10 classes. The CIFAR form drops the trailing pools of an image that
    is 1x1 already (Identity stands in, names stay): 32x32 keeps all five, 16x16 and 28x28 four,
    8x8 three. `width` multiplies the hidden linear layers too.
    """
    from torchvision.models import vgg

    width = float(width)
    small = choose_stem(stem, input_size) == "cifar"
    if pretrained:
        require_unscaled("vgg16_bn", width=width)
    if not small and min(input_size[1:]) < 32:
        raise UsageError(
            f"model.stem=imagenet halves the image five times, which {input_size[1]}x"
            f"{input_size[2]} does not allow; use model.stem=cifar or dataset.image_size=32"
        )
    layers = []
    for block in _CONVOLUTIONS:
        layers += [*(scaled_width(channels, width) for channels in block), "M"]
    features = vgg.make_layers(layers, batch_norm=True)
    if input_size[0] != 3:
        features[0] = nn.Conv2d(input_size[0], layers[0], 3, padding=1)
    # On the meta device the 120 million parameters of the default head are never allocated.
    with torch.device("meta"):
        net = vgg.VGG(nn.Sequential(), num_classes, init_weights=False)
    net.features = initialise(features)
    last = layers[-2]
    if small:
        _drop_pools(net.features, min(input_size[1:]))
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        net.classifier = nn.Linear(last, num_classes)
        head = "classifier"
    else:
        hidden = scaled_width(4096, width)
        net.classifier[0] = nn.Linear(last * 49, hidden)
        net.classifier[3] = nn.Linear(hidden, hidden)
        net.classifier[6] = nn.Linear(hidden, num_classes)
        head = "classifier.6"
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    if pretrained:
        load_published(net, "vgg16_bn", fresh=(head, "features.0"))
    return describe(net, num_classes, input_size, head, _POOLS)


def _drop_pools(features: nn.Sequential, side: int) -> None:
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            if side < 2:
                features[index] = nn.Identity()
            side //= 2
