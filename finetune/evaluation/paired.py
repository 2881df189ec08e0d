"""Two runs on the same pictures: the difference of every metric, with an interval and a test.

Says which of these two models is better on pictures of this kind. Another training of either may
turn it round; `finetune.evaluation.crossed` is for methods that were trained several times.
"""

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.auc_intervals import effective_number
from finetune.evaluation.bootstrap import (
    Statistic,
    bootstrap_interval,
    resample,
    weighted_errors_interval,
)
from finetune.evaluation.delong import compare_areas
from finetune.evaluation.influence import AREAS, measure_moves, one_hot, weighted_area
from finetune.evaluation.mcnemar import mcnemar
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.summed import Moved, class_key, summed_metrics

__all__ = ["PairedDifference", "class_of", "cluster_shares", "compare_runs", "difference_interval",
           "no_difference", "right_answers", "telling_number"]

FEW = 30              # clusters that carry a difference; with fewer the interval is moved outward
MOST = 100_000_000    # weights of pictures that are drawn for areas
Draws = dict[str, np.ndarray]


@dataclass(frozen=True)
class PairedDifference:
    """The first run less the second.

    Attributes:
        first: The first run's metric.
        second: The second's.
        value: Difference.
        error: Standard error, over pictures (groups).
        low: Of the interval.
        high: Of the interval.
        method: Of the interval.
        p: Two-sided, of no difference.
        test: How p was computed.
        telling: How many pictures (groups) of equal weight the difference rests on.
        clusters: Pictures, or groups of them, that count.
    """

    first: float
    second: float
    value: float
    error: float
    low: float
    high: float
    method: str
    p: float
    test: str
    telling: float
    clusters: int


def compare_runs(
    first: Predictions, second: Predictions, clusters: np.ndarray | None = None, *,
    confidence: float = 0.95, resamples: int = 2000, seed: int = 0,
) -> dict[str, PairedDifference]:
    """Differences of all metrics that both runs have, of a class under `class_key`.

    Intervals are of the paired bootstrap: whole clusters are drawn, the same for both runs (BCa:
    Efron 1987, JASA 82; percentiles below 50 clusters), moved outward where few pictures carry the
    difference (`difference_interval`). p is McNemar's for accuracy, DeLong's for areas under the
    ROC curve, and for others of Student's t with the jackknife's error.

    Args:
        first: Answers of one run.
        second: Of the other, about the same pictures in the same order.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
        confidence: Between 0 and 1.
        resamples: Of the bootstrap.
        seed: The same seed draws the same clusters.
    """
    one, other = measure_moves(first, clusters), measure_moves(second, clusters)
    names = [name for name in one if name in other]
    drawn = _draw(first, second, clusters, resamples, seed)
    tests = _tests(first, second, clusters)
    shares = cluster_shares(first, clusters)
    return {name: _difference(one[name], other[name], drawn.get(name), tests.get(name),
                              shares.get(class_of(name), shares[""]), confidence)
            for name in names}


def right_answers(predictions: Predictions) -> np.ndarray:
    """(N,) whether the answer about a picture is right in whole; what is unknown is left out."""
    truth = one_hot(predictions)
    if predictions.label_spec.is_exclusive:
        return np.asarray(predictions.probabilities.argmax(axis=1) == predictions.labels)
    agree = ((predictions.probabilities >= 0.5) == (truth == 1)) | np.isnan(truth)
    return np.asarray(agree.all(axis=1) & ~np.isnan(truth).all(axis=1))


def class_of(name: str) -> str:
    """``[2]`` of ``recall[2]``; nothing of a metric over all classes."""
    return name[name.index("["):] if name.endswith("]") else ""


def cluster_shares(predictions: Predictions, clusters: np.ndarray | None) -> dict[str, np.ndarray]:
    """(C,) each cluster's share of the pictures, of all and of those with each class (`class_of`).

    How many aren't 0 is how many clusters tell of a metric.
    """
    truth = one_hot(predictions) == 1
    of = np.arange(len(truth)) if clusters is None else clusters
    size = int(of.max()) + 1
    found = {"": np.bincount(of, minlength=size) / len(of)}
    for place in range(truth.shape[1]):
        count = np.bincount(of, weights=truth[:, place], minlength=size)
        if count.any():
            found[class_key("", place)] = count / count.sum()
    return found


def _tests(first: Predictions, second: Predictions,
           clusters: np.ndarray | None) -> dict[str, tuple[float, str]]:
    """Of each metric that has one of its own, p and its test."""
    shown = mcnemar(right_answers(first), right_answers(second), clusters)
    found = {"accuracy": (shown.p, shown.test)}
    truth, scores = one_hot(first), (first.probabilities, second.probabilities)
    places = {class_key("roc_auc", i): [i] for i in range(truth.shape[1])}
    for name, columns in {"roc_auc": list(range(truth.shape[1])), **places}.items():
        area = compare_areas(truth[:, columns], scores[0][:, columns], scores[1][:, columns],
                             clusters)
        if area is not None and area.error > 0:
            found[name] = (area.p, area.test)
    return found


def _draw(first: Predictions, second: Predictions, clusters: np.ndarray | None, resamples: int,
          seed: int) -> Draws:
    """(B,) differences of resamples, of each metric; of areas unless there are too many weights."""
    from scipy.sparse import csr_array, eye_array, hstack

    one, other = summed_metrics(first, clusters), summed_metrics(second, clusters)
    width, size = one.sums.shape[1], one.sums.shape[0]

    def differences(totals: np.ndarray) -> Draws:
        found, less = one.statistic(totals[:, :width]), other.statistic(totals[:, width:])
        return {name: found[name] - less[name] for name in found}

    drawn = resample(csr_array(hstack([one.sums, other.sums])), differences, resamples=resamples,
                     seed=seed)
    if 2 * resamples * first.logits.size <= MOST:
        weights = csr_array(eye_array(size))
        drawn |= resample(weights, _areas(first, second, clusters), resamples=resamples, seed=seed)
    return drawn


def _areas(first: Predictions, second: Predictions, clusters: np.ndarray | None) -> Statistic:
    """Differences of areas for weights (B, C) of clusters."""
    truth = one_hot(first)
    pairs = {(name, place): tuple(weighted_area(name, truth[:, place], p.probabilities[:, place])
                                  for p in (first, second))
             for name in AREAS for place in range(truth.shape[1])}

    def differences(weights: np.ndarray) -> Draws:
        own = weights if clusters is None else weights[:, clusters]
        values = {pair: one(own) - other(own) for pair, (one, other) in pairs.items()}
        found = {class_key(name, place): value for (name, place), value in values.items()}
        return {**found, **{name: np.mean([value for pair, value in values.items()
                                           if pair[0] == name], axis=0) for name in AREAS}}

    return differences


def _difference(one: Moved, other: Moved, drawn: np.ndarray | None,
                test: tuple[float, str] | None, shares: np.ndarray,
                confidence: float) -> PairedDifference:
    from scipy.stats import t

    value, moves = one.value - other.value, one.moves - other.moves
    units = int(np.count_nonzero(shares))
    error = float((units / max(units - 1, 1) * (moves**2).sum()) ** 0.5)
    freedom = max(units - 1, 1)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    low, high, method = value - half, value + half, "jackknife, t"
    if drawn is not None and error > 0:
        found = bootstrap_interval(drawn, value, value - moves, confidence=confidence)
        low, high, method = found or (low, high, method)
    parts = moves + value * shares
    telling = min(effective_number(np.abs(parts)), 3 * telling_number(moves))  # 3: a normal's
    if telling < FEW:
        least = max(np.abs(one.moves).max(), np.abs(other.moves).max(), 1e-12)
        if least <= 1e-12:
            least = 1 / max(units, 1)
        near = difference_interval(parts, float(least), confidence)
        low, high, method = min(low, near[0]), max(high, near[1]), f"{method}, fay-feuer"
    p, name = test or no_difference(value, error, freedom, units)
    return PairedDifference(one.value, other.value, value, error, low, high, method, p, name,
                            telling, units)


def no_difference(value: float, error: float, freedom: float, units: int) -> tuple[float, str]:
    """Two-sided p of no difference by Student's t, and its name.

    Where nothing varies every cluster tells the same; then it is the sign test's.
    """
    from scipy.stats import t

    if error > 0:
        return float(2 * t.sf(abs(value) / error, freedom)), "jackknife, t"
    certain = abs(value) > 1e-12
    return (min(1.0, 2 * 0.5**units) if certain else 1.0), "signs of clusters, exact"


def telling_number(moves: np.ndarray) -> float:
    """How many clusters of equal weight a difference's variance rests on.

    Args:
        moves: (C,) what each cluster adds to the error of the difference.
    """
    fourth = float((moves**4).sum())
    return float((moves**2).sum()) ** 2 / fourth if fourth > 0 else 0.0


def difference_interval(parts: np.ndarray, heaviest: float,
                        confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a sum of few gains and few losses; without any it is as wide on both sides.

    Gains and losses are weighted sums of Poisson counts with Fay & Feuer's intervals (1997,
    Statistics in Medicine 16), joined as Zou & Donner (2008, Statistics in Medicine 27) join those
    of two estimates.

    Args:
        parts: (C,) what each cluster adds to the difference.
        heaviest: The least that is taken for the weight of one more.
        confidence: Between 0 and 1.
    """
    ends = []
    for signed in (parts.clip(min=0), (-parts).clip(min=0)):
        weight = max(heaviest, float(signed.max()))
        total, square = float(signed.sum()), float((signed**2).sum())
        low, high = weighted_errors_interval(total, square, weight, confidence)
        ends.append((total - low, high - total))
    (gain_below, gain_above), (loss_below, loss_above) = ends
    value = float(parts.sum())
    return (value - float(np.hypot(gain_below, loss_above)),
            value + float(np.hypot(gain_above, loss_below)))

