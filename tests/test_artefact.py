import json

import pytest
import torch
from torch import nn

import compressor
from compressor import artefact, manifest
from compressor.artefact import Spec
from compressor.errors import RunError, UsageError
from compressor.surgery import EMPTY_PLAN, analyse, plan_cut, replay

SPEC = Spec("compressor.models.resnet20", {"width": 0.5}, (1, 16, 16), 10)


def saved(folder, spec=SPEC, plan=EMPTY_PLAN, net=None):
    folder.mkdir(exist_ok=True)
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
    with pytest.raises(RunError, match="missing"):
        compressor.load(tmp_path / "a")


def test_a_spec_that_asks_for_more_than_its_weights_hold_allocates_nothing(tmp_path):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec["arguments"].update(width=4000.0))
    # at width 4000 the first 3x3 layers alone would take terabytes
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
        ({"arguments": {"depth": 1e300}}, "far larger network"),  # would be built without end
        ({"arguments": {"width": 1e300}}, "describe no network that can be built"),
    ],
)
def test_numbers_that_no_network_has_are_one_line(tmp_path, change, expected):
    saved(tmp_path / "a")
    edited(tmp_path / "a", "spec.json", lambda spec: spec.update(change))
    with pytest.raises((RunError, UsageError), match=expected) as caught:
        compressor.load(tmp_path / "a")
    assert "\n" not in str(caught.value)
