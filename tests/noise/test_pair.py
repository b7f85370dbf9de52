import pytest
import torch

from compressor.noise import Part, transition
from compressor.noise.pair import Pair

CLEAN = torch.arange(50_000) % 10


def test_every_class_gives_exactly_its_share_to_the_next_one():
    given = Pair(0.2).corrupt(Part(CLEAN, 10))
    t = transition(CLEAN, given, 10)
    expected = 0.8 * torch.eye(10) + 0.2 * torch.eye(10).roll(1, dims=1)
    assert torch.allclose(t, expected.double()) and int((given != CLEAN).sum()) == 10_000


def test_drawn_pairs_are_within_three_sigma():
    given = Pair(0.2, mode="bernoulli").corrupt(Part(CLEAN, 10))
    assert 0 < abs((given != CLEAN).double().mean().item() - 0.2) < 3 * 0.0018


def test_half_of_a_class_is_too_much():
    with pytest.warns(UserWarning, match="from 0.5 on"):
        Pair(0.5).corrupt(Part(CLEAN, 10))
