"""Bootstrap intervals: resampled clusters, percentiles, and BCa.

A resample is a vector of weights: how often each cluster was drawn. A metric that is a function of
sums over pictures is then computed of all resamples at once, from products of the weights with
each cluster's sums.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = [
    "BCA_FROM",
    "bca_interval",
    "bootstrap_interval",
    "cluster_sums",
    "expanded",
    "percentile_interval",
    "resample",
    "weighted_errors_interval",
]

BCA_FROM = 50             # clusters; below, the acceleration is too uncertain
CHUNK = 4_000_000         # weights in memory at once
Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


def cluster_sums(columns: Any, clusters: np.ndarray | None) -> Any:
    """Sums of each column over the pictures of each cluster, (C, F), sparse.

    Args:
        columns: (N, F), dense or sparse.
        clusters: (N,) numbers 0..C-1; ``None``: each picture is one.
    """
    from scipy.sparse import csr_array

    values = csr_array(columns)
    if clusters is None:
        return values
    count, size = len(clusters), int(clusters.max()) + 1
    members = csr_array((np.ones(count), (clusters, np.arange(count))), shape=(size, count))
    return csr_array(members @ values)


def resample(
    sums: Any, statistic: Statistic, *, resamples: int = 2000, seed: int = 0,
) -> dict[str, np.ndarray]:
    """Metrics of resamples, each an array (resamples,); NaN where one is not defined.

    Args:
        sums: (C, F) of each cluster; see `cluster_sums`.
        statistic: Gives metrics (B,) of totals (B, F).
        resamples: How many.
        seed: The same seed draws the same clusters.
    """
    parts = [statistic(np.asarray(weights @ sums))
             for weights in _weights(sums.shape[0], resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster was drawn, (B, C) at a time."""
    random = np.random.default_rng(seed)
    rows = max(1, CHUNK // clusters)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(clusters, size=(count, clusters))
        drawn += clusters * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * clusters).reshape(
            count, clusters).astype(np.float64)


def leave_one_out(sums: Any, statistic: Statistic) -> dict[str, np.ndarray]:
    """Metrics without each cluster, arrays (C,)."""
    total = np.asarray(sums.sum(axis=0)).ravel()
    clusters, width = sums.shape
    rows = max(1, CHUNK // max(width, 1))
    parts = [statistic(total - sums[start:start + rows].toarray())
             for start in range(0, clusters, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def expanded(confidence: float, clusters: int) -> float:
    """The confidence to ask of percentiles so that few clusters do not make them too narrow.

    Percentiles take the spread as known and divide by C where C - 1 is unbiased; Hesterberg 2015
    (The American Statistician 69, section 4.3) asks for further percentiles by Student's t.
    """
    from scipy.stats import norm, t

    if clusters < 2:
        return confidence
    wider = (clusters / (clusters - 1)) ** 0.5 * t.ppf((1 + confidence) / 2, clusters - 1)
    return float(1 - 2 * norm.cdf(-wider))


def percentile_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The middle share of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bca_interval(
    values: np.ndarray, estimate: float, left_out: np.ndarray, confidence: float = 0.95,
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles (Efron 1987, JASA 82).

    Args:
        values: (B,) of resamples.
        estimate: Of the sample.
        left_out: (C,) without each cluster; for the acceleration.
        confidence: Between 0 and 1.
    """
    from scipy.stats import norm

    below = (np.mean(values < estimate) + np.mean(values <= estimate)) / 2
    if not 0 < below < 1:
        return percentile_interval(values, confidence)
    moves = left_out.mean() - left_out
    spread = float((moves**2).sum())
    acceleration = float((moves**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    bias, z = norm.ppf(below), norm.ppf((1 + confidence) / 2)
    shifted = np.array([bias - z, bias + z])
    levels = norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(values, levels)
    return float(low), float(high)


def bootstrap_interval(
    values: np.ndarray, estimate: float, left_out: np.ndarray, *, confidence: float = 0.95,
) -> tuple[float, float, str] | None:
    """Interval and its name: BCa from 50 clusters up, percentiles below.

    Undefined resamples (NaN) are left out; ``None`` when fewer than half are defined.

    Args:
        values: (B,) of resamples.
        estimate: Of the sample.
        left_out: (C,) without each cluster.
        confidence: Between 0 and 1.
    """
    defined, left = values[np.isfinite(values)], left_out[np.isfinite(left_out)]
    if 2 * len(defined) < len(values):
        return None
    clusters = len(left_out)
    level = expanded(confidence, clusters)
    if clusters >= BCA_FROM and len(left):
        return *bca_interval(defined, estimate, left, level), "bca bootstrap"
    return *percentile_interval(defined, level), "percentile bootstrap"


def weighted_errors_interval(
    loss: float, variance: float, largest: float, confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of a weighted sum of few errors (Fay & Feuer 1997, Statistics in Medicine 16).

    Each kind of error is a Poisson count with its weight; the upper end allows for one more of the
    heaviest. Without an error the lower end is 0.

    Args:
        loss: The sum: by how much the metric is below its best.
        variance: Of the loss: the sum of squared weights of the errors.
        largest: Weight of the heaviest error.
        confidence: Between 0 and 1.
    """
    from scipy.stats import gamma

    tail = (1 - confidence) / 2
    low = 0.0
    if loss > 0 and variance > 0:
        low = float(gamma.ppf(tail, loss**2 / variance, scale=variance / loss))
    if variance == 0 and largest == 0:
        return loss, loss  # no error moves it
    loss, variance = loss + largest, variance + largest**2
    return low, float(gamma.ppf(1 - tail, loss**2 / variance, scale=variance / loss))
