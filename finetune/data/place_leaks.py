"""Pictures of one place, or of places too near to each other, in different parts of a split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.dependence import Dependence
from finetune.data.samples import Samples

__all__ = ["PlaceLeaks", "drop_near", "find_place_leaks", "near_sets", "nearest", "place_leaks"]

Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_LATER = {"train": ("val", "test"), "val": ("test",)}
# Of 5 x 5 cells around one, those that points nearer than a cell's diagonal can lie in; half of
# them, as each pair of cells is looked at once.
_OFFSETS = [(0, 1), (0, 2), *((1, y) for y in range(-2, 3)), (2, -1), (2, 0), (2, 1)]


@dataclass(frozen=True)
class PlaceLeaks:
    """Pictures that are too near to one of a later part (train, val, test), the nearest first.

    Attributes:
        names: (N,) the split; "" for pictures out of the game.
        buffer: The distance below which places are too near; 0: only the same place is.
        indices: (M,) of train and val.
        neighbours: (M,) the nearest picture of a later part of each.
        distances: (M,) to it.
    """

    names: Names
    buffer: float
    indices: Integers
    neighbours: Integers
    distances: Floats

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def summary(self) -> str:
        """Counts in words; empty without leaks."""
        if not len(self):
            return ""
        own, other = self.names[self.indices], self.names[self.neighbours]
        counts = [f"{int((own == part).sum()):,} pictures of {part}" for part in _LATER
                  if (own == part).any()]
        parts = " and ".join(part for part in ("val", "test") if (other == part).any())
        how = (f"nearer than data.block_buffer={self.buffer:g} to" if self.buffer
               else "at the same place as")
        return f"{' and '.join(counts)} lie {how} pictures of {parts}"

    def examples(self, samples: Samples, count: int = 5) -> list[str]:
        """The nearest pairs, a line each."""
        lines = [f"  {samples.ids[i]} ({self.names[i]}) and {samples.ids[j]} ({self.names[j]}): "
                 f"{distance:.4g} apart" for i, j, distance in zip(
                     self.indices[:count].tolist(), self.neighbours[:count].tolist(),
                     self.distances[:count].tolist(), strict=True)]
        more = len(self) - count
        return [*lines, *([f"  and {more:,} more pictures"] if more > 0 else [])]


def place_leaks(names: Names, dependence: Dependence | None) -> PlaceLeaks:
    """`find_place_leaks` where places are known; else none."""
    if dependence is None or dependence.places is None:
        return _none(names, 0.0)
    return find_place_leaks(names, dependence.places, dependence.block_buffer)


def _none(names: Names, buffer: float) -> PlaceLeaks:
    return PlaceLeaks(names, buffer, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def find_place_leaks(names: Names, places: Floats, buffer: float) -> PlaceLeaks:
    """Pictures of train too near to val or test, and of val too near to test.

    Args:
        names: (N,) ``train``, ``val``, ``test`` or "".
        places: (N, 2) coordinates.
        buffer: Distances below it are too near; 0: only a distance of 0 is.
    """
    found = []
    for part, later in _LATER.items():
        own, beyond = names == part, np.isin(names, later)
        if own.any() and beyond.any():
            distances, which = nearest(places, own, beyond)
            close = _too_near(distances, buffer)
            found.append((np.flatnonzero(own)[close], np.flatnonzero(beyond)[which[close]],
                          distances[close]))
    if not found:
        return _none(names, buffer)
    indices, neighbours, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((indices, distances))
    return PlaceLeaks(names, buffer, indices[order], neighbours[order], distances[order])


def nearest(places: Floats, of: npt.NDArray[np.bool_],
            to: npt.NDArray[np.bool_]) -> tuple[Floats, Integers]:
    """From each place of one mask, the distance to the nearest of the other and its number."""
    from scipy.spatial import cKDTree

    distances, which = cKDTree(places[to]).query(places[of])
    return np.asarray(distances, np.float64), np.asarray(which, np.int64)


def _too_near(distances: Floats, buffer: float) -> npt.NDArray[np.bool_]:
    return distances < buffer if buffer else distances == 0


def drop_near(names: Names, places: Floats, buffer: float) -> Names:
    """The split in which val lost ("") what is too near to test, then train to val or test."""
    kept = names.copy()
    for part in ("val", "train"):
        own, beyond = kept == part, np.isin(kept, _LATER[part])
        if own.any() and beyond.any():
            kept[np.flatnonzero(own)[_too_near(nearest(places, own, beyond)[0], buffer)]] = ""
    return kept


def near_sets(places: Floats, buffer: float) -> list[list[int]]:
    """Sets of indices that chains of places, each too near to the next, join; single ones aside.

    Time grows as N log N, also where all places are near to each other.

    Args:
        places: (N, 2) coordinates.
        buffer: As in `find_place_leaks`.

    >>> near_sets(np.array([[0, 0], [9, 0], [3, 0], [6, 0], [20, 0]]), 4)
    [[0, 1, 2, 3]]
    """
    number = (_chained(places, buffer) if buffer
              else np.unique(places, axis=0, return_inverse=True)[1].reshape(-1))
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order])) + 1
    return [part.tolist() for part in np.split(order, starts) if len(part) > 1]


def _chained(places: Floats, buffer: float) -> Integers:
    """(N,) the number of each place's chain.

    The plane is cut into cells of which two places of one are always nearer than the buffer.
    Two cells are joined when a place of one has its nearest of the other within the buffer.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cells, cell_of = np.unique(np.floor(places / (buffer / 2**0.5)), axis=0, return_inverse=True)
    cell_of = cell_of.reshape(-1)
    order = np.argsort(cell_of, kind="stable")
    inside = np.diff(cell_of[order]) == 0
    links = [(order[:-1][inside], order[1:][inside]), *_across(places, buffer, cells, cell_of)]
    first, second = (np.concatenate(side) for side in zip(*links, strict=True))
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(places),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _across(places: Floats, buffer: float, cells: Floats,
            cell_of: Integers) -> list[tuple[Integers, Integers]]:
    """Links of places to the nearest one in each cell around theirs, where it is near enough.

    The number of the cell is a third coordinate, so far from the next one that the nearest place
    of one cell is found among all.
    """
    from scipy.spatial import cKDTree

    lifted = np.column_stack([places, 4 * buffer * cell_of])
    tree = cKDTree(lifted)
    place_of = {tuple(cell): number for number, cell in enumerate(cells.tolist())}
    links = []
    for x, y in _OFFSETS:
        others = np.array([place_of.get((a + x, b + y), -1) for a, b in cells.tolist()])
        rows = np.flatnonzero(others[cell_of] >= 0)
        asked = np.column_stack([places[rows], 4 * buffer * others[cell_of[rows]]])
        distances, which = tree.query(asked, distance_upper_bound=buffer)
        close = distances < buffer
        links.append((rows[close], np.asarray(which, np.int64)[close]))
    return links
