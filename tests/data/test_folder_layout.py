"""Which images of a folder belong to which part and class, and in which order."""

import itertools
import os

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data._source import split_by_content
from compressor.data.cifar10 import CIFAR10
from compressor.data.imagefolder import ImageFolder
from compressor.data.imagenet import ImageNet
from compressor.errors import RunError, UsageError
from compressor.noise import Part
from compressor.noise.file import File

_numbers = itertools.count()


def picture(path):
    """Write a small image that no other call writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = next(_numbers)
    pixels = np.full((9, 8, 3), n % 251, dtype=np.uint8)
    pixels[0, 0] = n // 251
    Image.fromarray(pixels).save(path)
    return path


def pictures(folder, classes="ab", n=8):
    for name in classes:
        for i in range(n):
            picture(folder / name / f"{i}.png")


def data(root, **options):
    made = ImageFolder(str(root), image_size=8, **options)
    made.prepare()
    return made


def names(made, part):
    """Paths of a part's images, in order."""
    source, rows = made._part(part)
    return [source.paths[row] for row in rows]


def contents(made, part):
    source, rows = made._part(part)
    return {source.contents[row] for row in rows}


def sizes(made):
    return [made.size(part) for part in ("train", "val", "test")]


# -- parts --------------------------------------------------------------------------------------


def test_a_flat_folder_of_classes_gives_a_quarter_of_each_class_to_the_test_part(tmp_path):
    pictures(tmp_path, "ab", 16)
    made = data(tmp_path, validation=0.25)
    assert sizes(made) == [18, 6, 8]
    assert made.labels("test").bincount().tolist() == [4, 4]
    assert made.notices == (
        "imagefolder: the test part is 8 of the 32 images, dataset.test=0.25 of every class",
    )
    assert not set(names(made, "test")) & {*names(made, "train"), *names(made, "val")}
    assert data(tmp_path, test=0.5).size("test") == 16


def test_the_test_part_of_a_flat_folder_follows_from_contents_and_not_from_names(tmp_path):
    pictures(tmp_path, "ab", 12)
    before = contents(data(tmp_path), "test")
    for i, path in enumerate(sorted(tmp_path.glob("*/*.png"), reverse=True)):
        path.rename(path.with_name(f"new{i}.png"))
    assert contents(data(tmp_path, split_seed=5), "test") == before


def test_equal_files_are_on_one_side_of_every_split(tmp_path):
    pictures(tmp_path, "ab", 10)
    for path in sorted(tmp_path.glob("*/*.png")):
        for copy in range(3):
            path.with_name(f"{path.stem} copy {copy}.png").write_bytes(path.read_bytes())
    made = data(tmp_path, validation=0.3)
    parts = [contents(made, part) for part in ("train", "val", "test")]
    assert all(parts)
    assert not any(one & other for one, other in itertools.combinations(parts, 2))


def test_a_split_by_content_takes_its_share_and_never_all():
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 1 + [3] * 2)
    digests = [*map(str, range(40)), *"aabbccdd", "x", "y", "y"]
    stay, off = split_by_content(labels, digests, 0.25, least=1)
    assert sorted([*stay.tolist(), *off.tolist()]) == list(range(51))
    assert labels[off].bincount(minlength=4).tolist() == [10, 2, 0, 0]
    assert split_by_content(labels, digests, 0.99)[1].tolist() != list(range(51))
    assert not torch.equal(split_by_content(labels, digests, 0.25, seed=1)[1], off)


def test_val_beside_test_is_the_validation_part(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "val", n=3), pictures(tmp_path / "test", n=2)
    made = data(tmp_path)
    assert sizes(made) == [16, 6, 4]
    assert made.labels("val").tolist() == [0, 0, 0, 1, 1, 1]
    assert made.rows("train").tolist() == list(range(16)) and made.listed("train") == 16
    assert made.rows("val").tolist() == list(range(6)) and made.listed("val") == 6
    assert "dataset.validation is not read" in made.notices[0]
    batch = next(iter(made.loader("val", 6)))
    assert batch[0].shape == (6, 3, 8, 8) and batch[1].tolist() == made.labels("val").tolist()


def test_the_key_of_the_training_covers_a_validation_part_of_its_own_and_no_idle_option(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "val", n=3), pictures(tmp_path / "test", n=2)
    before = [data(tmp_path).fingerprint(part) for part in ("train", "test")]
    idle = data(tmp_path, validation=0.5, split_seed=3)
    assert [idle.fingerprint(part) for part in ("train", "test")] == before
    (tmp_path / "val/a/0.png").unlink()
    after = [data(tmp_path).fingerprint(part) for part in ("train", "test")]
    assert after[0] != before[0] and after[1] == before[1]


def test_the_keys_cover_the_share_that_is_the_test_part(tmp_path):
    pictures(tmp_path)
    quarter, half = data(tmp_path), data(tmp_path, test=0.5)
    for part in ("train", "test"):
        assert quarter.fingerprint(part) != half.fingerprint(part)


def test_a_test_share_that_is_not_read_is_told(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "test", n=2)
    assert data(tmp_path).notices == ()
    assert data(tmp_path, test=0.5).notices == (
        "imagefolder: dataset.test=0.5 is not read beside test/ or val/",
    )


def test_imagenets_val_is_its_test_part_though_there_is_a_test_without_labels(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "val", n=2)
    picture(tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG")
    made = ImageNet(str(tmp_path), num_classes=2, image_size=8, validation=0.25)
    made.prepare()
    assert sizes(made) == [12, 4, 4]
    assert made.notices == ("imagenet: not read: the folder 'test'",)


@pytest.mark.parametrize(
    "folders, line",
    [
        (["training/a", "training/b", "testing/a"], "are called train/, val/ and test/"),
        (["train/a", "train/b", "valid/a"], "has no folder"),
        (["pets/a", "pets/b"], "holds one class folder alone: type dataset.root="),
    ],
)
def test_folders_that_are_no_classes_are_not_taken_for_classes(tmp_path, folders, line):
    for folder in folders:
        picture(tmp_path / folder / "0.png")
    with pytest.raises(UsageError, match=line):
        data(tmp_path)


def test_a_root_that_is_a_file_is_told_from_one_that_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="dataset.root='.*file' is a file, no folder: type"):
        data(tmp_path / "file")
    with pytest.raises(UsageError, match="dataset.root='.*gone' does not exist: type"):
        data(tmp_path / "gone")


def test_a_root_may_lie_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    pictures(tmp_path / "pics")
    assert data("~/pics").class_names == ("a", "b")
    # data sets that are no folders of images
    with pytest.raises(UsageError, match=f"dataset.root='{tmp_path / 'sets'}'"):
        CIFAR10("~/sets").prepare()


@pytest.mark.parametrize("made", [ImageFolder, ImageNet, CIFAR10])
def test_an_empty_root_is_not_the_current_folder(made, tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="dataset.root= is empty: name a folder"):
        made("").prepare()


def test_one_image_a_class_leaves_no_test_part_whatever_its_share_is(tmp_path):
    pictures(tmp_path, n=1)
    with pytest.raises(UsageError, match="add images, at least two a class are needed"):
        data(tmp_path, test=0.9)


def test_a_class_may_be_called_train(tmp_path):
    pictures(tmp_path, ("bus", "car", "train"))
    assert data(tmp_path).class_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("test", "typed"), [(0, "0"), (1, "1"), (-0.5, "-0.5"), (True, "true"), ("much", "much")]
)
def test_a_test_share_out_of_range_is_named(test, typed):
    with pytest.raises(UsageError, match=f"dataset.test={typed}"):
        ImageFolder("nowhere", test=test)


# -- classes and order --------------------------------------------------------------------------


def test_the_index_of_twenty_files_is_by_class_and_then_by_path(tmp_path):
    expected = [
        "A/1.png", "A/10.png", "A/2.png", "A/Z.png", "A/a.png", "A/deep/1.png", "A/deep/er/0.png",
        "A/z.PNG",
        "B c/0.png", "B c/é.png",
        "a/0.jpg", "a/0.png", "a/00.png", "a/Thumbs.png", "a/desktop.ini.png", "a/label.png",
        "b/-1.png", "b/_1.png", "b/test.png", "b/train.png",
    ]  # fmt: skip
    for name in reversed(expected):
        picture(tmp_path / "train" / name)
    pictures(tmp_path / "test", n=1)
    made = data(tmp_path, validation=0)
    assert names(made, "train") == expected and len(expected) == 20
    assert made.labels("train").tolist() == [0] * 8 + [1] * 2 + [2] * 6 + [3] * 4
    assert made.rows("train").tolist() == list(range(20))
    held_out = data(tmp_path, validation=0.25)
    for part in ("train", "val"):
        assert [expected[row] for row in held_out.rows(part)] == names(held_out, part)


def given(made, path):
    part = Part(
        made.labels("train"),
        made.num_classes,
        rows=made.rows("train"),
        listed=made.listed("train"),
    )
    return File(str(path)).corrupt(part)


def test_a_label_file_counts_the_whole_flat_folder(tmp_path):
    root, table = tmp_path / "set", tmp_path / "labels.csv"
    pictures(root)
    made = data(root)
    listed = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert made.listed("train") == 16
    assert [listed[row] for row in made.rows("train")] == names(made, "train")
    assert [listed[row] for row in made.rows("test")] == names(made, "test")
    table.write_text("index,label\n" + "".join(f"{i},{i % 2}\n" for i in range(16)))
    assert given(made, table).tolist() == [int(row) % 2 for row in made.rows("train")]


def test_a_label_file_counts_the_images_of_train_alone_where_val_has_its_own(tmp_path):
    root, table = tmp_path / "set", tmp_path / "labels.csv"
    pictures(root / "train"), pictures(root / "val", n=3), pictures(root / "test", n=2)
    table.write_text("label\n" + "1\n0\n" * 8)
    assert given(data(root), table).tolist() == [1, 0] * 8


def test_a_file_that_is_left_out_keeps_its_place_in_a_label_file(tmp_path):
    root, table = tmp_path / "set", tmp_path / "labels.csv"
    pictures(root / "train", n=4), pictures(root / "test", n=2)
    (root / "train/a/1.png").write_bytes(b"no image")
    table.write_text("label\n" + "".join(f"{label}\n" for label in (0, 1, 0, 0, 1, 1, 1, 0)))
    made = data(root, unreadable="skip", validation=0)
    assert made.rows("train").tolist() == [0, 2, 3, 4, 5, 6, 7] and made.listed("train") == 8
    assert given(made, table).tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_classes_equal_but_for_case_and_blanks_are_named_and_never_merged(tmp_path):
    pictures(tmp_path, ("Cat", "cat ", "dog", "big dog", "bigdog"))
    made = data(tmp_path)
    assert made.class_names == ("Cat", "big dog", "bigdog", "cat ", "dog")
    found = [line for line in made.notices if "classes of their own" in line]
    assert [line.partition(" differ")[0] for line in found] == [
        "imagefolder: the classes 'Cat', 'cat '",
        "imagefolder: the classes 'big dog', 'bigdog'",
    ]


def test_a_class_of_another_case_in_the_test_part_is_told_its_likely_name(tmp_path):
    pictures(tmp_path / "train", ("cat", "dog")), pictures(tmp_path / "test", ("Cat", "dog"))
    with pytest.raises(UsageError, match="rename it if it is the class 'cat'"):
        data(tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J"])
def test_a_class_whose_name_would_garble_a_line_is_refused(tmp_path, name):
    pictures(tmp_path, (name, "c"))
    with pytest.raises(UsageError, match="rename it") as caught:
        data(tmp_path)
    assert str(caught.value).isprintable()


# -- what is no image ---------------------------------------------------------------------------


def test_what_is_no_image_is_passed_over_and_counted_and_no_image_is_for_its_name(tmp_path):
    pictures(tmp_path)
    before = data(tmp_path)
    for name in ("a/.ipynb_checkpoints/0.png", ".ipynb_checkpoints/1.png", "__MACOSX/a/x.png"):
        picture(tmp_path / name)
    for name in ("a/Thumbs.db", "a/desktop.ini", "b/notes.txt", "b/README", "classes.txt"):
        (tmp_path / name).write_text("")
    for name in ("a/._0.png", "b/.DS_Store", ".DS_Store"):
        (tmp_path / name).write_text("")
    after = data(tmp_path)
    assert after.fingerprint() == before.fingerprint()
    assert after.notices[0] == (
        "imagefolder: passed over, no images: 3 hidden files, 3 hidden folders, 5 files without an "
        "image's ending (2 .txt, 1 .ini, 1 .db, 1 bare)"
    )


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_images_beside_the_class_folders_or_the_parts_are_counted(tmp_path, parts):
    for part in parts:
        pictures(tmp_path / part)
    picture(tmp_path / "sample.png"), (tmp_path / "readme.txt").write_text("words")
    left, passed = data(tmp_path).notices[:2]
    assert left == (
        f"imagefolder: left out, since no class folder holds it: 1 image such as "
        f"'{tmp_path / 'sample.png'}'"
    )
    assert passed.endswith("passed over, no images: 1 file without an image's ending (1 .txt)")


# -- several labels an image --------------------------------------------------------------------


def test_images_without_class_folders_are_refused_as_labels_from_a_table(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("file,labels\n0.png,cat dog\n")
    with pytest.raises(UsageError) as caught:
        data(tmp_path)
    line = str(caught.value)
    assert "holds 3 images beside 'labels.csv' and no class folders" in line
    assert "several labels an image are not supported; put the images of each class" in line


def test_a_folder_of_annotations_is_refused_with_the_reason(tmp_path):
    pictures(tmp_path / "train", ("images",)), pictures(tmp_path / "test", ("images",))
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/0.txt").write_text("0 .5 .5 .1 .1")
    with pytest.raises(UsageError, match="each image has one class here, the name") as caught:
        data(tmp_path)
    assert "holds no image but 1 file such as .txt or .xml" in str(caught.value)


def test_the_same_images_in_several_classes_are_refused_as_several_labels(tmp_path):
    pictures(tmp_path, n=10)
    for i in range(2):
        (tmp_path / f"b/other{i}.png").write_bytes((tmp_path / f"a/{i}.png").read_bytes())
    with pytest.raises(UsageError) as caught:
        data(tmp_path)
    line = str(caught.value)
    assert "2 of the 20 different images" in line and "in those of 'a', 'b'" in line
    assert "several labels an image" in line and "\n" not in line


def test_a_few_images_in_two_classes_are_a_mistake_that_is_named(tmp_path):
    pictures(tmp_path, n=60)
    (tmp_path / "b/other.png").write_bytes((tmp_path / "a/7.png").read_bytes())
    found = [line for line in data(tmp_path).notices if "at most one of its labels" in line]
    assert len(found) == 1 and "1 of the 120 different images" in found[0]


def test_images_of_imagenet_in_two_classes_are_named_and_not_refused(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "val", n=2)
    (tmp_path / "train/b/0.png").write_bytes((tmp_path / "train/a/0.png").read_bytes())
    made = ImageNet(str(tmp_path), num_classes=2, image_size=8)
    made.prepare()
    assert "1 of the 15 different images" in made.notices[0]


def test_test_images_that_the_training_has_too_are_counted(tmp_path):
    pictures(tmp_path / "train"), pictures(tmp_path / "test", n=2)
    (tmp_path / "test/a/0.png").write_bytes((tmp_path / "train/a/5.png").read_bytes())
    (line,) = data(tmp_path).notices
    assert line == f"imagefolder: byte for byte in train/ too: 1 image in {tmp_path / 'test'}"


LEFT_OUT = "recall of each class and balanced accuracy leave such classes out"


def test_classes_that_the_test_or_validation_part_has_not_are_named(tmp_path):
    pictures(tmp_path / "train", "abc"), pictures(tmp_path / "test", "ab", n=2)
    assert data(tmp_path, validation=0.25).absences() == [
        f"imagefolder: no image of 'c' in the test part: {LEFT_OUT}"
    ]
    pictures(tmp_path / "val", "c", n=2)
    assert data(tmp_path).absences() == [
        "imagefolder: no image of 'c' in the test part, no image of 'a', 'b' in the validation "
        f"part: {LEFT_OUT}"
    ]
    picture(tmp_path / "test/c/0.png")
    assert data(tmp_path, validation=0).absences()[0].count("no image of") == 1


def test_a_class_too_small_to_split_is_named_and_an_empty_validation_part_is_not(tmp_path):
    pictures(tmp_path / "train", "ab"), pictures(tmp_path / "test", "abc", n=2)
    picture(tmp_path / "train/c/0.png")
    (line,) = data(tmp_path, validation=0.25).absences()
    assert line == f"imagefolder: no image of 'c' in the validation part: {LEFT_OUT}"
    assert data(tmp_path, validation=0).absences() == []


def test_a_class_of_one_image_has_none_in_the_test_part_of_a_flat_folder(tmp_path):
    pictures(tmp_path, "ab"), picture(tmp_path / "c/0.png")
    made = data(tmp_path, validation=0)
    assert made.notices[-1].endswith("dataset.test=0.25 of every class that has different images")
    (line,) = made.absences()
    assert line == f"imagefolder: no image of 'c' in the test part: {LEFT_OUT}"


# -- links --------------------------------------------------------------------------------------


def test_a_link_is_followed_once_inside_the_root(tmp_path):
    root = tmp_path / "set"
    pictures(root / "train"), pictures(root / "test", n=2)
    (root / "store").mkdir()
    picture(root / "store/x.png"), pictures(root / "store", "c", 3)
    (root / "train/a/link.png").symlink_to("../../store/x.png")
    (root / "train/c").symlink_to(root / "store/c")
    made = data(root, validation=0)
    assert "a/link.png" in names(made, "train")
    assert made.class_names == ("a", "b", "c") and made.size("train") == 20
    made.pixels("train", torch.arange(20))
    (tmp_path / "elsewhere").symlink_to(root)
    assert data(tmp_path / "elsewhere", validation=0).fingerprint() == made.fingerprint()


@pytest.mark.parametrize(
    "links, why",
    [
        ({"a/x.png": "{out}/x.png"}, "it is a link out of dataset.root"),
        ({"a/x.png": "../../../outside/x.png"}, "it is a link out of dataset.root"),
        ({"a/deep": "{out}"}, "it is a link out of dataset.root"),
        ({"a/x.png": "nowhere.png"}, "it is a link to nothing"),
        ({"a/x.png": "x.png"}, "it is a link to nothing"),
        ({"a/x.png": "y", "a/y": "0.png"}, "it is a link behind a link"),
        ({"a/x.png": "y.png", "a/y.png": "x.png"}, "it is a link to nothing"),
        ({"a/loop": "."}, "it is a link to a folder that it lies in"),
        ({"a/loop": ".."}, "it is a link to a folder that it lies in"),
        ({"a/x": "../b", "b/y": "../a"}, "it is a link behind a link"),
    ],
)
def test_links_that_lead_out_or_around_are_refused_by_name(tmp_path, links, why):
    root = tmp_path / "set"
    pictures(root / "train"), pictures(root / "test", n=2)
    picture(tmp_path / "outside/x.png")
    for name, target in links.items():
        os.symlink(target.format(out=tmp_path / "outside"), root / "train" / name)
    with pytest.raises(RunError, match=why) as caught:
        data(root)
    assert f"train/{min(links)}" in str(caught.value)


@pytest.mark.parametrize("name", ["train", "train/c"])
def test_a_part_or_class_that_lies_elsewhere_is_refused_by_name(tmp_path, name):
    root = tmp_path / "set"
    pictures(root / "test", n=2), pictures(tmp_path / "outside", n=3)
    if name != "train":
        pictures(root / "train", n=2)
    (root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match=f"set/{name}' is a link out of dataset.root"):
        data(root)
