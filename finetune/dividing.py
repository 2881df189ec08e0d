"""From the settings of a split to the split."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from finetune.config import DataConfig, SplitChoice
from finetune.data.assigning import together
from finetune.data.dependence import Dependence, read_places, read_sites, read_times
from finetune.data.duplicates import DuplicatePolicy
from finetune.data.samples import Samples
from finetune.data.splits import Split, SplitMethod, split_samples
from finetune.data.thinning import thin_training

__all__ = ["divide", "places_of"]


def divide(data: DataConfig, samples: Samples, duplicates: Sequence[Sequence[int]],
           near: Sequence[Sequence[int]] = ()) -> Split:
    """The split that the settings describe.

    Args:
        data: The settings.
        samples: The pictures that can be read.
        duplicates: Indices of identical ones.
        near: Indices of those that are nearly so.

    Raises:
        DataError: Leaks in the split, columns that are missing or make no sense, classes that
            vanish from a part.
        ConfigurationError: The method needs what the data don't have.
    """
    split = split_samples(
        samples, method=None if data.split is None else SplitMethod(data.split.value),
        seed=data.split_seed, val_fraction=data.val_fraction, test_fraction=data.test_fraction,
        duplicates=duplicates, near=near, policy=DuplicatePolicy(data.duplicates.value),
        waiver=data.waiver, dependence=_dependence(data, samples))
    return _thinned(data, samples, split, [*duplicates, *near])


def _thinned(data: DataConfig, samples: Samples, split: Split,
             alike: Sequence[Sequence[int]]) -> Split:
    """The split with ``data.train_fraction`` of its training part; whole groups stay whole."""
    if data.train_fraction >= 1:
        return split
    names = thin_training(samples, split.names, fraction=data.train_fraction,
                          seed=data.split_seed, together=together(
                              samples, alike, with_groups=samples.groups is not None))
    before, now = (int((each == "train").sum()) for each in (split.names, names))
    told = f"data.train_fraction={data.train_fraction:g}: {now} of {before} training pictures"
    return dataclasses.replace(split, names=names, warnings=[*split.warnings, told])


def _dependence(data: DataConfig, samples: Samples) -> Dependence | None:
    """What the split is made from, and the places that it is checked by; None without either."""
    places = places_of(data, samples)
    found = Dependence(places=places, block_size=data.block_size, block_buffer=data.block_buffer)
    if data.split is SplitChoice.time and data.time_column is not None:
        times, names = read_times(samples, data.time_column)
        return replace(found, times=times, time_names=names)
    if data.split is SplitChoice.site and data.site_column is not None:
        return replace(found, sites=read_sites(samples, data.site_column),
                       test_site=data.test_site)
    if data.split is SplitChoice.kfold:
        return replace(found, folds=data.folds, fold=data.fold)
    return None if places is None else found


def places_of(data: DataConfig, samples: Samples) -> npt.NDArray[np.float64] | None:
    """(N, 2) coordinates where the settings name them, else None.

    Raises:
        DataError: Columns are missing, paths don't match, or values are no finite numbers.
        ConfigurationError: The pattern makes no sense.
    """
    if data.place_from is None and None in (data.x_column, data.y_column):
        return None
    return read_places(samples, x_column=data.x_column, y_column=data.y_column,
                       place_from=data.place_from)
