import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.data._memory import read_idx
from compressor.data.fashion_mnist import FashionMNIST
from compressor.errors import RunError, UsageError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
installed = pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist not installed")


def write_idx(path, values):
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def package(tmp_path):
    """A small copy of the package's four files: 100 + 20 images whose pixels equal the label."""
    for stem, n in (("train", 100), ("t10k", 20)):
        labels = np.arange(n) % 10
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", labels)
        write_idx(
            tmp_path / f"{stem}-images-idx3-ubyte.gz",
            np.broadcast_to(labels[:, None, None], (n, 28, 28)),
        )
    return tmp_path


def small(package, **options):
    return FashionMNIST("data", debian_root=str(package), **options)


def test_the_packages_files_are_read(package):
    data = small(package)
    assert [data.size(part) for part in ("train", "val", "test")] == [90, 10, 20]
    image, target, _ = next(iter(data.loader("test", 20)))
    assert image.shape == (20, 3, 28, 28)
    pixels = (image * 0.3530 + 0.2860) * 255
    assert torch.allclose(pixels, target[:, None, None, None].float().expand_as(pixels), atol=1e-3)


def test_one_channel_is_an_option(package):
    assert next(iter(small(package, channels=1).loader("val", 2)))[0].shape == (2, 1, 28, 28)


def test_fingerprint_does_not_depend_on_where_the_files_lie(package, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for file in package.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    one = small(package).fingerprint()
    assert one == FashionMNIST("x", debian_root=str(other), download=True).fingerprint()
    write_idx(other / "t10k-labels-idx1-ubyte.gz", np.zeros(20))
    assert one != small(other).fingerprint()


@pytest.mark.parametrize("keep", [0, 3, 20, -5])
def test_a_truncated_file_is_named(package, keep):
    path = package / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError) as caught:
        small(package).prepare()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_body_shorter_than_its_header_says_is_named(package):
    path = package / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))
    with pytest.raises(RunError, match=r"t10k-labels.*asks for shape \(20,\)"):
        small(package).prepare()


def test_labels_of_another_length_are_named(package):
    write_idx(package / "t10k-labels-idx1-ubyte.gz", np.zeros(19))
    with pytest.raises(RunError, match="the t10k files in .* do not belong together"):
        small(package).prepare()


def test_reading_an_idx_file_gives_back_what_was_written(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    assert read_idx(tmp_path / "x.gz").tolist() == values.tolist()


def test_missing_files_name_both_remedies(tmp_path):
    with pytest.raises(UsageError) as caught:
        FashionMNIST(str(tmp_path / "data"), debian_root=str(tmp_path / "none")).prepare()
    line = str(caught.value)
    assert "dataset.download=true" in line and "dataset-fashion-mnist" in line
    assert str(tmp_path / "none") in line and "\n" not in line


@installed
def test_the_installed_data_has_its_published_sizes_and_statistics():
    data = FashionMNIST("data", channels=1, validation=0.0, debian_root=str(DEBIAN))
    assert [data.size(part) for part in ("train", "val", "test")] == [60000, 0, 10000]
    assert torch.bincount(data.labels("train")).tolist() == [6000] * 10
    assert torch.bincount(data.labels("test")).tolist() == [1000] * 10
    pixels = data._raw["train"].pixels.float() / 255
    assert abs(pixels.mean() - data.mean[0]) < 1e-4
    assert abs(pixels.std() - data.std[0]) < 1e-4
