"""Two methods, each trained with several seeds, on the same pictures: is the difference real?

A score of a run on a picture is  method + seed + picture + method x picture + rest.  Seeds are
nested in methods (a seed's number in another method is another training), pictures are crossed with
both. This is the design of studies in which readers of each method read the same cases: Obuchowski
& Rockette 1995 (Communications in Statistics 24), Hillis 2007 (Statistics in Medicine 26: degrees
of freedom) and 2014 (Statistics in Medicine 33: readers nested in methods).
"""

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.paired import difference_interval, no_difference

__all__ = ["Components", "CrossedDifference", "compare_methods", "planned_error"]


@dataclass(frozen=True)
class Components:
    """Where the uncertainty of a difference comes from.

    Attributes:
        seeds: Variance of a run's metric over endless seeds, of each method; on endless pictures.
        clusters: Variance of the difference over pictures (clusters), on endless seeds.
        rest: Variance of seed x picture and of what is left, of each method.
    """

    seeds: tuple[float, float]
    clusters: float
    rest: tuple[float, float]


@dataclass(frozen=True)
class CrossedDifference:
    """The first method less the second.

    Attributes:
        first: Mean over seeds of the first method's metric.
        second: Of the second's.
        value: Difference.
        error: Its standard error, over seeds and pictures.
        freedom: Degrees of freedom of the error (Satterthwaite).
        low: Of the interval.
        high: Of the interval.
        p: Two-sided, of no difference.
        components: Where the error comes from.
        runs: Seeds of each method.
        clusters: Pictures, or groups of them, that count.
    """

    first: float
    second: float
    value: float
    error: float
    freedom: float
    low: float
    high: float
    p: float
    components: Components
    runs: tuple[int, int]
    clusters: int


@dataclass(frozen=True)
class _Side:
    """Variances of one method's scores (S, C): of seeds' means, and of the rest."""

    runs: int
    of_means: float
    of_rest: float


def compare_methods(first: np.ndarray, second: np.ndarray, *, units: int | None = None,
                    confidence: float = 0.95) -> CrossedDifference:
    """Difference of two methods' mean scores, with an interval over new seeds and new pictures.

    The error's square is  V = s_1^2/S_1 + s_2^2/S_2 + max(0, s_d^2 - r_1/S_1 - r_2/S_2)/C  of the
    variances s of a method's means over seeds, s_d^2 of the clusters' differences, and r of what
    neither explains, which is in the first two and in s_d^2 alike. Degrees of freedom are
    Satterthwaite's (1946, Biometrics Bulletin 2) for that sum, and not fewer than those of its
    least certain part: with what is subtracted they could fall below 1. Without variance of
    pictures it is Welch's test of the seeds' means; without that of seeds a paired test of
    pictures; without any, the sign test of the clusters and Fay & Feuer's interval
    (`difference_interval`).

    A method with a single run says nothing about its seeds; they are taken to spread as the other
    method's do.

    Args:
        first: (S1, C) scores whose mean over a row is the run's metric: 0 and 1 of each picture for
            accuracy; for others the metric plus C times what each cluster moves it.
        second: (S2, C) of the other method, the same pictures in the same order.
        units: How many clusters tell anything, as those with pictures of the class that a metric is
            of; None: all.
        confidence: Between 0 and 1.

    Raises:
        ValueError: Both have a single run, or there are fewer than two clusters.
    """
    size = first.shape[1]
    if (len(first) < 2 and len(second) < 2) or size < 2 or second.shape[1] != size:
        raise ValueError(f"scores of shapes {first.shape} and {second.shape}: two runs of one "
                         "method, two clusters and the same clusters are needed")
    units = size if units is None else units
    few = units / max(units - 1, 1) * (size - 1) / size  # the others' scores don't vary
    sides = _sides(first, second, few)
    of_pictures = few * float((first.mean(axis=0) - second.mean(axis=0)).var(ddof=1))
    variance, freedom = _satterthwaite(sides, of_pictures, size, max(units - 1, 1))
    means = float(first.mean()), float(second.mean())
    value, error = means[0] - means[1], variance**0.5
    p, _ = no_difference(value, error, freedom, units)
    low, high = _interval(value, error, freedom, units, confidence)
    shared = sum(side.of_rest / side.runs for side in sides)
    components = Components(
        (max(0.0, sides[0].of_means - sides[0].of_rest / size),
         max(0.0, sides[1].of_means - sides[1].of_rest / size)),
        max(0.0, of_pictures - shared), (sides[0].of_rest, sides[1].of_rest))
    return CrossedDifference(*means, value, error, freedom, low, high, p, components,
                             (len(first), len(second)), units)


def _interval(value: float, error: float, freedom: float, units: int,
              confidence: float) -> tuple[float, float]:
    from scipy.stats import t

    if error == 0 and abs(value) > 1e-12:
        return difference_interval(np.full(units, value / units), 1 / units, confidence)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return value - half, value + half


def _sides(first: np.ndarray, second: np.ndarray, few: float) -> tuple[_Side, _Side]:
    """Variances of both; a single run takes the other's."""
    one, other = (_variances(scores, few) if len(scores) > 1 else None
                  for scores in (first, second))
    known = one or other
    assert known is not None
    one, other = one or known, other or known
    return _Side(len(first), *one), _Side(len(second), *other)


def _variances(scores: np.ndarray, few: float) -> tuple[float, float]:
    """Of the means of rows, and of what rows and columns leave, of (S, C)."""
    rows, columns = scores.shape
    means = scores.mean(axis=1)
    left = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    return float(means.var(ddof=1)), few * float((left**2).sum()) / ((rows - 1) * (columns - 1))


def _satterthwaite(sides: tuple[_Side, _Side], of_pictures: float, size: int,
                   free: int) -> tuple[float, float]:
    """Variance of the difference, and its degrees of freedom."""
    known = [side.runs - 1 if side.runs > 1 else other.runs - 1
             for side, other in (sides, sides[::-1])]
    seeds = [side.of_means / side.runs for side in sides]
    rest = [side.of_rest / side.runs / size for side in sides]
    pictures = of_pictures / size
    variance = sum(seeds) + max(0.0, pictures - sum(rest))
    spread = sum(s**2 / f for s, f in zip(seeds, known, strict=True))
    if pictures > sum(rest):
        spread += pictures**2 / free
        spread += sum(r**2 / (f * free) for r, f in zip(rest, known, strict=True))
    if sides[0].runs == 1 or sides[1].runs == 1:  # one estimate serves both: not independent
        spread = sum(seeds)**2 / min(known) + (spread - sum(
            s**2 / f for s, f in zip(seeds, known, strict=True)))
    freedom = variance**2 / spread if spread > 0 else free
    return variance, float(max(freedom, min(*known, free)))


def planned_error(components: Components, runs: tuple[int, int],
                  clusters: float) -> tuple[float, float]:
    """Standard error, and its degrees of freedom, with other numbers of seeds and clusters.

    Args:
        components: Of a comparison that was made.
        runs: Seeds of each method; 1 and 1 with ``components.seeds`` of 0 is one run a side.
        clusters: Pictures, or groups of them.
    """
    seeds = [s / n for s, n in zip(components.seeds, runs, strict=True)]
    rest = [r / n / clusters for r, n in zip(components.rest, runs, strict=True)]
    pictures = components.clusters / clusters
    variance = sum(seeds) + sum(rest) + pictures
    spread = sum((s + r)**2 / max(n - 1, 1) for s, r, n in zip(seeds, rest, runs, strict=True)
                 if s + r > 0)
    spread += (pictures + sum(rest))**2 / max(clusters - 1, 1)
    return variance**0.5, variance**2 / spread if spread > 0 else max(clusters - 1.0, 1.0)
