"""What a file says of its decoded size, read before a decoder takes that much memory."""

import struct
import zlib
from math import prod
from typing import Any

from finetune.data.unreadable import MAX_DECODED, UnreadableImage

__all__ = ["check_deflated", "check_frame", "check_tiff", "coded_size"]

# of TIFF: without sizes of their own; JPEG; JPEG 2000
_PLAIN = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
_JPEG, _JPEG2000 = {6, 7}, {33003, 33004, 33005, 34712}
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def coded_size(content: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 stream announces; None: it doesn't.

    >>> coded_size(bytes.fromhex("ffd8ffc0001108ffdcffdc03"))
    (65500, 65500)
    """
    if content[:2] == b"\xff\xd8":
        return _jpeg_size(content)
    at = content.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or len(content) < at + 24:
        return None
    right, bottom, left, top = struct.unpack(">4I", content[at + 8:at + 24])
    return bottom - top, right - left


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        kind = content[at + 1]
        if kind in _START_OF_FRAME:
            height, width = struct.unpack(">2H", content[at + 5:at + 9])
            return height, width
        at += 1 if kind == 0xFF else 2 + int.from_bytes(content[at + 2:at + 4], "big")
    return None


def check_frame(content: bytes, height: int, width: int) -> None:
    """Raise a `ValueError` unless a coded frame has the size that is announced around it."""
    size = coded_size(content)
    if size != (height, width):
        raise ValueError(f"a frame of {height} x {width} is announced, and it is {size}")


def check_tiff(page: Any, series: Any, content: bytes, label: str) -> None:
    """Raise where reading a page, or the series that it begins, would take too much memory.

    Raises:
        UnreadableImage: More than `MAX_DECODED` bytes, parts that are larger inside than outside,
            or a compression of which that can't be told.
    """
    item = page.dtype.itemsize if page.dtype is not None else 1
    for shape in (page.shape, series.shape):
        if prod(map(int, shape)) * item > MAX_DECODED:
            raise UnreadableImage(f"{label}: {' x '.join(map(str, shape))} numbers of {item} bytes "
                                  f"are more than {MAX_DECODED} bytes")
    kind = int(page.compression)
    if kind in _PLAIN:
        return
    if kind not in _JPEG | _JPEG2000:
        raise UnreadableImage(f"{label}: TIFF with compression {page.compression!r} is not read; "
                              "store it with deflate, LZW, Zstandard, JPEG or JPEG 2000")
    room = prod(page.chunks[:3]) if page.is_tiled else page.imagewidth * page.rowsperstrip
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        size = coded_size(content[offset:offset + count])
        if count and (size is None or prod(size) > max(room, 1)):
            raise UnreadableImage(f"{label}: a part of the TIFF is {size} inside, and has room for "
                                  f"{room} pixels")


def check_deflated(packed: bytes) -> None:
    """Raise a `ValueError` where raw deflate data become more than `MAX_DECODED` bytes."""
    unpack, whole = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed and not unpack.eof:
        whole += len(unpack.decompress(packed, 1 << 22))
        packed = unpack.unconsumed_tail
        if whole > MAX_DECODED:
            raise ValueError(f"it unpacks to more than {MAX_DECODED} bytes")
