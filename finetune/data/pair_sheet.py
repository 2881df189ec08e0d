"""Pairs of pictures side by side, for the eye to judge."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.decoding import Pixels, conform
from finetune.data.hashing import oriented
from finetune.data.near_duplicates import NearPair
from finetune.files import write_bytes
from finetune.specs import Dtype

__all__ = ["contact_sheet"]

_SIDE, _TEXT, _GAP = 144, 46, 8      # px
_LETTERS = 44                        # in a line of a name

Drawn = npt.NDArray[np.uint8]


def contact_sheet(pairs: Sequence[NearPair], names: Sequence[str], read: Callable[[int], Pixels],
                  path: Path, *, columns: int = 4) -> Path:
    """Write a PNG with the pairs in their order; the second picture as it fits the first.

    Below each pair: both names, the correlation, the detail and the transform.

    Args:
        pairs: What to draw; some dozens.
        names: Of all pictures.
        read: The pixels (H, W, C) of a picture, by its index.
        path: The file, written whole or not at all.
        columns: Pairs beside each other.
    """
    tiles = [_tile(pair, names, read) for pair in pairs]
    empty = np.full((_SIDE + _TEXT, 2 * _SIDE + _GAP, 3), 255, np.uint8)
    tiles += [empty] * (-len(tiles) % columns or (0 if tiles else columns))
    rows = [np.hstack(tiles[start:start + columns]) for start in range(0, len(tiles), columns)]
    done, content = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    assert done
    return write_bytes(path, content.tobytes())


def _tile(pair: NearPair, names: Sequence[str], read: Callable[[int], Pixels]) -> Drawn:
    second = np.moveaxis(oriented(np.moveaxis(read(pair.second), -1, 0), pair.orientation), 0, -1)
    drawn = [_square(read(pair.first)), _square(second)]
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    text = np.full((_TEXT, 2 * _SIDE + _GAP, 3), 255, np.uint8)
    level = "certain" if pair.certain else "likely"
    lines = [_ending(names[pair.first]), _ending(names[pair.second]),
             f"{level} {pair.correlation:.4f} detail {pair.detail:.3f} {pair.transform}"]
    for number, line in enumerate(lines):
        cv2.putText(text, line, (2, 12 + 14 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0),
                    1, cv2.LINE_AA)
    return np.vstack([np.hstack([drawn[0], drawn[1], gap]), text])


def _ending(name: str) -> str:
    """The end of a name; OpenCV draws ASCII only."""
    plain = name.encode("ascii", "replace").decode()
    return plain if len(plain) <= _LETTERS else f"...{plain[3 - _LETTERS:]}"


def _square(pixels: Pixels) -> Drawn:
    if pixels.shape[-1] not in (1, 3, 4):
        pixels = pixels.mean(axis=-1, keepdims=True).astype(pixels.dtype)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels.astype(np.float32) - low) / max(high - low, 1e-12)
    colour = conform(np.ascontiguousarray(pixels), channels=3, dtype=Dtype.uint8)
    return np.asarray(cv2.resize(colour, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
