from types import SimpleNamespace

import pytest
import torch

from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.robust.co_teaching import CoTeaching
from compressor.stages import Given, train
from compressor.stages.pretrain import freeze_trunk, head_names, other_head
from compressor.surgery import EMPTY_PLAN

SPEC = Spec("compressor.models.resnet20", {"width": 0.25}, (1, 8, 8), 10, "classification")


@pytest.fixture
def given():
    torch.manual_seed(0)
    pretrained = SPEC.build()
    parent = SimpleNamespace(spec=SPEC, plan=EMPTY_PLAN, network=lambda trust: pretrained)
    return Given(SPEC, parent)


def differing(one, other):
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return {name for (name, a), b in pairs if not torch.equal(a, b)}


def test_another_network_has_the_pretrained_trunk_under_a_head_of_its_own(given):
    net = given.network()
    assert differing(net, other_head(given, 1)) <= head_names(SPEC)
    assert differing(other_head(given, 1), other_head(given, 2))
    assert not differing(other_head(given, 1), other_head(given, 1))
    assert len(differing(other_head(Given(SPEC, None), 1), net)) > len(head_names(SPEC))


def test_a_frozen_trunk_leaves_the_head_to_learn(given):
    net = freeze_trunk(SPEC.build(), SPEC)
    learns = {name for name, part in net.named_parameters() if part.requires_grad}
    assert learns == head_names(SPEC)


@pytest.mark.parametrize("frozen", [False, True])
def test_two_networks_that_teach_each_other_begin_differently(given, frozen):
    context = SimpleNamespace(seed=3, trust=())
    taught = SimpleNamespace(student=given.network(), distillation=SimpleNamespace(acting={}))
    pair = train._student(CoTeaching(), taught, given, context, frozen)
    assert differing(pair.first, pair.second)
    still = [not part.requires_grad for part in pair.second.parameters()]
    assert any(still) == frozen


def test_equal_networks_are_refused(given):
    context = SimpleNamespace(seed=3, trust=())
    taught = SimpleNamespace(student=SPEC.build(), distillation=SimpleNamespace(acting={}))
    always = Given(SimpleNamespace(build=lambda trust, download: taught.student), None)
    with pytest.raises(UsageError, match="model.pretrained=false"):
        train._student(CoTeaching(), taught, always, context, False)
