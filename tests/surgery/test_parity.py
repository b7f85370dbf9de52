"""The gate: it passes right cuts, and names the layer of a wrong one."""

import copy

import pytest
import torch
from torch import nn

from compressor.errors import RunError
from compressor.surgery import (
    EMPTY_PLAN,
    Cut,
    Plan,
    _parity,
    analyse,
    check_parity,
    duplicate,
    plan_cut,
)


@pytest.fixture
def net(lively) -> nn.Module:
    torch.manual_seed(0)
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4),
        )
    )  # fmt: skip


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def replaced(plan: Plan, parameter: str, kept: list[int]) -> Plan:
    """The plan with other indices for one tensor."""
    cuts = []
    for cut in plan.operations:
        stay = tuple(s for s in cut.slots if s[0] != parameter)
        moved = tuple(s for s in cut.slots if s[0] == parameter)
        cuts.append(Cut(cut.group, stay, cut.kept, cut.producers))
        if moved:
            cuts.append(Cut(cut.group, moved, tuple(kept)))
    return Plan(tuple(cuts))


def test_a_right_cut_passes_and_the_given_network_is_untouched(net, x):
    net.eval()
    before = copy.deepcopy(net.state_dict())
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"0": torch.tensor([0, 3, 4]), "4": torch.tensor([1, 5])})
    assert 0 <= check_parity(net, structure, plan, (x,)) <= 1e-5
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert not net.training and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(("parameter", "layer"), [("4.weight", "4"), ("1.bias", "4")])
def test_a_wrong_cut_names_the_first_layer_that_differs(net, x, parameter, layer):
    structure = analyse(net, (x,))
    plan = replaced(plan_cut(structure, {"0": torch.tensor([0, 3, 4])}), parameter, kept=[0, 3, 5])
    with pytest.raises(RunError, match=f"first seen in layer '{layer}'"):
        check_parity(net, structure, plan, (x,))


def test_a_cut_that_breaks_only_training_is_found(net, x):
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"4": torch.tensor([0, 3, 4])})

    class Different(nn.Module):
        def forward(self, value):
            return value * value.shape[1] if self.training else value

    net[6] = nn.Sequential(nn.ReLU(), Different())
    with pytest.raises(RunError, match="in train mode"):
        check_parity(net, structure, plan, (x,))


def test_a_plan_that_cuts_nothing_is_refused(net, x):
    structure = analyse(net, (x,))
    with pytest.raises(RunError, match="cuts nothing"):
        check_parity(net, structure, EMPTY_PLAN, (x,))


def test_a_cut_classifier_is_refused(net, x):
    structure = analyse(net, (x,))
    plan = Plan((Cut("8", (("8.weight", 0), ("8.bias", 0)), (0, 1), ("8",)),))
    with pytest.raises(RunError, match="dimension 0 of '8.weight', which holds no prunable"):
        check_parity(net, structure, plan, (x,))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda net: net[4].train(), "the mode of '4' to training=True"),
        (lambda net: net[4].requires_grad_(False), "requires_grad of '4.weight' to False"),
    ],
)
def test_a_cut_that_changes_a_layers_state_is_refused(net, x, harm, message, monkeypatch):
    net.eval()
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"0": torch.tensor([0, 3, 4])})
    replay = _parity.replay

    def careless(copied, plan):
        small = replay(copied, plan)
        harm(small)
        return small

    monkeypatch.setattr(_parity, "replay", careless)
    with pytest.raises(RunError, match=message):
        check_parity(net, structure, plan, (x,))


def test_a_cut_network_that_cannot_be_trained_is_refused(net, x):
    class Detached(nn.Module):
        def forward(self, value):
            return value.detach()

    net[8] = nn.Sequential(nn.Linear(96, 4), Detached())
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"4": torch.tensor([0, 3, 4])})
    with pytest.raises(RunError, match="no output of the cut network depends on a trainable"):
        check_parity(net, structure, plan, (x,))


def test_shapes_that_do_not_fit_are_refused(net, x):
    structure = analyse(net, (x,))
    plan = replaced(plan_cut(structure, {"0": torch.tensor([0, 3, 4])}), "4.weight", [0, 3])
    with pytest.raises(RunError, match="does not run"):
        check_parity(net, structure, plan, (x,))


def test_a_frozen_backbone_has_nothing_to_train_and_passes(net, x):
    net.requires_grad_(False)
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"0": torch.tensor([0, 3, 4])})
    assert check_parity(net, structure, plan, (x,)) <= 1e-5


def test_a_mixing_group_is_measured_and_not_refused(x):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"0": torch.tensor([0, 3, 4])})
    assert structure.group("0").mixing
    assert check_parity(net, structure, plan, (x,)) > 1e-4


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm]
)
def test_a_layer_whose_weight_is_made_before_each_forward_can_be_compared(x, norm):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), norm(nn.Conv2d(6, 4, 3)),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    net(x)  # what the norm makes has a history by now
    structure = analyse(net, (x,))
    plan = plan_cut(structure, {"0": torch.tensor([0, 3, 4])})
    assert check_parity(net, structure, plan, (x,)) <= 1e-5
    duplicated = duplicate(net)
    assert torch.equal(duplicated.eval()(x), net.eval()(x))
    assert not {id(p) for p in duplicated.parameters()} & {id(p) for p in net.parameters()}
