"""What a network may cost while it is built."""

import time

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.models import _bounds, build
from compressor.models._bounds import Limits, TooLarge, watched

SMALL = Limits(modules=20, tensors=20, bytes=10_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [nn.Sequential(nn.Identity()) for _ in range(10**9)],
        lambda: [nn.Linear(1, 1) for _ in range(10**9)],
        lambda: nn.Linear(1000, 1000, device="meta"),
        lambda: nn.BatchNorm2d(10_000, affine=False, device="meta"),
        lambda: torch.zeros(10**12),
        lambda: torch.arange(10**6).repeat(10**6),
    ],
    ids=["modules", "parameters", "bytes of one", "bytes of a buffer", "a tensor", "an operator"],
)
def test_what_goes_past_a_limit_ends_before_it_has_taken_the_memory(make):
    with pytest.raises(TooLarge), watched(SMALL):
        make()
    nn.Sequential(nn.Linear(1000, 1000))  # outside nothing is counted


def test_modules_inside_one_another_without_end_are_refused():
    def nested():
        net = nn.Identity()
        for _ in range(1000):
            net = nn.Sequential(net)

    with pytest.raises(TooLarge), watched(Limits(10_000, 10, 10)):
        nested()


def test_a_loop_that_makes_nothing_is_interrupted_and_nothing_after_it(monkeypatch):
    monkeypatch.setattr(_bounds, "_SECONDS", 0.0)
    begin = time.monotonic()
    with pytest.raises(TooLarge), watched(SMALL):
        while True:
            pass
    assert time.monotonic() - begin < 30
    for _ in range(3):
        with watched(SMALL):
            pass
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pass


def test_a_class_that_the_user_trusts_may_take_its_time_and_memory(monkeypatch):
    monkeypatch.setattr(_bounds, "_SECONDS", 0.0)
    with watched(SMALL, foreign_code=True):
        torch.zeros(10_000).sum()
        nn.Sequential(nn.Identity())


def test_networks_of_the_sizes_that_networks_have_meet_no_limit():
    held = sum(p.numel() * p.element_size() for p in build_on_meta().parameters())
    with watched(Limits.of(161, held)):
        build_on_meta()


def build_on_meta():
    with torch.device("meta"):
        return build("compressor.models.resnet50", {}, 1000, (3, 224, 224))


@pytest.mark.parametrize(
    ("factory", "arguments", "text"),
    [
        ("timm", {"name": "vit_tiny_patch16_224", "arguments": {"depth": 10**9}}, "depth="),
        ("torchvision", {"name": "vit_b_16", "arguments": {"x": [1, {"y": 1e999}]}}, "x.y=inf"),
        ("resnet20", {"depth": -1e7}, "depth=-10000000.0"),
        ("resnet20", {"depth": 10**400}, "depth=10000"),
        ("resnet20", {"width": float("nan")}, "width=nan"),
    ],
)
def test_numbers_in_arguments_are_bounded_before_anything_is_built(factory, arguments, text):
    refusal = "is larger than any network's|is not a number"
    with pytest.raises(UsageError, match=rf"{text}.*({refusal})"):
        build(f"compressor.models.{factory}", arguments, 10, (3, 32, 32))
