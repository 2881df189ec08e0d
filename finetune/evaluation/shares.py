"""Shares and means of pictures with what they may be off by."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.evaluation.entries import FEW_CLUSTERS, FEW_PICTURES
from finetune.evaluation.proportions import count_proportion

__all__ = ["group_numbers", "mean_and_error", "share"]


def share(hits: np.ndarray, counted: np.ndarray | None = None,
          groups: Sequence[Any] | np.ndarray | None = None) -> dict[str, Any]:
    """A share with its counts and its 95 % interval; ``None`` where nothing is counted.

    The interval is Wilson's, its ends corrected; with groups at the effective number of pictures,
    as for metrics (`finetune.evaluation.proportions`). It is ``reliable`` from 10 pictures up, with
    groups from 20 groups with a picture that counts.

    Args:
        hits: (N,) bool; those that are not counted are left out.
        counted: (N,) bool; all where it is not given.
        groups: The group of each of the N pictures.
    """
    counts = np.ones(len(hits), bool) if counted is None else counted
    result: dict[str, Any] = {"value": None, "low": None, "high": None, "reliable": False,
                              "part": int((hits & counts).sum()), "whole": int(counts.sum())}
    clusters = None if groups is None else group_numbers(groups, len(hits))
    found = count_proportion(hits, counts, clusters)
    if found is not None:
        low, high = found.interval()
        result |= {"value": found.value, "low": low, "high": high,
                   "reliable": found.clusters >= (FEW_PICTURES if groups is None
                                                  else FEW_CLUSTERS)}
    return result


def group_numbers(groups: Sequence[Any] | np.ndarray | None, count: int) -> np.ndarray:
    """(N,) the number of each picture's group, from 0; without groups each is its own."""
    if groups is None:
        return np.arange(count)
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1])


def mean_and_error(
    values: np.ndarray, groups: Sequence[Any] | np.ndarray | None = None,
) -> tuple[float, float]:
    """The mean of (N,) values over pictures and its standard error, clustered by group.

    The error is infinite for a single group. Without groups it is the usual one.
    """
    units = group_numbers(groups, len(values))
    sums = np.bincount(units, weights=values - values.mean())
    count = len(sums)
    if count < 2:
        return float(values.mean()), float("inf")
    error = np.sqrt((sums**2).sum() * count / (count - 1)) / len(values)
    return float(values.mean()), float(error)
