"""Readers of scientific formats: TIFF with any channels and number type, single-frame DICOM."""

import io
import logging
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.unreadable import MAX_PIXELS, UnreadableImage
from finetune.errors import InputError

__all__ = ["read_dicom", "read_tiff"]

Pixels = npt.NDArray[Any]
Read = tuple[Pixels, str, list[str]]


def read_tiff(content: bytes, label: str) -> Read | None:
    """A TIFF as (H, W, C); None where Pillow reads it as well (8 bits, up to 4 channels).

    Raises:
        UnreadableImage: Broken, too large, or of a number type that is none of pictures.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            samples, frames = int(page.samplesperpixel), len(file.pages)
            if page.dtype == np.uint8 and samples <= 4 or page.dtype == np.bool_:
                return None
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise UnreadableImage(f"{label}: more than {MAX_PIXELS} pixels")
            pixels = _channels_last(page.asarray(), samples)
            notes = ["several frames: the first is used"] if frames > 1 else []
    except UnreadableImage:
        raise
    except (tifffile.TiffFileError, ValueError, RuntimeError, OSError, IndexError, KeyError,
            TypeError, ZeroDivisionError, MemoryError) as error:
        raise UnreadableImage(f"{label}: broken or truncated TIFF ({error})") from error
    return _known_type(pixels, label), f"{pixels.dtype}x{pixels.shape[-1]}", notes


def _channels_last(pixels: Pixels, samples: int) -> Pixels:
    if pixels.ndim == 2:
        return pixels[..., None]
    planar = pixels.shape[0] == samples and pixels.shape[-1] != samples
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def _known_type(pixels: Pixels, label: str) -> Pixels:
    if pixels.ndim != 3:
        raise UnreadableImage(f"{label}: {pixels.ndim} dimensions, not a picture")
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    if pixels.dtype.kind in "iuf":
        return pixels.astype(np.float32)
    raise UnreadableImage(f"{label}: pixels of type {pixels.dtype}")


def read_dicom(content: bytes, label: str) -> Read:
    """A single-frame DICOM as (H, W, C) uint16, or uint8 where it is in colour.

    Modality LUT and VOI window are applied; the window becomes 0..65535; MONOCHROME1 is inverted,
    so that more is brighter.

    Raises:
        InputError: pydicom is not installed.
        UnreadableImage: Broken, or without pixels.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ModuleNotFoundError as error:
        raise InputError(f"{label} is a DICOM file and needs pydicom: "
                         'python -m pip install "finetune-images[medical]"') from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = pydicom.dcmread(io.BytesIO(content), force=True)
            pixels, notes = file.pixel_array, []
            if int(file.get("NumberOfFrames", 1) or 1) > 1:
                pixels, notes = pixels[0], ["several frames: the first is used"]
            kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
            if pixels.ndim == 3:
                return _colour(pixels, kind, notes)
            values = apply_voi_lut(apply_modality_lut(pixels, file), file).astype(np.float64)
    except (InvalidDicomError, AttributeError, ValueError, RuntimeError, OSError, KeyError,
            TypeError, NotImplementedError, EOFError) as error:
        raise UnreadableImage(f"{label}: broken DICOM, or without pixels ({error})") from error
    low, high = _window(file, values)
    unit = ((values - low) / (high - low if high > low else 1.0)).clip(0, 1)
    unit = 1 - unit if kind == "MONOCHROME1" else unit
    return (unit * 65535).round().astype(np.uint16)[..., None], kind, notes


def _colour(pixels: Pixels, kind: str, notes: list[str]) -> Read:
    if kind.startswith("YBR"):
        from pydicom.pixels import convert_color_space

        pixels = convert_color_space(pixels, kind, "RGB")
    return pixels.astype(np.uint8), kind, notes


def _window(file: Any, values: Pixels) -> tuple[float, float]:
    width, centre = file.get("WindowWidth"), file.get("WindowCenter")
    if width is None or centre is None:
        return float(values.min()), float(values.max())
    # pydicom's linear window already maps onto the range of what is stored; its ends are the
    # smallest and largest value that can come out
    bits, signed = int(file.BitsStored), int(file.PixelRepresentation)
    low = -(2 ** (bits - 1)) if signed else 0
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, (low + 2**bits - 1) * slope + intercept))
    return ends[0], ends[1]
