"""From a file to pixels (H, W, C), and from pixels to what the network's `InputSpec` asks for.

No torch here: training, report and prediction decode with the same code.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from finetune.data.formats import read_dicom, read_tiff
from finetune.data.unreadable import MAX_PIXELS, UnreadableImage
from finetune.errors import DataError
from finetune.specs import Dtype, Resize

__all__ = ["Decoded", "UnreadableImage", "conform", "decode_image", "is_picture", "resize_image",
           "to_unit_range"]

Pixels = npt.NDArray[Any]

_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
               ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".dcm", ".dicom", ".avif"}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
            "lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX,
            "nearest": Image.Resampling.NEAREST}


@dataclass(frozen=True)
class Decoded:
    """One decoded picture.

    Attributes:
        pixels: (H, W, C), uint8, uint16 or float32, C at least 1.
        mode: The file's own colour mode, such as ``RGB``, ``CMYK`` or ``uint16x13``.
        notes: What was dropped or chosen, in plain words.
    """

    pixels: Pixels
    mode: str
    notes: tuple[str, ...] = ()


def is_picture(path: str | Path) -> bool:
    """Whether a name ends like a picture's, in any case.

    >>> is_picture("a/B.JPG"), is_picture("notes.txt")
    (True, False)
    """
    return Path(path).suffix.lower() in _EXTENSIONS


def decode_image(source: Path | bytes, *, name: str = "") -> Decoded:
    """The first frame of a picture, EXIF orientation applied.

    Raises:
        UnreadableImage: Broken, truncated, empty, too large, or NaN inside.
    """
    content = source if isinstance(source, bytes) else _content(source)
    label = name or (str(source) if isinstance(source, Path) else "picture")
    if not content:
        raise UnreadableImage(f"{label}: the file is empty")
    if content[128:132] == b"DICM" or label.lower().endswith((".dcm", ".dicom")):
        pixels, mode, notes = read_dicom(content, label)
    elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        pixels, mode, notes = read_tiff(content, label) or _read_ordinary(content, label)
    else:
        pixels, mode, notes = _read_ordinary(content, label)
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise UnreadableImage(f"{label}: NaN or infinite pixels")
    return Decoded(np.ascontiguousarray(pixels), mode, tuple(notes))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from error


def _read_ordinary(content: bytes, label: str) -> tuple[Pixels, str, list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImage(f"{label}: {image.width} x {image.height} pixels are "
                                          f"more than {MAX_PIXELS}")
                frames = getattr(image, "n_frames", 1)
                mode = image.mode
                image.load()
                turned = ImageOps.exif_transpose(image)
                pixels, notes = _pixels_of(turned)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{label}: not a picture, or of an unknown format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{label}: too large: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError,
            NotImplementedError) as error:
        raise UnreadableImage(f"{label}: broken or truncated ({error})") from error
    if frames > 1:
        notes.append("several frames: the first is used")
    return pixels, mode, notes


def _pixels_of(image: Image.Image) -> tuple[Pixels, list[str]]:
    mode, notes = image.mode, []
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], notes
    if mode == "I":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 65535:
            return values.astype(np.uint16)[..., None], notes
        return values.astype(np.float32)[..., None], notes
    if mode == "F":
        return np.asarray(image, dtype=np.float32)[..., None], notes
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None], notes
    if mode in ("LA", "La"):
        return np.asarray(image.convert("LA"))[..., :1], ["alpha dropped"]
    if mode in ("RGBA", "RGBa", "PA") or (mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA"))[..., :3], ["alpha dropped"]
    if mode == "LAB":
        return np.asarray(_lab_to_rgb(image)), ["LAB converted to RGB"]
    if mode == "CMYK":
        notes = ["CMYK converted to RGB"]
    return np.asarray(image.convert("RGB")), notes


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"),  # type: ignore[arg-type]
        ImageCms.createProfile("sRGB"), outputMode="RGB")  # type: ignore[arg-type]
    assert converted is not None
    return converted


def conform(pixels: Pixels, *, channels: int, dtype: Dtype) -> Pixels:
    """The picture with the wanted channels and number type. Values never wrap.

    Grey is repeated; colour becomes grey by ITU-R 601 luma; a fourth channel (alpha) is dropped.
    To uint8: uint16 is divided by 257; float in 0..1 is multiplied by 255, in 0..255 rounded, and
    otherwise stretched from its own minimum and maximum. To uint16: uint8 times 257. To float32:
    full range to 0..1. Pictures of the wanted type are unchanged.

    Raises:
        DataError: The channels can't be brought to the wanted number.
    """
    return _to_dtype(_to_channels(pixels, channels), Dtype(dtype))


def _to_channels(pixels: Pixels, channels: int) -> Pixels:
    have = pixels.shape[-1]
    if have == channels:
        return pixels
    if have == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    if have == 4 and channels == 3:
        return np.ascontiguousarray(pixels[..., :3])
    if have in (3, 4) and channels == 1:
        luma = pixels[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        luma = luma if pixels.dtype == np.float32 else luma.round()
        return luma.astype(pixels.dtype)[..., None]
    raise DataError(f"a picture has {have} channels and {channels} are wanted; "
                    f"use data.channels={have}, or pictures with {channels}")


def _to_dtype(pixels: Pixels, dtype: Dtype) -> Pixels:
    if pixels.dtype == np.dtype(dtype.value):
        return pixels
    if dtype is Dtype.float32:
        return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32)
    if pixels.dtype == np.float32:
        unit = _float_to_unit(pixels)
        return (unit * np.iinfo(dtype.value).max).round().astype(dtype.value)
    if dtype is Dtype.uint16:
        return pixels.astype(np.uint16) * 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _float_to_unit(pixels: Pixels) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1:
        return pixels.astype(np.float64)
    if low >= 0 and high <= 255:
        return pixels.astype(np.float64) / 255
    return (pixels.astype(np.float64) - low) / (high - low if high > low else 1.0)


def to_unit_range(pixels: Pixels, value_range: tuple[float, float]) -> Pixels:
    """Pixels as float32 on 0..1: ``value_range`` is mapped linearly, the rest is clipped."""
    low, high = value_range
    scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def resize_image(pixels: Pixels, size: tuple[int, int], *, resize: Resize,
                 interpolation: str) -> Pixels:
    """The picture at (H, W) = ``size``, same number type, antialiased when shrinking.

    Every channel goes through Pillow's filters: 8-bit ones in fixed point, others in float32.
    """
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels
    if resize is Resize.squash:
        return _scaled(pixels, size, interpolation)
    ratios = (size[0] / height, size[1] / width)
    ratio = max(ratios) if resize is Resize.crop else min(ratios)
    inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    scaled = _scaled(pixels, inner, interpolation)
    return _cropped(scaled, size) if resize is Resize.crop else _padded(scaled, size)


def _scaled(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    if pixels.shape[:2] == tuple(size):
        return pixels
    kernel, target = _FILTERS[interpolation], (size[1], size[0])
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        scaled = np.asarray(image.resize(target, kernel))
        return scaled[..., None] if scaled.ndim == 2 else scaled
    planes = [np.asarray(Image.fromarray(pixels[..., c].astype(np.float32)).resize(target, kernel))
              for c in range(pixels.shape[-1])]
    stacked = np.stack(planes, axis=-1)
    if pixels.dtype == np.float32:
        return stacked
    limit = np.iinfo(pixels.dtype).max
    return stacked.round().clip(0, limit).astype(pixels.dtype)


def _cropped(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((pixels.shape[i] - size[i]) // 2 for i in (0, 1))
    return np.ascontiguousarray(pixels[top:top + size[0], left:left + size[1]])


def _padded(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((size[i] - pixels.shape[i]) // 2 for i in (0, 1))
    canvas = np.zeros((*size, pixels.shape[-1]), pixels.dtype)
    canvas[top:top + pixels.shape[0], left:left + pixels.shape[1]] = pixels
    return canvas
