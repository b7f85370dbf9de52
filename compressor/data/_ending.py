"""Whether an image file holds all of its pixels' bytes, told by its end and without decoding."""

import math
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

TAIL = 4096  # bytes of a file's end that are looked at; more padding than that is decoded
_PADDING = b"\0\t\n\r "  # what disks, cameras and transfers put behind an image
_JPEG_END = b"\xff\xd9"  # the EOI marker, which no compressed data hold
_ENDS = {"JPEG": _JPEG_END, "MPO": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "GIF": b"\0;"}
_PPM_BITS = {"1;I": 1, "L": 8, "RGB": 24}  # of a pixel; of other forms the size is not told
_STRIPS = ((273, 279), (324, 325))  # TIFF tags: offsets and byte counts of strips, and of tiles
_BLOCK = 1 << 20


def is_whole(image: "Image.Image", file: IO[bytes], tail: bytes) -> bool:
    """True where the file surely is not cut off; False is no proof: decode it to know.

    image: opened from `file` and not loaded. tail: the last `TAIL` bytes of the file.
    """
    kind, size = image.format, os.fstat(file.fileno()).st_size
    try:
        if kind in _ENDS:
            if tail.rstrip(_PADDING).endswith(_ENDS[kind]):
                return True
            return kind == "JPEG" and _ends_before(file)
        if kind == "WEBP":
            file.seek(4)
            return int.from_bytes(file.read(4), "little") + 8 <= size
        if kind == "TIFF":
            return _last_strip(image) <= size
        return _last_row(image) <= size
    except (AttributeError, IndexError, TypeError, ValueError):  # fields of odd files
        return False


def _ends_before(file: IO[bytes]) -> bool:
    """Whether a JPEG ends before other data, such as the film of a moving photograph.

    Pillow leaves the file behind the header of the first scan: a preview has its end before that.
    """
    last = b""
    while block := file.read(_BLOCK):
        if _JPEG_END in last + block:
            return True
        last = block[-1:]
    return False


def _last_strip(image: "Image.Image") -> float:
    """Where the pixels of a TIFF end, in bytes; infinite where its tags do not tell."""
    for offsets, counts in _STRIPS:
        starts, lengths = image.tag_v2.get(offsets), image.tag_v2.get(counts)
        if starts and lengths and len(starts) == len(lengths):
            return max(start + length for start, length in zip(starts, lengths, strict=True))
    return math.inf


def _last_row(image: "Image.Image") -> float:
    """Where the pixels of a BMP or PPM end, in bytes; infinite where they are compressed or text.

    The size in a BMP's header is often wrong: that of its rows is what a decoder reads.
    """
    (tile,) = image.tile
    codec, _, offset, form = tile
    width, height = image.size
    if codec == "raw" and image.format == "BMP":
        return offset + form[1] * height
    if codec == "raw" and form in _PPM_BITS:
        return offset + -(-width * _PPM_BITS[form] // 8) * height
    return math.inf
