"""Images in folders, one folder a class, decoded one by one."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from compressor.data._source import Augment, Draw, Source
from compressor.errors import RunError, UsageError
from compressor.seeding import derive

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_THREADS = 8  # hashing waits for the disk more than for the processor


class ImageError(RunError):
    """A file that cannot be decoded.

    A loader's worker re-raises by calling the class with its whole traceback as the message; the
    last line is ours, so that the user reads one line whatever the number of workers.
    """

    def __init__(self, message: str) -> None:
        line = message.strip().splitlines()[-1]
        super().__init__(line.removeprefix(f"{__name__}.ImageError: "))


class FolderImages(Source):
    """paths: relative to `root`, in canonical order (class, then path); labels: (n,) int64."""

    def __init__(
        self,
        root: Path,
        paths: tuple[str, ...],
        labels: Tensor,
        crop_fraction: float,
        cache: str | None,
    ) -> None:
        self.root = root
        self.paths = paths
        self.labels = labels
        self.crop_fraction = crop_fraction
        self.cache = cache
        self._digest: str | None = None
        self._training = self._plain = None

    def digest(self) -> str:
        if self._digest is None:
            files = _content(self.root, self.paths, self.cache)
            facts = [files, self.labels.tolist(), self.crop_fraction]
            self._digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return self._digest

    def sized(self, image_size: int, channels: int, augment: Augment) -> "FolderImages":
        from torchvision.transforms import v2

        new = FolderImages(self.root, self.paths, self.labels, self.crop_fraction, self.cache)
        whole_image = [
            v2.Resize(round(image_size / self.crop_fraction), antialias=True),
            v2.CenterCrop(image_size),
        ]
        training = whole_image
        if augment.scale < 1:
            scale = (augment.scale, 1.0)
            training = [v2.RandomResizedCrop(image_size, scale=scale, antialias=True)]
        if augment.crop:
            training = [*training, v2.RandomCrop(image_size, padding=augment.crop)]
        if augment.flip:
            training = [*training, v2.RandomHorizontalFlip()]
        mode = v2.Grayscale(channels) if channels == 1 else v2.Identity()
        new._training = v2.Compose([*training, mode])
        new._plain = v2.Compose([*whole_image, mode])
        return new

    def images(self, rows: Tensor, draw: Draw | None) -> Tensor:
        if draw is None:
            return torch.stack([self._plain(self._decode(row)) for row in rows.tolist()])
        out = []
        with torch.random.fork_rng(devices=[]):
            for row, index in zip(rows.tolist(), draw.index.tolist(), strict=True):
                # the CPU generator alone: torch.manual_seed would reseed the GPU's as well
                torch.default_generator.manual_seed(derive(draw.seed, "augment", draw.epoch, index))
                out.append(self._training(self._decode(row)))
        return torch.stack(out)

    def check(self, row: int) -> None:
        """Raise ImageError if this image cannot be decoded."""
        self._decode(row)

    def _decode(self, row: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        path = self.root / self.paths[row]
        try:
            with Image.open(path) as image:
                return pil_to_tensor(image.convert("RGB"))
        except Exception as error:  # PIL's decoders raise what their format's parser raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ImageError(
                f"the image '{path}' cannot be decoded ({reason}): repair or delete that file"
            ) from error


def list_folder(
    root: Path, classes: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Sorted class names and (path relative to root, label) of every image, sorted within a class.

    classes: the names that may occur; None takes those of the sub-folders.
    """
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not found:
        raise UsageError(f"'{root}' has no class folders: put one folder of images per class there")
    if classes is None:
        classes = tuple(found)
    rows = []
    for name in found:
        if name not in classes:
            raise UsageError(
                f"'{root / name}' is a class that the train part has not: remove it, or add "
                f"images of '{name}' to the train folder"
            )
        before = len(rows)
        for folder, _, files in os.walk(root / name, followlinks=True):
            for file in files:
                if file.lower().endswith(_EXTENSIONS):
                    path = Path(folder, file).relative_to(root).as_posix()
                    rows.append((path, classes.index(name)))
        if len(rows) == before:
            raise UsageError(
                f"'{root / name}' holds no image ({', '.join(_EXTENSIONS)}): add some or remove it"
            )
    return classes, sorted(rows, key=lambda row: (row[1], row[0]))


def read_folders(
    name: str, root: str, crop_fraction: float, cache: str | None
) -> tuple[tuple[str, ...], dict[str, "FolderImages"]]:
    """Class names, and the sources of `root`/train and of `root`/test, else `root`/val."""
    base = Path(root).absolute()
    if not base.is_dir():
        raise UsageError(
            f"dataset.root='{base}' does not exist: type dataset.root=<folder that holds train/ "
            "and val/ or test/>"
        )
    train = base / "train"
    test = base / "test" if (base / "test").is_dir() else base / "val"
    for folder in (train, test):
        if not folder.is_dir():
            raise UsageError(
                f"{name} has no folder '{folder}': dataset.root={base} must hold train/ and val/ "
                "or test/, each with one folder per class"
            )
    classes, rows = list_folder(train)
    parts = {"train": (train, rows), "test": (test, list_folder(test, classes)[1])}
    return classes, {
        part: FolderImages(
            folder,
            tuple(path for path, _ in rows),
            torch.tensor([label for _, label in rows]),
            crop_fraction,
            cache,
        )
        for part, (folder, rows) in parts.items()
    }


def short_sides(images: FolderImages, most: int) -> list[int]:
    """Pixels of the shorter side of `most` images, spread evenly over the list; headers alone.

    A file that is no image is passed over: it is told where it is decoded.
    """
    from PIL import Image

    rows = torch.linspace(0, len(images.paths) - 1, min(most, len(images.paths))).long().tolist()

    def one(row: int) -> int | None:
        try:
            with Image.open(images.root / images.paths[row]) as image:
                return min(image.size)
        except Exception:  # as in _decode
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = [side for side in pool.map(one, rows) if side]
    if not found:
        images.check(rows[0])
    return found


def _content(root: Path, paths: tuple[str, ...], cache: str | None) -> list[tuple[str, int, str]]:
    """(relative path, size, content hash) of every file, in the given order.

    Hashes are remembered under `cache` by path, size and time of change; the file there only
    saves time, so that one which is unreadable or cannot be written is passed over.
    """
    store = None
    known: Mapping[str, list] = {}
    if cache is not None:
        name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        store = Path(cache, ".fingerprints", f"{name}.json")
        known = _remembered(store)

    def one(path: str) -> list:
        try:
            status = os.stat(root / path)
            fresh = [status.st_size, status.st_mtime_ns]
            if path in known and known[path][:2] == fresh:
                return known[path]
            digest = hashlib.sha256()
            with open(root / path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise RunError(
                f"'{root / path}' cannot be read ({error.strerror}): repair or delete that file"
            ) from error
        return [*fresh, digest.hexdigest()]

    with ThreadPoolExecutor(_THREADS) as pool:
        facts = dict(zip(paths, pool.map(one, paths), strict=True))
    if store is not None and facts != known:
        _remember(store, facts)
    return [(path, size, digest) for path, (size, _, digest) in facts.items()]


def _remembered(store: Path) -> dict[str, list]:
    try:
        known = json.loads(store.read_text())
        return {str(k): v for k, v in known.items() if isinstance(v, list) and len(v) == 3}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(store: Path, facts: dict[str, list]) -> None:
    temporary = store.with_suffix(f".{os.getpid()}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(facts))
        temporary.replace(store)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
