"""One image file: whether it is opened at all, what its header says, its pixels as 8-bit RGB."""

import os
import re
import stat
import threading
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from compressor.data._ending import is_whole

if TYPE_CHECKING:
    from PIL import Image

# Pillow tries nothing else: of its other formats some start programs (EPS starts Ghostscript)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".gif",
)  # fmt: skip
MOST_PIXELS = 178_956_970  # Pillow itself opens no larger image
_BYTES_A_PIXEL, _SPARE = 8, 1 << 26  # no file is longer: RGBA of 16 bits, and 64 MiB for the rest
_LONGEST = 200  # characters of a message that comes from a decoder
# a FIFO would be waited for without the first
_FLAGS = os.O_RDONLY | (os.O_NONBLOCK | os.O_CLOEXEC if os.name == "posix" else os.O_BINARY)
_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)
# what is lost or changed on the way to 8-bit RGB
MODES = {
    "RGB": "",
    "1": "black and white",
    "L": "grey",
    "LA": "grey, transparency dropped",
    "P": "palette",
    "PA": "palette, transparency dropped",
    "RGBA": "transparency dropped",
    "RGBa": "transparency dropped",
    "RGBX": "padding dropped",
    "CMYK": "printing colours",
    "YCbCr": "",
    "LAB": "",
    "I;16": "16 bits, 0..65535 scaled to 0..255",
}
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # one channel of 16 bits
_ORIENTATION = 0x0112  # EXIF tag
_DECODING = threading.Semaphore(2)  # images decoded at once while files are checked: for memory


class Refused(Exception):
    """A file that is not read; the message is the reason, in words that follow its name."""


class Header(NamedTuple):
    """mode: a key of `MODES`; width, height in pixels, as they are stored."""

    mode: str
    width: int
    height: int


def shown(text: object, most: int = 1000) -> str:
    """A name from outside in one line that every terminal can print."""
    line = str(text).encode("utf-8", "backslashreplace").decode()
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m[0]):02x}", line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def reason(error: Exception) -> str:
    """What an error says, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], _LONGEST)


def check_regular(status: os.stat_result) -> None:
    """Raise Refused for what is no file with content."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for is_kind, word in _KINDS if is_kind(status.st_mode)), "special")
        raise Refused(f"it is {kind}, no regular file")


def check_length(size: int, max_pixels: int) -> None:
    """Raise Refused for a file too long for any image of so many pixels, before it is read."""
    if size == 0:
        raise Refused("it is empty")
    if size > _BYTES_A_PIXEL * max_pixels + _SPARE:
        raise Refused(
            f"its {size:,} bytes are more than an image of dataset.max_pixels={max_pixels} can have"
        )


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise Refused for an image that is larger than dataset.max_pixels."""
    if width * height > max_pixels:
        raise Refused(
            f"its {width} x {height} pixels are more than dataset.max_pixels={max_pixels}"
        )
    if not width * height:
        raise Refused("it has no pixel")


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file that is a regular one; never waits, as for a FIFO's other end."""
    check_regular(os.stat(path))  # opening a device may already do something
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    try:
        check_regular(os.fstat(file.fileno()))
    except Refused:
        file.close()
        raise
    return file


def header(file: IO[bytes], tail: bytes, max_pixels: int) -> Header:
    """What the head of an image file says. Raises Refused, of a file that is cut off too.

    tail: the last `_ending.TAIL` bytes. Nothing is decoded but a file whose end is not as usual.
    Pillow warns of odd files: that is the caller's to silence, once for all its threads.
    """
    with _opened(file, max_pixels) as image:
        found = Header(_mode(image), *image.size)
        check_pixels(found.width, found.height, max_pixels)
        if not is_whole(image, file, tail):
            _check_decodes(image)
        return found


def pixels(path: Path, max_pixels: int) -> Tensor:
    """(3, H, W) uint8, upright as EXIF says. Raises Refused, or what Pillow's decoders raise."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    with warnings.catch_warnings(), open_regular(path) as file:
        warnings.simplefilter("ignore")  # of damaged EXIF data and the like
        check_length(os.fstat(file.fileno()).st_size, max_pixels)
        with _opened(file, max_pixels) as image:
            check_pixels(*image.size, max_pixels)
            _mode(image)
            return pil_to_tensor(as_rgb(image))


def as_rgb(image: "Image.Image", exif: bool = True) -> "Image.Image":
    """A PIL image as 8-bit RGB, with `exif` turned upright as its EXIF data say.

    16 bits are scaled from 0..65535 to 0..255. Raises Refused for 32, whose range nothing tells.
    """
    _check_range(image)
    image.load()  # before the orientation is asked for: a PNG may hold it behind its pixels
    return _upright(_rgb(image), _orientation(image) if exif else None)


def not_too_long(image: Tensor) -> Tensor:
    """The middle of an image whose sides are as 1 to more than 8, so that each is as 1 to 8.

    Resized by its shorter side, a line of pixels would fill the memory; the centre crop that
    follows reads the middle square alone. image: (C, H, W).
    """
    height, width = image.shape[-2:]
    most = 8 * min(height, width)
    if max(height, width) <= most:
        return image
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    return image[..., top : top + most, left : left + most]


def _opened(file: IO[bytes], max_pixels: int) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None
    except Image.DecompressionBombError:
        # Pillow's limit, which max_pixels is never above
        raise Refused(f"its pixels are more than dataset.max_pixels={max_pixels}") from None
    except Exception as error:  # a format's parser raises whatever it trips over
        raise Refused(reason(error)) from error


def _check_decodes(image: "Image.Image") -> None:
    with _DECODING:
        try:
            image.load()
        except Exception as error:  # a format's decoder raises whatever it trips over
            raise Refused(reason(error)) from error


def _check_range(image: "Image.Image") -> None:
    # of 16 bits, a PPM is opened as "I", and by older versions of Pillow a PNG
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise Refused(
            f"its pixels are {'fractions' if image.mode == 'F' else 'whole numbers'} of 32 bits, "
            "whose range nothing tells: save it with 8 or 16 bits"
        )


def _mode(image: "Image.Image") -> str:
    _check_range(image)
    mode = image.mode
    if mode in _WIDE:
        return "I;16"
    if mode not in MODES:
        raise Refused(f"its mode {shown(mode)} has no way to RGB")
    return mode


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in _WIDE:
        # Pillow would clip at 255; of these modes it scales PNG's and PPM's to 65535 itself
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the way straight to RGB warns of transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: "Image.Image") -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # the parser of damaged EXIF data; the pixels are sound
        return None


def _upright(image: "Image.Image", orientation: object) -> "Image.Image":
    from PIL.Image import Transpose

    turns = (
        None, None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    turn = turns[orientation] if isinstance(orientation, int) and 0 < orientation < 9 else None
    return image if turn is None else image.transpose(turn)
