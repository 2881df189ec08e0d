"""McNemar's test: whether two models on the same pictures are right equally often."""

from dataclasses import dataclass

import numpy as np

__all__ = ["EXACT_BELOW", "Discordance", "mcnemar"]

EXACT_BELOW = 25  # discordant pictures, or clusters


@dataclass(frozen=True)
class Discordance:
    """On which pictures one of two models alone is right.

    Attributes:
        first_only: Pictures that only the first gets right.
        second_only: Pictures that only the second gets right.
        p: Two-sided.
        test: How it was computed.
    """

    first_only: int
    second_only: int
    p: float
    test: str


def mcnemar(first: np.ndarray, second: np.ndarray,
            clusters: np.ndarray | None = None) -> Discordance:
    """McNemar's test of two models' right answers on the same pictures.

    Below 25 discordant pictures exact (binomial); from 25 on its mid-p, which has nearly the level
    asked for where the exact test is too strict, and needs no normal approximation (Fagerland,
    Lydersen, Laake 2013, BMC Medical Research Methodology 13:91).

    Pictures of a cluster aren't independent. With clusters the statistic is Obuchowski's (1998,
    Statistics in Medicine 17), the net number of pictures won against its variance between
    clusters; for clusters of one size it is Durkalski's (2003, Statistics in Medicine 22) times
    (C - 1) / C. Below 25 clusters with a net difference it is exact: the sign of each cluster's net
    difference is drawn, which for clusters of one picture is the binomial test again.

    Args:
        first: (N,) whether the first model is right.
        second: (N,) whether the second is.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
    """
    from scipy.stats import chi2

    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    if clusters is None:
        few = won + lost < EXACT_BELOW
        return Discordance(won, lost, _binomial(won, lost, mid=not few),
                           "mcnemar, exact" if few else "mcnemar, mid-p")
    net = np.bincount(clusters, weights=first.astype(float) - second).round().astype(int)
    if np.count_nonzero(net) < EXACT_BELOW:
        return Discordance(won, lost, _signs(net), "mcnemar, signs of clusters, exact")
    size = len(net)
    statistic = (size - 1) / size * float(net.sum()) ** 2 / float((net**2).sum())
    return Discordance(won, lost, float(chi2.sf(statistic, 1)), "mcnemar, obuchowski")


def _binomial(won: int, lost: int, *, mid: bool) -> float:
    from scipy.stats import binom

    fewer, total = min(won, lost), won + lost
    tail = 2 * float(binom.cdf(fewer, total, 0.5)) - mid * float(binom.pmf(fewer, total, 0.5))
    return min(1.0, tail)


def _signs(net: np.ndarray) -> float:
    """Two-sided p of the sum of whole numbers when each has either sign by chance."""
    shares = np.ones(1)  # of sums -m..m
    for size in np.abs(net[net != 0]).tolist():
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        shares = np.convolve(shares, step)
    middle, reached = len(shares) // 2, abs(int(net.sum()))
    distance = np.abs(np.arange(len(shares)) - middle)
    return min(1.0, float(shares[distance >= reached].sum()))
