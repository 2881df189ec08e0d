"""What readers of pictures raise, what libraries raise on broken bytes, and the size limit."""

import struct
import zlib

from finetune.errors import DataError

__all__ = ["BROKEN", "MAX_PIXELS", "UnreadableImage"]

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb

# Decoders meet broken bytes at any line of theirs; RuntimeError covers the codecs of imagecodecs.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError,
          ArithmeticError, RuntimeError, MemoryError, AssertionError, struct.error, zlib.error)


class UnreadableImage(DataError):
    """A picture is broken, truncated, empty, too large, or not finite."""
