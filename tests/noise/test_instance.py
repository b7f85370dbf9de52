import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.noise import Part
from compressor.noise.instance import Instance, distribution, truncated_normal

CLEAN = torch.arange(4000) % 5
IMAGES = torch.randn(4000, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def part(batch=64):
    def images(index):
        for rows in index.split(batch):
            yield IMAGES[rows]

    return Part(CLEAN, 5, images=images)


def test_flip_rates_are_normal_within_their_bounds():
    uniform = (np.arange(100_000) + 0.5) / 100_000
    q = truncated_normal(uniform, 0.4, 0.1)
    assert q.mean() == pytest.approx(0.4, abs=1e-3) and q.std() == pytest.approx(0.1, abs=1e-3)
    # the normal distribution cut off one deviation below its mean: 0.1 + 0.1 * phi(1) / Phi(1)
    assert truncated_normal(uniform, 0.1, 0.1).mean() == pytest.approx(0.12876, abs=1e-4)


def test_the_distribution_leaves_the_true_label_what_no_flip_takes():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    projection = torch.tensor([[0.0, 0.0, 5.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    p = distribution(features, projection, 0, torch.tensor([0.3, 0.0], dtype=torch.float64))
    e5 = np.exp(5)
    assert p[0].tolist() == pytest.approx([0.7, 0.3 / (1 + e5), 0.3 * e5 / (1 + e5)])
    assert p[1].tolist() == [1.0, 0.0, 0.0]


def test_the_rate_is_met_and_the_labels_do_not_depend_on_the_batches():
    one, other = (Instance(0.4, seed=1).corrupt(part(size)) for size in (64, 1000))
    assert torch.equal(one, other)
    share = (one != CLEAN).double().mean().item()
    assert abs(share - 0.4) < 3 * 0.0079


def test_images_that_look_alike_are_given_the_same_wrong_label():
    # the scores are linear in the image: doubled images have the same likeliest wrong class
    given = Instance(0.45).corrupt(part())
    flipped = given != CLEAN
    rows = torch.nonzero(flipped & (CLEAN == 0)).flatten()
    near = (
        torch.cdist(IMAGES[rows].flatten(1), IMAGES[rows].flatten(1)).fill_diagonal_(9e9).argmin(1)
    )
    agree = (given[rows] == given[rows][near]).double().mean().item()
    assert agree > 0.35  # by chance a quarter


def test_rate_zero_changes_nothing():
    assert torch.equal(Instance(0.0).corrupt(part()), CLEAN)


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(UsageError, match="noise.deviation=0"):
        Instance(deviation=0)
