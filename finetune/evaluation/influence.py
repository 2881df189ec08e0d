"""Every metric of a run, and how each picture or group of pictures moves it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune.evaluation.auc_intervals import Area, area_under_roc, average_precision
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.summed import Moved, class_key, linearise, summed_metrics
from finetune.specs import LabelKind

__all__ = ["AREAS", "cluster_numbers", "measure_moves", "one_hot", "weighted_area"]

AREAS: dict[str, Callable[..., Area | None]] = {
    "roc_auc": area_under_roc, "average_precision": average_precision}
"""Areas under curves, by the name of the metric."""


def cluster_numbers(groups: Sequence[Any] | None) -> np.ndarray | None:
    """(N,) the number of each picture's group; ``None`` where every picture is its own.

    >>> cluster_numbers(["b", "a", "b"])
    array([1, 0, 1])
    """
    if groups is None or len(set(groups)) == len(groups):
        return None
    return np.asarray(np.unique(np.array(groups), return_inverse=True)[1])


def measure_moves(predictions: Predictions,
                  clusters: np.ndarray | None = None) -> dict[str, Moved]:
    """Metrics of a run that are defined, and how each cluster moves them.

    Names and values are those of `finetune.evaluation.metrics.compute_metrics`; those of a class
    stand under `finetune.evaluation.summed.class_key`. The moves of an area under the ROC curve are
    DeLong's structural components (1988, Biometrics 44), summed over clusters as Obuchowski (1997,
    Biometrics 53) does.

    Args:
        predictions: Of one run.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
    """
    found = dict(linearise(summed_metrics(predictions, clusters)))
    for name in AREAS:
        found |= _areas(predictions, clusters, name)
    return found


def one_hot(predictions: Predictions) -> np.ndarray:
    """(N, K) truth of each class: 0, 1 or NaN = unknown."""
    if predictions.label_spec.kind is LabelKind.multi:
        return np.asarray(predictions.labels, float)
    return np.asarray(np.eye(predictions.label_spec.output_width)[predictions.labels])


def _areas(predictions: Predictions, clusters: np.ndarray | None, name: str) -> dict[str, Moved]:
    """An area of each class, and the mean, where `compute_metrics` has one."""
    truth, scores = one_hot(predictions), predictions.probabilities
    found = {}
    for place in range(truth.shape[1]):
        area = AREAS[name](truth[:, place], scores[:, place], clusters)
        if area is not None:
            found[class_key(name, place)] = Moved(area.value, area.of_positives + area.of_negatives)
    need_all = name == "roc_auc" and predictions.label_spec.is_exclusive
    if not found or (need_all and len(found) < truth.shape[1]):
        return found
    mean = Moved(float(np.mean([each.value for each in found.values()])),
                 np.mean([each.moves for each in found.values()], axis=0))
    return {**found, name: mean}


def weighted_area(name: str, truth: np.ndarray, scores: np.ndarray,
                  ) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives an area (B,) for weights (B, N) of the pictures.

    Args:
        name: One of `AREAS`.
        truth: (N,) 0, 1 or NaN = unknown.
        scores: (N,) higher for positives.
    """
    known = np.flatnonzero(~np.isnan(truth))
    order = known[np.argsort(-scores[known], kind="stable")]
    falling, positive = -scores[order], truth[order] == 1
    first = np.searchsorted(falling, falling, side="left")   # equal scores enter together
    last = np.searchsorted(falling, falling, side="right") - 1
    area = _roc if name == "roc_auc" else _precision
    return lambda weights: area(np.asarray(weights[:, order]), positive, first, last)


def _roc(weights: np.ndarray, positive: np.ndarray, first: np.ndarray,
         last: np.ndarray) -> np.ndarray:
    """Share of pairs in which the positive is above the negative; ties count a half."""
    hits, misses = weights * positive, weights * ~positive
    above = np.cumsum(hits, axis=1)
    before = above[:, first] - hits[:, first]
    pairs = above[:, -1] * misses.sum(axis=1)
    won = (misses * (before + above[:, last])).sum(axis=1) / 2
    return np.asarray(won / np.where(pairs > 0, pairs, np.nan))


def _precision(weights: np.ndarray, positive: np.ndarray, first: np.ndarray,
               last: np.ndarray) -> np.ndarray:
    hits = weights * positive
    found, answered = np.cumsum(hits, axis=1)[:, last], np.cumsum(weights, axis=1)[:, last]
    total = hits.sum(axis=1)
    sums = (hits * found / np.where(answered > 0, answered, 1)).sum(axis=1)
    return np.asarray(sums / np.where(total > 0, total, np.nan))
