"""The confusion matrix as a table whose cells lead to their pictures."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from finetune.evaluation.predictions import Predictions
from finetune.report.page import Thumbnails
from finetune.specs import LabelKind

__all__ = ["MOST_CLASSES", "cell_pictures", "matrix_rows"]

MOST_CLASSES = 60             # a matrix of more can't be read
MOST_PICTURES, PER_CELL = 240, 8
SIDE = 112                    # pixels of a thumbnail
SHADES = 9
OUTCOMES = ("true negative", "false positive", "false negative", "true positive")

Cell = tuple[int, int]


def matrix_rows(values: Mapping[str, Any]) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """Names of the columns, and for each class its cells: ``count``, ``percent``, ``shade``.

    Percent is of the class's pictures; with several labels each, of those that have the class, or
    have it not. A shade is 0 to 9.
    """
    matrix = np.array(values["confusion_matrix"])
    names = list(values["class_names"])
    if matrix.ndim == 3:
        totals = np.maximum(matrix.sum(axis=2, keepdims=True), 1)
        return list(OUTCOMES), _cells(matrix.reshape(-1, 4), (matrix / totals).reshape(-1, 4))
    return names, _cells(matrix, matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))


def _cells(counts: np.ndarray, shares: np.ndarray) -> list[list[dict[str, Any]]]:
    return [[{"count": int(count), "percent": round(100 * share),
              "shade": int(np.ceil(SHADES * share ** 0.7)) if count else 0}
             for count, share in zip(*row, strict=True)]
            for row in zip(counts.tolist(), shares.tolist(), strict=True)]


def cell_pictures(predictions: Predictions, thumbnails: Thumbnails) -> dict[Cell, dict[str, Any]]:
    """Pictures of the cells, as many as there is room for: ``total`` and ``pictures`` of each.

    Every cell of mistakes gets its surest one before any gets a second; then come right answers,
    the least sure first. A picture has ``id``, ``uri``, and the ``probability`` of the answer.
    """
    wrong, right = _sorted_cells(predictions)
    found: dict[Cell, dict[str, Any]] = {}
    for cell, row, odds in _one_each(wrong, right):
        uri = thumbnails.uri(predictions.ids[row], side=SIDE, quality=75)
        if uri is not None:
            kept = found.setdefault(cell, {"total": len((wrong | right)[cell]), "pictures": []})
            kept["pictures"].append({"id": predictions.ids[row], "uri": uri, "probability": odds})
    return dict(sorted(found.items()))


Ranked = dict[Cell, list[tuple[int, float]]]


def _one_each(wrong: Ranked, right: Ranked) -> Iterator[tuple[Cell, int, float]]:
    """The first of every cell, then the second ones, and so on; mistakes before right answers."""
    turns = [(cell, row, odds) for cells in (wrong, right)
             for turn in zip_longest(*([(c, *e) for e in entries[:PER_CELL]]
                                       for c, entries in cells.items()))
             for cell, row, odds in filter(None, turn)]
    yield from turns[:MOST_PICTURES]


def _sorted_cells(predictions: Predictions) -> tuple[Ranked, Ranked]:
    """(row, probability) of each cell's mistakes, the surest first; of right ones, the last."""
    entries = (_of_labels if predictions.label_spec.kind is LabelKind.multi else _of_classes)(
        predictions)
    wrong: Ranked = {}
    right: Ranked = {}
    for cell, row, odds, is_right in entries:
        (right if is_right else wrong).setdefault(cell, []).append((row, odds))
    for found in wrong.values():
        found.sort(key=lambda entry: -entry[1])
    for found in right.values():
        found.sort(key=lambda entry: entry[1])
    order = sorted(wrong, key=lambda cell: -wrong[cell][0][1])
    return {cell: wrong[cell] for cell in order}, dict(sorted(right.items()))


Entry = tuple[Cell, int, float, bool]


def _of_classes(predictions: Predictions) -> Iterator[Entry]:
    odds, labels = predictions.probabilities, predictions.labels
    for row, answer in enumerate(odds.argmax(axis=1).tolist()):
        true = int(labels[row])
        yield (true, answer), row, float(odds[row, answer]), true == answer


def _of_labels(predictions: Predictions) -> Iterator[Entry]:
    """A class's false and true positives and false negatives; true negatives are no finding."""
    odds = predictions.probabilities
    for row, labels in enumerate(predictions.labels):
        for place in np.flatnonzero(~np.isnan(labels)).tolist():
            said, true = bool(odds[row, place] >= 0.5), bool(labels[place] == 1)
            if said or true:
                surety = float(odds[row, place] if said else 1 - odds[row, place])
                yield (place, 2 * true + said), row, surety, said == true


