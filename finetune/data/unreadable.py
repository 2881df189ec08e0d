"""Files of pictures: their bytes, what readers and libraries raise, and the limits of sizes."""

import os
import stat
import struct
import zlib
from pathlib import Path

from finetune.errors import DataError

__all__ = ["BROKEN", "MAX_DECODED", "MAX_FILE", "MAX_PIXELS", "UnreadableImage", "read_bytes"]

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb

MAX_DECODED = 2**31  # bytes of one picture
MAX_FILE = 2**30     # bytes of one file

# Decoders meet broken bytes at any line of theirs; RuntimeError covers the codecs of imagecodecs.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError,
          ArithmeticError, RuntimeError, MemoryError, AssertionError, struct.error, zlib.error)


class UnreadableImage(DataError):
    """A picture is broken, truncated, empty, too large, or not finite."""


def read_bytes(path: str | Path, label: str) -> bytes:
    """The content of a picture's file.

    Raises:
        UnreadableImage: It can't be read, is too large, or is no file: pipes and devices, which
            may never end, are not read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(
            os, "O_NONBLOCK", 0))  # without waiting for somebody to write into a pipe
        with open(handle, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UnreadableImage(f"{label}: no file, but a folder, a pipe or a device")
            if found.st_size > MAX_FILE:
                raise UnreadableImage(f"{label}: {found.st_size} bytes are more than {MAX_FILE}; "
                                      "cut it into smaller pictures")
            return file.read()
    except OSError as error:
        raise UnreadableImage(f"{label}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a null byte
        raise UnreadableImage(f"{label}: {error}") from error
