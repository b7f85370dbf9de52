import tracemalloc

import pytest
import torch

from compressor.data.fake import Fake
from compressor.errors import UsageError


def everything(data, part, batch_size=64, **options):
    columns = zip(*data.loader(part, batch_size, **options), strict=True)
    return tuple(torch.cat(column) for column in columns)


def test_sizes_follow_the_options():
    data = Fake()
    assert [data.size(part) for part in ("train", "val", "test")] == [230, 26, 64]
    assert data.input_size == (3, 32, 32)
    assert Fake(num_classes=1000, image_size=224).input_size == (3, 224, 224)


def test_an_image_is_a_function_of_its_number():
    assert torch.equal(everything(Fake(), "train")[0], everything(Fake(), "train", 7)[0])
    few, many = Fake(samples=64, validation=0.0), Fake(samples=256, validation=0.0)
    assert torch.equal(everything(few, "train")[0], everything(many, "train")[0][:64])
    assert not torch.equal(everything(Fake(), "test")[0], everything(Fake(seed=1), "test")[0])


def test_no_two_images_are_equal_and_train_and_test_differ():
    data = Fake()
    rows = torch.cat([everything(data, part)[0].flatten(1) for part in ("train", "val", "test")])
    assert len(rows.unique(dim=0)) == 320


def test_the_nearest_class_mean_learns_the_signal():
    data = Fake(num_classes=5)
    x, y, _ = everything(data, "train")
    means = torch.stack([x[y == k].mean(0) for k in range(5)]).flatten(1)
    x, y, _ = everything(data, "test")
    assert (torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean() > 0.95


def test_a_thousand_classes_at_224_pixels_are_not_held_in_memory():
    data = Fake(num_classes=1000, image_size=224, samples=100_000)
    tracemalloc.start()
    data.prepare()
    fetched = next(iter(data.loader("test", 2)))[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = data._parts["train"][0]
    assert fetched.shape == (2, 3, 224, 224)
    assert peak < 50e6
    assert sum(v.nbytes for v in vars(held).values() if isinstance(v, torch.Tensor)) < 1e6


def test_augmentation_depends_on_the_epoch():
    loader = Fake(augment={"crop": 4, "flip": True}).loader("train", 230, augment=True)
    zero = next(iter(loader))[0]
    assert torch.equal(next(iter(loader))[0], zero)
    loader.sampler.set_epoch(1)
    assert not torch.equal(next(iter(loader))[0], zero)


def test_fingerprint_follows_seed_samples_and_classes():
    made = {Fake(**o).fingerprint() for o in ({}, {"seed": 1}, {"samples": 99}, {"num_classes": 3})}
    assert len(made) == 4


def test_pixels_are_about_normalised():
    x = everything(Fake(), "train")[0]
    assert abs(x.mean()) < 0.1 and 0.6 < x.std() < 1.1


@pytest.mark.parametrize("options", [{"samples": 0}, {"seed": -1}, {"num_classes": 1}])
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"dataset.{key}={options[key]}"):
        Fake(**options)
