"""Which answers were most surely wrong."""

from typing import Any

import numpy as np

from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind

__all__ = ["find_confusions", "find_mistakes"]


def find_mistakes(predictions: Predictions, *, count: int) -> list[dict[str, Any]]:
    """The wrong answers given with the highest probability, worst first.

    Each has ``id``, ``true``, ``predicted``, ``probability`` (of the wrong answer), ``group`` and
    ``asked``, the class that is wrongly answered, or with several labels wrongly denied.
    Multi-label: one wrong class of one picture each; unknown targets are never wrong.
    """
    multi = predictions.label_spec.kind is LabelKind.multi
    rows, surety, told = (_of_classes if multi else _of_pictures)(predictions)
    worst = np.argsort(-surety, kind="stable")[:count]
    groups, names = predictions.groups, predictions.label_spec.class_names
    return [{"id": predictions.ids[rows[i]], "true": told[i][0], "predicted": told[i][1],
             "asked": told[i][1] if told[i][1] in names else told[i][0],
             "probability": float(surety[i]), "group": groups[rows[i]] if groups else None}
            for i in worst]


def find_confusions(values: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """The most frequent confusions of single labels, the commonest first.

    Each has ``true``, ``predicted``, ``count`` and ``share`` (of the true class's pictures).

    Args:
        values: Metrics of one part.
        count: At most so many.
    """
    names, matrix = values["class_names"], np.array(values["confusion_matrix"])
    wrong = matrix - np.diag(matrix.diagonal())
    places = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(names)) for place in places]
    return [{"true": names[t], "predicted": names[p], "count": int(wrong[t, p]),
             "share": float(wrong[t, p] / matrix[t].sum())} for t, p in pairs if wrong[t, p]]


Wrong = tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]


def _of_pictures(predictions: Predictions) -> Wrong:
    names, probabilities = predictions.label_spec.class_names, predictions.probabilities
    answer = probabilities.argmax(axis=1)
    rows = np.flatnonzero(answer != predictions.labels)
    told = [(names[predictions.labels[i]], names[answer[i]]) for i in rows]
    return rows, probabilities[rows, answer[rows]], told


def _of_classes(predictions: Predictions) -> Wrong:
    names, probabilities = predictions.label_spec.class_names, predictions.probabilities
    positive = probabilities >= 0.5
    wrong = ~np.isnan(predictions.labels) & (positive != (predictions.labels == 1))
    rows, columns = np.nonzero(wrong)
    told = [(names[c], f"not {names[c]}") if not positive[r, c] else (f"not {names[c]}", names[c])
            for r, c in zip(rows, columns, strict=True)]
    return rows, np.where(positive, probabilities, 1 - probabilities)[rows, columns], told
