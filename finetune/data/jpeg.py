"""JPEG by libjpeg-turbo itself: Pillow's numbers in less time, and smaller pictures on request.

Only what both decode alike is read here: 8-bit grey and YCbCr files without a complaint of the
decoder. Everything else (CMYK, several pictures in a file, damage) is left to Pillow.
"""

import io
from typing import Any

import simplejpeg
from PIL import Image

from finetune.data.caught import caught_warnings
from finetune.data.formats import Read, turned
from finetune.data.unreadable import BROKEN

__all__ = ["exif_orientation", "read_jpeg", "shrink_factor"]

_MODES = {"Gray": ("L", "GRAY"), "YCbCr": ("RGB", "RGB")}
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all others are Pillow's
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
_EXIF_OR_XMP, _MORE_PICTURES, _START_OF_SCAN = 0xE1, 0xE2, 0xDA


def read_jpeg(content: bytes, at_least: tuple[int, int] | None = None) -> Read | None:
    """A JPEG upright as (H, W, C) uint8, or None where Pillow has to read it.

    Args:
        content: The file.
        at_least: Height and width, upright, that the picture must keep; it is decoded smaller by
            `shrink_factor`. None decodes it whole.
    """
    if content[:3] != b"\xff\xd8\xff":
        return None
    has_exif = _survey(content)
    if has_exif is None:
        return None
    try:
        height, width, kind, _ = simplejpeg.decode_jpeg_header(content)
        limit = Image.MAX_IMAGE_PIXELS
        if kind not in _MODES or (limit is not None and height * width > limit):
            return None  # Pillow warns of large ones
        mode, colours = _MODES[kind]
        orientation, notes = _orientation(content) if has_exif else (1, [])
        wanted = at_least if orientation < 5 or at_least is None else at_least[::-1]
        factor = 1 if wanted is None else shrink_factor((height, width), wanted)
        smaller: dict[str, Any] = {} if factor == 1 else {
            "min_height": -(-height // factor), "min_width": -(-width // factor)}
        pixels = simplejpeg.decode_jpeg(content, colours, fastdct=False, fastupsample=False,
                                        **smaller)
    except BROKEN:
        return None  # Pillow tells what is wrong, or reads it in spite of that
    return (pixels if orientation == 1 else turned(pixels, orientation)), mode, notes


def shrink_factor(shape: tuple[int, int], at_least: tuple[int, int]) -> int:
    """8, 4, 2 or 1: the most by which both sides can be divided and stay ``at_least``.

    The decoder leaves out frequencies of its 8 x 8 blocks; other factors than these take it longer
    than the whole picture.

    >>> shrink_factor((1024, 768), (300, 300)), shrink_factor((200, 200), (224, 224))
    (2, 1)
    """
    room = min(shape[0] / at_least[0], shape[1] / at_least[1])
    return 8 if room >= 8 else 4 if room >= 4 else 2 if room >= 2 else 1


def _survey(content: bytes) -> bool | None:
    """Whether there is EXIF or XMP in front of the pixels; None if the file is Pillow's."""
    at, has_exif, end = 2, False, len(content) - 4
    while at < end and content[at] == 0xFF:
        kind = content[at + 1]
        if kind == _START_OF_SCAN:
            return has_exif
        if kind in _OTHER_FRAMES or (kind in _FRAMES and content[at + 4] != 8):
            return None
        if kind == _MORE_PICTURES and content[at + 4:at + 8] == b"MPF\0":
            return None
        has_exif = has_exif or kind == _EXIF_OR_XMP
        at += 2 + (content[at + 2] << 8 | content[at + 3])
    return None


def _orientation(content: bytes) -> tuple[int, list[str]]:
    with caught_warnings() as warned, Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        orientation, notes = exif_orientation(image)
    return orientation, [*notes, *warned]


def exif_orientation(image: Image.Image) -> tuple[int, list[str]]:
    """EXIF's orientation, 1 if there is none, and what to say when it can't be read."""
    try:
        return int(image.getexif().get(0x0112, 1)), []
    except BROKEN:
        return 1, ["EXIF can't be read: no orientation applied"]
