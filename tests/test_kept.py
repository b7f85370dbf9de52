"""Folders that earlier versions wrote load for ever, and answer as they did.

`tests/kept/<version>/<network>`: `model/` as the run left it, `answer.safetensors` with an input
(N, C, H, W) float32 and the network's output (N, classes), computed in float64 so that it is the
same on every processor, and the run's `report.json`. 0.3/resnet20_masked is written by hand, with
plan.json of version 2: two cuts and two masks of random bits, and in the report its figures alone.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compressor
from compressor import artefact, measure

KEPT_0_2 = Path(__file__).parent / "kept" / "0.2" / "resnet20_fed"
KEPT_0_3 = Path(__file__).parent / "kept" / "0.3" / "resnet20_masked"
KEPT = sorted((Path(__file__).parent / "kept").glob("*/*"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_network_of_an_earlier_version_answers_as_it_did(folder):
    kept = load_file(folder / "answer.safetensors")
    net = compressor.load(folder / "model").double()
    with torch.inference_mode():
        output = net(kept["input"].double())
    torch.testing.assert_close(output, kept["output"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_network_of_an_earlier_version_has_the_figures_of_its_report(folder):
    final = json.loads((folder / "report.json").read_text())["points"]["final"]
    net = compressor.load(folder / "model")
    size = tuple(load_file(folder / "answer.safetensors")["input"].shape[1:])
    assert measure.count_params(net) == final["params"]
    assert measure.count_macs(net, size) == final["macs"]


def test_a_network_of_0_2_says_how_it_is_fed():
    net = compressor.load(KEPT_0_2 / "model")
    assert net.preprocess.mean == (0.3053,) * 3 and net.preprocess.std == (0.3758,) * 3
    assert net.classes == list("0123456789")


def test_the_networks_of_0_1_are_kept():
    names = {path.name for path in KEPT if path.parent.name == "0.1"}
    assert names == {
        "mobilenet_v2_scaled",
        "resnet20_thinet",
        "timm_test_efficientnet_weight_sum",
        "vgg16_bn_obs_refit",
    }


def test_a_mask_of_0_3_is_in_the_cut_networks_indices_and_kept_by_its_weights():
    made = artefact.read(KEPT_0_3 / "model")
    assert [each.op for each in made.plan.operations] == ["cut", "cut", "mask", "mask"]
    net = made.network()
    for mask in made.plan.uncut:
        assert torch.equal(net.get_parameter(mask.parameter) == 0, ~mask.bits)
