import pytest
import torch

from compressor.errors import UsageError
from compressor.noise import Part
from compressor.noise.pixels import Pixels, normals


def test_the_numbers_are_normal():
    values = normals(3, 0, torch.arange(100), 1001)
    assert values.shape == (100, 1001) and values.isfinite().all()
    assert values.mean().abs() < 0.01 and abs(values.std() - 1) < 0.01
    assert abs((values.abs() < 1).float().mean() - 0.6827) < 0.005


def test_an_images_noise_depends_on_the_image_alone():
    noise, index = Pixels(0.5, seed=1), torch.tensor([4, 2])
    images = torch.zeros(2, 3, 4, 4)
    damaged = noise.damage(images, index, 0)
    assert torch.equal(noise.damage(images, index, 7), damaged)
    assert torch.equal(noise.damage(images.flip(0), index.flip(0), 0), damaged.flip(0))
    assert not torch.equal(Pixels(0.5, seed=2).damage(images, index, 0), damaged)
    assert not torch.equal(Pixels(0.5, fresh=True, seed=1).damage(images, index, 7), damaged)


def test_labels_stay_and_sigma_scales():
    clean = torch.tensor([1, 0])
    assert torch.equal(Pixels().corrupt(Part(clean, 2)), clean)
    images = torch.randn(2, 1, 3, 3)
    assert torch.equal(Pixels(0.0).damage(images, torch.arange(2), 0), images)


def test_a_negative_sigma_is_refused():
    with pytest.raises(UsageError, match="noise.sigma=-1"):
        Pixels(-1)
