"""What a picture shows beside its content: how it is stored, how it is named, its border.

Each cue goes to `finetune.data.shortcuts`, which measures how well the label can be told from it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from finetune.data.glances import Glance
from finetune.data.scanning import PictureFacts

__all__ = ["Cue", "CueKind", "cues_of"]

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


def cues_of(ids: Sequence[str], facts: Sequence[PictureFacts]) -> list[Cue]:
    """All cues of a collection; those without any variation are left out.

    Args:
        ids: Names of all pictures.
        facts: Of each, from `finetune.data.scanning.scan_pictures`; none broken.
    """
    every = np.arange(len(ids))
    shapes = np.array([(f.width, f.height) for f in facts], np.float64).reshape(-1, 2)
    stems = [PurePosixPath(name).stem for name in ids]
    cues = [
        Cue("colour mode", CueKind.seen, every, words=[_mode(f) for f in facts],
            remark=_without_colours(facts)),
        Cue("picture size", CueKind.seen, every,
            numbers=np.column_stack([shapes, shapes[:, 0] / shapes[:, 1]]),
            columns=("width|px", "height|px", "width / height")),
        *_glanced(facts, shapes),
        Cue("name pattern", CueKind.name, every, words=[_pattern(stem) for stem in stems]),
        Cue("number in the name", CueKind.name, every,
            numbers=np.array([[_number(stem)] for stem in stems]), columns=("number in the name",)),
    ]
    return [cue for cue in cues if _varies(cue)]


def _mode(facts: PictureFacts) -> str:
    return {"L": "grey", "1": "black and white", "P": "palette"}.get(facts.mode, facts.mode)


def _without_colours(facts: Sequence[PictureFacts]) -> str:
    """How many pictures with colour channels hold no colours."""
    grey = [f.glance.is_grey for f in facts if f.glance is not None and f.channels >= 3]
    if not any(grey):
        return ""
    return (f"{sum(grey):,} of {len(grey):,} pictures with colour channels hold no colours: to a "
            "network these look like grey ones, but for their rounding")


def _glanced(facts: Sequence[PictureFacts], shapes: Numbers) -> list[Cue]:
    rows = np.array([i for i, f in enumerate(facts) if f.glance is not None], np.int64)
    seen = [f.glance for f in facts if f.glance is not None]
    if not seen:
        return []
    return [*_stored(rows, seen), *_shown(rows, seen, shapes[rows].prod(axis=1))]


def _stored(rows: Indices, seen: Sequence[Glance]) -> list[Cue]:
    return [
        Cue("file format", CueKind.seen, rows, words=[g.format for g in seen]),
        Cue("JPEG compression", CueKind.seen, rows,
            numbers=np.array([[g.quantisation] for g in seen]),
            columns=("mean quantisation step",)),
        Cue("EXIF data", CueKind.source, rows,
            words=["with EXIF data" if g.exif else "without EXIF data" for g in seen])]


def _shown(rows: Indices, seen: Sequence[Glance], areas: Numbers) -> list[Cue]:
    corners = tuple(f"brightness of the {place} corner"
                    for place in ("top left", "top right", "bottom left", "bottom right"))
    sizes = np.array([g.size for g in seen], np.float64)
    return [
        Cue("colours", CueKind.content, rows,
            words=["without colours" if g.is_grey else "in colour" for g in seen]),
        Cue("brightness", CueKind.content, rows, numbers=np.array([[g.brightness] for g in seen]),
            columns=("mean brightness",)),
        Cue("border colours", CueKind.content, rows, numbers=np.array([g.border for g in seen]),
            columns=tuple(f"mean {c} of the border" for c in ("red", "green", "blue"))),
        Cue("corner patches", CueKind.content, rows, numbers=np.array([g.corners for g in seen]),
            columns=corners),
        Cue("file size", CueKind.content, rows, numbers=np.column_stack([sizes, sizes / areas]),
            columns=("file size|bytes", "size per pixel|bytes"))]


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
