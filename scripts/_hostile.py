"""Files that mean harm, one function a kind: for `torture_load`, and a dozen of them for the suite.

A case turns a sound model folder, a sound image folder or an empty folder into a hostile one; then
the public door is opened on it: `compressor.load`, `ImageFolder`, the labels of `noise=file`.
"""

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

import compressor
from compressor import artefact, manifest
from compressor.artefact import Spec
from compressor.data.imagefolder import ImageFolder
from compressor.errors import RunError, UsageError
from compressor.noise.file import File
from compressor.surgery import analyse, plan_cut, replay

SPEC = Spec("compressor.models.resnet20", {"width": 0.5}, (1, 16, 16), 10)
REFUSED, LOADS, EITHER = "refused", "loads", "either"


@dataclass(frozen=True)
class Case:
    """expected: how it has to end; EITHER is for fuzzed bytes, which may be sound by chance."""

    name: str
    door: str
    make: Callable[[Path], object]
    expected: str = REFUSED


# --- the doors -----------------------------------------------------------------------------------


def sound_model(folder: Path) -> None:
    """A cut ResNet-20, sealed."""
    torch.manual_seed(0)
    dense = SPEC.build()
    structure = analyse(dense, (torch.zeros(2, *SPEC.input_size),))
    groups = structure.select("interior")
    plan = plan_cut(structure, {group.name: torch.arange(group.size // 2) for group in groups})
    folder.mkdir(parents=True)
    artefact.write(folder, spec=SPEC, plan=plan, net=replay(dense, plan), lineage={})
    manifest.seal(folder)


def sound_images(root: Path) -> None:
    """Two classes with six images each, and a test part."""
    for part, count in (("train", 6), ("test", 2)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((24, 24, 3), 40 * number + label, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def opened(door: str, folder: Path) -> tuple[str, str]:
    """(LOADS or REFUSED, its line). Any other exception passes through: it is a defect."""
    try:
        if door == "load":
            compressor.load(folder / "model")
        elif door == "images":
            data = ImageFolder(str(folder), image_size=16, validation=0.25)
            data.prepare()
            for part in ("train", "val", "test"):
                for _ in data.loader(part, 4):
                    pass
        else:
            File(str(folder / "labels.npz"))
    except (RunError, UsageError) as error:
        return REFUSED, str(error)
    return LOADS, ""


# --- model folders -------------------------------------------------------------------------------


def _edited(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A description with other values, signed again."""

    def make(folder: Path) -> None:
        path = folder / "model" / name
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
        manifest.seal(folder / "model")

    return make


def _written(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Other bytes in place of a file, signed again."""

    def make(folder: Path) -> None:
        path = folder / "model" / name
        path.write_bytes(content if isinstance(content, bytes) else content())
        manifest.seal(folder / "model")

    return make


def _network(factory: str, **arguments: object) -> Callable[[Path], None]:
    return _edited("spec.json", lambda s: s.update(factory=factory, arguments=arguments))


def _library(library: str, name: str, **arguments: object) -> Callable[[Path], None]:
    return _network(f"compressor.models.{library}", name=name, arguments=arguments)


def _converted(dtype: torch.dtype, only: str = "") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "model" / artefact.WEIGHTS
        tensors = {n: t.to(dtype) if only in n else t for n, t in load_file(path).items()}
        save_file(tensors, path)
        manifest.seal(folder / "model")

    return make


def _listed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A manifest with other entries and a right checksum of its own."""

    def make(folder: Path) -> None:
        path = folder / "model" / manifest.NAME
        body = json.loads(path.read_text())
        del body["sha256"]
        change(body)
        path.write_text(manifest._signed(body))

    return make


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    """A file of holes, listed with its true size."""

    def make(folder: Path) -> None:
        path = folder / "model" / name
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(size)
        entry = {"bytes": size, "sha256": "0" * 64}
        _listed(lambda body: body["files"].update({name: entry}))(folder)

    return make


def _linked(what: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        place = folder / "model" / what
        place.rename(folder / "elsewhere")
        place.symlink_to(folder / "elsewhere")

    return make


def _link_to(name: str, target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model" / name).unlink()
        (folder / "model" / name).symlink_to(target)

    return make


def _fifo(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model" / name).unlink()
        os.mkfifo(folder / "model" / name)

    return make


def _header(entries: object, data: bytes = b"") -> Callable[[], bytes]:
    def content() -> bytes:
        text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        return struct.pack("<Q", len(text)) + text + data

    return content


def _tensor(dtype: str = "F32", shape: tuple = (2,), offsets: tuple = (0, 8)) -> dict:
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def _many_tensors() -> bytes:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return _header({f"t{n}": one for n in range(150_000)})()


def _one_file_in_a_linked_folder(folder: Path) -> None:
    (folder / "outside").mkdir()
    (folder / "model" / "spec.json").rename(folder / "outside" / "spec.json")
    (folder / "model" / "extras").symlink_to(folder / "outside")
    entry = {"bytes": (folder / "outside" / "spec.json").stat().st_size, "sha256": "0" * 64}
    _listed(lambda body: body["files"].update({"extras/spec.json": entry}))(folder)


def _unlisted_bomb(folder: Path) -> None:
    (folder / "model" / "metrics.json").write_text("[" * 10_000_000)


def _mask(parameter: str, zeros: int) -> dict:
    return {"op": "mask", "parameter": parameter, "zeros": zeros}


def _first(plan: dict) -> dict:
    return plan["operations"][0]


def _misfit(plan: dict) -> None:
    """One convolution loses half of its inputs, its producer nothing."""
    for operation in plan["operations"]:
        operation["slots"] = [s for s in operation["slots"] if s != ["layer1.0.conv2.weight", 1]]
    operations = [operation for operation in plan["operations"] if operation["slots"]]
    plan["operations"] = operations


def _misfitting(folder: Path) -> None:
    """A plan whose network cannot run, with weights that fit it."""
    model = folder / "model"
    _edited("plan.json", _misfit)(folder)
    plan = artefact.read(model).plan
    net = replay(SPEC.build(), plan)
    artefact.write(model, spec=SPEC, plan=plan, net=net, lineage={})
    manifest.seal(model)


def _fuzzed(name: str, seed: int, signed: bool) -> Callable[[Path], None]:
    """A few bytes flipped, cut out, doubled or cut off."""

    def make(folder: Path) -> None:
        rng = random.Random(f"{name} {seed}")
        path = folder / "model" / name
        content = bytearray(path.read_bytes())
        # of the weights the header: what follows are numbers
        reach = min(len(content), 4000)
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            place, kind = rng.randrange(reach), rng.randrange(4)
            if kind == 0:
                content[place % len(content)] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del content[place : place + rng.randrange(1, 9)]
            elif kind == 2:
                content[place:place] = content[place : place + rng.randrange(1, 40)]
            else:
                content[place : place + 1] = rng.choice([b"9", b"-", b"[", b"{", b'"', b"\0"])
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(bytes(content))
        if signed:
            manifest.seal(folder / "model")

    return make


VIT = "vit_tiny_patch16_224"
_DTYPES = (
    torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float64, torch.float16, torch.bfloat16,
)  # fmt: skip


def _models() -> Iterator[Case]:
    def case(name: str, make: Callable[[Path], object], expected: str = REFUSED) -> Case:
        return Case(f"load: {name}", "load", make, expected)

    yield case("as it was saved", lambda folder: None, LOADS)
    for dtype in _DTYPES:
        yield case(f"weights of {dtype}", _converted(dtype))
    yield case("counters of int32", _converted(torch.int32, "num_batches_tracked"))

    # networks without end
    for depth in (10**9, 16_384, 10**400, -1, 1e308):
        name = f"depth {str(depth)[:12]}"
        yield case(name, _library("timm", VIT, depth=depth))
    for name in (VIT, "swin_tiny_patch4_window7_224", "levit_128", "volo_d1_224", "nest_tiny",
                 "maxvit_tiny_tf_224", "eva02_tiny_patch14_224", "coatnet_0_224", "gmlp_s16_224",
                 "beit_base_patch16_224", "samvit_base_patch16"):  # fmt: skip
        yield case(f"image side of {name}", _library("timm", name, img_size=16_384))
    yield case("layers", _library("timm", "resnet18", layers=[16_384] * 4))
    yield case("window", _library("timm", "swin_tiny_patch4_window7_224", window_size=16_384))
    yield case("levels", _library("timm", "focalnet_tiny_srf", focal_levels=[16_384] * 4))
    yield case("wide", _library("timm", "convnext_tiny", depths=[16_384] * 4, dims=[16_384] * 4))
    yield case("list", _library("timm", "resnet18", layers=[1] * 1_000_000))
    yield case("text", _library("timm", "resnet18", act_layer="x" * 10_000_000))
    yield case("nested", _library("timm", "resnet18", layers=json.loads("[" * 90 + "]" * 90)))
    yield case("weights file", _library("timm", "resnet18", checkpoint_path="/etc/passwd"))
    yield case("hub", _library("timm", "hf_hub:someone/something"))
    yield case("vit of torchvision", _library("torchvision", "vit_b_16", image_size=16_384))
    yield case("regnet", _library("torchvision", "regnet_y_400mf", stem_width=16_384))
    yield case(
        "mimic", _network("compressor.models.shallow_mimic", filters=10**6, hidden=10**6, pool=1)
    )
    for builder, option in (("resnet56", "depth"), ("mobilenet_v2", "depth"), ("vgg16_bn", "width"),
                            ("resnet50", "depth"), ("resnet50", "width")):  # fmt: skip
        for value in (1e6, 1e300, float("nan"), "9" * 3000):
            name = f"{builder} {option} {str(value)[:9]}"
            yield case(name, _network(f"compressor.models.{builder}", **{option: value}))
    yield case("option of a long name", _network("compressor.models.resnet20", **{"y" * 900: 1}))
    for factory in ("os.system", "torch.load", "builtins.eval", "compressor.models._import",
                    "x" * 100_000, "a\x1b[2Jb\nc", ""):  # fmt: skip
        yield case(f"factory {factory[:12]!r}", _network(factory))
    for size in ([1, 10**9, 10**9], [1, -1, 16], [16], [1, 1e9, 3], "abc", [1] * 100_000):
        name = f"input size {str(size)[:16]}"
        yield case(name, _edited("spec.json", lambda s, size=size: s.update(input_size=size)))
    for classes in (10**9, 10**5, 0, True, "7"):
        name = f"classes {classes!r}"
        yield case(name, _edited("spec.json", lambda s, n=classes: s.update(num_classes=n)))

    # descriptions
    for file in ("spec.json", "plan.json", "lineage.json"):
        yield case(f"{file}: brackets", _written(file, b"[" * 1_000_000))
        yield case(f"{file}: 17 MB", _written(file, b"[" + b"[]," * 5_700_000 + b"[]]"))
    yield case("spec.json: lists", _written("spec.json", b"[" + b"[]," * 4_000_000 + b"[]]"))
    yield case("plan.json: lists", _written("plan.json", b"[" + b"[]," * 4_000_000 + b"[]]"))
    for content in (b"", b"null", b"[]", b"{}", b"\xff\xfe{", b'"' + b"x" * 100_000 + b'"'):
        yield case(f"spec.json: {content[:8]!r}", _written("spec.json", content))
    yield case("digits", _written("plan.json", b'{"version": ' + b"9" * 100_000 + b"}"))
    yield case("format", _edited("spec.json", lambda s: s.update(format="\x1b[31m" * 50_000)))

    # plans
    yield case("a network that cannot run", _misfitting)
    for name, change in {
        "index of 400 digits": lambda p: _first(p).update(kept=[10**400]),
        "index below zero": lambda p: _first(p).update(kept=[-1]),
        "index twice": lambda p: _first(p).update(kept=[1, 1]),
        "nothing kept": lambda p: _first(p).update(kept=[]),
        "dimension": lambda p: _first(p).update(slots=[["conv1.weight", 10**30]]),
        "name": lambda p: _first(p).update(slots=[["x" * 1_000_000, 0]]),
        "group": lambda p: _first(p).update(group="\n" * 100_000, kept=[]),
        "operation": lambda p: _first(p).update(op="x" * 1_000_000),
        "fields": lambda p: _first(p).update({"y" * 100_000: 1}),
        "a million": lambda p: p.update(operations=[_first(p)] * 20_000),
        "cut classes": lambda p: _first(p).update(slots=[["fc.weight", 0]], kept=[0]),
        "mask without bits": lambda p: p["operations"].append(_mask("conv1.weight", 1)),
        "mask's name": lambda p: p["operations"].append(_mask("x" * 1_000_000, 1)),
        "mask's zeros": lambda p: p["operations"].append(_mask("conv1.weight", 10**400)),
    }.items():
        yield case(f"plan: {name}", _edited("plan.json", change))
    for name, content in {
        "empty": b"",
        "header of 2**62 bytes": struct.pack("<Q", 2**62) + b"{}",
        "no operation's": save({"x": torch.zeros(1)}),
    }.items():
        yield case(f"plan.safetensors: {name}", _written("plan.safetensors", content))

    # weights' files
    for name, content in {
        "empty": b"",
        "eight bytes": b"\xff" * 8,
        "header of 2**62 bytes": struct.pack("<Q", 2**62) + b"{}",
        "header of 90 MB": lambda: struct.pack("<Q", 90_000_000) + b" " * 90_000_000,
        "150,000 tensors": _many_tensors,
        "no JSON": _header(b"\x00" * 100),
        "nested JSON": _header(b"[" * 100_000),
        "offsets that overlap": _header(
            {**_tensor(), "v": _tensor()["w"]}, data=bytes(8)
        ),
        "offsets beyond the end": _header(_tensor(offsets=(0, 2**40)), data=bytes(8)),
        "a shape that overflows": _header(_tensor(shape=(2**40, 2**40)), data=bytes(8)),
        "a type of its own": _header(_tensor(dtype="x" * 1_000_000), data=bytes(8)),
        "a name that steers": _header({"\x1b[2J\n" * 20_000: _tensor()["w"]}, data=bytes(8)),
    }.items():  # fmt: skip
        yield case(f"weights: {name}", _written(artefact.WEIGHTS, content))

    # lists of files
    entry = {"bytes": 1, "sha256": "0" * 64}
    for name in ("../a", "/etc/passwd", "a\0b", "a\nb", "\ud800", "n" * 5000, "n" * 300):
        change = _listed(lambda body, name=name: body["files"].update({name: entry}))
        # a name of 300 characters is no file that is read
        yield case(f"list: {name[:9]!r}", change, LOADS if len(name) == 300 else REFUSED)
    yield case("list: 20,000 files", _listed(
        lambda body: body["files"].update({f"f{n}": entry for n in range(20_000)})
    ))  # fmt: skip
    yield case("list: sizes", _listed(lambda body: body["files"]["spec.json"].update(bytes=-1)))
    yield case("list: words", _listed(lambda body: body["files"].update({"spec.json": "x"})))
    yield case("a description of a terabyte", _sparse("spec.json", 2**40))
    yield case("weights of a terabyte", _sparse(artefact.WEIGHTS, 2**40))
    yield case("another file of a terabyte", _sparse("extra.bin", 2**40), LOADS)
    yield case("an unlisted bomb", _unlisted_bomb, LOADS)
    for name in ("spec.json", artefact.WEIGHTS, manifest.NAME):
        yield case(f"{name} is a link", _linked(name))
        yield case(f"{name} is a pipe", _fifo(name))
        yield case(f"{name} is /dev/zero", _link_to(name, "/dev/zero"))
    yield case("the folder is a link", _linked(""))
    yield case("a folder inside is a link", _one_file_in_a_linked_folder)

    for seed in range(14):
        yield case(f"spec.json fuzzed {seed}", _fuzzed("spec.json", seed, True), EITHER)
        yield case(f"plan.json fuzzed {seed}", _fuzzed("plan.json", seed, True), EITHER)
        yield case(f"weights fuzzed {seed}", _fuzzed(artefact.WEIGHTS, seed, True), EITHER)
    for seed in range(6):
        yield case(f"manifest.json fuzzed {seed}", _fuzzed(manifest.NAME, seed, False), EITHER)


# --- image folders -------------------------------------------------------------------------------


def _image(content: bytes | Callable[[], bytes], name: str = "0.png") -> Callable[[Path], None]:
    """Other bytes in place of one train image."""

    def make(folder: Path) -> None:
        place = folder / "train" / "class0" / name
        place.write_bytes(content if isinstance(content, bytes) else content())

    return make


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = [_chunk(b"IHDR", size), *chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _saved(form: str, size: tuple[int, int] = (24, 24), mode: str = "RGB", **how: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **how)
    return file.getvalue()


def _big_png(side: int) -> bytes:
    """A right PNG of side x side grey pixels in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    row, packed = bytes(side + 1), []
    for _ in range(side):
        packed.append(packer.compress(row))
    packed.append(packer.flush())
    return _png(side, side, pixels=b"".join(packed))


def _frames() -> bytes:
    return _saved(
        "GIF", mode="P", save_all=True, append_images=[Image.new("P", (24, 24), n % 2)
        for n in range(300)],
    )  # fmt: skip


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\n"
    b"newpath 0 0 moveto 24 24 lineto stroke\nshowpage\n%%EOF\n"
)


def _place(make: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """make(place of a train image that is gone, the folder)."""

    def changed(folder: Path) -> None:
        place = folder / "train" / "class0" / "0.png"
        place.unlink()
        make(place, folder)

    return changed


def _outside(place: Path, folder: Path) -> None:
    elsewhere = folder.with_name(f"{folder.name}-elsewhere")
    elsewhere.mkdir()
    (elsewhere / "secret.png").write_bytes(_saved("PNG"))
    place.symlink_to(elsewhere / "secret.png")


def _loop(place: Path, folder: Path) -> None:
    place.write_bytes(_saved("PNG"))
    (place.parent / "again").symlink_to(folder / "train")


def _fuzzed_image(form: str, seed: int) -> Callable[[], bytes]:
    def content() -> bytes:
        rng = random.Random(f"{form} {seed}")
        found = bytearray(_saved(form, (40, 30)))
        for _ in range(rng.choice([1, 3, 10])):
            found[rng.randrange(len(found))] = rng.randrange(256)
        if rng.random() < 0.3:
            del found[rng.randrange(len(found)) :]
        return bytes(found)

    return content


def _images() -> Iterator[Case]:
    def case(name: str, make: Callable[[Path], object], expected: str = REFUSED) -> Case:
        return Case(f"images: {name}", "images", make, expected)

    yield case("as they were saved", lambda folder: None, LOADS)
    yield case("empty", _image(b""))
    yield case("text", _image(b"no image at all\n"))
    yield case("an EPS called 0.png", _image(EPS))
    yield case("cut off", _image(_saved("PNG", (200, 200))[:60]))
    yield case("a header of 2**31 pixels a side", _image(_png(2**31 - 1, 2**31 - 1)))
    yield case("a header of 60,000 pixels a side", _image(_png(60_000, 60_000)))
    yield case("15,000 pixels a side", _image(lambda: _big_png(15_000)))
    yield case("8,000 bytes of text that unpack to 50 MB", _image(
        lambda: _png(24, 24, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9)))
    ))  # fmt: skip
    yield case("a profile that unpacks to 200 MB", _image(
        lambda: _png(24, 24, _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)))
    ))  # fmt: skip
    yield case("300 frames", _image(_frames, "0.gif"), LOADS)
    yield case("a TIFF called 0.png", _image(_saved("TIFF")), LOADS)
    yield case("a pipe", _place(lambda place, folder: os.mkfifo(place)))
    yield case("/dev/zero", _place(lambda place, folder: place.symlink_to("/dev/zero")))
    yield case("a link to itself", _place(lambda place, folder: place.symlink_to(place)))
    yield case("a link out of the folder", _place(_outside))
    yield case("a folder that holds itself", _place(_loop))
    yield case("a folder called 0.png", _place(lambda place, folder: place.mkdir()), EITHER)
    for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        for seed in range(4):
            name = f"0.{form.lower()}"
            yield case(f"{form} fuzzed {seed}", _image(_fuzzed_image(form, seed), name), EITHER)


# --- label files ---------------------------------------------------------------------------------


def _labels(**arrays: object) -> Callable[[Path], None]:
    return lambda folder: np.savez_compressed(folder / "labels.npz", **arrays)


def _npy(shape: str, kind: str = "<i8", data: bytes = b"") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def _packed(**entries: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "labels.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(f"{name}.npy", content)

    return make


def _beside_a_bomb(folder: Path) -> None:
    """An array that nobody asks for unpacks to 2 GB."""
    path = folder / "labels.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("label.npy", _npy("(3,)", data=bytes(24)))
        with archive.open("other.npy", "w", force_zip64=True) as file:
            for _ in range(32):
                file.write(bytes(2**26))


def _label_files() -> Iterator[Case]:
    def case(name: str, make: Callable[[Path], object], expected: str = REFUSED) -> Case:
        return Case(f"labels: {name}", "labels", make, expected)

    yield case("as they were saved", _labels(label=np.arange(5)), LOADS)
    yield case("objects", _labels(label=np.array([{}], dtype=object)))
    yield case("a table", _labels(label=np.zeros((2, 2), dtype=np.int64)))
    yield case("fractions", _labels(label=np.zeros(4)))
    yield case("another name", _labels(**{"z" * 5000: np.arange(4)}))
    yield case("10**15 entries in the head", _packed(label=_npy(f"({10**15},)")))
    yield case("a shape below zero", _packed(label=_npy("(-1,)")))
    yield case("a head that is a program", _packed(label=_npy("__import__('os').abort()")))
    yield case("a head of 60 kB", _packed(label=_npy("(" + " " * 60_000 + "3,)")))
    yield case("less than the head says", _packed(label=_npy("(100,)", data=bytes(8))))
    yield case("more than the head says", _packed(label=_npy("(1,)", data=bytes(80_000_000))))
    yield case("40,000,000 labels", _packed(label=_npy("(40000000,)", data=bytes(320_000_000))))
    yield case("an array beside them of 2 GB", _beside_a_bomb, LOADS)
    yield case("no archive", lambda folder: (folder / "labels.npz").write_bytes(b"PK\x03\x04"))
    yield case("a pipe", lambda folder: os.mkfifo(folder / "labels.npz"))


CASES = {case.name: case for part in (_models, _images, _label_files) for case in part()}
