"""Intervals of proportions, of independent pictures or of groups of them."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Proportion", "count_proportion", "effective_sample_size", "wilson"]

PRIOR_CLUSTERS = 1.0  # how many clusters the assumption weighs that pictures of one are all alike
CORRECTED = 3.0       # successes or failures up to which Wilson's far end is too near


@dataclass(frozen=True)
class Proportion:
    """Hits among the pictures that count, and how much independent evidence they are.

    Attributes:
        value: Hits divided by pictures.
        count: Pictures that count.
        effective: How many independent pictures they are worth; ``count`` without groups.
        clusters: Groups with a picture that counts; ``count`` without groups.
    """

    value: float
    count: int
    effective: float
    clusters: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval at the effective number of pictures."""
        return wilson(self.value * self.effective, self.effective, confidence)


def wilson(
    successes: float, count: float, confidence: float = 0.95, *, corrected: bool = True,
) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927).

    Plain, it misses proportions nearer to 0 or 1 than about 0.2 / count in one of six samples: the
    sample with a single failure excludes them. ``corrected`` moves that end outward for up to 3
    successes or failures, by the Poisson limit of Brown, Cai, DasGupta 2001 (Statistical Science
    16, section 4.1.1).

    Args:
        successes: Of ``count``; need not be whole.
        count: Above 0; need not be whole.
        confidence: Between 0 and 1.
        corrected: Whether the ends are corrected.

    >>> low, high = wilson(50, 50)
    >>> round(low, 3), high
    (0.929, 1.0)
    """
    low, high = _score_interval(successes, count, confidence)
    if corrected:
        low = _corrected_low(low, successes, count, confidence)
        high = 1 - _corrected_low(1 - high, count - successes, count, confidence)
    return low, high


def _score_interval(successes: float, count: float, confidence: float) -> tuple[float, float]:
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + confidence) / 2)) ** 2
    failures = count - successes
    middle = (successes + z2 / 2) / (count + z2)
    half = float(np.sqrt(z2 * (max(successes * failures, 0.0) / count + z2 / 4))) / (count + z2)
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    return low, 1.0 if failures <= 0 else min(1.0, middle + half)


def _corrected_low(low: float, successes: float, count: float, confidence: float) -> float:
    from scipy.stats import chi2

    if not 0 < successes <= CORRECTED:
        return low
    return min(low, float(chi2.ppf(1 - confidence, 2 * successes)) / 2 / count)


def count_proportion(
    hits: np.ndarray, counted: np.ndarray, clusters: np.ndarray | None = None, *,
    confidence: float = 0.95,
) -> Proportion | None:
    """The proportion of hits among what is counted; ``None`` when nothing is counted.

    Args:
        hits: (N,) bool; hits that are not counted are left out.
        counted: (N,) bool.
        clusters: (N,) the number of each picture's group, when pictures are not independent.
        confidence: Of the interval; see `effective_sample_size`.
    """
    count, found = int(counted.sum()), int((hits & counted).sum())
    if not count:
        return None
    if clusters is None:
        return Proportion(found / count, count, float(count), count)
    of = clusters[counted]
    sizes = np.bincount(of)
    right = np.bincount(of, weights=hits[counted])[sizes > 0]
    sizes = sizes[sizes > 0]
    worth = effective_sample_size(right, sizes, confidence)
    return Proportion(found / count, count, worth, len(sizes))


def effective_sample_size(
    successes: np.ndarray, sizes: np.ndarray, confidence: float = 0.95,
) -> float:
    """How many independent pictures the clusters are worth: their number over the design effect.

    The variance is the ratio estimator's (Cochran 1977, section 11). Few failures say little of
    how alike pictures of a cluster are, so the intra-cluster correlation is drawn towards 1, by
    the weight of one cluster against those that have both the rarer outcome and a second picture;
    without any, the clusters count, not the pictures. Korn & Graubard 1998 (Survey Methodology 24)
    account for the number of clusters by Student's t.

    Args:
        successes: (C,) of each cluster.
        sizes: (C,) pictures of each cluster, at least 1.
        confidence: Of the interval, for the quantile of t.
    """
    from scipy.stats import norm, t

    total, clusters = float(sizes.sum()), len(sizes)
    if clusters == total:
        return total
    alike = float((sizes.astype(float) ** 2).sum()) / total  # design effect of identical pictures
    effect = 1 + (alike - 1) * _drawn_correlation(successes, sizes, alike)
    level = (1 + confidence) / 2
    shrink = (norm.ppf(level) / t.ppf(level, clusters - 1)) ** 2 if clusters > 1 else 1.0
    return float(total / effect * shrink)


def _drawn_correlation(successes: np.ndarray, sizes: np.ndarray, alike: float) -> float:
    """Intra-cluster correlation 0..1, drawn towards 1 where few clusters tell of it."""
    total, clusters = float(sizes.sum()), len(sizes)
    value = float(successes.sum()) / total
    rarer = successes if value <= 0.5 else sizes - successes
    telling = int((rarer > 0).sum())
    if not telling or clusters < 2:
        return 1.0
    residuals = successes - value * sizes
    variance = clusters / (clusters - 1) * float((residuals**2).sum())
    effect = variance / (total * value * (1 - value))
    correlation = float(np.clip((effect - 1) / (alike - 1), 0, 1))
    return (telling * correlation + PRIOR_CLUSTERS) / (telling + PRIOR_CLUSTERS)
