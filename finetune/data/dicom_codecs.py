"""JPEG-LS, lossless and 12-bit JPEG inside DICOM, decoded by imagecodecs, as a pydicom plug-in."""

import threading
from functools import cache
from typing import Any

from pydicom import uid
from pydicom.pixels import get_decoder

from finetune.data.announced import check_frame

__all__ = ["decode_frame", "is_available", "register"]

_lock = threading.Lock()
_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)
DECODER_DEPENDENCIES = {s: ("imagecodecs",) for s in (*_LS, *_LOSSLESS, uid.JPEGExtended12Bit)}


def register() -> None:
    """Make pydicom use `decode_frame`, after its own plug-ins. Safe in threads."""
    with _lock:
        _register_once()


@cache
def _register_once() -> None:
    for syntax in DECODER_DEPENDENCIES:
        get_decoder(syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))


def is_available(syntax: str) -> bool:
    """Whether `decode_frame` can read a transfer syntax; asked by pydicom."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: Any) -> bytes:
    """One frame's samples, colour by pixel, 8 or 16 bits each; colours are not converted."""
    import imagecodecs

    check_frame(source, runner.rows, runner.columns)
    if runner.transfer_syntax in _LS:
        pixels = imagecodecs.jpegls_decode(source)
    elif runner.transfer_syntax in _LOSSLESS:
        pixels = imagecodecs.jpegsof3_decode(source)
    elif runner.samples_per_pixel == 1:
        pixels = imagecodecs.jpeg8_decode(source)
    else:
        raise NotImplementedError("colour in 12-bit JPEG")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return bytes(pixels.tobytes())
