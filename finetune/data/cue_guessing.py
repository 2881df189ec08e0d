"""The small classifier that is given a cue alone: naive Bayes on values put into cells.

The same as scikit-learn's ``CategoricalNB`` with balanced weights and no prior, for all folds at
once: a permutation of the labels costs a count and a look-up, so that a run can afford it.
"""

import numpy as np
import numpy.typing as npt

from finetune.data.cues import Cue

__all__ = ["cells_of", "guess_labels"]

FEWEST, MOST = 8, 64  # cells that the values of a number are put into
_EACH = 5             # pictures of a class in a cell, on average, where there are enough
_MOST_WORDS = 30      # values with a cell of their own

Cells = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]


def cells_of(cue: Cue, rows: npt.NDArray[np.int64], *, classes: int) -> Cells:
    """(M, F) for each picture and column the number of a cell.

    Cells of numbers hold about the same number of pictures; a value that fills one alone has its
    own, and so has what is unknown. Several numbers come with their principal components: of red,
    green and blue, these are about the brightness and two colours. Labels play no part.

    Args:
        cue: Words or numbers.
        rows: (M,) pictures, as the cue numbers them; some may be unknown to it.
        classes: That are to be told; more get fewer cells.
    """
    place = np.full(max(int(cue.rows.max()), int(rows.max())) + 1, -1)
    place[cue.rows] = np.arange(len(cue.rows))
    where = place[rows]
    if cue.words is not None:
        return _of_words(np.array([*cue.words, ""])[where], where >= 0)[:, None]
    assert cue.numbers is not None
    values = np.where((where >= 0)[:, None], cue.numbers[where], np.nan)
    count = int(np.clip(len(rows) // (_EACH * classes), FEWEST, MOST))
    return np.column_stack([_of_numbers(column, count) for column in _turned(values).T])


def _turned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The columns, and for several their principal components."""
    known = np.isfinite(values).all(axis=1)
    if values.shape[1] < 2 or known.sum() < 2:
        return values
    own = values[known] - values[known].mean(axis=0)
    own /= np.maximum(own.std(axis=0), 1e-9)
    components = np.full_like(values, np.nan)
    components[known] = own @ np.linalg.svd(own, full_matrices=False)[2].T
    return np.column_stack([values, components])


def _of_words(words: npt.NDArray[np.str_], known: npt.NDArray[np.bool_]) -> Cells:
    """Frequent words, all others, what is unknown."""
    _, code, counts = np.unique(words, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.where(known, np.minimum(rank[code], _MOST_WORDS), _MOST_WORDS + 1)


def _of_numbers(column: npt.NDArray[np.float64], count: int) -> Cells:
    values, code, counts = np.unique(column, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(column)
    cell = np.floor(middle * count).astype(np.int64)
    own = (counts * count >= len(column)) | np.isnan(values)
    cell[own] = count + np.arange(int(own.sum()))
    found: Cells = np.unique(cell, return_inverse=True)[1][code]
    return found


def guess_labels(cells: Cells, labels: Labels, folds: npt.NDArray[np.int64]) -> Labels:
    """(M,) the most probable label, by what the other folds hold; all classes count the same.

    Args:
        cells: (M, F) from `cells_of`.
        labels: (M,).
        folds: (M,) from 0.
    """
    classes, code = np.unique(labels, return_inverse=True)
    width, parts = len(classes), int(folds.max()) + 1
    score = np.zeros((len(labels), width))
    for column in cells.T:
        size = int(column.max()) + 1
        counts = np.bincount((folds * size + column) * width + code,
                             minlength=parts * size * width).reshape(parts, size, width)
        others = counts.sum(axis=0) - counts
        total = others.sum(axis=1, keepdims=True)
        weight = total.sum(axis=2, keepdims=True) / np.maximum(total, 1) / width
        score += np.log(others * weight + 1)[folds, column]
    found: Labels = classes[score.argmax(axis=1)]
    return found
