"""Shares and means of pictures with what they may be off by."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["group_numbers", "mean_and_error", "share"]


def share(part: int, whole: int) -> dict[str, Any]:
    """A share with its counts and its 95 % Wilson interval; ``None`` where there is nothing.

    The interval takes the pictures as independent: with groups it is too narrow.
    """
    result: dict[str, Any] = {"value": None, "low": None, "high": None,
                              "part": int(part), "whole": int(whole)}
    if whole:
        from scipy.stats import binomtest

        interval = binomtest(int(part), int(whole)).proportion_ci(method="wilson")
        result |= {"value": int(part) / int(whole), "low": float(interval.low),
                   "high": float(interval.high)}
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
