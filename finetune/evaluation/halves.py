"""Which validation pictures choose the model and which fit what is decided with it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from finetune.evaluation.shares import group_numbers

__all__ = ["FOLDS", "MIN_GROUPS", "MIN_PICTURES", "cross_fitted", "decision_halves",
           "group_folds", "one_per_group"]

FOLDS = 5
MIN_PICTURES = 400
MIN_GROUPS = 20
Fitted = TypeVar("Fitted")


def decision_halves(
    labels: np.ndarray, groups: Sequence[Any] | None = None, *, seed: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows for selecting the model, and rows for fitting calibration, thresholds and sets.

    The two share no picture and no group, and have the classes in nearly the same shares. ``None``
    below 400 pictures or 20 groups: everything is then fitted on all pictures, what is said about
    it is cross-fitted, and it is unstable.

    Args:
        labels: (N,) class indices, or (N, K) with NaN = unknown.
        groups: The group of each picture.
        seed: The same seed, labels and groups give the same halves.
    """
    units = group_numbers(groups, len(labels))
    if len(labels) < MIN_PICTURES or len(np.unique(units)) < MIN_GROUPS:
        return None
    folds = group_folds(labels, groups, folds=2, seed=seed)
    return np.flatnonzero(folds == 0), np.flatnonzero(folds == 1)


def group_folds(
    labels: np.ndarray, groups: Sequence[Any] | None = None, *, folds: int = FOLDS, seed: int,
) -> np.ndarray:
    """(N,) the fold of each picture: groups whole, classes in nearly the same shares.

    Single labels without groups are dealt class by class. Otherwise groups are dealt, the largest
    first, to where their classes are lacking most (the idea of scikit-learn's
    StratifiedGroupKFold, for several labels too).
    """
    random = np.random.default_rng(seed)
    if groups is None and labels.ndim == 1:
        order = np.lexsort((random.permutation(len(labels)), labels))
        return np.asarray(np.argsort(order) % folds)
    units = group_numbers(groups, len(labels))
    return np.asarray(_dealt(_profiles(labels, units), folds, random)[units])


def _profiles(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(G, K + 1) what share of each class and of all pictures a group holds."""
    single = labels.ndim == 1
    width = int(labels.max()) + 1 if single else labels.shape[1]
    counts = np.zeros((units.max() + 1, width + 1))
    if single:
        np.add.at(counts, (units, labels), 1)
    else:
        np.add.at(counts[:, :-1], units, np.nan_to_num(labels))
    counts[:, -1] = np.bincount(units)
    return np.asarray(counts / counts.sum(axis=0).clip(min=1))


def _dealt(profiles: np.ndarray, folds: int, random: np.random.Generator) -> np.ndarray:
    order = random.permutation(len(profiles))
    order = order[np.argsort(-profiles[order].max(axis=1), kind="stable")]
    filled = np.zeros((folds, profiles.shape[1]))
    found = np.empty(len(profiles), dtype=np.int64)
    for unit in order:
        # how much nearer to equal folds this group brings each of them, in squares
        gains = (profiles[unit] * (2 / folds - 2 * filled - profiles[unit])).sum(axis=1)
        found[unit] = gains.argmax()
        filled[found[unit]] += profiles[unit]
    return found


def cross_fitted(
    fit: Callable[[np.ndarray], Fitted], apply: Callable[[Fitted, np.ndarray], np.ndarray],
    folds: np.ndarray,
) -> np.ndarray:
    """What ``apply`` says of every picture by what was fitted without its fold, (N, ...).

    Args:
        fit: From the rows to fit on to what was fitted.
        apply: From what was fitted and other rows to an answer for each of these.
        folds: (N,) from `group_folds`; at least two different.
    """
    numbers = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    answers = [apply(fit(np.setdiff1d(np.arange(len(folds)), rows)), rows) for rows in numbers]
    return np.asarray(np.concatenate(answers)[np.argsort(np.concatenate(numbers))])


def one_per_group(groups: Sequence[Any] | None, count: int, *, seed: int) -> np.ndarray:
    """Rows of one random picture of each group, ascending; without groups all rows."""
    order = np.random.default_rng(seed).permutation(count)
    firsts = np.unique(group_numbers(groups, count)[order], return_index=True)[1]
    return np.sort(order[firsts])
