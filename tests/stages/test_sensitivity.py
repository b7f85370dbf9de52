import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.errors import UsageError
from compressor.models.resnet_cifar import resnet20
from compressor.prune import Ranking
from compressor.prune.weight_sum import WeightSum
from compressor.stages._alone import alone, refitting, rescaling
from compressor.stages._options import RepairOptions
from compressor.stages._rescale import apply_rescale
from compressor.stages._sensitivity import check, measure_layers, without
from compressor.stages._statistics import collect

RATIOS = (0.25, 0.5, 0.75)


def analysed(net):
    return surgery.analyse(net, (torch.randn(2, 3, 8, 8),))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return resnet20(10, (3, 8, 8), width=0.5).eval()


class Gated(nn.Module):
    """Grouped and depthwise layers, a gate, a norm over channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(1, 8)
        self.second = nn.Conv2d(8, 12, 1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.depth(self.first(x)).relu()
        x = self.second(self.norm(x)).relu()
        return self.head(self.grouped(x).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("scope", ["all", "mixing"])
def test_a_masked_layer_equals_the_cut_one_and_comes_back(net, scope):
    x = torch.randn(3, 3, 8, 8)
    for network in (net, Gated().eval()):
        structure = analysed(network)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        groups = structure.select(scope)
        assert groups
        for group in groups:
            kept = torch.randperm(group.size)[: group.size // 2].sort().values
            plan = surgery.plan_cut(structure, {group.name: kept})
            small = surgery.replay(copy.deepcopy(network), plan)
            with torch.no_grad(), without(network, structure, group, kept) as masked:
                torch.testing.assert_close(masked(x), small(x), rtol=1e-5, atol=1e-5)
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])


def test_a_layer_comes_back_when_the_evaluation_fails(net):
    structure = analysed(net)
    group = structure.select("interior")[0]
    weight = net.layer1[0].conv2.weight
    before = weight.detach().clone()
    with pytest.raises(ZeroDivisionError), without(net, structure, group, torch.tensor([0])):
        assert not torch.equal(weight, before)
        raise ZeroDivisionError
    assert torch.equal(weight, before)


@pytest.mark.parametrize("scope", ["interior", "all"])
def test_readers_refitted_alone_rebuild_what_a_copy_of_a_channel_gave_them(net, scope):
    """Channel 1 of a layer repeats channel 0: without it the readers can do as before."""
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(0.1, 0.5)
    structure, images = analysed(net), torch.randn(48, 3, 8, 8)
    for group in structure.select(scope)[:4]:
        changed = copy.deepcopy(net)
        with torch.no_grad():
            for slot in (*group.producers, *group.followers):
                value = changed.get_parameter(slot.parameter) if slot.parameter in dict(
                    changed.named_parameters()
                ) else changed.get_buffer(slot.parameter)  # fmt: skip
                if slot.dim == 0:
                    value[slot.classes == 1] = value[slot.classes == 0].clone()
        kept = torch.tensor([i for i in range(group.size) if i != 1])
        options = RepairOptions(reconstruct="refit", ridge=1e-6)
        repair = refitting(changed, group, [images], options, 0)
        with torch.no_grad():
            wanted = changed(images)
            plain = alone(changed, structure, group, kept, None)(images)
            found = alone(changed, structure, group, kept, repair)(images)
        far = (plain - wanted).norm() / wanted.norm()
        assert (found - wanted).norm() / wanted.norm() < 0.02 * far and far > 1e-3


def test_readers_rescaled_alone_are_as_the_cut_would_rescale_them(net):
    structure, images = analysed(net), torch.randn(48, 3, 8, 8)
    group = structure.select("interior")[0]
    kept = torch.tensor([0, 2, 3, 5])
    found = collect(net, [group], WeightSum(), "rescale", [images], 0)
    small = alone(net, structure, group, kept, rescaling(group, found))
    plain = alone(net, structure, group, kept, None)
    apply_rescale(plain, [group], {group.name: kept}, found)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, small.state_dict()[name])
    assert not torch.equal(small.layer1[0].conv2.weight, net.layer1[0].conv2.weight[:, kept])


def measured(net, lines, score, ratios=RATIOS):
    structure = analysed(net)
    groups = structure.select("interior")
    rankings = {g.name: Ranking(torch.arange(g.size)) for g in groups}
    return measure_layers(net, structure, groups, rankings, ratios, score, lines), groups


def test_a_row_is_one_layer_at_one_ratio(net, tmp_path):
    inputs = torch.randn(4, 3, 8, 8)

    def score(network):
        with torch.no_grad():
            return float(network(inputs).square().mean()), float(network(inputs).sum())

    found, groups = measured(net, tmp_path / "rows", score)
    assert (found["dense"], found["loss"]) == score(net)
    assert len(found["rows"]) == 9 * 3
    row = found["rows"][4]
    assert (row["layer"], row["ratio"], row["channels"], row["kept"]) == (
        "layer1.1.conv1", 0.5, 8, 4
    )  # fmt: skip
    structure = analysed(net)
    plan = surgery.plan_cut(structure, {"layer1.1.conv1": torch.arange(4)})
    small = surgery.replay(copy.deepcopy(net), plan)
    assert (row["value"], row["loss"]) == pytest.approx(score(small), rel=1e-5)


def test_a_killed_table_goes_on_after_the_last_whole_layer(net, tmp_path):
    lines = tmp_path / "rows"
    calls = []

    def score(network):
        if len(calls) == 8:  # the network, two layers, and one ratio of the third
            raise KeyboardInterrupt
        calls.append(1)
        return float(len(calls)), 0.0

    with pytest.raises(KeyboardInterrupt):
        measured(net, lines, score)
    assert [json.loads(line)[0] for line in lines.read_text().splitlines()] == [
        "", "layer1.0.conv1", "layer1.1.conv1"
    ]  # fmt: skip
    with lines.open("a") as file:
        file.write('["layer1.2.conv1", [{"lay')  # killed in the middle of a line
    again = []
    found, _ = measured(net, lines, lambda network: again.append(1) or (0.0, 0.0))
    assert len(again) == 7 * 3
    assert [row["value"] for row in found["rows"][:6]] == [2, 3, 4, 5, 6, 7]
    assert found["dense"] == 1


def test_ratios_that_keep_as_many_channels_are_evaluated_once(net, tmp_path):
    calls = []
    found, _ = measured(
        net, tmp_path / "rows", lambda n: calls.append(1) or (0.0, 0.0), (0.5, 0.51, 0.6)
    )
    # of 8 channels 4, 3 and 3 stay; of 16 and 32 other numbers
    assert len(found["rows"]) == 27
    assert len(calls) == 1 + 3 * 2 + 6 * 3


def test_data_without_a_validation_part_is_refused():
    with pytest.raises(UsageError, match="dataset.validation=0 leaves none"):
        check(SimpleNamespace(size=lambda part: 0, validation=0.0))


@pytest.mark.parametrize(
    "options", [{"ratios": []}, {"ratios": [0.5, 0.5]}, {"ratios": [0, 0.5]}, {"images": 0}]
)
def test_options_out_of_range_are_refused(options):
    from compressor.stages._options import SensitivityOptions

    with pytest.raises(UsageError, match=f"prune.sensitivity.{next(iter(options))}="):
        SensitivityOptions(**options)
