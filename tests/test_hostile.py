"""A dozen of scripts/torture_load's files: each is refused with one short line, at once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
try:
    import _hostile
finally:
    sys.path.pop(0)

TWELVE = (
    "load: depth 1000000000",
    "load: layers",
    "load: weights of torch.int8",
    "load: image side of swin_tiny_patch4_window7_224",
    "load: a network that cannot run",
    "load: weights: header of 2**62 bytes",
    "load: weights: offsets that overlap",
    "load: weights of a terabyte",
    "load: the folder is a link",
    "load: spec.json: brackets",
    "images: a header of 2**31 pixels a side",
    "labels: 10**15 entries in the head",
)
SOUND = {"load": lambda folder: _hostile.sound_model(folder / "model"),
         "images": _hostile.sound_images, "labels": lambda folder: None}  # fmt: skip


@pytest.mark.parametrize("name", TWELVE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, name):
    case = _hostile.CASES[name]
    SOUND[case.door](tmp_path)
    case.make(tmp_path)
    ending, line = _hostile.opened(case.door, tmp_path)
    assert ending == _hostile.REFUSED
    assert line.isprintable() and len(line) < 1500


def test_there_are_two_hundred_of_them():
    assert len(_hostile.CASES) >= 200
