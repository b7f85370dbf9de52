"""Parameters and MACs that anyone can look up, counted without allocating a weight."""

import pytest
import torch
from torch import nn

from compressor.measure import count_macs, count_params
from compressor.models import build

# name, options, classes, side, parameters, MACs
OWN = [
    ("resnet18", {}, 1000, 224, 11_689_512, 1_814_073_344),
    ("resnet34", {}, 1000, 224, 21_797_672, 3_663_761_408),
    ("resnet50", {}, 1000, 224, 25_557_032, 4_089_184_256),
    ("vgg16_bn", {}, 1000, 224, 138_365_992, 15_470_264_320),
    ("mobilenet_v2", {}, 1000, 224, 3_504_872, 300_774_272),
    ("mobilenet_v2", {"width": 0.35}, 1000, 224, 1_677_128, 59_285_808),
    ("mobilenet_v2", {"width": 0.5}, 1000, 224, 1_968_680, 97_131_840),
    ("mobilenet_v2", {"width": 1.4}, 1000, 224, 6_108_776, 582_195_824),
    ("mobilenet_v2", {"stem": "imagenet"}, 10, 32, 2_236_682, 6_124_928),
    ("resnet18", {}, 10, 32, 11_173_962, 555_422_720),
    ("resnet18", {}, 100, 32, 11_220_132, None),
    ("resnet34", {}, 10, 32, 21_282_122, 1_159_402_496),
    ("resnet50", {}, 10, 32, 23_520_842, 1_297_829_888),
    ("vgg16_bn", {}, 10, 32, 14_728_266, 313_201_664),
    ("resnet20", {"shortcut": "A"}, 10, 32, 269_722, 40_551_040),
    ("resnet56", {"shortcut": "A"}, 10, 32, 853_018, 125_485_696),
    ("resnet20", {}, 10, 32, 272_474, None),
    ("resnet56", {}, 10, 32, 855_770, 125_747_840),
]
TORCHVISION = [
    ("resnet101", 224, 44_549_160, 7_801_405_440),
    ("vgg16", 224, 138_357_544, 15_470_264_320),
    ("mobilenet_v3_large", 224, 5_483_032, 216_589_760),
    ("mobilenet_v3_small", 224, 2_542_856, 56_510_400),
    ("efficientnet_b0", 224, 5_288_548, 385_814_752),
]
TIMM = [
    ("mobilenetv1_100", 224, 4_231_976, 568_740_352),
    ("seresnet50", 224, 28_088_024, 4_091_699_200),
    ("legacy_seresnet18", 224, 11_778_592, 1_814_160_384),
    ("legacy_xception", 299, 22_855_952, 8_357_403_496),
    ("ghostnet_100", 224, 5_182_508, 141_150_512),
    ("mobilenetv2_140", 224, 6_108_776, 582_195_824),
]


def on_meta(name, options, classes, size):
    with torch.device("meta"):
        return build(f"compressor.models.{name}", options, classes, size)


def millions(macs):
    return round(macs / 1e6, 2)


@pytest.mark.parametrize(("name", "options", "classes", "side", "params", "macs"), OWN)
def test_own_builder_has_the_published_counts(name, options, classes, side, params, macs):
    net = on_meta(name, options, classes, (3, side, side))
    assert count_params(net) == params
    assert macs is None or count_macs(net, (3, side, side)) == macs


@pytest.mark.parametrize(
    ("library", "name", "side", "params", "macs"),
    [("torchvision", *row) for row in TORCHVISION] + [("timm", *row) for row in TIMM],
)
def test_library_network_has_the_published_counts(library, name, side, params, macs):
    net = on_meta(library, {"name": name}, 1000, (3, side, side))
    assert (count_params(net), count_macs(net, (3, side, side))) == (params, macs)


@pytest.mark.parametrize(
    ("name", "side", "params", "macs"),
    [
        ("tinynet_a", 192, 6_187_972, 336.87),
        ("tinynet_b", 188, 3_730_562, 200.71),
        ("tinynet_c", 184, 2_457_234, 99.54),
        ("tinynet_d", 152, 2_338_446, 51.58),
        ("tinynet_e", 106, 2_042_972, 24.36),
        ("mobilenetv3_large_075", 224, 3_993_528, 154.56),
        ("mobilenetv3_small_075", 224, 2_041_872, 43.40),
        ("mobilenetv3_small_050", 224, 1_593_224, 24.19),
    ],
)
def test_timm_network_has_the_published_millions(name, side, params, macs):
    net = on_meta("timm", {"name": name}, 1000, (3, side, side))
    assert (count_params(net), millions(count_macs(net, (3, side, side)))) == (params, macs)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("tinynet_e", 774_782, 1_876_432),
        ("mobilenetv3_small_100", 1_528_106, 2_169_792),
        ("efficientnet_b0", 4_020_358, 8_474_848),
    ],
)
def test_unmodified_timm_network_at_32_pixels_has_the_known_counts(name, params, macs):
    net = on_meta("timm", {"name": name}, 10, (3, 32, 32))
    assert (count_params(net), count_macs(net, (3, 32, 32))) == (params, macs)


@pytest.mark.parametrize(
    ("name", "convolutions"), [("resnet18", 20), ("resnet34", 36), ("resnet50", 53)]
)
def test_resnet_has_the_published_number_of_convolutions(name, convolutions):
    net = on_meta(name, {}, 1000, (3, 224, 224))
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) == convolutions


def test_network_that_computes_while_it_is_built_takes_the_meta_device_too():
    net = on_meta("torchvision", {"name": "regnet_y_400mf"}, 1000, (3, 224, 224))
    # torchvision publishes 4,344,144 parameters and 0.402 G multiply-accumulates.
    assert count_params(net) == 4_344_144
    assert round(count_macs(net, (3, 224, 224)) / 1e9, 3) == 0.402
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


def test_vgg_at_224_spends_its_macs_in_the_features():
    net = on_meta("vgg16_bn", {}, 1000, (3, 224, 224))
    features = [m for m in net.features if isinstance(m, nn.Conv2d)]
    assert len(features) == 13
    assert sum(count_params(m) for m in features) == 14_714_688
    classifier = sum(m.weight.numel() for m in net.classifier if isinstance(m, nn.Linear))
    assert count_macs(net, (3, 224, 224)) - classifier == 15_346_630_656


def test_class_count_changes_only_the_head():
    many = on_meta("resnet18", {}, 1000, (3, 224, 224)).state_dict()
    few = on_meta("resnet18", {}, 10, (3, 224, 224)).state_dict()
    assert list(many) == list(few)
    changed = [key for key in many if many[key].shape != few[key].shape]
    assert changed == ["fc.weight", "fc.bias"]
    assert sum(many[key].numel() - few[key].numel() for key in changed) == 507_870 == 513 * 990
