"""Train on the past, choose on what came then, test on the newest."""

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import Division, lacking
from finetune.data.dependence import Dependence
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.errors import DataError, first_of

__all__ = ["split_by_time"]

Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]


def split_by_time(samples: Samples, dependence: Dependence,
                  division: Division) -> tuple[Names, list[str]]:
    """Train is oldest, then val, then test; and what has to be said.

    Pictures of one time stay together; a group, or identical pictures, go to the part of the
    latest of them. The cuts are those nearest to the fractions.

    Raises:
        DataError: Fewer different times than parts, or train lacks a class.
    """
    assert dependence.times is not None and dependence.time_names is not None
    units = joined(len(samples), division.together)
    latest = np.empty(len(samples))
    for unit in units:
        latest[unit] = dependence.times[unit].max()
    cuts = _cuts(latest, division)
    names = _parts(latest, cuts)
    untrained = lacking(samples, names, "train")
    if untrained:
        raise DataError(f"data.split=time: {len(untrained)} classes are not in train, the oldest "
                        f"pictures: {first_of(untrained)}. Choose smaller data.test_fraction and "
                        "data.val_fraction, or leave these classes out")
    return names, [*_periods(names, dependence.times, dependence.time_names),
                   *_straddling(names, _parts(dependence.times, cuts), units)]


def _cuts(latest: Floats, division: Division) -> tuple[float, float]:
    """The last moments of train and of val."""
    moments, counts = np.unique(latest, return_counts=True)
    needed = len(division.shares)
    if len(moments) < needed:
        raise DataError(f"data.split=time: there are {len(moments)} different times (a group "
                        f"counts with its latest), and {needed} parts need as many; use another "
                        "data.time_column, or data.split=group")
    until = counts.cumsum()  # pictures up to each moment
    total, end = len(latest), len(moments) - 1
    if division.test_fraction > 0:
        end = _nearest(until[1:-1], total * (1 - division.test_fraction)) + 1
    start = _nearest(until[:end], until[end] * (1 - division.val_fraction))
    return float(moments[start]), float(moments[end])


def _nearest(values: npt.NDArray[np.int64], wanted: float) -> int:
    return int(np.abs(values - wanted).argmin())


def _parts(times: Floats, cuts: tuple[float, float]) -> Names:
    return np.where(times <= cuts[0], "train", np.where(times <= cuts[1], "val", "test"))


def _periods(names: Names, times: Floats, written: list[str]) -> list[str]:
    spans = []
    for part in [p for p in ("train", "val", "test") if (names == p).any()]:
        inside = np.flatnonzero(names == part)
        ends = inside[times[inside].argmin()], inside[times[inside].argmax()]
        spans.append(f"{part} {written[ends[0]]} to {written[ends[1]]} ({len(inside)} pictures)")
    return [f"data.split=time: {', '.join(spans)}"]


def _straddling(names: Names, own: Names, units: list[list[int]]) -> list[str]:
    moved = names != own
    count = sum(bool(moved[unit].any()) for unit in units)
    return [f"{count} groups or sets of identical pictures reach over several periods: each went "
            f"to the part of its latest picture, {int(moved.sum())} older pictures with it"
            ] if count else []
