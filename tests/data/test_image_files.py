"""Single files: which are opened, what is found before a run, and the pixels that come of them."""

import io
import json
import os
import socket
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import _decode, _headers
from compressor.data._decode import Refused, not_too_long
from compressor.data._preprocess import SIXTEEN_BITS
from compressor.data.imagefolder import ImageFolder
from compressor.errors import RunError, UsageError
from compressor.report import sentences


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed, size=(9, 8)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """root/train and root/test with classes "a" and "b": 4 and 2 images each."""
    for part, n in (("train", 4), ("test", 2)):
        for label, name in enumerate("ab"):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                noise([len(part), label, i]).save(folder / f"{i}.png")
    return tmp_path / "set"


def data(root, **options):
    made = ImageFolder(str(root), image_size=8, **options)
    made.prepare()
    return made


def decoded(tmp_path, content, max_pixels=10**6):
    (tmp_path / "x.png").write_bytes(content)
    return _decode.pixels(tmp_path / "x.png", max_pixels)


# -- what is found before a run -----------------------------------------------------------------


def test_every_unreadable_file_is_listed_at_once_with_its_reason(root):
    (root / "train/a/0.png").write_text("hello")
    (root / "train/b/1.png").write_bytes(b"")
    (root / "test/b/1.png").write_bytes(encoded(noise(1))[:20])
    with pytest.raises(RunError) as caught:
        data(root)
    line = str(caught.value)
    assert line.startswith(f"3 images in {root} cannot be read: 'test/b/1.png' (")
    assert "'train/a/0.png' (it is no JPEG, PNG, BMP, WEBP, TIFF, PPM or GIF image)" in line
    assert "'train/b/1.png' (it is empty)" in line
    assert line.endswith("or type dataset.unreadable=skip") and "\n" not in line


def test_names_that_are_no_text_are_read_and_shown_in_one_printable_line(root, tmp_path):
    odd = os.fsencode(root / "train/a") + b"/\xff\x1b[2J\n.png"
    with open(odd, "wb") as file:
        file.write(encoded(noise(5)))
    options = {"fingerprint_cache": str(tmp_path / "cache"), "validation": 0}
    made = data(root, **options)
    assert made.pixels("train", torch.arange(9)).shape[0] == 9
    assert data(root, **options).fingerprint() == made.fingerprint()
    with open(odd, "wb") as file:
        file.write(b"no image")
    with pytest.raises(RunError) as caught:
        data(root, **options)
    assert str(caught.value).isprintable() and str(caught.value).isascii()
    json.dumps(data(root, unreadable="skip").skipped).encode()


def test_very_many_unreadable_files_are_all_in_a_file_that_is_named(root, tmp_path):
    for i in range(150):
        (root / f"train/a/bad{i}.png").write_text("hello")
    with pytest.raises(
        RunError, match=r"150 images .* and the others in .*unreadable.txt"
    ) as caught:
        data(root, fingerprint_cache=str(tmp_path / "cache"))
    (listed,) = (tmp_path / "cache/.fingerprints").glob("*-unreadable.txt")
    assert str(listed) in str(caught.value)
    assert len(listed.read_text().splitlines()) == 150
    with pytest.raises(RunError, match="train/a/bad149.png"):
        data(root)


def test_skip_leaves_unreadable_files_out_and_names_them(root):
    (root / "train/a/0.png").write_text("hello")
    made = data(root, unreadable="skip", validation=0)
    assert made.size("train") == 7
    assert made.skipped == ("train/a/0.png",)
    assert made.notices[0].startswith(f"imagefolder: left out, since 1 image in {root} cannot be")
    assert "'train/a/0.png' (it is no JPEG" in made.notices[0]


def test_the_keys_cover_what_skip_left_out(root):
    before = data(root, unreadable="skip")
    (root / "train/a/0.png").write_text("hello")
    after = data(root, unreadable="skip")
    assert after.fingerprint("train") != before.fingerprint("train")
    assert after.fingerprint("test") == before.fingerprint("test")


def test_a_class_of_which_nothing_can_be_read_is_named_even_with_skip(root):
    for path in (root / "train/a").iterdir():
        path.write_text("hello")
    with pytest.raises(RunError, match="no image of 'a' in '.*train' can be read"):
        data(root, unreadable="skip")


def test_headers_are_remembered_by_path_size_and_time(root, tmp_path, monkeypatch):
    opened = []
    header = _decode.header
    monkeypatch.setattr(_decode, "header", lambda *given: opened.append(given) or header(*given))
    options = {"fingerprint_cache": str(tmp_path / "cache"), "unreadable": "skip"}
    (root / "train/b/1.png").write_text("hello")
    data(root, **options)
    assert len(opened) == 12
    before = data(root, **options)
    assert len(opened) == 13  # what could not be read is looked at again
    os.utime(root / "train/a/0.png", ns=(1, 1))
    assert data(root, **options).fingerprint() == before.fingerprint()
    assert len(opened) == 15
    # the limit is asked anew, whatever is remembered
    with pytest.raises(RunError, match="9 pixels are more than dataset.max_pixels=71"):
        data(root, **options | {"unreadable": "refuse", "max_pixels": 71})


def test_a_memory_of_another_form_is_passed_over(root, tmp_path):
    before = data(root, fingerprint_cache=str(tmp_path)).fingerprint()
    for store in (tmp_path / ".fingerprints").iterdir():
        known = json.loads(store.read_text())
        short = {path: entry[:3] for path, entry in known["files"].items()}
        store.write_text(json.dumps({**known, "files": short}))
    assert data(root, fingerprint_cache=str(tmp_path)).fingerprint() == before


def test_a_memory_from_before_ends_were_looked_at_is_passed_over(root, tmp_path):
    path = root / "train/a/0.png"
    path.write_bytes(encoded(noise(7, (64, 64)))[:-100])
    facts = path.stat()
    entry = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, "0" * 64, "RGB", 64, 64]
    data(root, fingerprint_cache=str(tmp_path), unreadable="skip")
    for store in (tmp_path / ".fingerprints").iterdir():
        for kept in ({"a/0.png": entry}, {"format": 1, "files": {"a/0.png": entry}}, [], {}):
            store.write_text(json.dumps(kept))
            with pytest.raises(RunError, match="train/a/0.png"):
                data(root, fingerprint_cache=str(tmp_path))


def test_progress_is_told_while_files_are_looked_at(root, monkeypatch):
    monkeypatch.setattr(_headers, "_PATIENCE", -1.0)
    lines = []
    ImageFolder(str(root), image_size=8).prepare(lines.append)
    assert lines == [
        f"checked 8 of 8 images in {root / 'train'}",
        f"checked 4 of 4 images in {root / 'test'}",
    ]


# format, what Pillow is told: of every way in which a file's end is found
FORMS = (
    ("jpeg", {}), ("jpeg", {"progressive": True}), ("png", {}), ("gif", {}), ("bmp", {}),
    ("webp", {}), ("ppm", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}),
)  # fmt: skip


def looked_at(path, content):
    path.write_bytes(content)
    try:
        return _headers._facts(str(path), None, 10**6)
    except Refused as error:
        return str(error)


def test_files_that_break_off_are_listed_before_a_run_and_left_out_with_skip(root):
    cut = []
    for i, (kind, options) in enumerate(FORMS):
        content = encoded(noise(i, (64, 64)), kind, **options)
        cut.append(f"test/a/cut{i}.{kind}")
        (root / cut[-1]).write_bytes(content[: len(content) * 4 // 5])
    with pytest.raises(RunError) as caught:
        data(root)
    line = str(caught.value)
    assert line.startswith(f"{len(cut)} images in {root} cannot be read: ")
    assert all(f"'{name}' (" in line for name in cut) and "image file is truncated" in line
    made = data(root, unreadable="skip")
    assert made.skipped == tuple(sorted(cut)) and made.size("test") == 4


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_a_cut_file_is_refused_if_and_only_if_it_cannot_be_decoded(tmp_path, kind, options):
    path = tmp_path / "x"
    content = encoded(noise(1, (24, 25)), kind, **options)
    assert isinstance(looked_at(path, content), _headers.Facts)
    for cut in (1, 2, 3, 11, 12, 13, 30, len(content) // 4):
        found = looked_at(path, content[:-cut])
        try:
            _decode.pixels(path, 10**6)
        except (OSError, Refused):
            assert isinstance(found, str) and found, cut
        else:
            assert isinstance(found, _headers.Facts), cut


@pytest.mark.parametrize(("kind", "options"), FORMS)
@pytest.mark.parametrize("behind", [b"\0" * 9, b"\r\n", b"\0" * 9000, b"a film" * 3000])
def test_what_stands_behind_an_image_does_not_matter(tmp_path, kind, options, behind):
    content = encoded(noise(1, (24, 25)), kind, **options)
    assert isinstance(looked_at(tmp_path / "x", content + behind), _headers.Facts)


def test_files_as_they_are_usually_written_are_not_decoded(tmp_path, monkeypatch):
    def decode(image):
        raise AssertionError(image.format)

    monkeypatch.setattr(_decode, "_check_decodes", decode)
    for kind, options in FORMS:
        content = encoded(noise(1, (24, 25)), kind, **options)
        assert isinstance(looked_at(tmp_path / "x", content), _headers.Facts)
    # a moving photograph: the film behind the end of the image
    content = encoded(noise(1, (24, 25)), "jpeg") + b"a film" * 3000
    assert isinstance(looked_at(tmp_path / "x", content), _headers.Facts)


def test_the_end_of_a_preview_is_not_the_end_of_a_jpeg(tmp_path):
    preview = encoded(noise(2), "jpeg")
    exif = b"Exif\0\0" + preview
    content = encoded(noise(1, (64, 64)), "jpeg", exif=exif)
    assert preview in content
    assert "truncated" in looked_at(tmp_path / "x", content[: len(content) * 4 // 5])


def test_a_file_that_breaks_off_after_it_was_looked_at_is_named_when_it_is_decoded(root):
    path = root / "test/a/1.jpg"
    content = encoded(noise(7, (64, 64)), "jpeg")
    path.write_bytes(content)
    made = data(root)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=rf"the image '{path}' cannot be decoded \(.*truncated"):
        made.pixels("test", torch.arange(5))


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"unreadable": "ignore"},
            "dataset.unreadable=ignore is not known: choose one of ref",
        ),
        ({"max_pixels": 0}, "dataset.max_pixels=0 must be at least 1: give width x height"),
        ({"max_pixels": 10**12}, "dataset.max_pixels=1000000000000 must be at most 178956970"),
        ({"max_pixels": 1e6}, "dataset.max_pixels=1000000.0: a whole number is expected"),
    ],
)
def test_options_out_of_range_are_named(options, text):
    with pytest.raises(UsageError, match=text):
        ImageFolder("nowhere", **options)


# -- files that mean harm -----------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def test_no_file_starts_ghostscript(root, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    (root / "train/a/0.png").write_bytes(EPS)
    with pytest.raises(RunError, match="train/a/0.png' cannot be decoded .it is no JPEG"):
        data(root)
    with pytest.raises(Refused, match="it is no JPEG"):
        _decode.pixels(root / "train/a/0.png", 100)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "link to a FIFO"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(root, kind, monkeypatch):
    path = root / "train/a/0.png"
    path.unlink()
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            monkeypatch.chdir(path.parent)  # a socket's path has to be short
            made.bind(path.name)
    else:
        os.mkfifo(path if kind == "FIFO" else root / "pipe")
        if kind != "FIFO":
            path.symlink_to("../../pipe")
    kind = "socket" if kind == "socket" else "FIFO"
    with pytest.raises(RunError, match=rf"0.png' cannot be decoded \(it is a {kind}, no regular"):
        data(root)
    assert data(root, unreadable="skip").skipped == ("train/a/0.png",)
    with pytest.raises(Refused, match="no regular file"):
        _decode.pixels(path, 100)


def bomb(width, height):
    """A PNG that says it is of this size; its pixels are not there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    found = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        found += [struct.pack(">I", len(content)), name, content]
        found += [struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(found)


@pytest.mark.parametrize(
    "size, why",
    [
        ((9000, 9000), "its 9000 x 9000 pixels are more than dataset.max_pixels=65000000"),
        ((10000, 10000), "its 10000 x 10000 pixels are more than dataset.max_pixels=65000000"),
        ((60000, 60000), "its pixels are more than dataset.max_pixels=65000000"),
    ],
)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(root, size, why):
    (root / "train/a/0.png").write_bytes(bomb(*size))
    with pytest.raises(RunError, match=why):
        data(root)


def test_an_image_that_grew_since_it_was_looked_at_is_not_decoded(root):
    made = data(root, max_pixels=100)
    (root / "test/a/0.png").write_bytes(bomb(5000, 5000))
    with pytest.raises(RunError, match="its 5000 x 5000 pixels are more than dataset.max_pixels"):
        made.pixels("test", torch.arange(1))


def test_a_file_longer_than_any_image_of_that_many_pixels_is_not_read(root):
    with open(root / "train/a/0.png", "wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    with pytest.raises(RunError, match="its 1,000,000,000,000 bytes are more than an image of"):
        data(root)


def test_a_line_of_pixels_does_not_fill_the_memory(root):
    Image.new("L", (100_000, 1), 7).save(root / "test/a/0.png")
    assert data(root).pixels("test", torch.arange(1)).unique().tolist() == [7]


def test_the_middle_of_a_long_image_holds_the_square_that_is_read():
    image = torch.arange(200 * 10).view(1, 10, 200)
    assert torch.equal(not_too_long(image), image[..., 60:140])
    assert torch.equal(not_too_long(image.mT), image.mT[:, 60:140])
    assert not_too_long(image[..., :80]).shape == (1, 10, 80)


# -- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_a_ramp_of_16_bits_keeps_its_range(tmp_path, kind):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None]
    found = decoded(tmp_path, encoded(Image.fromarray(ramp), kind))
    assert torch.equal(found, torch.arange(256, dtype=torch.uint8).expand(3, 1, 256))


def test_a_ramp_of_16_bits_in_the_other_byte_order_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(">u2")
    image = Image.frombytes("I;16B", (256, 1), ramp.tobytes())
    found = decoded(tmp_path, encoded(image, "tiff"))
    assert torch.equal(found[0, 0], torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_32_bits_have_no_range_and_are_refused(root, kind):
    Image.fromarray(np.ones((8, 8), dtype=kind)).save(root / "train/a/0.tiff")
    with pytest.raises(RunError, match="of 32 bits, whose range nothing tells: save it with 8 or"):
        data(root)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_exif_tells_is_applied(tmp_path, kind, orientation):
    # what has to be done to the stored image so that it stands upright (EXIF 2.3, tag 0x0112)
    undo = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
    }[orientation]  # fmt: skip
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    stored[:16, :16] = 255  # one corner is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, **({"lossless": True} if kind == "webp" else {})}
    found = decoded(tmp_path, encoded(Image.fromarray(stored), kind, **options))
    expected = torch.from_numpy(undo(stored).copy()).permute(2, 0, 1)
    assert torch.equal(found > 127, expected > 127)


def test_damaged_exif_data_leave_an_image_as_it_is_stored(tmp_path):
    content = encoded(Image.new("RGB", (16, 8), "red"), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\xff")
    assert decoded(tmp_path, content).shape == (3, 8, 16)


def test_modes_on_the_way_to_rgb_are_told(root):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(root / "train/a/grey.png")
    Image.fromarray(255 - grey).save(root / "train/a/grey2.png")
    Image.fromarray(grey.astype(np.uint16) * 9).save(root / "train/a/wide.png")
    noise(3).convert("RGBA").save(root / "test/a/alpha.png")
    made = data(root)
    assert made.notices == (
        "imagefolder: images converted to RGB of 8 bits: 2 of mode L (grey), 1 of mode I;16 (16 "
        "bits, 0..65535 scaled to 0..255), 1 of mode RGBA (transparency dropped)",
    )


@pytest.mark.parametrize("mode", [mode for mode in _decode.MODES if mode != "I;16"])
def test_every_mode_becomes_rgb_without_a_warning(mode):
    image = Image.new(mode, (4, 4))
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    assert _decode._rgb(image).mode == "RGB"


def test_an_image_under_another_formats_name_is_read(tmp_path):
    expected = torch.from_numpy(np.asarray(noise(1)).copy()).permute(2, 0, 1)
    assert torch.equal(decoded(tmp_path, encoded(noise(1), "bmp")), expected)


def test_16_bits_of_grey_and_of_colours_become_what_a_network_folder_says(tmp_path):
    values = np.arange(65536, dtype=">u2").reshape(256, 256)
    colours = values[..., None].repeat(3, 2)

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    def png(pixels, kind):
        lines = b"".join(b"\0" + line.tobytes() for line in pixels)
        head = struct.pack(">IIBBBBB", 256, 256, 16, kind, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)

    known = np.arange(65536).reshape(256, 256)
    for content, expected in (
        (png(values, 0), (known + 128) // 257),
        (png(colours, 2), known // 256),
        (b"P5 256 256 65535 " + values.tobytes(), (known + 128) // 257),
        (b"P6 256 256 65535 " + colours.tobytes(), (known + 128) // 257),
    ):
        assert (decoded(tmp_path, content).numpy() == expected).all()
    assert SIXTEEN_BITS == "grey, and PPM: (value + 128) // 257; other colours: value // 256"


def test_a_folder_that_is_left_out_is_called_no_image(root):
    (root / "train/a/loop").symlink_to(".")
    with pytest.raises(RunError, match="the folder '.*train/a/loop' cannot be read .it is a link"):
        data(root)
    (root / "train/a/0.png").write_text("hello")
    with pytest.raises(RunError, match="1 image and 1 folder in .* cannot be read: "):
        data(root)
    made = data(root, unreadable="skip")
    assert made.skipped == ("train/a/0.png", "train/a/loop/")
    (notice,) = [line for line in made.notices if "left out" in line]
    assert "left out, since 1 image and 1 folder in" in notice
    told = sentences.skipped({"skipped_images": list(made.skipped)})
    assert told.startswith("1 image and 1 folder could not be read and took no part: ")


def test_a_resize_that_no_shipped_network_could_name_is_refused(root):
    with pytest.raises(UsageError, match="dataset.crop_fraction=0.0001 .*80,000 pixels .* 16,384"):
        data(root, crop_fraction=0.0001)
