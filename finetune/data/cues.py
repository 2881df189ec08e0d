"""What a picture shows beside its content: how it is stored, how it is named, its border.

Each cue goes to `finetune.data.shortcuts`, which measures how well the label can be told from it.
"""

import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from finetune.data.caught import caught_warnings
from finetune.data.samples import PictureSource
from finetune.data.scanning import PictureFacts
from finetune.data.unreadable import BROKEN, UnreadableImage

__all__ = ["Cue", "CueKind", "Glance", "cues_of", "glance_at"]

_ENOUGH = (64, 64)   # px; means need no more
_FRAME = 0.04        # of each side; what counts as border
_PATCH = 0.1         # of each side; what counts as a corner

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class CueKind(StrEnum):
    """What a cue is of, which decides how much it matters."""

    seen = "seen"        # by a network: how the pixels were stored, not what they show
    source = "source"    # not by a network, but it tells that classes come from different sources
    name = "name"        # not by a network
    content = "content"  # by a network; part of what is shown, so that it may be meant


@dataclass(frozen=True)
class Cue:
    """One thing that the label may be told from.

    Attributes:
        name: In words, such as ``colour mode``.
        kind: What it is of.
        rows: (M,) indices of the pictures that it is known for.
        words: One for each row, or None where it is numbers.
        numbers: (M, F), NaN where unknown, or None where it is words.
        columns: What each number is, and after a bar its unit, such as ``width|px``.
        remark: A sentence beside what is measured.
    """

    name: str
    kind: CueKind
    rows: Indices
    words: list[str] | None = None
    numbers: Numbers | None = None
    columns: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Glance:
    """What a look into one file tells.

    Attributes:
        format: ``JPEG``, ``PNG`` …, or the name's ending where Pillow doesn't know it.
        exif: Whether there are EXIF data.
        quantisation: Mean step of JPEG's luminance table; 0: not a JPEG.
        brightness: Mean over all pixels and channels, in the picture's own unit.
        border: (3,) mean of the outer frame for the first three channels.
        corners: (4,) means of patches in the corners.
        is_grey: Whether all channels are equal, up to what JPEG's rounding leaves.
    """

    format: str
    exif: bool
    quantisation: float
    brightness: float
    border: tuple[float, ...]
    corners: tuple[float, ...]
    is_grey: bool


def glance_at(source: PictureSource, ids: Sequence[str], *, threads: int = 2,
              progress: Callable[[int], object] | None = None) -> list[Glance | None]:
    """A look into each file; None for what can't be read.

    Args:
        source: Where the pictures are.
        ids: Their names; a few thousand tell enough.
        threads: Pictures decoded at a time.
        progress: Called with the number done.
    """
    found = []
    pool = ThreadPoolExecutor(threads)
    try:
        for each in pool.map(lambda name: _glance(source, name), ids):
            found.append(each)
            if progress is not None:
                progress(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _glance(source: PictureSource, name: str) -> Glance | None:
    try:
        content = source.raw(name)
        pixels = source.read(name, _ENOUGH).pixels
    except (UnreadableImage, OSError):
        return None
    grey = pixels.mean(axis=-1, dtype=np.float64)
    first = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    return Glance(*_header(content, name), brightness=float(grey.mean()),
                  border=tuple(first[_frame(grey.shape)].mean(axis=0, dtype=np.float64).tolist()),
                  corners=_corners(grey), is_grey=_is_grey(pixels))


def _header(content: bytes, name: str) -> tuple[str, bool, float]:
    """Format, EXIF and quantisation, without decoding."""
    ending = PurePosixPath(name).suffix.removeprefix(".").upper() or "no format"
    try:
        with caught_warnings(), Image.open(io.BytesIO(content)) as image:
            has_exif = "exif" in image.info or bool(image.getexif())
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                return image.format or ending, has_exif, 0.0
            step = float(np.mean(image.quantization.get(0, [0])))
            return "JPEG", has_exif, step
    except (UnidentifiedImageError, Image.DecompressionBombError, *BROKEN):
        return ending, False, 0.0


def _frame(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(H, W) Whether a pixel belongs to the border."""
    frame = np.ones(shape, bool)
    high, wide = (max(1, round(_FRAME * side)) for side in shape)
    frame[high:-high, wide:-wide] = False
    return frame


def _corners(grey: Numbers) -> tuple[float, ...]:
    high, wide = (max(1, round(_PATCH * side)) for side in grey.shape)
    return tuple(float(patch.mean()) for rows in (grey[:high], grey[-high:])
                 for patch in (rows[:, :wide], rows[:, -wide:]))


def _is_grey(pixels: npt.NDArray[Any]) -> bool:
    if pixels.shape[-1] < 3 or pixels.dtype != np.uint8:
        return bool(pixels.shape[-1] == 1)
    colours = pixels[..., :3].astype(np.int16)
    return float(np.abs(colours - colours[..., :1]).mean()) < 1.0


def cues_of(ids: Sequence[str], facts: Sequence[PictureFacts], sizes: Sequence[int],
            looked_at: Sequence[int], glances: Sequence[Glance | None]) -> list[Cue]:
    """All cues of a collection; those without any variation are left out.

    Args:
        ids: Names of all pictures.
        facts: Of each; none broken.
        sizes: Bytes of each file.
        looked_at: Indices of the pictures with a glance.
        glances: Of these.
    """
    every = np.arange(len(ids))
    shapes = np.array([(f.width, f.height) for f in facts], np.float64).reshape(-1, 2)
    stems = [PurePosixPath(name).stem for name in ids]
    cues = [
        Cue("colour mode", CueKind.seen, every, words=[_mode(f) for f in facts],
            remark=_without_colours(facts, looked_at, glances)),
        Cue("picture size", CueKind.seen, every,
            numbers=np.column_stack([shapes, shapes[:, 0] / shapes[:, 1]]),
            columns=("width|px", "height|px", "width / height")),
        *_glanced(np.asarray(looked_at, np.int64), glances),
        Cue("file size", CueKind.content, every,
            numbers=np.column_stack([sizes, np.asarray(sizes) / shapes.prod(axis=1)]),
            columns=("file size|bytes", "size per pixel|bytes")),
        Cue("name pattern", CueKind.name, every, words=[_pattern(stem) for stem in stems]),
        Cue("number in the name", CueKind.name, every,
            numbers=np.array([[_number(stem)] for stem in stems]), columns=("number in the name",)),
    ]
    return [cue for cue in cues if _varies(cue)]


def _mode(facts: PictureFacts) -> str:
    return {"L": "grey", "1": "black and white", "P": "palette"}.get(facts.mode, facts.mode)


def _without_colours(facts: Sequence[PictureFacts], looked_at: Sequence[int],
                     glances: Sequence[Glance | None]) -> str:
    """How many pictures with colour channels hold no colours."""
    grey = [g.is_grey for i, g in zip(looked_at, glances, strict=True)
            if g is not None and facts[i].channels >= 3]
    if not any(grey):
        return ""
    return (f"{sum(grey):,} of {len(grey):,} pictures with colour channels that were looked at "
            "hold no colours: to a network these look like grey ones, but for their rounding")


def _glanced(looked_at: Indices, glances: Sequence[Glance | None]) -> list[Cue]:
    rows = looked_at[[g is not None for g in glances]]
    seen = [g for g in glances if g is not None]
    if not seen:
        return []
    corners = tuple(f"brightness of the {place} corner"
                    for place in ("top left", "top right", "bottom left", "bottom right"))
    return [
        Cue("file format", CueKind.seen, rows, words=[g.format for g in seen]),
        Cue("JPEG compression", CueKind.seen, rows,
            numbers=np.array([[g.quantisation] for g in seen]),
            columns=("mean quantisation step",)),
        Cue("EXIF data", CueKind.source, rows,
            words=["with EXIF data" if g.exif else "without EXIF data" for g in seen]),
        Cue("colours", CueKind.content, rows,
            words=["without colours" if g.is_grey else "in colour" for g in seen]),
        Cue("brightness", CueKind.content, rows, numbers=np.array([[g.brightness] for g in seen]),
            columns=("mean brightness",)),
        Cue("border colours", CueKind.content, rows, numbers=np.array([g.border for g in seen]),
            columns=tuple(f"mean {c} of the border" for c in ("red", "green", "blue"))),
        Cue("corner patches", CueKind.content, rows, numbers=np.array([g.corners for g in seen]),
            columns=corners),
    ]


def _pattern(stem: str) -> str:
    """A name with its digits taken out.

    >>> _pattern("Te-no_0017")
    'Te-no_#'
    """
    return re.sub(r"\d+", "#", stem)


def _number(stem: str) -> float:
    """The last number of a name; NaN where there is none."""
    found = re.findall(r"\d+", stem)
    return float(found[-1][-15:]) if found else np.nan


def _varies(cue: Cue) -> bool:
    if cue.words is not None:
        return len(set(cue.words)) > 1
    assert cue.numbers is not None
    return len(cue.numbers) > 0 and bool((cue.numbers != cue.numbers[0]).any()
                                         and not np.isnan(cue.numbers).all())
