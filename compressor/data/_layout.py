"""Where the parts of an image folder are: train/ and test/, or one folder of classes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from compressor.data._decode import ENDINGS, shown
from compressor.data._folder import Rules
from compressor.data._listing import Walk
from compressor.data._reading import Found, Part, Reading, count, some
from compressor.data._source import absolute, split_by_content
from compressor.errors import UsageError

# folders of these names are parts of a data set, not classes
_PARTS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval")


def read_parts(
    name: str, root: str, rules: Rules, note: Callable[[str], None], tests: Sequence[str]
) -> Found:
    """The images of `root`/train, and of the first of the folders `tests` that is there.

    Where that is test/ and there is a val/, val/ is the validation part. note: told how far it is.
    """
    base = _base(root, "train/ and val/ or test/")
    walk = Walk(base)
    train = base / "train"
    test = next((base / part for part in tests if (base / part).is_dir()), base / "val")
    for folder in (train, test):
        if not folder.is_dir():
            raise UsageError(
                f"{name} has no folder '{shown(folder)}': dataset.root={shown(base)} must hold "
                "train/ and val/ or test/, each with one folder per class"
            )
    folders = {"train": train, "test": test}
    if test.name == "test" and (base / "val").is_dir():
        folders["val"] = base / "val"
    reading = Reading(name, base, walk, rules)
    for part, folder in folders.items():
        reading.add(part, folder, walk.check_folder(folder))
    names, files = walk.inside(base)
    reading.check_loose(base, names, files)
    parts = reading.read(note)
    extra = [name for name in names if base / name not in folders.values()]
    if extra:
        reading.say(f"not read: the folder{'s' * (len(extra) > 1)} {some(extra)}")
    if "val" in folders:
        reading.say(
            "val/ is the validation part, so that nothing is split off train/ and "
            "dataset.validation is not read"
        )
    _tell_overlap(reading, parts)
    return reading.found({part: made.source(rules) for part, made in parts.items()})


def read_classes(
    name: str, root: str, rules: Rules, note: Callable[[str], None], fraction: float
) -> Found:
    """The images of `root`/<class>/; `fraction` of every class is the test part.

    Which ones follows from the contents alone, and equal files are in the same part.
    """
    base = _base(root, "one folder per class, or train/ and test/")
    walk = Walk(base)
    reading = Reading(name, base, walk, rules)
    reading.add("train", base, False)
    if len(reading.classes) < 2:
        only = shown(base / reading.classes[0])
        raise UsageError(
            f"'{shown(base)}' holds one class folder alone: type dataset.root={only} if that holds "
            "the classes"
        )
    whole = reading.read(note)["train"]
    contents = [fact.digest for fact in whole.facts]
    stay, off = split_by_content(whole.labels, contents, fraction, least=1)
    if not len(off):
        raise UsageError(
            f"no class of '{shown(base)}' has two different images, so that its test part would be "
            "empty whatever dataset.test says: add images, at least two a class are needed"
        )
    every = len(whole.labels[off].unique()) == len(reading.classes)
    reading.say(
        f"the test part is {len(off):,} of the {len(whole.places):,} images, "
        f"dataset.test={fraction:g} of every class{'' if every else ' that has different images'}"
    )
    return reading.found(
        {"train": whole.source(rules, stay.tolist()), "test": whole.source(rules, off.tolist())}
    )


def is_flat(root: str) -> bool:
    """Whether `root` holds class folders itself, and not train/ beside val/ or test/.

    Raises UsageError where it can be taken for neither.
    """
    base = _base(root, "one folder per class, or train/ and test/")
    names, _ = Walk(base).inside(base)
    if "train" in names:
        others = set(names) - set(_PARTS)
        # a class may be called train, as others are bus and car
        return not {"val", "test"} & set(names) and bool(others) and _holds_images(base / "train")
    if not names:
        return True  # refused with the reason when its classes are listed
    parts = [name for name in names if name.lower() in _PARTS]
    if parts and not any(_holds_images(base / name) for name in parts):
        raise UsageError(
            f"imagefolder has no folder '{shown(base / 'train')}' beside '{shown(parts[0])}': the "
            "parts are called train/, val/ and test/, each with one folder per class"
        )
    return True


def _tell_overlap(reading: Reading, parts: dict[str, Part]) -> None:
    """Files of the other parts that the training has seen, byte for byte."""
    train = {fact.digest for fact in parts["train"].facts}
    for part in ("val", "test"):
        if part in parts:
            seen = sum(fact.digest in train for fact in parts[part].facts)
            if seen:
                root = shown(parts[part].listing.root)
                reading.say(f"byte for byte in train/ too: {count(seen)} in {root}")


def _base(root: str, holds: str) -> Path:
    base = absolute(root)
    if not base.is_dir():
        what = "is a file, no folder" if base.exists() else "does not exist"
        raise UsageError(
            f"dataset.root='{shown(base)}' {what}: type dataset.root=<folder that holds {holds}>"
        )
    return base


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(ENDINGS) for entry in entries)
