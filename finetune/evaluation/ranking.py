"""Curves and areas of the scores of one class: scikit-learn's numbers, to the bit.

Loading scikit-learn takes a second and 100 MiB, which a training process would hold until its end;
an epoch's metrics need no more of it than this.
"""

import numpy as np

__all__ = ["average_precision", "precision_recall_points", "roc_auc", "roc_points"]

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def roc_points(truth: np.ndarray, scores: np.ndarray) -> Points:
    """False positive rates, true positive rates and thresholds, from the strictest on.

    Points on a line between others are left out. The first threshold, above all scores, is
    infinite.

    Args:
        truth: (N,) 0 or 1, both of them there.
        scores: (N,) higher for 1.

    >>> roc_points(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]), array([inf, 0.8, 0.4, 0.1]))
    """
    false, true, thresholds = _counts(truth, scores)
    corners = np.logical_or(np.diff(false, 2), np.diff(true, 2))
    kept = _with_ends(corners, len(true))
    false, true = np.append(0.0, false[kept]), np.append(0.0, true[kept])
    return false / false[-1], true / true[-1], np.append(np.inf, thresholds[kept])


def precision_recall_points(truth: np.ndarray, scores: np.ndarray) -> Points:
    """Precisions, recalls and thresholds, from the mildest on.

    A precision of 1 at a recall of 0, which belongs to no threshold, ends the first two. Of points
    with the same recall, the first and the last are kept.

    Args:
        truth: (N,) 0 or 1, with a 1.
        scores: (N,) higher for 1.
    """
    false, true, thresholds = _counts(truth, scores)
    kept = _with_ends(np.logical_or(np.diff(true[:-1]), np.diff(true[1:])), len(true))
    precision, recall = _precision_recall(false[kept], true[kept])
    return precision, recall, thresholds[kept][::-1]


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; ties count half.

    >>> roc_auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    x, y, _ = roc_points(truth, scores)
    return float(np.trapezoid(y, x))


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the precisions at each threshold, weighted by the recall won there."""
    false, true, _ = _counts(truth, scores)
    precision, recall = _precision_recall(false, true)
    return float(max(0.0, -np.sum(np.diff(recall) * precision[:-1])))


def _counts(truth: np.ndarray, scores: np.ndarray) -> Points:
    """Negatives and positives at or above each different score, and these, falling."""
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], np.asarray(truth)[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(positive)[last]
    return 1 + last - true, true, scores[last]


def _with_ends(inside: np.ndarray, count: int) -> np.ndarray:
    """Which of ``count`` points are kept: the first, the last, and those ``inside`` says."""
    if count <= 2:
        return np.ones(count, bool)
    return np.concatenate([[True], inside, [True]])


def _precision_recall(false: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall = true / (true + false), true / true[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)
