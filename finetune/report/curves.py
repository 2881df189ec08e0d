"""The numbers behind the figures: ROC and precision-recall curves of each class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.evaluation.predictions import Predictions
from finetune.evaluation.ranking import (
    average_precision,
    precision_recall_points,
    roc_auc,
    roc_points,
)
from finetune.specs import LabelKind

__all__ = ["Curve", "mean_curve", "precision_recall_curves", "roc_curves", "targets"]


@dataclass(frozen=True)
class Curve:
    """Points of one class's curve.

    Attributes:
        name: The class, in full.
        label: What the legend says; the area stands first, since matplotlib leaves out labels
            that begin with an underscore.
        x: (P,) false positive rate or recall.
        y: (P,) true positive rate or precision.
        thresholds: (P,) probability from which a picture counts as positive; NaN at the end
            point that belongs to no threshold.
        area: Area under the curve or average precision.
        steps: ``y`` is constant from one point's ``x`` to the next, not a line between them.
    """

    name: str
    label: str
    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray
    area: float
    steps: bool = False


def targets(predictions: Predictions) -> np.ndarray:
    """(N, K) float: 1, 0, or NaN where it is unknown."""
    if predictions.label_spec.kind is LabelKind.multi:
        return predictions.labels.astype(float)
    return np.asarray(np.eye(predictions.label_spec.output_width)[predictions.labels])


def roc_curves(predictions: Predictions, labels: Sequence[str]) -> list[Curve]:
    """ROC curve of every class with positives and negatives; of two classes, the positive one."""
    return _curves(predictions, labels, _roc, steps=False)


def precision_recall_curves(predictions: Predictions, labels: Sequence[str]) -> list[Curve]:
    """Precision-recall curve of every class that occurs; of two classes, the positive one."""
    return _curves(predictions, labels, _precision_recall, steps=True)


Points = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def _curves(predictions: Predictions, labels: Sequence[str],
            points: Callable[[np.ndarray, np.ndarray], Points], *, steps: bool) -> list[Curve]:
    spec, truth = predictions.label_spec, targets(predictions)
    probabilities = predictions.probabilities
    classes = range(spec.output_width)
    if spec.is_binary:
        classes = range(*_one(spec.class_names.index(spec.positive_class or spec.class_names[1])))
    found = []
    for index in classes:
        known = ~np.isnan(truth[:, index])
        positive, scores = truth[known, index], probabilities[known, index]
        if not positive.any() or (positive.all() and not steps):
            continue
        x, y, thresholds, area = points(positive, scores)
        found.append(Curve(spec.class_names[index], f"{area:.3f}  {labels[index]}", x, y,
                           thresholds, area, steps))
    return found


def _one(index: int) -> tuple[int, int]:
    return index, index + 1


def _roc(truth: np.ndarray, scores: np.ndarray) -> Points:
    x, y, thresholds = roc_points(truth, scores)
    thresholds = np.where(np.isfinite(thresholds), thresholds, np.nan)
    return x, y, thresholds, roc_auc(truth, scores)


def _precision_recall(truth: np.ndarray, scores: np.ndarray) -> Points:
    y, x, thresholds = precision_recall_points(truth, scores)
    return (x[::-1], y[::-1], np.append(thresholds, np.nan)[::-1],
            average_precision(truth, scores))


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """Vertical mean of curves over a common x, with the mean of their areas; None for one."""
    if len(curves) < 2:
        return None
    grid = np.linspace(0, 1, 201)
    heights = np.mean([_heights(curve, grid) for curve in curves], axis=0)
    start = float(np.mean([curve.y[0] for curve in curves]))
    area = float(np.mean([curve.area for curve in curves]))
    first = replace(curves[0], name="mean of classes", area=area,
                    label=f"{area:.3f}  mean of {len(curves)} classes")
    return replace(first, x=np.append(0, grid), y=np.append(start, heights),
                   thresholds=np.full(202, np.nan))


def _heights(curve: Curve, grid: np.ndarray) -> np.ndarray:
    """The curve's y at each x of a grid."""
    if curve.steps:
        return np.asarray(curve.y[np.searchsorted(curve.x, grid)])
    return np.asarray(np.interp(grid, curve.x, curve.y))
