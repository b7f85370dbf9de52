import numpy as np
import pytest
import torch
import torchvision

from compressor.data.svhn import SVHN
from compressor.errors import RunError, UsageError


class Reader:
    """Stands in for torchvision's class, with the same attributes and random pictures."""

    def __init__(self, root, split="train", download=False):
        rng = np.random.default_rng(0)
        n = 200 if split == "train" else 100
        self.data = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        self.labels = np.arange(n) % 10


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "SVHN", Reader)


def test_pictures_keep_their_pixels_and_labels(reader):
    data = SVHN("data", validation=0.0)
    assert [data.size(part) for part in ("train", "val", "test")] == [200, 0, 100]
    image, target, _ = next(iter(data.loader("train", 4)))
    assert image.shape == (4, 3, 32, 32) and target.tolist() == [0, 1, 2, 3]
    mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
    pixels = ((image[3] * std + mean) * 255).round().numpy()
    reader = Reader("data")
    assert (pixels == reader.data[3]).all()


def test_one_channel_is_an_option(reader):
    data = SVHN("data", channels=1, image_size=16)
    assert data.input_size == (1, 16, 16)
    assert next(iter(data.loader("train", 4, augment=True)))[0].shape == (4, 1, 16, 16)


def test_fingerprint_does_not_depend_on_the_root(reader):
    assert SVHN("a").fingerprint() == SVHN("b", download=True).fingerprint()


def test_a_missing_folder_names_itself_and_the_download(tmp_path):
    with pytest.raises(UsageError) as caught:
        SVHN(str(tmp_path)).prepare()
    line = str(caught.value)
    assert str(tmp_path) in line and "dataset.download=true" in line and "\n" not in line


def test_a_damaged_file_is_a_failure_of_the_run(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise EOFError("Ran out of input\nand more")

    monkeypatch.setattr(torchvision.datasets, "SVHN", broken)
    with pytest.raises(RunError, match="are damaged .Ran out of input.: delete them"):
        SVHN(str(tmp_path)).prepare()


def test_a_failed_download_is_a_failure_of_the_run(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "SVHN", offline)
    with pytest.raises(RunError, match="downloading svhn to .* failed .no route to host"):
        SVHN(str(tmp_path), download=True).prepare()
