"""From a file to pixels (H, W, C), and from pixels to what the network's `InputSpec` asks for.

No torch here: training, report and prediction decode with the same code.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from finetune.data.caught import caught_warnings
from finetune.data.formats import Read, pillow_formats, read_dicom, read_tiff, turned
from finetune.data.jpeg import exif_orientation, read_jpeg
from finetune.data.unreadable import BROKEN, MAX_PIXELS, UnreadableImage, read_bytes
from finetune.errors import DataError
from finetune.specs import Dtype, Resize

__all__ = ["Decoded", "UnreadableImage", "conform", "decode_image", "is_picture", "resize_image",
           "to_unit_range"]

Pixels = npt.NDArray[Any]

_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
               ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".dcm", ".dicom", ".avif"}
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_KEPT_DEPTH = ("I", "F")  # and I;16 in its byte orders
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


def decode_image(source: str | Path | bytes, *, name: str = "",
                 at_least: tuple[int, int] | None = None) -> Decoded:
    """The first frame of a picture, upright by its EXIF orientation.

    Ordinary pictures come through Pillow, plain JPEG through libjpeg-turbo with the same numbers;
    TIFF with other channels or number types through
    tifffile; DICOM (by its extension or its magic) through pydicom, with modality LUT, VOI window
    and MONOCHROME1 inverted. Grey stays one channel; palette, CMYK, LAB and others become RGB;
    alpha is dropped. 16 bits stay 16, in grey TIFF, PNG and in colour PNG.

    Args:
        source: The file's path, or its content.
        name: What messages call it.
        at_least: Height and width that suffice: plain JPEG is then decoded smaller, by 2, 4 or 8,
            if both sides stay at least these. None, and all other files: the whole picture.

    Raises:
        UnreadableImage: Broken, truncated, empty, too large, or NaN inside.
        InputError: A DICOM file without pydicom.
    """
    label = name or ("picture" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else read_bytes(source, label)
    if not content:
        raise UnreadableImage(f"{label}: the file is empty (0 bytes)")
    jpeg = None if _is_dicom(content, label) else read_jpeg(content, at_least)
    if jpeg is not None:
        return Decoded(np.ascontiguousarray(jpeg[0]), jpeg[1], tuple(dict.fromkeys(jpeg[2])))
    with caught_warnings() as warned:
        pixels, mode, notes = _read(content, label)
    if pixels.size == 0:
        raise UnreadableImage(f"{label}: no pixels ({pixels.shape[1]} x {pixels.shape[0]})")
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        count = int((~np.isfinite(pixels)).sum())
        raise UnreadableImage(f"{label}: {count} pixels are NaN or infinite")
    return Decoded(np.ascontiguousarray(pixels), mode, tuple(dict.fromkeys([*notes, *warned])))


def _is_dicom(content: bytes, label: str) -> bool:
    return content[128:132] == b"DICM" or label.lower().endswith((".dcm", ".dicom"))


def _read(content: bytes, label: str) -> Read:
    if _is_dicom(content, label):
        return read_dicom(content, label)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return read_tiff(content, label) or _read_ordinary(content, label)
    return _read_ordinary(content, label)


def _read_ordinary(content: bytes, label: str) -> Read:
    try:
        with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{label}: {image.width} x {image.height} pixels are more "
                                      f"than {MAX_PIXELS}")
            frames, mode = getattr(image, "n_frames", 1), image.mode
            image.load()
            pixels, notes = _pixels_of(image)
            if _is_deep_png(content):
                pixels, mode = _deep_png(content), f"{mode};16"
            orientation, told = exif_orientation(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{label}: {_unknown(content)}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{label}: too large: {error}") from error
    except BROKEN as error:
        raise UnreadableImage(f"{label}: broken or truncated ({error})") from error
    first = [f"frame 1 of {frames} used"] if frames > 1 else []
    return turned(pixels, orientation), mode, [*first, *notes, *told]


def _unknown(content: bytes) -> str:
    """What is said of bytes that no reader takes."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        return "HEIC, which is not decoded here; convert it, for instance to PNG"
    return "not a picture, or of an unknown format"


def _is_deep_png(content: bytes) -> bool:
    """Whether this is a PNG of 16 bits with several channels, which Pillow cuts to 8 bits."""
    return content[:8] == b"\x89PNG\r\n\x1a\n" and content[24] == 16 and content[25] in (2, 4, 6)


def _deep_png(content: bytes) -> Pixels:
    import imagecodecs

    pixels: Pixels = imagecodecs.png_decode(content)
    channels = pixels.shape[-1]
    return pixels[..., :channels - (channels % 2 == 0)]  # 1 of 2, 3 of 3, 3 of 4


def _pixels_of(image: Image.Image) -> tuple[Pixels, list[str]]:
    mode = image.mode
    if mode in _KEPT_DEPTH or mode.startswith("I;16"):
        return _deep_grey(np.asarray(image))[..., None], []
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None], []
    if mode in ("LA", "La"):
        return np.asarray(image.convert("LA"))[..., :1], ["alpha dropped"]
    if mode in ("RGBA", "RGBa", "PA") or (mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA"))[..., :3], ["alpha dropped"]
    if mode == "LAB":
        return np.asarray(_lab_to_rgb(image)), ["LAB converted to RGB"]
    notes = ["CMYK converted to RGB"] if mode == "CMYK" else []
    return np.asarray(image.convert("RGB")), notes


def _deep_grey(values: Pixels) -> Pixels:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    fits = values.size == 0 or (values.min() >= 0 and values.max() <= 65535)
    return values.astype(np.uint16 if fits else np.float32)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def conform(pixels: Pixels, *, channels: int, dtype: Dtype) -> Pixels:
    """The picture with the wanted channels and number type. Values never wrap.

    Grey is repeated; colour becomes grey by ITU-R 601 luma; a fourth channel (alpha) is dropped.
    The number type, by the type wanted:

    - the same: unchanged;
    - uint8: uint16 is divided by 257 and rounded; float within 0..1 is multiplied by 255, within
      0..255 rounded, and else stretched from the picture's own minimum to its maximum;
    - uint16: uint8 is multiplied by 257; float as for uint8, on 0..65535;
    - float32: integers are divided by the largest number of their type (255, 65535).

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
        grey: Pixels = luma.astype(pixels.dtype)[..., None]
        return grey
    raise DataError(f"a picture has {have} channels and {channels} are wanted; "
                    f"use data.channels={have}, or pictures with {channels}")


def _to_dtype(pixels: Pixels, dtype: Dtype) -> Pixels:
    if pixels.dtype == np.dtype(dtype.value):
        return pixels
    if dtype is Dtype.float32:
        return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32)
    if pixels.dtype == np.float32:
        top = np.iinfo(dtype.value).max
        scaled: Pixels = (_float_to_unit(pixels, top) * top).round().astype(dtype.value)
        return scaled
    if dtype is Dtype.uint16:
        return pixels.astype(np.uint16) * 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _float_to_unit(pixels: Pixels, top: int) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1:
        return pixels.astype(np.float64)
    if low >= 0 and high <= top:
        return pixels.astype(np.float64) / top
    return (pixels.astype(np.float64) - low) / (high - low if high > low else 1.0)


def to_unit_range(pixels: Pixels, value_range: tuple[float, float]) -> Pixels:
    """Pixels as float32 on 0..1: ``value_range`` is mapped linearly, the rest is clipped."""
    low, high = value_range
    scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    unit: Pixels = np.clip(scaled, 0.0, 1.0)
    return unit.astype(np.float32)


def resize_image(pixels: Pixels, size: tuple[int, int], *, resize: Resize,
                 interpolation: str) -> Pixels:
    """The picture at (H, W) = ``size``, same number type, antialiased when shrinking.

    squash changes the aspect ratio; crop takes the largest central part of the wanted shape; pad
    brings the longer side to size between black borders. Every channel goes through Pillow's
    filters: 8-bit grey and RGB in fixed point, others in float32, rounded and clipped at the end.
    """
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels
    ratios = (size[0] / height, size[1] / width)
    if resize is Resize.pad:
        ratio = min(ratios)
        inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return _padded(_scaled(pixels, inner, interpolation), size)
    if resize is Resize.crop:
        taken = (size[0] / max(ratios), size[1] / max(ratios))
        top, left = int((height - taken[0]) // 2), int((width - taken[1]) // 2)
        bottom, right = min(height, top + taken[0]), min(width, left + taken[1])
        return _scaled(pixels, size, interpolation, (left, top, right, bottom))
    return _scaled(pixels, size, interpolation)


def _scaled(pixels: Pixels, size: tuple[int, int], interpolation: str,
            box: tuple[float, float, float, float] | None = None) -> Pixels:
    kernel, target = _FILTERS[interpolation], (size[1], size[0])
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        resized: Pixels = np.array(image.resize(target, kernel, box))
        return np.reshape(resized, (*size, pixels.shape[-1]))
    planes = [np.asarray(Image.fromarray(pixels[..., c].astype(np.float32))
                         .resize(target, kernel, box)) for c in range(pixels.shape[-1])]
    stacked: Pixels = np.stack(planes, axis=-1)
    if pixels.dtype == np.float32:
        return stacked
    limit = np.iinfo(pixels.dtype).max
    whole: Pixels = stacked.round().clip(0, limit).astype(pixels.dtype)
    return whole


def _padded(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((size[i] - pixels.shape[i]) // 2 for i in (0, 1))
    canvas = np.zeros((*size, pixels.shape[-1]), pixels.dtype)
    canvas[top:top + pixels.shape[0], left:left + pixels.shape[1]] = pixels
    return canvas
