"""A smaller training part: a share of its pictures, each share inside the larger ones.

For learning curves over the number of labels. Validation and test stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import class_vector, spread_units
from finetune.data.samples import Samples
from finetune.data.unions import joined

__all__ = ["thin_training"]

Names = npt.NDArray[np.str_]
SLICES = 20  # of 5 % each: units of several classes are dealt to them, so that each has all classes


def thin_training(samples: Samples, names: Names, *, fraction: float, seed: int,
                  together: Sequence[Sequence[int]] = ()) -> Names:
    """The parts (N,) with a share of the training pictures kept and the others dropped ("").

    Nested: what a share keeps, every larger one keeps too. Stratified: each class keeps its share,
    as nearly as whole units allow, and never less than one unit. A function of names, labels,
    groups, fraction and seed, not of the order of the pictures.

    Args:
        samples: The pictures.
        names: (N,) ``train``, ``val``, ``test`` or "".
        fraction: Of the training pictures; above 0, at most 1.
        seed: Of the order in which they are taken.
        together: Sets of indices, none of which is divided; those outside train don't count.
    """
    if fraction >= 1:
        return names
    inside = np.flatnonzero(names == "train")
    place = {int(i): n for n, i in enumerate(inside)}
    sets = [[place[i] for i in members if i in place] for members in together]
    train = samples.select(inside.tolist())
    units = sorted(joined(len(inside), [s for s in sets if s]),
                   key=lambda unit: min(train.ids[i] for i in unit))
    thinned = names.copy()
    thinned[inside] = ""
    kept = [i for number in _kept(train, units, fraction, seed) for i in units[number]]
    thinned[inside[kept]] = "train"
    return thinned


def _kept(train: Samples, units: list[list[int]], fraction: float, seed: int) -> list[int]:
    """Numbers of the units that a share keeps."""
    counts = np.stack([class_vector(train, unit) for unit in units])
    sizes = np.array([len(unit) for unit in units])
    order = np.random.default_rng(seed).permutation(len(units))
    is_pure = train.label_spec.is_exclusive and bool(((counts > 0).sum(axis=1) == 1).all())
    if is_pure:
        own = counts.argmax(axis=1)
        lines = [order[own[order] == each] for each in np.unique(own)]
    else:
        lines = [_mixed_order(counts, sizes, order, seed)]
    kept = [int(u) for line in lines for u in line[:_whole(sizes[line], fraction)]]
    return kept if is_pure else _with_all_classes(kept, counts, lines[0])


def _mixed_order(counts: npt.NDArray[np.float64], sizes: npt.NDArray[Any],
                 order: npt.NDArray[Any], seed: int) -> npt.NDArray[Any]:
    """Slice after slice, each of all classes; drawn at random inside a slice."""
    parts = np.array(spread_units(counts, sizes, dict.fromkeys(
        [f"{n:02d}" for n in range(SLICES)], 1 / SLICES), seed))
    return order[np.argsort(parts[order], kind="stable")]


def _whole(sizes: npt.NDArray[Any], fraction: float) -> int:
    """How many of the first units come nearest to a share of all pictures; at least one."""
    total = np.cumsum(sizes)
    return int(np.argmin(np.abs(total - fraction * total[-1]))) + 1


def _with_all_classes(kept: list[int], counts: npt.NDArray[np.float64],
                      line: npt.NDArray[Any]) -> list[int]:
    """The units and, for each class that they lack, the next one that has it."""
    for each in np.flatnonzero(counts.sum(axis=0) > 0):
        if not (counts[kept, each] > 0).any():
            kept = [*kept, int(next(u for u in line if counts[u, each] > 0))]
    return kept
