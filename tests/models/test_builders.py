"""What holds for every builder: gradients everywhere, copies, state dicts, any channel count."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import compressor.models as models
from compressor.errors import UsageError
from compressor.measure import count_macs, count_params
from compressor.models import build

CONFIGS = Path(models.__file__).parents[2] / "configs" / "model"

# One small legal size each; widths keep the large ones quick.
SMALL = [
    ("resnet18", {"width": 0.25}, (3, 32, 32)),
    ("resnet18", {"stem": "imagenet", "width": 0.25}, (3, 64, 64)),
    ("resnet34", {"width": 0.25, "depth": 0.5}, (1, 28, 28)),
    ("resnet50", {"width": 0.25}, (1, 16, 16)),
    ("resnet20", {}, (1, 28, 28)),
    ("resnet20", {"shortcut": "A"}, (3, 16, 16)),
    ("resnet56", {"depth": 0.5}, (3, 32, 32)),
    ("shallow_mimic", {"filters": 4, "bottleneck": 5, "hidden": 20}, (1, 28, 28)),
    ("vgg16_bn", {"width": 0.25}, (3, 32, 32)),
    ("vgg16_bn", {"width": 0.25}, (1, 28, 28)),
    ("vgg16_bn", {"width": 0.25}, (3, 16, 16)),
    ("vgg16_bn", {"width": 0.125, "stem": "imagenet"}, (1, 32, 32)),
    ("mobilenet_v2", {"width": 0.35}, (3, 32, 32)),
    ("mobilenet_v2", {"width": 0.35, "depth": 0.5, "stem": "imagenet"}, (1, 64, 64)),
    ("torchvision", {"name": "squeezenet1_1"}, (1, 32, 32)),
    ("torchvision", {"name": "mobilenet_v3_small"}, (4, 64, 64)),
    ("timm", {"name": "tinynet_e"}, (1, 64, 64)),
]


def make(name, options, size, classes=10):
    torch.manual_seed(0)
    return build(f"compressor.models.{name}", options, classes, size)


@pytest.mark.parametrize(("name", "options", "size"), SMALL)
def test_network_trains_copies_and_reloads(name, options, size):
    net = make(name, options, size)
    images, targets = torch.randn(2, *size), torch.tensor([1, 7])
    nn.functional.cross_entropy(net(images), targets).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []
    net.eval()
    twin = copy.deepcopy(net)
    other = build(f"compressor.models.{name}", options, 10, size).eval()
    other.load_state_dict(net.state_dict())
    with torch.inference_mode():
        expected = net(images)
        assert expected.shape == (2, 10) and expected.isfinite().all()
        assert torch.equal(twin(images), expected)
        assert torch.equal(other(images), expected)
    assert (net.task, net.num_classes, net.input_size) == ("classify", 10, size)
    head = net.get_submodule(net.head_name)
    assert getattr(head, "out_features", getattr(head, "out_channels", None)) == 10
    assert all(net.get_submodule(stage) is not None for stage in net.stages)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_states_every_option_with_the_constructor_default(path):
    config = OmegaConf.load(path)
    if path.stem == "custom":
        assert list(config) == ["_target_", "arguments"] and OmegaConf.is_missing(
            config, "_target_"
        )
        return
    assert config._target_ == f"compressor.models.{path.stem}" and path.stem in models.__all__
    parameters = inspect.signature(getattr(models, path.stem)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert [key for key in config if key != "_target_"] == list(options)
    for key, default in options.items():
        if default is inspect.Parameter.empty:
            assert OmegaConf.is_missing(config, key)
        else:
            assert config[key] == default and type(config[key]) in (
                type(default),
                type(config[key]),
            )


def test_every_allowed_builder_has_a_config():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*models.__all__, "custom"}


def test_stem_follows_the_input_size_unless_said():
    def first(side, stem):
        with torch.device("meta"):
            return make("resnet18", {"stem": stem}, (3, side, side))

    assert first(64, "auto").conv1.kernel_size == (3, 3)
    assert isinstance(first(64, "auto").maxpool, nn.Identity)
    assert first(65, "auto").conv1.kernel_size == (7, 7)
    assert first(32, "imagenet").conv1.kernel_size == (7, 7)
    assert first(224, "cifar").conv1.stride == (1, 1)


def test_resnet50_blocks_start_as_identities_and_resnet18_blocks_do_not():
    def gains(name, last, **options):
        net = make(name, options, (3, 32, 32))
        return {
            getattr(b, last).weight.abs().sum().item() for b in net.modules() if hasattr(b, last)
        }

    assert gains("resnet50", "bn3", width=0.25) == {0.0}
    assert gains("resnet50", "bn3") == {0.0}
    assert 0.0 not in gains("resnet50", "bn3", width=0.25, zero_init_residual=False)
    assert 0.0 not in gains("resnet18", "bn2")


def test_unscaled_resnet_is_initialised_as_torchvision_does_it():
    from torchvision.models import resnet50

    net = make("resnet50", {"zero_init_residual": False}, (3, 224, 224), classes=1000)
    torch.manual_seed(0)
    for ours, theirs in zip(net.parameters(), resnet50().parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_width_goes_through_the_rounding_rule_stage_by_stage():
    with torch.device("meta"):
        net = make("resnet18", {"width": 0.3}, (3, 224, 224))
        mobile = make("mobilenet_v2", {"width": 1.1}, (3, 224, 224))
    # 19.2 would fall to 16, more than a tenth below, so 24; 38.4 -> 40, 76.8 -> 80, 153.6 -> 152.
    stages = [net.layer1, net.layer2, net.layer3, net.layer4]
    assert net.conv1.out_channels == 24
    assert [stage[0].conv1.out_channels for stage in stages] == [24, 40, 80, 152]
    assert mobile.features[18][0].out_channels == 1408


def test_depth_rounds_up_when_it_grows_and_to_the_nearest_when_it_shrinks():
    def blocks(depth):
        with torch.device("meta"):
            net = make("resnet34", {"depth": depth}, (3, 32, 32))
        return [len(stage) for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]

    assert blocks(1.0) == [3, 4, 6, 3]
    assert blocks(1.1) == [4, 5, 7, 4]
    assert blocks(1.0000000002) == [3, 4, 6, 3]
    assert blocks(0.7) == [2, 3, 4, 2]
    assert blocks(0.1) == [1, 1, 1, 1]


def test_cifar_vgg_drops_only_the_pools_that_would_leave_nothing():
    def pools(side):
        with torch.device("meta"):
            net = make("vgg16_bn", {"stem": "cifar"}, (3, side, side))
        count_macs(net, (3, side, side))
        return sum(isinstance(module, nn.MaxPool2d) for module in net.features)

    assert [pools(side) for side in (64, 32, 28, 16, 8)] == [5, 5, 4, 4, 3]


def test_mobilenet_stem_for_small_images_changes_no_parameter():
    with torch.device("meta"):
        small = make("mobilenet_v2", {}, (3, 32, 32))
        large = make("mobilenet_v2", {"stem": "imagenet"}, (3, 32, 32))
        assert small.features(torch.empty(2, 3, 32, 32)).shape[-2:] == (4, 4)
        assert large.features(torch.empty(2, 3, 32, 32)).shape[-2:] == (1, 1)
    assert count_params(small) == count_params(large) == 2_236_682


def test_shortcut_a_subsamples_and_pads_with_zeros():
    from compressor.models.resnet_cifar import Subsample

    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = Subsample(2, stride=2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1].tolist() == [[0.0, 2.0], [8.0, 10.0]]
    assert out[0, [0, 3]].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet18", {"width": 0}, "model.width=0"),
        ("resnet18", {"depth": -1.0}, "model.depth=-1.0"),
        ("resnet20", {"width": float("nan")}, "model.width=nan"),
        ("resnet20", {"shortcut": "C"}, "model.shortcut=C is not known: choose one of A, B"),
        (
            "resnet50",
            {"stem": "big"},
            "model.stem=big is not known: choose one of auto, ",
        ),
        ("vgg16_bn", {"stem": "imagenet"}, "model.stem=imagenet"),
        ("mobilenet_v2", {"dropout": 1.5}, "model.dropout=1.5"),
        ("resnet18", {"pretrained": True, "width": 0.5}, "width=0.5"),
        ("resnet18", {"num_layers": 3}, "model.num_layers is not an option"),
        ("resnet18", {"widht": 0.5}, "did you mean width"),
        ("torchvision", {}, "needs model.name"),
        ("torchvision", {"name": "tinynet_e"}, "timm has it: type model=timm"),
        ("timm", {"name": "squeezenet1_1"}, "torchvision has it: type model=torchvision"),
        ("timm", {"name": "resnt50"}, "did you mean resnet50"),
        ("timm", {"name": "zzz"}, "from timm import list_models"),
    ],
)
def test_bad_option_is_named(name, options, words):
    with pytest.raises(UsageError, match=words):
        build(f"compressor.models.{name}", options, 10, (3, 16, 16))


@pytest.mark.parametrize(
    ("classes", "size"),
    [(0, (3, 8, 8)), (10, (3, 8)), (10, (3, 0, 8)), (10, "3x8"), (True, (3, 8, 8))],
)
def test_impossible_sizes_are_refused(classes, size):
    with pytest.raises(UsageError, match="positive integer"):
        build("compressor.models.resnet20", {}, classes, size)
