"""Retraining from scratch and rewinding: known answers of the papers, and what is refused."""

import pytest
import torch
from torch import nn

from compressor import surgery
from compressor.artefact import Spec
from compressor.errors import RunError, UsageError
from compressor.stages import _scratch
from compressor.stages._recipe import Recovery
from compressor.stages.finetune import check, in_round, scratch_b_epochs

OPTIONS = {
    "epochs": 5, "batch_size": 8, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9,
    "nesterov": False, "weight_decay": 0.0, "decay_norm_and_bias": True, "schedule": "constant",
    "warmup_epochs": 0.0, "milestones": [], "gamma": 0.1, "clip_norm": None, "select": "best",
    "select_by": "accuracy", "class_weights": "none", "patience": None, "labels": "auto",
    "clean_fraction": 1.0, "clean_seed": 0, "robust": "none", "mode": "finetune",
    "epoch_cap": None, "rewind_epoch": 0,
}  # fmt: skip


def recovery(**changes):
    return Recovery.read({**OPTIONS, **changes})


def test_the_epochs_of_scratch_b_are_those_of_the_paper():
    # Liu et al.: the CIFAR VGG of Li et al., ThiNet-70 and ThiNet-50 of ResNet-50
    assert scratch_b_epochs(160, 313463808, 206279680) == 243
    assert scratch_b_epochs(90, 4089184256, 2601392356, cap=2) == 141
    assert scratch_b_epochs(90, 4089184256, 1822031872, cap=2) == 180
    assert scratch_b_epochs(90, 4089184256, 1822031872) == 201
    assert scratch_b_epochs(7, 100, 100) == 7


def test_the_same_computing_is_never_fewer_epochs_than_the_dense_training_has():
    assert scratch_b_epochs(160, 100, 200) == 160
    assert scratch_b_epochs(160, 100, 200, cap=1) == 160


@pytest.fixture(scope="module")
def cut():
    """spec, plan and the cut network, trained a little."""
    spec = Spec("compressor.models.resnet20", {"width": 0.5, "shortcut": "B"}, (3, 8, 8), 10)
    torch.manual_seed(0)
    net = spec.build()
    structure = surgery.analyse(net.eval(), (torch.zeros(2, 3, 8, 8),))
    plan = surgery.plan_cut(structure, {"layer1.0.conv1": torch.tensor([1, 2, 5])})
    small = surgery.replay(net, plan).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        small(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return spec, plan, small.eval()


def test_scratch_shares_no_tensor_with_the_cut_network(cut):
    spec, plan, small = cut
    net = _scratch.fresh(spec, plan, small, seed=3)
    old = small.state_dict()
    for name, value in net.state_dict().items():
        assert value.shape == old[name].shape
        assert not torch.equal(value, old[name]), name
        assert value.data_ptr() != old[name].data_ptr()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()
            assert module.running_mean.eq(0).all() and module.running_var.eq(1).all()
            assert module.num_batches_tracked == 0


def test_scratch_begins_as_the_papers_code_does(cut):
    spec, plan, small = cut
    net = _scratch.fresh(spec, plan, small, seed=3)
    conv = net.layer3[2].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    (head,) = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.2) and head.bias.eq(0).all()
    state = torch.random.get_rng_state()
    again = _scratch.fresh(spec, plan, small, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.layer3[2].conv2.weight, conv.weight)
    other = _scratch.fresh(spec, plan, small, seed=4)
    assert not torch.equal(other.layer3[2].conv2.weight, conv.weight)


def test_a_weight_that_survives_the_new_start_is_named(cut, monkeypatch):
    spec, plan, small = cut
    monkeypatch.setattr(_scratch, "initialise", lambda net: net.load_state_dict(small.state_dict()))
    with pytest.raises(RunError, match="'conv1.weight' still holds the cut network's weights"):
        _scratch.fresh(spec, plan, small, seed=3)


def test_a_key_that_another_mode_reads_is_left_out():
    every = set(OPTIONS)
    assert set(recovery().in_key()) == every - {"epoch_cap", "rewind_epoch"}
    assert set(recovery(mode="scratch_b").in_key()) == every - {"rewind_epoch"}
    assert set(recovery(mode="rewind").in_key()) == every - {"epoch_cap"}
    assert recovery(mode="rewind", rewind_epoch=2).in_key()["rewind_epoch"] == 2
    assert recovery(epochs=0).is_none and not recovery(mode="scratch_e", epochs=0).is_none


def test_a_round_changes_the_recipe_and_nothing_of_the_others():
    usual = recovery()
    own = in_round(usual, {"lr": 1e-4, "milestones": [0.5]})
    changed = {"lr": 1e-4, "milestones": [0.5]}
    assert own.in_key() == {**usual.in_key(), **changed} and usual == recovery()
    for wrong, line in (
        ({"labels": "given"}, "labels.* holds what no round has of its own"),
        ({"lr": "fast"}, "lr=fast is not of the kind of finetune.lr=0.1"),
        ({"milestones": 2}, r"milestones=2 is not of the kind of finetune.milestones=\[\]"),
        ({"lr": -1.0}, "prune.round_finetune: lr=-1.0 must be above 0"),
    ):
        with pytest.raises(UsageError, match=line):
            in_round(usual, wrong, "prune.round_finetune")


@pytest.mark.parametrize(
    ("changes", "rounds", "message"),
    [
        ({"mode": "scratch"}, {}, "finetune.mode=scratch is not known: .*scratch_e"),
        ({"epoch_cap": 0.5}, {}, "epoch_cap=0.5 must be at least 1, or null"),
        ({"rewind_epoch": -1}, {}, "rewind_epoch=-1"),
        ({"mode": "rewind", "rewind_epoch": 5}, {}, "rewind_epoch=5 lies beyond .*train.epochs=5"),
        ({"mode": "rewind", "rewind_epoch": 6, "epochs": 9}, {}, "rewind_epoch=6 lies beyond"),
        ({"mode": "rewind", "epochs": 0}, {}, "rewind_epoch=0 lies beyond"),
        ({"mode": "scratch_b", "epochs": 0}, {}, "finetune=scratch_b with finetune.epochs=0"),
        ({"mode": "scratch_e"}, {"one_shot": False}, "finetune=scratch_e takes the widths"),
        (
            {"mode": "rewind"},
            {"between": {"prune.round_epochs": {"epochs": 1}}},
            "finetune=rewind trains every round .* leave prune.round_epochs as it is",
        ),
    ],
)
def test_what_no_run_can_do_is_refused_in_one_line(changes, rounds, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(recovery(**changes), 5, **{"one_shot": True, "between": {}, **rounds})
    assert "\n" not in str(caught.value)


def test_what_a_run_can_do_is_not_refused():
    for changes in ({}, {"mode": "scratch_b"}, {"mode": "rewind", "rewind_epoch": 4}):
        check(recovery(**changes), 5, one_shot=True, between={})
    # the initial weights need no training
    check(recovery(mode="rewind"), 0, one_shot=False, between={})
