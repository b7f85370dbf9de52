import torch

from compressor.noise import Part
from compressor.noise.none import NoNoise


def test_labels_stay():
    clean = torch.tensor([2, 0, 1, 1])
    assert torch.equal(NoNoise().corrupt(Part(clean, 3)), clean)


def test_the_given_labels_are_a_copy():
    clean = torch.tensor([2, 0, 1])
    NoNoise().corrupt(Part(clean, 3))[0] = 1
    assert clean.tolist() == [2, 0, 1]


def test_the_options_of_the_group_are_accepted_and_change_nothing():
    clean = torch.tensor([2, 0, 1])
    assert torch.equal(NoNoise(rate=0.9, seed=3).corrupt(Part(clean, 3)), clean)
