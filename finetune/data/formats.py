"""Readers of scientific formats: TIFF with any channels and number type, single-frame DICOM."""

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.data.announced import check_deflated, check_tiff
from finetune.data.unreadable import BROKEN, MAX_DECODED, MAX_PIXELS, UnreadableImage
from finetune.errors import InputError

__all__ = ["Read", "as_supported", "pillow_formats", "read_dicom", "read_tiff", "turned"]

Pixels = npt.NDArray[Any]
Read = tuple[Pixels, str, list[str]]

_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {_PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}  # samples where Pillow converts to RGB
_ALPHA = (1, 2)


@cache
def pillow_formats() -> list[str]:
    """The formats that Pillow may read: never all of them, it hands EPS to an outside program."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """The picture upright: EXIF's orientation 1 to 8 applied to (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[::-1 if vertical else 1, ::-1 if horizontal else 1]


def as_supported(pixels: Pixels, label: str) -> tuple[Pixels, list[str]]:
    """The picture as uint8, uint16 or float32, native byte order; and what was changed.

    Signed and 32- or 64-bit integers become float32 whatever their values, so that all pictures
    of a set get the same type.

    Raises:
        UnreadableImage: Numbers that are none of pictures, such as complex ones.
    """
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if (kind, size) in (("u", 1), ("u", 2), ("f", 4)):
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), []
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255), []
    if kind not in "iuf":
        raise UnreadableImage(f"{label}: pixels of type {pixels.dtype}, not integers or floats")
    with np.errstate(over="ignore"):
        return pixels.astype(np.float32), [f"{pixels.dtype.name} read as float32"]


def read_tiff(content: bytes, label: str) -> Read | None:
    """A TIFF as (H, W, C); None where Pillow reads it as well (8 bits, ordinary colours).

    Contiguous and planar channels, and ImageJ's and OME's channel pages, become C; other pages
    are frames, of which the first is used. Alpha is dropped, other extra channels stay. What GDAL
    marks as no data becomes 0. An array (H, W, C) that tifffile wrote as H pages is read as what
    it was.

    Raises:
        UnreadableImage: Broken, truncated, too large, or of a number type that is none of pictures.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page, series = file.pages.first, file.series[0]
            if not _is_stack_of_rows(file, series) and _is_for_pillow(page):
                return None
            _check_page(page, content, label)
            check_tiff(page, series, content, label)
            pixels, notes = _first_picture(file, series, page)
            pixels, dropped = _without_alpha(pixels, page)
            pixels, filled = _without_gaps(pixels, page)
            orientation = page.tags.valueof(274, 1)
    except UnreadableImage:
        raise
    except tifffile.TiffFileError:
        return None  # Pillow's answer is the plainer one
    except BROKEN as error:
        raise UnreadableImage(f"{label}: broken or truncated TIFF ({error})") from error
    mode = f"{pixels.dtype.name}x{pixels.shape[-1]}"
    if page.photometric == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = np.array(2**int(page.bitspersample) - 1, pixels.dtype) - pixels
    pixels, converted = as_supported(turned(pixels, orientation), label)
    return pixels, mode, [*notes, *dropped, *filled, *converted]


def _is_for_pillow(page: Any) -> bool:
    if page.dtype is None or page.dtype.name not in ("uint8", "bool"):
        return False
    if page.compression not in _PILLOW_COMPRESSIONS:
        return False
    samples, alpha = page.samplesperpixel, [e for e in page.extrasamples if e in _ALPHA]
    if page.photometric in _COLOURS:
        return bool(samples == _COLOURS[page.photometric])
    grey = page.photometric in (_WHITE_IS_ZERO, _GREY)
    return bool((grey and samples == 1) or (page.photometric == _RGB and samples == 3 + len(alpha)))


def _is_stack_of_rows(file: Any, series: Any) -> bool:
    shape = series.shape  # tifffile.imwrite(path, array of (H, W, 13)) makes H pages of W x 13
    return bool(file.is_shaped and len(file.pages) > 1 and len(shape) == 3
                and len(file.pages) == shape[0] and shape[2] < min(32, *shape[:2]))


def _check_page(page: Any, content: bytes, label: str) -> None:
    if page.imagewidth * page.imagelength > MAX_PIXELS:
        raise UnreadableImage(f"{label}: {page.imagewidth} x {page.imagelength} pixels are more "
                              f"than {MAX_PIXELS}")
    if page.imagewidth * page.imagelength == 0:
        raise UnreadableImage(f"{label}: no pixels ({page.imagewidth} x {page.imagelength})")
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if ends and max(ends) > len(content):
        raise UnreadableImage(f"{label}: truncated: {max(ends)} bytes are announced, "
                              f"{len(content)} are there")
    if page.photometric in (_CMYK, _LAB) and page.dtype != np.uint8:
        raise UnreadableImage(f"{label}: CMYK or LAB with {page.dtype} numbers; convert it to RGB")


def _first_picture(file: Any, series: Any, page: Any) -> tuple[Pixels, list[str]]:
    pages = len(file.pages)
    if _is_stack_of_rows(file, series):
        rows, width, channels = series.shape
        return series.asarray(), [f"{pages} pages of {width} x {channels} read as one picture of "
                                  f"{rows} x {width} with {channels} channels"]
    whole = pages > 1 and "C" in series.axes
    source = series if whole else page
    pixels, axes = source.asarray(), source.axes
    frames = 1 if whole else pages
    for position in reversed(range(len(axes))):
        if axes[position] not in "YXSC":
            frames *= pixels.shape[position]
            pixels, axes = pixels.take(0, position), axes[:position] + axes[position + 1:]
    order = [axes.index(a) for a in "YXCS" if a in axes]
    pixels = pixels.transpose(order).reshape(*(pixels.shape[i] for i in order[:2]), -1)
    hint = f"frame 1 of {frames} used (if pages are channels, store them as samples of one page)"
    return pixels, [hint] if frames > 1 else []


def _without_alpha(pixels: Pixels, page: Any) -> tuple[Pixels, list[str]]:
    extra, channels = list(page.extrasamples), pixels.shape[-1]
    if channels != page.samplesperpixel or not any(e in _ALPHA for e in extra):
        return pixels, []
    keep = [i for i in range(channels)
            if i < channels - len(extra) or extra[i - channels] not in _ALPHA]
    return pixels[..., keep], ["alpha dropped"]


def _without_gaps(pixels: Pixels, page: Any) -> tuple[Pixels, list[str]]:
    """Zero where GDAL says that there are no data: -9999 would spoil the range of values."""
    text = str(page.tags.valueof(42113, "")).strip("\0 ")
    try:
        value = float(text)
    except ValueError:
        return pixels, []
    kind = np.float32 if pixels.dtype == np.float32 else np.float64
    gaps = np.isnan(pixels) if np.isnan(value) else pixels == kind(value)
    if not value or not gaps.any():
        return pixels, []
    return np.where(gaps, pixels.dtype.type(0), pixels), [f"no data (GDAL_NODATA {text}) read as 0"]


def read_dicom(content: bytes, label: str) -> Read:
    """A DICOM picture's first frame as (H, W, C): uint16, or uint8 for 8-bit colour.

    Modality LUT and VOI LUT or window (the first one, by DICOM PS3.3 C.11.2) are applied; the
    window becomes 0..65535; MONOCHROME1 is inverted, so that more is brighter. Without a window,
    the picture's own smallest to largest value is used, which is noted.

    Raises:
        InputError: pydicom is not installed.
        UnreadableImage: Broken, truncated, too large, or without pixels.
    """
    try:
        import pydicom
        from pydicom.errors import BytesLengthException, InvalidDicomError
        from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

        from finetune.data.dicom_codecs import register
    except ModuleNotFoundError as error:
        raise InputError(f"{label} is a DICOM file and needs pydicom: "
                         'python -m pip install "finetune-images[medical]"') from error
    register()
    try:
        _check_dicom(content)
        file = _with_syntax(pydicom.dcmread(io.BytesIO(content), force=True))
        if "PhotometricInterpretation" not in file:
            raise UnreadableImage(f"{label}: no DICOM picture (a report, a plan, an index, or no "
                                  "DICOM at all)")
        pixels_there = int(file.get("Rows") or 0) * int(file.get("Columns") or 0)
        if pixels_there > MAX_PIXELS or MAX_DECODED < pixels_there * int(
                file.get("SamplesPerPixel") or 1) * int(file.get("BitsAllocated") or 8) // 8:
            raise UnreadableImage(f"{label}: more than {MAX_PIXELS} pixels, or {MAX_DECODED} bytes")
        frames, kind = int(file.get("NumberOfFrames") or 1), str(file.PhotometricInterpretation)
        notes = [f"frame 1 of {frames} used"] if frames > 1 else []
        pixels = pixel_array(file, index=0)
        if kind == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, file)
        if pixels.ndim == 3:
            return _colour(pixels), kind, notes
        unit, told = _windowed(apply_modality_lut(pixels, file).astype(np.float64), file)
    except UnreadableImage:
        raise
    except (*BROKEN, BytesLengthException, InvalidDicomError) as error:
        reason = str(error).replace("\n", " ")[:300]
        raise UnreadableImage(f"{label}: broken DICOM, or without pixels ({reason})") from error
    unit = 1 - unit if kind == "MONOCHROME1" else unit
    return (unit * 65535).round().astype(np.uint16)[..., None], kind, [*notes, *told]


def _check_dicom(content: bytes) -> None:
    """Raise a `ValueError` where the data set is packed and would unpack to very much."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if DeflatedExplicitVRLittleEndian.encode() not in content:
        return
    stream = io.BytesIO(content)  # as `dcmread` goes about it
    read_preamble(stream, True)
    meta = _read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        check_deflated(content[stream.tell():])


def _with_syntax(file: Any) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in file.file_meta:  # old archives leave the header out
        implicit, little = file.original_encoding
        file.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit
            else ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
    return file


def _colour(pixels: Pixels) -> Pixels:
    if pixels.dtype.itemsize <= 2:
        return pixels.astype(np.uint8 if pixels.dtype.itemsize == 1 else np.uint16)
    return (pixels / np.iinfo(pixels.dtype).max * 65535).round().astype(np.uint16)


def _windowed(values: Pixels, file: Any) -> tuple[Pixels, list[str]]:
    if file.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi_lut

        top = 2 ** int(file.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return (apply_voi_lut(values.astype(np.int64), file) / top).clip(0, 1), []
    centre, width = (_first(file.get(n)) for n in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width > 0:
        return _window(values, centre, width, str(file.get("VOILUTFunction", "LINEAR"))), []
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low if high > low else 1.0), [
        "no VOI window: smallest to largest value used"]


def _first(value: Any) -> float | None:
    several = getattr(value, "__getitem__", None) is not None and not isinstance(value, str)
    return None if value in (None, "") else float(value[0] if several else value)


def _window(values: Pixels, centre: float, width: float, function: str) -> Pixels:
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).clip(0, 1)
    return ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(0, 1)
