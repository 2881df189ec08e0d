"""Copies that were changed a little: resized, re-encoded, flipped, turned, brightened, cropped."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from finetune.data.hashing import Descriptors, orientation_name, oriented
from finetune.data.near_search import Candidates, find_candidates
from finetune.data.registration import Agreement, register
from finetune.data.unions import joined

__all__ = ["NearPair", "find_near_duplicates", "near_duplicate_groups", "near_duplicates_across"]

# By benchmarks/planted_leaks.py: of brain_tumor_mri's neighbouring slices 7 pairs reach a detail of
# .90, 3 reach .93, their correlation .99; of copies planted in rsscn7 .977 and .963.
_CERTAIN_CORRELATION, _CERTAIN_DETAIL, _CERTAIN_BENT = 0.98, 0.93, 0.05
_LIKELY_CORRELATION, _LIKELY_DETAIL = 0.95, 0.75
_LEAST_COARSE = 0.975     # correlations of the search and of the coarse fit
_NEIGHBOURS = 8           # of each picture that are looked at closely
_AT_ONCE = 4096           # pairs between two calls of progress
_SPOKEN_FOR = 3           # of a set of copies that stand for it when crowds are joined
_ROUNDS = 5               # of joining, at most


@dataclass(frozen=True)
class NearPair:
    """Two pictures, one of which seems to be made from the other.

    Attributes:
        first: Index, the smaller one.
        second: Index.
        correlation: Of grey values after registration.
        detail: Of fine detail in the blocks that agree least; see `registration.Agreement`.
        orientation: Which of the 8 orientations of the second one fits the first; see
            `hashing.oriented`.
        shown: Shares of the first one's width and height that the second one shows; below 1 it
            may be a crop.
        certain: A copy; else likely one.
    """

    first: int
    second: int
    correlation: float
    detail: float
    orientation: int
    shown: tuple[float, float]
    certain: bool

    @property
    def transform(self) -> str:
        """In words."""
        wide, high = (f"{100 * value:.0f}" for value in self.shown)
        whole = wide == high == "100"
        return orientation_name(self.orientation) + ("" if whole else f", shows {wide} x {high} %")


def find_near_duplicates(descriptors: Descriptors, *, threads: int | None = None,
                         progress: Callable[[int, int], object] | None = None) -> list[NearPair]:
    """Pairs of pictures that seem to be copies of each other, sorted by index.

    ``certain`` pairs have a correlation of at least .98 after registration, the same details
    everywhere, and differ by a flip, quarter turn, crop or stretch only; ``likely`` ones have a
    correlation of at least .95 and mostly the same details, as neighbouring slices of a scan may
    have. Blank pictures are in no pair. Of pictures with identical thumbnails, each is paired with
    the first of them only, and this one alone with others: use `near_duplicate_groups` for what
    belongs together.

    Args:
        descriptors: Of all pictures.
        threads: For the registration; None: as many as there are processors.
        progress: Called with what is done and the whole, in steps of unequal cost.
    """
    kept, copies = _different(descriptors)
    count = len(kept)
    candidates = find_candidates(
        descriptors.thumbnails, rows=kept, neighbours=_NEIGHBOURS, limit=_LEAST_COARSE,
        progress=None if progress is None else lambda done: progress(done, 2 * count))
    found = _confirm(descriptors, kept, candidates, threads=threads, progress=None if
                     progress is None else lambda share: progress(
                         count + int(count * share), 2 * count))
    found = _join_crowds(descriptors, kept, found, threads=threads)
    if progress is not None:
        progress(2 * count, 2 * count)
    found += [_same(first, second) for first, second in copies]
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _confirm(descriptors: Descriptors, kept: npt.NDArray[np.int64], candidates: Candidates, *,
             threads: int | None, progress: Callable[[float], object] | None = None,
             ) -> list[NearPair]:
    """Those of the candidates that are likely at least."""
    table = list(zip(candidates.first.tolist(), candidates.second.tolist(),
                     candidates.orientations.tolist(), strict=True))
    found: list[NearPair] = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start in range(0, len(table), _AT_ONCE):
            part = table[start:start + _AT_ONCE]
            pairs = pool.map(partial(_confirmed, descriptors, kept), part)
            found += [pair for pair in pairs if pair is not None]
            if progress is not None:
                progress((start + len(part)) / len(table))
    return found


def _join_crowds(descriptors: Descriptors, kept: npt.NDArray[np.int64], found: list[NearPair], *,
                 threads: int | None) -> list[NearPair]:
    """Pairs that were missed because a picture has more copies than neighbours are looked at.

    A crowd of copies can fall apart into sets that each fill their pictures' neighbours. Some of
    each larger set are compared again with all pictures, of which each set leaves only some.
    """
    for _ in range(_ROUNDS):
        groups = near_duplicate_groups(found, len(descriptors.thumbnails))
        crowds = [set(group) for group in groups if len(group) > _NEIGHBOURS]
        if not crowds:
            break
        left_out = {index for group in groups for index in group[_SPOKEN_FOR:]}
        rows = np.array([index for index in kept.tolist() if index not in left_out], np.int64)
        asked = np.flatnonzero(np.isin(rows, sorted(set().union(*crowds))))
        again = find_candidates(descriptors.thumbnails, rows=rows, neighbours=_NEIGHBOURS,
                                limit=_LEAST_COARSE, asked=asked)
        known = {(pair.first, pair.second) for pair in found}
        new = [pair for pair in _confirm(descriptors, rows, again, threads=threads)
               if (pair.first, pair.second) not in known]
        found = found + new
        if len(near_duplicate_groups(found, len(descriptors.thumbnails))) == len(groups):
            break
    return found


def _different(descriptors: Descriptors) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]]]:
    """The first picture of each thumbnail, and pairs of it with the others; none blank."""
    first: dict[bytes, int] = {}
    copies = []
    for index in np.flatnonzero(~descriptors.blank).tolist():
        key = blake2b(descriptors.thumbnails[index], digest_size=16).digest()  # 9 kB otherwise
        original = first.setdefault(key, index)
        if original != index:
            copies.append((original, index))
    return np.array(list(first.values()), np.int64), copies


def _same(first: int, second: int) -> NearPair:
    return NearPair(first, second, 1.0, 1.0, 0, (1.0, 1.0), certain=True)


def _confirmed(descriptors: Descriptors, kept: npt.NDArray[np.int64],
               candidate: tuple[int, int, int]) -> NearPair | None:
    first, second, orientation = int(kept[candidate[0]]), int(kept[candidate[1]]), candidate[2]
    found = register(descriptors.thumbnails[first],
                     oriented(descriptors.thumbnails[second], orientation),
                     contrast=float(descriptors.contrasts[first]), at_least=_LEAST_COARSE)
    if found is None or not _is_likely(found):
        return None
    wide, high = 1 / np.clip(np.diag(found.affine), 1e-3, None)
    if first > second:  # told from the other one's side
        first, second, wide, high = second, first, 1 / wide, 1 / high
        if orientation & 4:
            orientation, wide, high = {5: 6, 6: 5}.get(orientation, orientation), high, wide
    return NearPair(first, second, found.correlation, found.detail, orientation,
                    (float(wide), float(high)), _is_certain(found))


def _is_likely(found: Agreement) -> bool:
    return found.correlation >= _LIKELY_CORRELATION and found.detail >= _LIKELY_DETAIL


def _is_certain(found: Agreement) -> bool:
    return (found.correlation >= _CERTAIN_CORRELATION and found.detail >= _CERTAIN_DETAIL
            and found.bent <= _CERTAIN_BENT)


def near_duplicate_groups(pairs: Sequence[NearPair], count: int, *,
                          likely: bool = False) -> list[list[int]]:
    """Indices that belong together, in groups of two or more, as `split_samples` takes them.

    Args:
        pairs: From `find_near_duplicates`.
        count: Of all pictures.
        likely: Whether likely pairs join too.
    """
    sets = [(pair.first, pair.second) for pair in pairs if pair.certain or likely]
    return [group for group in joined(count, sets) if len(group) > 1]


def near_duplicates_across(pairs: Sequence[NearPair], parts: Sequence[str]) -> list[NearPair]:
    """The pairs whose pictures lie in different parts, the surest first.

    Args:
        pairs: From `find_near_duplicates`.
        parts: The part of each picture; "" is out of the game.
    """
    across = [pair for pair in pairs if parts[pair.first] and parts[pair.second]
              and parts[pair.first] != parts[pair.second]]
    return sorted(across, key=lambda p: (not p.certain, -p.correlation, p.first, p.second))
