"""What a look into one file tells beside its content: how it is stored, its border, its colours."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from finetune.data.caught import caught_warnings
from finetune.data.formats import pillow_formats
from finetune.data.unreadable import BROKEN

__all__ = ["Glance", "glance_at", "parse_glance"]

_ENOUGH = 64   # px of each side, at least; means need no more
_FRAME = 0.04  # of each side; what counts as border
_PATCH = 0.1   # of each side; what counts as a corner
_GREY = 1.0    # of 255; what JPEG leaves of equal channels, on average

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Glance:
    """What a look into one file tells.

    Attributes:
        size: Of the file, in bytes.
        format: ``JPEG``, ``PNG`` …, or the name's ending where Pillow doesn't know it.
        exif: Whether there are EXIF data.
        quantisation: Mean step of JPEG's luminance table; 0: not a JPEG.
        brightness: Mean over pixels and channels, in the picture's own unit.
        border: (3,) mean of the outer frame for the first three channels.
        corners: (4,) means of patches in the corners.
        is_grey: Whether all channels are equal, up to what JPEG's rounding leaves.
    """

    size: int
    format: str
    exif: bool
    quantisation: float
    brightness: float
    border: tuple[float, ...]
    corners: tuple[float, ...]
    is_grey: bool


def glance_at(name: str, content: bytes, pixels: npt.NDArray[Any]) -> Glance:
    """What a file tells; of a large picture, every n-th row and column.

    Args:
        name: Of the file.
        content: Its bytes.
        pixels: (H, W, C) as decoded.
    """
    steps = [max(1, side // _ENOUGH) for side in pixels.shape[:2]]
    small = pixels[::steps[0], ::steps[1]].astype(np.float64)
    channels = small.shape[-1]
    grey = small.sum(axis=-1) / channels
    first = small[..., :3] if channels >= 3 else np.repeat(small[..., :1], 3, axis=-1)
    return Glance(len(content), *_header(content, name), brightness=_short(grey.mean()),
                  border=tuple(map(_short, first[_frame(grey.shape)].mean(axis=0))),
                  corners=_corners(grey), is_grey=channels == 1 or (
                      pixels.dtype == np.uint8 and channels >= 3 and _is_grey(first)))


def parse_glance(values: Sequence[Any]) -> Glance:
    """From plain values in the order of the fields, as `dataclasses.astuple` gives them.

    Raises:
        TypeError: There are more or fewer.
    """
    plain: list[Any] = [tuple(v) if isinstance(v, list) else v for v in values]
    return Glance(*plain)


def _short(value: float) -> float:
    """Five digits: enough to tell means apart, and short where thousands are kept."""
    return float(f"{value:.5g}")


def _header(content: bytes, name: str) -> tuple[str, bool, float]:
    """Format, EXIF and quantisation, without decoding."""
    ending = PurePosixPath(name).suffix.removeprefix(".").upper() or "no format"
    try:
        with caught_warnings(), Image.open(io.BytesIO(content),
                                              formats=pillow_formats()) as image:
            has_exif = "exif" in image.info or bool(image.getexif())
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                return image.format or ending, has_exif, 0.0
            return "JPEG", has_exif, _short(float(np.mean(image.quantization.get(0, [0]))))
    except (UnidentifiedImageError, Image.DecompressionBombError, *BROKEN):
        return ending, False, 0.0


@lru_cache(64)
def _frame(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(H, W) Whether a pixel belongs to the border."""
    frame = np.ones(shape, bool)
    high, wide = (max(1, round(_FRAME * side)) for side in shape)
    frame[high:-high, wide:-wide] = False
    return frame


def _corners(grey: Numbers) -> tuple[float, ...]:
    high, wide = (max(1, round(_PATCH * side)) for side in grey.shape)
    return tuple(_short(patch.mean()) for rows in (grey[:high], grey[-high:])
                 for patch in (rows[:, :wide], rows[:, -wide:]))


def _is_grey(colours: Numbers) -> bool:
    apart = np.abs(colours[..., 1:] - colours[..., :1]).sum() / colours.size
    return bool(apart < _GREY)
