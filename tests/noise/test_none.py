import torch

from compressor.noise.none import NoNoise


def test_labels_stay_and_the_transition_is_the_identity():
    clean = torch.tensor([2, 0, 1, 1])
    given, t = NoNoise().corrupt(clean, 3)
    assert torch.equal(given, clean) and torch.equal(t, torch.eye(3, dtype=torch.float64))


def test_the_given_labels_are_a_copy():
    clean = torch.tensor([2, 0, 1])
    NoNoise().corrupt(clean, 3)[0][0] = 1
    assert clean.tolist() == [2, 0, 1]


def test_the_options_of_the_group_are_accepted_and_change_nothing():
    clean = torch.tensor([2, 0, 1])
    assert torch.equal(NoNoise(rate=0.9, seed=3).corrupt(clean, 3)[0], clean)
