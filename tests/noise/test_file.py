import zipfile

import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.noise import Part
from compressor.noise.file import File

CLEAN = torch.tensor([0, 1, 2, 0])
ROWS = torch.tensor([0, 2, 3, 5])  # places in a list of six; 1 and 4 are validation


def corrupt(path, **options):
    return File(str(path), **options).corrupt(Part(CLEAN, 3, rows=ROWS, listed=6))


def csv(tmp_path, *lines):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labels_are_found_by_the_images_place_in_the_whole_list(tmp_path):
    path = csv(tmp_path, "index,label", "5,2", "0,1", "3,0", "2,0")
    assert corrupt(path).tolist() == [1, 0, 0, 2]


def test_without_places_the_labels_are_those_of_the_whole_list(tmp_path):
    np.savez(tmp_path / "l.npz", label=np.array([2, 2, 1, 1, 0, 0]))
    assert corrupt(tmp_path / "l.npz").tolist() == [2, 1, 1, 0]


def test_a_column_of_another_name_can_be_asked_for(tmp_path):
    path = csv(tmp_path, "index,name,corrected", "0,a,1", "2,b,1", "3,c,1", "5,d,1")
    assert corrupt(path, column="corrected").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "lines, text",
    [
        (["label", "0", "1"], "has 2 labels for 6 training images"),
        (["index,label", "0,1", "2,1", "3,1", "6,1"], "unknown index 6"),
        (["index,label", "0,1", "2,1", "3,1", "-1,1"], "unknown index -1"),
        (["index,label", "0,1", "2,1", "3,1"], "no label for 1 of the 4"),
        (["index,label", "0,1", "0,1", "2,1", "3,1", "5,1"], "index 0 more than once"),
        (
            ["index,label", "0,1", "2,1", "3,1", "5,3"],
            "gives image 5 the label 3: the data set's",
        ),
        (["index,label", "0,cat", "2,cat", "3,cat", "5,cat"], "line 2: label 'cat' is no whole"),
        (["index,label", f"0,{10**30}"], "is no whole number"),
        (["index,label", "0,1", "   ", "2,1.5"], "line 4: label '1.5' is no whole number"),
        (["0,1", "2,1"], "its first line, 0,1, is no head"),
        (["index;label", "0;1"], "'index;label', where commas belong"),
        (["", ""], "it is empty"),
        (["index,label", "0,1", "2"], "cannot be read"),
        (["index,y", "0,1"], "no column 'label'"),
        (["label,label", "0,1"], "its head names 'label' twice"),
        (["index,label", "0,1", '"1,0', "2,1", "3,1"], "line 3 has 1 entries"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, lines, text):
    with pytest.raises(UsageError, match=text) as caught:
        corrupt(csv(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_blank_lines_and_whole_numbers_with_a_point_are_read(tmp_path):
    path = csv(tmp_path, "index,label", "5,2.0", "", "  ", "0,1.0", "3,0", "2,0.")
    assert corrupt(path).tolist() == [1, 0, 0, 2]


def test_a_damaged_archive_is_refused_by_its_name(tmp_path):
    np.savez(tmp_path / "l.npz", label=np.arange(6) % 3)
    whole = (tmp_path / "l.npz").read_bytes()
    for size in (0, 10, len(whole) // 2):
        (tmp_path / "l.npz").write_bytes(whole[:size])
        with pytest.raises(UsageError, match="l.npz cannot be read .*: give a .csv"):
            corrupt(tmp_path / "l.npz")


def test_an_archive_damaged_inside_and_a_bare_array_are_refused_alike(tmp_path):
    path = tmp_path / "l.npz"
    np.savez_compressed(path, label=np.arange(1000))
    whole, half = path.read_bytes(), path.stat().st_size // 2
    np.save(tmp_path / "l.npy", np.arange(6))
    flipped = whole[:half] + bytes(255 - b for b in whole[half : half + 9]) + whole[half + 9 :]
    for content in (flipped, (tmp_path / "l.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="l.npz cannot be read .*: give a .csv") as caught:
            File(str(path))
        assert "\n" not in str(caught.value)


def test_a_pickle_in_disguise_is_not_opened(tmp_path):
    np.savez(tmp_path / "l.npz", label=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="cannot be read"):
        File(str(tmp_path / "l.npz"))


def test_a_file_is_asked_for():
    with pytest.raises(UsageError, match="type noise.file="):
        File()


def test_of_an_archive_only_the_arrays_that_are_needed_are_read(tmp_path):
    np.savez(tmp_path / "l.npz", label=np.array([2, 2, 1, 1, 0, 0]), other=np.array([{}], object))
    assert corrupt(tmp_path / "l.npz").tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(100,)", "(1,)", "(-1,)"])
def test_an_array_of_another_size_than_its_head_says_is_not_unpacked(tmp_path, shape):
    head = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(24)
    with zipfile.ZipFile(tmp_path / "l.npz", "w") as archive:
        archive.writestr("label.npy", content)
    with pytest.raises(UsageError, match="l.npz cannot be read") as caught:
        File(str(tmp_path / "l.npz"))
    assert "\n" not in str(caught.value)
