import math

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.tasks.optimization import (
    OptimizerOptions,
    drop_epochs,
    factor,
    make_optimizer,
    make_schedule,
    move_on,
)

DEFAULTS = {
    "epochs": 4,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "decay_norm_and_bias": True,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "milestones": (0.5, 0.75),
    "gamma": 0.1,
    "clip_norm": None,
}


def options(**changes):
    return OptimizerOptions(**{**DEFAULTS, **changes})


def test_cosine_falls_from_one_through_a_half_to_zero():
    rate = factor(options(schedule="cosine"), steps=100, warmup=0)
    assert rate(0) == 1
    assert rate(50) == pytest.approx(0.5)
    assert rate(25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(100) == pytest.approx(0)


def test_step_drops_by_gamma_at_each_fraction_of_the_run():
    rate = factor(options(schedule="step"), steps=160, warmup=0)
    assert [rate(s) for s in (0, 79, 80, 119, 120)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_drops_stand_at_whole_epochs_as_in_the_papers():
    assert drop_epochs(243, (0.5, 0.75)) == [121, 182]
    assert drop_epochs(160, (0.5, 0.75)) == [80, 120]
    assert drop_epochs(100, (0.57,)) == [57]
    assert drop_epochs(1, (0.5, 0.75)) == [0.5, 0.75]
    rate = factor(options(schedule="step", epochs=5, milestones=(0.5,)), steps=50, warmup=0)
    assert [rate(19), rate(20)] == pytest.approx([1, 0.1])


@pytest.mark.parametrize("name", ["cosine", "step", "onecycle"])
def test_a_schedule_that_is_moved_on_stands_where_it_would_have_come_to(name):
    def made():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        changes = options(schedule=name, warmup_epochs=1.0)
        return optimizer, make_schedule(optimizer, changes, steps=40)

    walked, walking = made()
    for _ in range(17):
        walked.step()
        walking.step()
    jumped, jumping = made()
    move_on(jumping, 17)
    for _ in range(20):
        assert walked.param_groups[0]["lr"] == jumped.param_groups[0]["lr"]
        assert walked.param_groups[0]["momentum"] == jumped.param_groups[0]["momentum"]
        for optimizer, schedule in ((walked, walking), (jumped, jumping)):
            optimizer.step()
            schedule.step()


def test_warmup_rises_linearly_and_reaches_the_full_rate():
    rate = factor(options(schedule="cosine"), steps=100, warmup=4)
    assert [rate(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_cycle_of_one_step_is_taken_at_its_peak():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    make_schedule(optimizer, options(schedule="onecycle", lr=0.3), steps=1)
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_onecycle_peaks_at_lr_and_ends_near_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make_schedule(optimizer, options(schedule="onecycle"), steps=100)
    rates = []
    for _ in range(99):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert 25 <= rates.index(max(rates)) <= 35
    assert schedule.get_last_lr()[0] < 1e-4


def test_weight_decay_can_leave_norms_and_biases_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = make_optimizer(net, options(decay_norm_and_bias=False)).param_groups
    assert [len(g["params"]) for g in groups] == [1, 3]
    assert [g["weight_decay"] for g in groups] == [1e-4, 0.0]
    assert len(make_optimizer(net, options()).param_groups) == 1


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_a_parameter_has_the_rate_that_its_network_wishes_in_every_schedule(schedule):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight.lr_scale = 0.1
    asked = options(schedule=schedule, decay_norm_and_bias=False)
    optimizer = make_optimizer(net, asked)
    told = [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups]
    assert told == [(1, 1e-4), (2, 0.0), (1, 1e-4)]
    assert optimizer.param_groups[2]["params"][0] is net[0].weight
    plan = make_schedule(optimizer, asked, 10)
    for _ in range(9):
        usual, spared, scaled = plan.get_last_lr()
        assert usual == spared and scaled == pytest.approx(0.1 * usual)
        optimizer.step()
        plan.step()


def test_frozen_parameters_are_not_optimized():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    optimizer = make_optimizer(net, options(optimizer="adamw"))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer=adam is not known"),
        ({"schedule": "poly"}, "schedule=poly is not known"),
        ({"lr": 0.0}, "lr=0.0 must be"),
        ({"lr": float("nan")}, "lr=nan is out of range: give a finite number"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"milestones": (60.0,)}, "it is a fraction of the epochs"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        options(**changes)
    assert "\n" not in str(caught.value)
