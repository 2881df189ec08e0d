"""The numbers of one class against the rest."""

from typing import Any

import numpy as np

from finetune.evaluation.ranking import average_precision, roc_auc

__all__ = ["class_areas", "confusion_counts", "describe_class", "measured_by_class"]


def confusion_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[[true negatives, false positives], [false negatives, true positives]].

    Args:
        truth: (N,) 0, 1 or NaN; unknown entries are not counted.
        predicted: (N,) 0 or 1.
    """
    known = ~np.isnan(truth)
    pairs = 2 * truth[known].astype(int) + predicted[known].astype(int)
    return np.bincount(pairs, minlength=4).reshape(2, 2)


def class_areas(truth: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """ROC-AUC and average precision of one class; ``None`` where they are not defined.

    ROC-AUC needs positives and negatives, average precision a positive. Entries of ``truth`` that
    are NaN are left out.
    """
    known = ~np.isnan(truth)
    truth, scores = truth[known], scores[known]
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    area = roc_auc(truth, scores) if positives and negatives else None
    precision = average_precision(truth, scores) if positives else None
    return {"roc_auc": area, "average_precision": precision}


def describe_class(
    truth: np.ndarray, predicted: np.ndarray, scores: np.ndarray,
) -> dict[str, Any]:
    """Precision, recall, specificity, F1, support and areas of one class against the rest.

    Precision, recall and F1 that are not defined are 0 (scikit-learn's ``zero_division=0``);
    specificity without negatives is ``None``, and so is the negative predictive value (``npv``)
    without negative answers.

    Args:
        truth: (N,) 0, 1 or NaN = unknown.
        predicted: (N,) 0 or 1.
        scores: (N,) probabilities of the class.
    """
    (tn, fp), (fn, tp) = confusion_counts(truth, predicted).tolist()
    return {
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "specificity": tn / (tn + fp) if tn + fp else None,
        "npv": tn / (tn + fn) if tn + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        "support": tp + fn,
        **class_areas(truth, scores),
    }


def measured_by_class(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The numbers of each class, None where nothing was there to measure them on.

    metrics.json has 0 there, by scikit-learn's convention; a reader would take that for a failure.
    """
    found = {}
    for place, (name, row) in enumerate(values.get("per_class", {}).items()):
        answered = _answered(values["confusion_matrix"], place)
        lacking = {"precision": not answered, "recall": not row["support"],
                   "f1": not answered and not row["support"]}
        found[name] = row | {key: None for key, lacks in lacking.items() if lacks}
    return found


def _answered(matrix: list[Any], place: int) -> int:
    """For how many pictures a class was the answer; multi-label has a matrix for each class."""
    multi = isinstance(matrix[0][0], list)
    return sum(row[1] for row in matrix[place]) if multi else sum(row[place] for row in matrix)
