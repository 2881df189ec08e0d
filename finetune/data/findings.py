"""What an audit looks at, and how it tells what it found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from finetune.data.hashing import Descriptors
from finetune.data.near_duplicates import NearPair
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts
from finetune.data.shortcuts import CueResult

__all__ = ["MOST_SHOWN", "PARTS", "Collection", "Finding", "Level", "label_of", "names_of_parts",
           "parts_of", "sets_across", "to_show"]

PARTS = ("train", "val", "test")
MOST_SHOWN = 200  # sets of pictures that a finding keeps for the page


class Level(StrEnum):
    """How bad a finding is, the worst first."""

    error = "error"        # results on this split, or training, would be wrong
    shortcut = "shortcut"  # the label can be told from what isn't content
    warning = "warning"    # to be looked at before results are believed
    note = "note"          # to be known


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: How bad it is.
        key: What kind it is, for programs.
        text: A sentence with counts.
        details: More lines.
        pictures: Sets of indices to be shown side by side, the most telling first.
        pairs: Where the sets are near-duplicates, what is known of each.
    """

    level: Level
    key: str
    text: str
    details: tuple[str, ...] = ()
    pictures: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[NearPair, ...] = ()


@dataclass(frozen=True)
class Collection:
    """What was read and compared.

    Attributes:
        samples: The pictures that can be read.
        facts: Of each.
        duplicates: Sets of indices that are identical in bytes or pixels.
        broken: Names of pictures that can't be read, and why.
        pairs: Near-duplicates beyond ``duplicates``; None: not looked for.
        descriptors: What they were found by.
        cues: What each cue tells of the label.
        notes: Sentences from reading.
        places: (N, 2) coordinates, where they are given.
        block_buffer: Distances of places in different parts below it are leaks; 0: the same place.
    """

    samples: Samples
    facts: Sequence[PictureFacts]
    duplicates: Sequence[Sequence[int]]
    broken: Sequence[tuple[str, str]] = ()
    pairs: Sequence[NearPair] | None = None
    descriptors: Descriptors | None = None
    cues: Sequence[CueResult] = ()
    notes: Sequence[str] = field(default=())
    places: npt.NDArray[np.float64] | None = None
    block_buffer: float = 0.0

    @property
    def parts(self) -> list[str]:
        """The part of each picture; ``all`` where the data come undivided."""
        return self.samples.given_split or ["all"] * len(self.samples)


def sets_across(data: Collection, sets: Iterable[Sequence[int]]) -> list[Sequence[int]]:
    """The sets whose pictures lie in two parts or more."""
    return [members for members in sets if len(parts_of(data, members)) > 1]


def parts_of(data: Collection, members: Iterable[int]) -> set[str]:
    """The parts that some pictures lie in."""
    return {data.parts[i] for i in members} - {""}


def names_of_parts(data: Collection, sets: Iterable[Sequence[int]]) -> str:
    """The parts that sets lie in, such as ``train and test``."""
    parts = set[str]().union(*(parts_of(data, members) for members in sets))
    return " and ".join(part for part in PARTS if part in parts)


def label_of(samples: Samples, index: int) -> str:
    """The class of a picture; several are joined by ``|``."""
    names, label = samples.label_spec.class_names, samples.labels[index]
    if samples.label_spec.is_exclusive:
        return names[int(label)]
    return "|".join(n for n, v in zip(names, label, strict=True) if v == 1) or "none"


def to_show(sets: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Sets for `Finding.pictures`, each once."""
    return tuple(dict.fromkeys(tuple(members) for members in sets))[:MOST_SHOWN]
