"""Pictures that are nearly the same: found once, kept in the cache; what is done and said of them.

Certain copies (resized, re-encoded, mirrored, turned, brightened, cropped) are treated as identical
pictures are. Pairs that are only likely may be neighbouring slices or tiles: they are shown.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import NearDuplicates
from finetune.data.descriptors import describe_pictures
from finetune.data.near_duplicates import (
    NearPair,
    find_near_duplicates,
    near_duplicate_groups,
    near_duplicates_across,
)
from finetune.data.pair_sheet import contact_sheet
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts, decoder_versions
from finetune.data.unions import joined
from finetune.files import read_json, write_json

__all__ = ["Likeness", "find_likeness", "likeness_warnings", "write_likeness_sheet"]

SHEET = "near_duplicates.png"
SHOWN = 40  # pairs on the sheet
MOST = 100_000  # pictures; the search grows with their square, and this many take minutes
_FORMAT = 2  # of what is stored, and of the search


@dataclass(frozen=True)
class Likeness:
    """What resembles what.

    Attributes:
        pairs: Certain and likely ones, by index.
        groups: Sets that belong together by a certain pair, identical pictures joined in.
        note: Why nothing was looked for, where that is to be told.
    """

    pairs: list[NearPair] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    note: str = ""


def find_likeness(wanted: NearDuplicates, samples: Samples, facts: Sequence[PictureFacts],
                  duplicates: Sequence[Sequence[int]], *, cache: Path,
                  progress: Callable[[int, int], object] | None = None) -> Likeness:
    """Look for copies among all pictures, or in the cache for what was found before.

    Args:
        wanted: ``ignore``: nothing is looked for; ``warn``: nothing has to stay together.
        samples: The pictures.
        facts: Theirs, from scanning.
        duplicates: Sets of identical ones.
        cache: A folder.
        progress: Called with what is done and the whole.
    """
    if wanted is NearDuplicates.ignore:
        return Likeness()
    if len(samples) > MOST:
        return Likeness(note=f"{len(samples):,} pictures are more than {MOST:,}: copies that were "
                             "changed (resized, mirrored, cropped) were not looked for")
    hashes = [fact.byte_hash for fact in facts]
    path = cache / "near" / f"{_key(hashes)}.json"
    pairs = _stored(path, len(samples))
    if pairs is None:
        pairs = _search(samples, hashes, cache, progress)
        write_json(path, {"pairs": [asdict(pair) for pair in pairs]})
    near = near_duplicate_groups(pairs, len(samples)) if wanted is NearDuplicates.guard else []
    return Likeness(pairs, _grown(near, duplicates, len(samples)))


def _search(samples: Samples, hashes: Sequence[str], cache: Path,
            progress: Callable[[int, int], object] | None) -> list[NearPair]:
    import cv2

    threads, before = min(16, os.cpu_count() or 2), cv2.getNumThreads()
    cv2.setNumThreads(1)  # pictures side by side are faster than the parts of one
    try:
        described = describe_pictures(samples.source, samples.ids, hashes, cache=cache,
                                      threads=threads)
        return find_near_duplicates(described, threads=threads, progress=progress)
    finally:
        cv2.setNumThreads(before)


def _grown(near: Sequence[Sequence[int]], duplicates: Sequence[Sequence[int]],
           count: int) -> list[list[int]]:
    """The sets of near copies, with the identical pictures of each of their members."""
    touched = {index for group in near for index in group}
    return [group for group in joined(count, [*near, *duplicates])
            if len(group) > 1 and touched & set(group)]


def _key(hashes: Sequence[str]) -> str:
    told = json.dumps([_FORMAT, decoder_versions(), list(hashes)])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _stored(path: Path, count: int) -> list[NearPair] | None:
    """What an earlier search found; None where there was none, or its file is damaged."""
    try:
        rows: list[dict[str, Any]] = read_json(path)["pairs"]
        pairs = [NearPair(**{**row, "shown": tuple(row["shown"])}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pairs if all(0 <= p.first < p.second < count for p in pairs) else None


def likeness_warnings(likeness: Likeness, parts: Sequence[str], ids: Sequence[str]) -> list[str]:
    """What a reader has to know about pictures that may be copies, in different parts."""
    unsure = unsure_pairs(likeness, parts)
    if not unsure:
        return [likeness.note] if likeness.note else []
    first = ", ".join(f"{ids[p.first]} ({parts[p.first]}) and {ids[p.second]} ({parts[p.second]})"
                      for p in unsure[:3])
    return [f"{len(unsure)} pairs of pictures in different parts look much alike, as copies or "
            f"neighbouring slices do: {first}; see figures/{SHEET}. If they come from one patient "
            "or place, name it: data.group_column or data.group_from"]


def unsure_pairs(likeness: Likeness, parts: Sequence[str]) -> list[NearPair]:
    """Pairs across parts that nothing keeps together, the surest first."""
    kept = {index: number for number, group in enumerate(likeness.groups) for index in group}
    return [pair for pair in near_duplicates_across(likeness.pairs, list(parts))
            if kept.get(pair.first, -1) != kept.get(pair.second, -2)]


def write_likeness_sheet(likeness: Likeness, parts: Sequence[str], samples: Samples,
                         folder: Path) -> Path | None:
    """Draw the surest of the pairs that `likeness_warnings` tells of; None without any."""
    unsure = unsure_pairs(likeness, parts)[:SHOWN]
    if not unsure:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return contact_sheet(unsure, samples.ids,
                         lambda index: samples.source.read(samples.ids[index]).pixels,
                         folder / SHEET)
