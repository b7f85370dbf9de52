import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.noise import Part, transition
from compressor.noise.matrix import Matrix, shares

T = [[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
CLEAN = torch.arange(3000) % 3


def test_exact_mode_realises_the_matrix():
    given = Matrix(T).corrupt(Part(CLEAN, 3))
    assert torch.allclose(transition(CLEAN, given, 3), torch.tensor(T).double())


def test_drawn_mode_is_within_four_sigma():
    given = Matrix(T, mode="bernoulli").corrupt(Part(CLEAN, 3))
    t = transition(CLEAN, given, 3)
    assert 0 < (t - torch.tensor(T).double()).abs().max() < 4 * 0.0158


def test_shares_go_to_the_largest_remainders():
    assert shares(np.array([0.5, 0.26, 0.24]), 10).tolist() == [5, 3, 2]


@pytest.mark.parametrize("name", ["T.csv", "T.npy"])
def test_a_matrix_may_be_a_file(tmp_path, name):
    path = tmp_path / name
    np.save(path, np.array(T)) if name.endswith("npy") else np.savetxt(path, T, delimiter=",")
    assert torch.equal(
        Matrix(file=str(path)).corrupt(Part(CLEAN, 3)), Matrix(T).corrupt(Part(CLEAN, 3))
    )


@pytest.mark.parametrize(
    "matrix, text",
    [
        ([[0.5, 0.4], [0.0, 1.0]], "row 0 sums to 0.9, not to 1"),
        ([[1.0, 0.0]], "as many rows as columns"),
        ([[1.5, -0.5], [0.0, 1.0]], "below 0"),
        ([["a", "b"], ["c", "d"]], "noise.matrix=a: a number is expected"),
    ],
)
def test_what_is_no_transition_matrix_is_refused(matrix, text):
    with pytest.raises(UsageError, match=text):
        Matrix(matrix)


def test_one_source_is_needed_and_its_size_is_the_data_sets():
    with pytest.raises(UsageError, match="noise=matrix needs"):
        Matrix()
    with pytest.raises(UsageError, match="has 3 classes, the data set 10"):
        Matrix(T).corrupt(Part(CLEAN, 10))
    with pytest.raises(UsageError, match="missing.csv cannot be read"):
        Matrix(file="missing.csv")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY\x01"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "T.npy"
    path.write_bytes(content)
    for tree in (
        {"_target_": "compressor.noise.matrix.Matrix", "file": str(path)},
        {"_target_": "compressor.robust.forward.Forward", "transition": str(path)},
    ):
        with pytest.raises(UsageError, match=rf"={path} .*\(") as caught:
            make(tree)
        assert "\n" not in str(caught.value)
