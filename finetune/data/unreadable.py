"""What every reader of pictures raises, and the size beyond which none reads on."""

from finetune.errors import DataError

__all__ = ["MAX_PIXELS", "UnreadableImage"]

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb


class UnreadableImage(DataError):
    """A picture is broken, truncated, empty, too large, or not finite."""
