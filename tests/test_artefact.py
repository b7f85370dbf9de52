import copy
import json
import os
import sys

import doubles
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import compressor
from compressor import artefact, manifest
from compressor.artefact import Spec
from compressor.data import Preprocess
from compressor.errors import RunError, UsageError
from compressor.surgery import EMPTY_PLAN, Cut, Mask, Plan, analyse, plan_cut, replay

SPEC = Spec("compressor.models.resnet20", {"width": 0.5}, (1, 16, 16), 10)


def saved(folder, spec=SPEC, plan=EMPTY_PLAN, net=None):
    folder.mkdir(exist_ok=True, parents=True)
    net = net or replay(spec.build(), plan)
    artefact.write(folder, spec=spec, plan=plan, net=net, lineage={"parent": "p"})
    manifest.seal(folder)
    return net


def edited(folder, name, change):
    """Change a JSON file of the folder and sign it again, as an attacker would."""
    path = folder / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    manifest.seal(folder)


def test_a_saved_network_comes_back_in_eval_mode_with_the_same_logits(tmp_path):
    net = saved(tmp_path / "a").eval()
    loaded = compressor.load(tmp_path / "a")
    x = torch.randn(2, 1, 16, 16)
    assert not loaded.training
    assert torch.equal(net(x), loaded(x))


def test_a_cut_network_comes_back_with_its_small_tensors(tmp_path):
    dense = SPEC.build()
    structure = analyse(dense, (torch.randn(2, 1, 16, 16),))
    group = structure.select("interior")[0]
    plan = plan_cut(structure, {group.name: torch.arange(group.size // 2)})
    net = saved(tmp_path / "a", plan=plan).eval()
    loaded = compressor.load(str(tmp_path / "a"))
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(net(x), loaded(x))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in dense.parameters())


def test_the_run_folder_loads_like_its_model_folder(tmp_path):
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run" / "model")
    assert isinstance(compressor.load(tmp_path / "run"), nn.Module)


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    saved(tmp_path / "a")
    before = torch.get_rng_state()
    compressor.load(tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "plan.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_folder_is_refused_with_the_file_that_is_damaged(tmp_path, name, damage):
    saved(tmp_path / "a")
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(RunError, match=name) as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        compressor.load(tmp_path / "missing")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="no artefact"):
        compressor.load(tmp_path / "photos")
    manifest.seal(tmp_path / "photos")
    with pytest.raises(UsageError, match="holds no network"):
        compressor.load(tmp_path / "photos")


@pytest.mark.parametrize(
    "factory",
    ["torch.load", "builtins.eval", "os.system", "compressor.models.importlib", "my_nets.Net"],
)
def test_a_factory_outside_the_allow_list_is_refused_before_it_is_imported(tmp_path, factory):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(factory=factory))
    with pytest.raises(UsageError, match="trust="):
        compressor.load(tmp_path / "a")


def test_trust_does_not_cover_functions_that_read_files(tmp_path):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(factory="torch.load"))
    with pytest.raises(UsageError, match="not a network"):
        compressor.load(tmp_path / "a", trust=["torch.load"])


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", ".."])
def test_a_manifest_may_not_name_a_path_outside_its_folder(tmp_path, name):
    saved(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": ""}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="outside"):
        compressor.load(tmp_path / "a")


def test_a_spec_that_names_a_path_is_refused(tmp_path):
    saved(tmp_path / "a")

    def change(spec):
        spec.update(factory="compressor.models.timm", arguments={"name": "../../resnet18"})

    edited(tmp_path / "a", "spec.json", change)
    with pytest.raises(UsageError, match=r"\.\./\.\./resnet18"):
        compressor.load(tmp_path / "a")


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path):
    saved(tmp_path / "a")
    weights = tmp_path / "a" / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a symbolic link, which is not followed"):
        compressor.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors"])
def test_a_fifo_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path, name):
    saved(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    os.mkfifo(tmp_path / "a" / name)
    with pytest.raises(RunError, match=f"{name} is no regular file"):
        compressor.load(tmp_path / "a")


def test_a_spec_that_asks_for_more_than_its_weights_hold_allocates_nothing(tmp_path):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec["arguments"].update(width=64.0))
    # at width 64 the last 3x3 layers have a billion numbers
    with pytest.raises(RunError, match="far larger network than weights.safetensors holds"):
        compressor.load(tmp_path / "a")


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(num_classes=7))
    with pytest.raises(RunError, match="does not fit its spec"):
        compressor.load(tmp_path / "a")


def test_a_newer_format_says_so(tmp_path):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(format=99))
    with pytest.raises(UsageError, match="format 99"):
        compressor.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_classes": 10.7}, "whole numbers"),
        ({"input_size": [3, float("inf"), 8]}, "whole numbers"),
        ({"arguments": {"depth": 1e300}}, "depth=1e\\+300 is larger than any"),  # without end
        ({"arguments": {"width": float("nan")}}, "width=nan is not a number"),
        ({"arguments": {"depth": 1e6}}, "must be at most 64"),
        ({"num_classes": 10**9}, "num_classes=1000000000"),
        ({"num_classes": -1}, "num_classes=-1 must be at least 1"),
        ({"input_size": [1, 10**9, 8]}, "input_size=.1, 1000000000"),
        ({"arguments": [[[[]]]]}, "does not describe a network"),
        ({"arguments": {"width": [[[[[[[[[[1]]]]]]]]]]}}, "more nested values"),
        ({"arguments": {"shortcut": "A" * 2000}}, "text of 2,000 characters"),
    ],
)
def test_numbers_that_no_network_has_are_one_line(tmp_path, change, expected):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(change))
    with pytest.raises((RunError, UsageError), match=expected) as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


PREPROCESS = Preprocess((1, 16, 16), (0.5,), (0.25,), "L", "both_sides", 16)
NAMES = [f"class {number}" for number in range(10)]


def told(folder, preprocess=PREPROCESS, classes=NAMES):
    """A folder as a run leaves it, with what its network takes and answers."""
    net = saved(folder)
    artefact.add_feeding(folder, preprocess, classes)
    manifest.seal(folder)
    return net


def test_a_loaded_network_says_how_it_is_fed_and_what_its_answers_mean(tmp_path):
    told(tmp_path / "a")
    net = compressor.load(tmp_path / "a")
    assert net.preprocess == PREPROCESS and net.classes == NAMES
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    images = net.preprocess(image)[None]
    assert images.dtype == torch.float32 and net(images).shape == (1, 10)
    expected = (torch.arange(256).view(1, 1, 16, 16) / 255 - 0.5) / 0.25
    assert torch.equal(images, expected)


def test_how_it_is_fed_is_no_part_of_the_loaded_network(tmp_path):
    plain = saved(tmp_path / "a").eval()
    told(tmp_path / "b")
    net = compressor.load(tmp_path / "b")
    image = torch.zeros(1, 16, 16, dtype=torch.uint8)
    x = net.preprocess(image)[None]  # the transform is there from now on
    assert type(net) is type(plain) and repr(net) == repr(plain)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in net.named_modules()] == [n for n, _ in plain.named_modules()]
    assert [name for name, _ in net.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert artefact.read(tmp_path / "b").spec == SPEC
    again = copy.deepcopy(net)
    assert again.preprocess == PREPROCESS and again.classes == NAMES
    assert torch.equal(again.preprocess(image)[None], x)
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(x), net(x)) and list(traced.state_dict()) == list(net.state_dict())
    program = torch.export.export(net, (x,))
    assert not any("preprocess" in name for name in program.state_dict)
    assert len(program.graph.nodes) == len(torch.export.export(plain, (x,)).graph.nodes)
    structure = analyse(net, (x,))
    group = structure.select("interior")[0]
    small = replay(net, plan_cut(structure, {group.name: torch.arange(group.size // 2)}))
    assert small.preprocess == PREPROCESS


def test_the_transforms_of_torchvision_are_imported_when_they_are_first_asked_for(
    tmp_path, monkeypatch
):
    told(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    net = compressor.load(tmp_path / "a")
    assert net.preprocess.mean == (0.5,)
    with pytest.raises(ImportError, match=r"torchvision\.transforms\.v2"):
        net.preprocess.transform  # noqa: B018
    monkeypatch.undo()
    from torchvision.transforms import v2

    assert isinstance(net.preprocess.transform, v2.Compose)


def test_a_folder_of_before_loads_and_says_that_it_does_not_tell(tmp_path):
    saved(tmp_path / "a")
    net = compressor.load(tmp_path / "a")
    assert net(torch.zeros(1, 1, 16, 16)).shape == (1, 10) and net.classes is None
    for ask in (lambda: net.preprocess(torch.zeros(1, 16, 16)), lambda: net.preprocess.transform):
        with pytest.raises(UsageError, match="does not say how its network is fed") as caught:
            ask()
        assert "spec.json" in str(caught.value) and "\n" not in str(caught.value)
    copy.deepcopy(net)


def test_what_a_network_calls_preprocess_itself_is_left_alone(tmp_path, monkeypatch):
    from compressor.models import resnet20

    class Own(type(resnet20(10, (1, 16, 16)))):
        def preprocess(self, x):
            return 2 * x

        def forward(self, x):
            return super().forward(self.preprocess(x))

    def build(self, trust=(), *, download=False):
        made = build_plain(self, trust, download=download)
        made.__class__ = Own
        return made

    build_plain = Spec.build
    told(tmp_path / "a")
    plain = compressor.load(tmp_path / "a")
    monkeypatch.setattr(Spec, "build", build)
    net = compressor.load(tmp_path / "a")
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(net(x), plain(2 * x))
    assert net.classes == NAMES
    assert artefact.feeding(tmp_path / "a", SPEC) == (PREPROCESS, NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preprocess": {"mode": "RGB"}}, "'preprocess' cannot be used"),
        ({"preprocess": [1]}, "'preprocess' cannot be used"),
        ({"preprocess": {**PREPROCESS.to_json(), "resize_to": 10**9}}, "cannot be used"),
        ({"preprocess": {**PREPROCESS.to_json(), "input_size": [1, 8, 8]}}, "the network takes"),
        ({"classes": ["cat"]}, "no list of 10 names"),
        ({"classes": "0123456789"}, "no list of 10 names"),
        ({"classes": [0] * 10}, "no list of 10 names"),
    ],
)
def test_a_wrong_description_of_the_input_is_one_line(tmp_path, change, words):
    told(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(change))
    with pytest.raises(UsageError, match=words) as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


def counted(build):
    """`Spec.build` that notes the device it is called under."""

    def noting(spec, *args, **options):
        noting.places.append(torch.get_default_device().type)
        return build(spec, *args, **options)

    noting.places = []
    return noting


def with_weights(folder, change):
    """Other tensors in the weights' file, signed again."""
    path = folder / artefact.WEIGHTS
    save_file({name: change(name, value) for name, value in load_file(path).items()}, path)
    manifest.seal(folder)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float64]
)
def test_a_tensor_of_another_type_is_refused_and_not_cast(tmp_path, dtype):
    saved(tmp_path / "a")
    one = "layer1.0.conv1.weight"
    with_weights(tmp_path / "a", lambda name, value: value.to(dtype) if name == one else value)
    with pytest.raises(RunError, match=f"{one} is .* expected F32") as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_the_content_of_a_network_is_not_how_it_is_fed(tmp_path):
    saved(tmp_path / "a")
    before = artefact.content(artefact.read(tmp_path / "a"))
    # the digests by which teachers were known before: those of the files
    assert before == {name: manifest.digest(tmp_path / "a" / name) for name in before}
    assert sorted(before) == ["plan.json", "spec.json", "weights.safetensors"]
    artefact.add_feeding(tmp_path / "a", PREPROCESS, NAMES)
    manifest.seal(tmp_path / "a")
    assert artefact.content(artefact.read(tmp_path / "a")) == before
    edited(tmp_path / "a", "spec.json", lambda spec: spec["arguments"].update(depth=2.0))
    assert artefact.content(artefact.read(tmp_path / "a")) != before


def test_a_counter_of_another_type_is_refused_too(tmp_path):
    saved(tmp_path / "a")
    counter = "bn1.num_batches_tracked"
    with_weights(tmp_path / "a", lambda name, value: value.int() if name == counter else value)
    with pytest.raises(RunError, match=f"{counter} is I32 .* expected I64"):
        compressor.load(tmp_path / "a")


def test_a_tensor_that_the_network_has_not_is_told_as_such(tmp_path):
    saved(tmp_path / "a")
    path = tmp_path / "a" / artefact.WEIGHTS
    save_file({**load_file(path), "evil": torch.zeros(3)}, path)
    manifest.seal(tmp_path / "a")
    with pytest.raises(RunError, match="plan: evil has no place in the network; the folder mixes"):
        compressor.load(tmp_path / "a")


def test_a_network_is_the_saved_one_in_a_session_of_another_default_type(tmp_path):
    saved(tmp_path / "a")
    torch.set_default_dtype(torch.float64)
    try:
        loaded = compressor.load(tmp_path / "a")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_loading_draws_no_weights_that_are_read_from_the_file_anyway(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    monkeypatch.setattr(Spec, "build", on_meta := counted(Spec.build))
    loaded = compressor.load(tmp_path / "a")
    assert on_meta.places == ["meta"]
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))


class Hidden(doubles.Net):
    """Holds values that no state dict has: beside it, in a list, and as a buffer of its own."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale = torch.full((1,), 3.0)
        self.steps = [torch.ones(1), torch.full((1,), 2.0)]
        self.register_buffer("shift", torch.full((1,), 5.0), persistent=False)
        self.tied = self.head.weight

    def forward(self, x):
        return super().forward(x) * self.scale * self.steps[1] + self.shift


def test_values_that_no_file_restores_are_made_anew(tmp_path):
    spec = Spec(f"{__name__}.Hidden", {}, (3, 8, 8), 10)
    assert sys.modules[__name__].Hidden is Hidden
    net = spec.build([spec.factory]).eval()
    saved(tmp_path / "a", spec=spec, net=net)
    loaded = compressor.load(tmp_path / "a", trust=[spec.factory])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(x), loaded(x))
    assert loaded.tied is loaded.head.weight


def test_a_description_that_the_manifest_does_not_list_is_not_read(tmp_path):
    saved(tmp_path / "a")
    (tmp_path / "a" / "metrics.json").write_text("[" * 1000)
    assert artefact.read(tmp_path / "a").metrics == {}


def test_a_link_to_a_model_folder_is_refused_and_one_above_it_is_not(tmp_path):
    saved(tmp_path / "run" / "model")
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    (tmp_path / "model").symlink_to(tmp_path / "run" / "model")
    assert isinstance(compressor.load(tmp_path / "latest"), nn.Module)
    with pytest.raises(UsageError, match="is a symbolic link"):
        compressor.load(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model").symlink_to(tmp_path / "run" / "model")
    with pytest.raises(UsageError, match="is a symbolic link"):
        compressor.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("spec.json", lambda spec: spec.update(factory="compressor.models." + "x" * 9999)),
        ("spec.json", lambda spec: spec.update(format="\x1b[2J" * 9999)),
        ("spec.json", lambda spec: spec["arguments"].update({"y" * 999: 1})),
        ("plan.json", lambda plan: plan.update(version="9" * 9999)),
        ("plan.json", lambda plan: plan.update(operations=[{"op": "z\n" * 9999}])),
    ],
)
def test_foreign_text_in_a_message_is_cut_and_cannot_steer_a_terminal(tmp_path, name, change):
    saved(tmp_path / "a")
    edited(tmp_path / "a", name, change)
    with pytest.raises((RunError, UsageError)) as caught:
        compressor.load(tmp_path / "a")
    message = str(caught.value).replace(str(tmp_path), "")
    assert message.isprintable() and len(message) < 800


def misfitting(folder, spec, build):
    """A sealed folder whose one cut takes inputs from a layer and none from what feeds it."""
    plan = Plan((Cut("a", (("body.3.weight", 1),), (0, 1, 2), ()),))
    net = replay(build(), plan)
    return saved(folder, spec=spec, plan=plan, net=net)


def test_a_plan_that_leaves_a_network_that_cannot_run_is_refused(tmp_path):
    spec = Spec("doubles.Net", {}, (3, 8, 8), 10)
    misfitting(tmp_path / "a", spec, lambda: doubles.Net(10))
    with pytest.raises(RunError, match="plan.json leaves a network that cannot run"):
        compressor.load(tmp_path / "a", trust=["doubles.Net"])


def test_a_forward_that_needs_values_is_no_verdict_on_the_plan(tmp_path):
    spec = Spec("doubles.Untraceable", {}, (3, 8, 8), 10)
    misfitting(tmp_path / "a", spec, lambda: doubles.Untraceable(10))
    plan = Plan((Cut("a", (("body.0.weight", 0), ("body.0.bias", 0)), (0, 1, 2), ("body.0",)),
                 Cut("b", tuple((f"body.1.{n}", 0) for n in
                                ("weight", "bias", "running_mean", "running_var")), (0, 1, 2)),
                 Cut("c", (("body.3.weight", 1),), (0, 1, 2))))  # fmt: skip
    saved(tmp_path / "b", spec=spec, plan=plan, net=replay(doubles.Untraceable(10), plan))
    assert isinstance(compressor.load(tmp_path / "b", trust=["doubles.Untraceable"]), nn.Module)


def test_a_narrow_network_whose_builder_begins_with_a_wide_one_loads(tmp_path):
    # torchvision's VGG has 120 million parameters before its head is replaced
    spec = Spec("compressor.models.vgg16_bn", {"width": 0.0625}, (3, 12, 12), 10)
    net = saved(tmp_path / "a", spec=spec, net=spec.build()).eval()
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(compressor.load(tmp_path / "a")(x), net(x))


MASKED = "layer2.0.conv1.weight"


def masked(folder):
    """A saved network of half the channels in one group, with a mask on top, and its plan."""
    dense = SPEC.build()
    structure = analyse(dense, (torch.randn(2, 1, 16, 16),))
    group = next(g for g in structure.groups if g.producers[0].parameter == MASKED)
    cut = plan_cut(structure, {group.name: torch.arange(group.size // 2)})
    shape = replay(dense, cut).get_parameter(MASKED).shape
    bits = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    plan = cut.then(Plan((Mask(MASKED, bits),)))
    return saved(folder, plan=plan).eval(), plan


def test_a_cut_and_masked_network_comes_back_with_its_zeros(tmp_path):
    net, plan = masked(tmp_path / "a")
    assert "plan.safetensors" in manifest.listing(tmp_path / "a")
    assert artefact.read(tmp_path / "a").plan == plan
    loaded = compressor.load(tmp_path / "a")
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(net(x), loaded(x))
    assert torch.equal(loaded.get_parameter(MASKED) == 0, ~plan.operations[-1].bits)


def test_a_plan_of_cuts_alone_has_no_file_beside_it(tmp_path):
    saved(tmp_path / "a")
    assert not (tmp_path / "a" / artefact.PLAN_TENSORS).exists()


def test_the_bits_of_a_mask_are_part_of_what_a_network_is(tmp_path):
    masked(tmp_path / "a")
    assert artefact.PLAN_TENSORS in artefact.content(artefact.read(tmp_path / "a"))


def test_a_network_that_does_not_keep_to_its_mask_is_neither_written_nor_loaded(tmp_path):
    net, plan = masked(tmp_path / "a")
    with torch.no_grad():
        net.get_parameter(MASKED).fill_(1)
    count = int((~plan.operations[-1].bits).sum())
    words = f"{count} masked weights of '{MASKED}' are not zero"
    with pytest.raises(RunError, match=words):
        saved(tmp_path / "b", plan=plan, net=net)
    with_weights(tmp_path / "a", lambda name, value: torch.ones_like(value))
    with pytest.raises(RunError, match=f"does not fit its plan: {words}; the folder mixes"):
        compressor.load(tmp_path / "a")


def sidecar(change):
    """A folder with other tensors beside its plan, signed again."""

    def edit(folder):
        path = folder / artefact.PLAN_TENSORS
        save_file(change(load_file(path)), path)
        manifest.seal(folder)

    return edit


def unlisted(folder):
    (folder / artefact.PLAN_TENSORS).unlink()
    manifest.seal(folder)


def torn(folder):
    path = folder / artefact.PLAN_TENSORS
    path.write_bytes(path.read_bytes()[:-1])


def no_tensors(folder):
    (folder / artefact.PLAN_TENSORS).write_bytes(b"no tensors")
    manifest.seal(folder)


def too_large(folder):
    with (folder / artefact.PLAN_TENSORS).open("r+b") as file:
        file.truncate(2**40)  # sparse: no disk is used
    path = folder / manifest.NAME
    body = json.loads(path.read_text())
    body["files"][artefact.PLAN_TENSORS]["bytes"] = 2**40
    path.write_text(manifest._signed({k: v for k, v in body.items() if k != "sha256"}))


HARMED = {
    "torn": (torn, "plan.safetensors is damaged"),
    "unlisted": (unlisted, "its bits are missing beside the plan"),
    "no tensors": (no_tensors, "plan.safetensors has a header of .* bytes: not read"),
    "a terabyte": (too_large, "plan.safetensors has 1,099,511,627,776 bytes, more than one of its"),
    "another type": (
        sidecar(lambda held: {n: t.to(torch.uint8) for n, t in held.items()}),
        "its bits are torch.uint8; they must be bool",
    ),
    "another shape": (
        sidecar(lambda held: {n: t.flatten() for n, t in held.items()}),
        "plan's mask of .* has shape",
    ),
    "more": (
        sidecar(lambda held: {**held, "x": torch.zeros(1)}), "holds 'x', which no operation uses"
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMED)
def test_a_harmed_mask_is_refused_in_one_line(tmp_path, harm):
    change, words = HARMED[harm]
    masked(tmp_path / "a")
    change(tmp_path / "a")
    with pytest.raises((RunError, UsageError), match=words) as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)
