"""Width, depth and resolution multipliers, against the MobileNet tables."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import compressor.scale.multiplier as multiplier
from compressor.errors import UsageError
from compressor.measure import count_macs, count_params
from compressor.models import build
from compressor.scale.multiplier import Multiplier


def counts(name, arguments, size):
    with torch.device("meta"):
        net = build(f"compressor.models.{name}", arguments, 1000, size)
    return count_params(net), count_macs(net, size)


@pytest.mark.parametrize(
    ("width", "params", "macs"),
    [
        (0.35, 1_677_128, 59_285_808),
        (0.5, 1_968_680, 97_131_840),
        (1.0, 3_504_872, 300_774_272),
        (1.4, 6_108_776, 582_195_824),
    ],
)
def test_width_gives_the_published_mobilenet_v2(width, params, macs):
    arguments, size = Multiplier(width).scale({"width": 1.0}, (3, 224, 224))
    assert counts("mobilenet_v2", arguments, size) == (params, macs)


def test_resolution_changes_the_cost_and_no_parameter():
    arguments, size = Multiplier(resolution=192 / 224).scale({}, (3, 224, 224))
    assert size == (3, 192, 192)
    params, macs = counts("timm", {"name": "mobilenetv1_100", **arguments}, size)
    assert (params, round(macs / 1e6, 2)) == (4_231_976, 418.12)


@pytest.mark.parametrize(
    ("resolution", "side"), [(0.571, 128), (0.714, 160), (0.857, 192), (1.0, 224), (1.15, 258)]
)
def test_resolution_rounds_to_the_nearest_pixel(resolution, side):
    _, size = Multiplier(resolution=resolution).scale({}, (1, 224, 112))
    assert size == (1, side, round(round(112 * resolution, 6)))


def test_factors_multiply_what_the_model_already_says_and_edit_nothing():
    given = {"width": 0.5, "depth": 2.0, "stem": "auto"}
    scaled, _ = Multiplier(0.5, depth=1.5).scale(given, (3, 32, 32))
    assert scaled == {"width": 0.25, "depth": 3.0, "stem": "auto"}
    assert given == {"width": 0.5, "depth": 2.0, "stem": "auto"}


def test_depth_adds_blocks():
    arguments, size = Multiplier(depth=2.0).scale({"depth": 1.0}, (3, 32, 32))
    with torch.device("meta"):
        net = build("compressor.models.resnet20", arguments, 10, size)
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3)] == [6, 6, 6]


def test_keywords_of_a_class_of_ones_own_are_found_in_their_mapping():
    given = {"arguments": {"width": 2.0}}
    scaled, _ = Multiplier(0.5).scale(given, (3, 32, 32))
    assert scaled == {"arguments": {"width": 1.0}} and given["arguments"]["width"] == 2.0


def test_model_without_the_option_learns_which_models_have_it():
    with pytest.raises(UsageError) as caught:
        Multiplier(depth=0.5).scale({"width": 1.0, "stem": "auto"}, (3, 32, 32))
    message = str(caught.value)
    assert "scale.depth=0.5" in message
    assert "mobilenet_v2|resnet18|resnet20|resnet34|resnet50|resnet56 " in message
    assert "vgg16_bn" not in message and "\n" not in message
    with pytest.raises(UsageError, match=r"resnet56\|vgg16_bn"):
        Multiplier(0.5).scale({"name": "tinynet_e", "arguments": {}}, (3, 32, 32))


@pytest.mark.parametrize("option", ["width", "depth", "resolution"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "half", None, True])
def test_factor_that_is_not_positive_is_refused(option, value):
    with pytest.raises(UsageError, match=f"scale.{option}="):
        Multiplier(**{option: value})


def test_resolution_that_leaves_no_pixel_is_refused():
    with pytest.raises(UsageError, match="scale.resolution=0.01"):
        Multiplier(resolution=0.01).scale({}, (3, 32, 32))


def test_config_states_every_option_with_the_constructor_default():
    folder = Path(multiplier.__file__).parents[2] / "configs" / "scale"
    own, shared = OmegaConf.load(folder / "multiplier.yaml"), OmegaConf.load(folder / "_base.yaml")
    parameters = inspect.signature(Multiplier).parameters.values()
    expected = {p.name: p.default for p in parameters}
    assert {**shared, **own} == {
        "defaults": ["_base"],
        "_target_": "compressor.scale.multiplier.Multiplier",
        **expected,
    }
