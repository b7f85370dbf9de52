"""What `build` refuses, what it lets a trusted class do, and names the libraries do not know."""

import io
import sys
import types
from urllib.error import URLError

import pytest
import torch
from torch import nn

from compressor import models
from compressor.errors import RunError, UsageError
from compressor.models import build
from compressor.models._published import load_published

SIZE = (3, 32, 32)


class Tiny(nn.Module):
    def __init__(self, num_classes, input_size, depth=1):
        super().__init__()
        self.depth = depth
        self.fc = nn.Linear(input_size[0], num_classes)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


class NotANetwork:
    pass


@pytest.fixture
def foreign(monkeypatch):
    module = types.ModuleType("foreign_networks")
    module.Tiny, module.NotANetwork, module.loads = Tiny, NotANetwork, torch.load
    module.make = lambda num_classes: nn.Linear(4, num_classes)
    module.wrong = lambda: "a string"
    monkeypatch.setitem(sys.modules, "foreign_networks", module)
    return module


@pytest.mark.parametrize(
    "factory",
    [
        "torch.load",
        "os.system",
        "builtins.eval",
        "foreign_networks.Tiny",
        "compressor.models.library.timm",
        "compressor.models.build",
        "compressor.models._construction.initialise",
        "torchvision.models.resnet18",
    ],
)
def test_unlisted_factory_is_refused_with_the_call_that_trusts_it(factory, foreign):
    with pytest.raises(UsageError) as caught:
        build(factory, {}, 10, SIZE)
    assert f'compressor.load(path, trust=["{factory}"])' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unlisted_factory_is_not_even_imported():
    with pytest.raises(UsageError):
        build("this.Net", {}, 10, SIZE)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "factory", ["../evil", "a/b.Net", "", "compressor.models.", ".resnet18", "hf-hub:x", None, 3]
)
def test_factory_that_is_no_dotted_name_is_refused(factory):
    with pytest.raises(UsageError, match="not a dotted name"):
        build(factory, {}, 10, SIZE, trust=[factory])


@pytest.mark.parametrize(
    "factory",
    ["torch.load", "torch.hub.load", "os.system", "pickle.loads", "foreign_networks.loads",
     "foreign_networks.NotANetwork", "builtins.eval"],
)  # fmt: skip
def test_trust_does_not_make_a_loader_a_network(factory, foreign):
    with pytest.raises(UsageError, match="is not a network"):
        build(factory, {}, 10, SIZE, trust=[factory])


def test_trust_is_by_whole_name_also_when_given_as_one_string(foreign):
    with pytest.raises(UsageError, match="trust"):
        build("foreign_networks", {}, 10, SIZE, trust="foreign_networks.Tiny")
    assert isinstance(build("foreign_networks.Tiny", {}, 10, SIZE, "foreign_networks.Tiny"), Tiny)


def test_trusted_class_gets_the_sizes_its_signature_takes(foreign):
    trust = ["foreign_networks.Tiny", "foreign_networks.make"]
    net = build(trust[0], {"arguments": {"depth": 3}}, 7, (2, 8, 8), trust)
    assert (net.depth, net.fc.in_features, net.fc.out_features) == (3, 2, 7)
    assert (net.head_name, net.num_classes) == ("fc", 7)
    assert build(trust[0], {"depth": 2}, 7, (2, 8, 8), trust).depth == 2
    assert build(trust[1], {}, 5, (2, 8, 8), trust).out_features == 5


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("foreign_networks.Tiny", {"size": 3}, "cannot be built with .*size"),
        ("foreign_networks.Missing", {}, "cannot be imported"),
        ("no_such_package.Net", {}, "cannot be imported"),
        ("foreign_networks.wrong", {}, "returned a str"),
    ],
)
def test_trusted_name_that_gives_no_network_is_explained(factory, arguments, words, foreign):
    with pytest.raises(UsageError, match=words):
        build(factory, arguments, 10, SIZE, trust=[factory])


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize(
    "key",
    ["pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "weights", "weights_backbone",
     "pretrained", "cache_dir", "num_classes"],
)  # fmt: skip
def test_loading_keywords_are_refused(library, key):
    options = {"name": "resnet18", "arguments": {key: "x"}}
    with pytest.raises(UsageError, match=f"model.arguments.{key} is refused"):
        build(f"compressor.models.{library}", options, 10, SIZE)


def test_loading_keywords_are_refused_for_a_trusted_library_function_too():
    factory = "torchvision.models.resnet18"
    with pytest.raises(UsageError, match="weights is refused"):
        build(factory, {"weights": "DEFAULT"}, 10, SIZE, trust=[factory])
    assert build(factory, {}, 10, SIZE, trust=[factory]).fc.out_features == 10


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "hf_hub:x", "local-dir:x", "a/b", "..\\x", "../resnet18", "/x"]
)
def test_path_and_hub_names_are_refused(library, name):
    with pytest.raises(UsageError, match="looks like a path or a hub address"):
        build(f"compressor.models.{library}", {"name": name}, 10, SIZE)


@pytest.mark.parametrize(
    ("library", "name", "near"),
    [
        ("timm", "tinynet_z", "tinynet_"),
        ("timm", "resnet50.a1_in1kk", "resnet50.a1_in1k"),
        ("torchvision", "resnet19", "resnet18"),
        ("torchvision", "resnet_foo", "resnet18, resnet34, resnet50"),
        ("torchvision", "fcn_resnet50", "classification"),
        ("torchvision", 3, "not a torchvision"),
    ],
)
def test_unknown_library_name_brings_near_ones(library, name, near):
    with pytest.raises(UsageError, match=near):
        build(f"compressor.models.{library}", {"name": name}, 10, SIZE)


def test_timm_name_may_carry_a_weight_tag_without_loading_it():
    with torch.device("meta"):
        net = build("compressor.models.timm", {"name": "resnet18.a1_in1k"}, 10, SIZE)
    assert net.head_name == "fc"


def test_unknown_builder_keyword_is_a_usage_error():
    for library in ("timm", "torchvision"):
        options = {"name": "resnet18", "arguments": {"no_such_option": 1}}
        with pytest.raises(UsageError, match="no_such_option"):
            build(f"compressor.models.{library}", options, 10, SIZE)


def test_torchvision_network_without_a_leading_convolution_says_so(monkeypatch):
    from torchvision import models as library

    monkeypatch.setattr(library, "get_model", lambda name, **_: nn.Sequential(nn.Linear(3, 10)))
    with pytest.raises(UsageError, match="dataset.channels=3"):
        build("compressor.models.torchvision", {"name": "resnet18"}, 10, (1, 32, 32))


def test_failing_download_is_one_line_and_a_run_error(monkeypatch):
    import torchvision.models._api as api

    def offline(*_, **__):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(api, "load_state_dict_from_url", offline)
    options = [("resnet18", {}), ("torchvision", {"name": "resnet18"})]
    for name, extra in options:
        with pytest.raises(RunError, match="could not be fetched") as caught:
            build(f"compressor.models.{name}", {"pretrained": True, **extra}, 10, SIZE)
        assert "\n" not in str(caught.value) and "model.pretrained=false" in str(caught.value)


def test_failing_timm_download_is_one_line_and_a_run_error(monkeypatch):
    import timm

    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host\nlong advice")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RunError, match="no route to host") as caught:
        build("compressor.models.timm", {"name": "resnet18", "pretrained": True}, 10, SIZE)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_when_the_caller_fills_the_weights_itself(monkeypatch):
    import torchvision.models._api as api

    def forbidden(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(api, "load_state_dict_from_url", forbidden)
    for name in ("resnet18", "resnet50"):
        build(f"compressor.models.{name}", {"pretrained": True}, 10, SIZE, download=False)


@pytest.fixture
def published(monkeypatch):
    """Weights as torchvision would fetch them: those of its own network from another seed."""
    import torchvision
    import torchvision.models._api as api

    def fetch(url, *_, **__):
        name = url.split("/")[-1].split("-")[0]
        torch.manual_seed(5)
        buffer = io.BytesIO()
        torch.save(getattr(torchvision.models, name)().state_dict(), buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    monkeypatch.setattr(api, "load_state_dict_from_url", fetch)
    return lambda name: fetch(f"/{name}-x")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_published_weights_fill_all_but_head_and_a_changed_stem(name, published):
    weights = published(name)
    net = build(f"compressor.models.{name}", {"pretrained": True}, 10, SIZE)
    head, first = net.head_name, "conv1.weight"
    for key, tensor in net.state_dict().items():
        if not key.startswith(head) and key != first:
            assert torch.equal(tensor, weights[key]), key
    assert net.get_submodule(head).out_features == 10


def test_published_weights_keep_the_head_of_an_equal_class_count(published):
    weights = published("resnet18")
    net = build("compressor.models.resnet18", {"pretrained": True}, 1000, (3, 224, 224))
    assert all(torch.equal(t, weights[key]) for key, t in net.state_dict().items())


def test_one_channel_takes_the_sum_of_the_published_colours(published):
    weights = published("resnet18")
    options = {"pretrained": True, "name": "resnet18"}
    net = build("compressor.models.torchvision", options, 10, (1, 64, 64)).eval()
    grey = torch.rand(1, 1, 16, 16)
    expected = nn.functional.conv2d(grey.expand(1, 3, 16, 16), weights["conv1.weight"], None, 2, 3)
    torch.testing.assert_close(net.conv1(grey), expected)


def test_published_weights_of_another_structure_are_refused(published):
    net = models.resnet34(10, SIZE)
    with pytest.raises(RunError, match="lack layer1.2"):
        load_published(net, "resnet18", fresh=("fc", "conv1"))
