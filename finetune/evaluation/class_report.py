"""The table of precision, recall and F1 by class as text, as scikit-learn prints it."""

from collections.abc import Sequence

import numpy as np

__all__ = ["class_report"]

_DIGITS = 3
_COLUMNS = ("precision", "recall", "f1-score", "support")


def class_report(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str], *,
                 exclusive: bool) -> str:
    """The text of scikit-learn's ``classification_report`` with three digits; undefined is 0.

    Args:
        truth: (N, K) bool.
        predicted: (N, K) bool.
        names: K.
        exclusive: Each picture has one class in truth and answer: an accuracy is given in place
            of the average over all answers. Else, for two classes up, also that over pictures.
    """
    counts = _by(0, truth, predicted)
    rates, support = _rates(*counts), counts[2]
    total = int(support.sum())
    width = max(len("weighted avg"), *map(len, names))
    lines = [_line("", _COLUMNS, width), "",
             *(_line(name, [*row, count], width)
               for name, row, count in zip(names, rates.T, support, strict=True)), "",
             _line(*_over_all(counts, exclusive=exclusive, total=total), width),
             _line("macro avg", [*rates.mean(axis=1), total], width),
             _line("weighted avg", [*_weighted(rates, support), total], width)]
    if not exclusive and len(names) > 1:
        pictures = _rates(*_by(1, truth, predicted))
        lines.append(_line("samples avg", [*pictures.mean(axis=1), total], width))
    return "\n".join(lines) + "\n"


def _over_all(counts: Sequence[np.ndarray], *, exclusive: bool,
              total: int) -> tuple[str, list[object]]:
    precision, recall, f1 = _rates(*(each.sum() for each in counts))
    if exclusive:
        return "accuracy", ["", "", f1, total]
    return "micro avg", [precision, recall, f1, total]


def _weighted(rates: np.ndarray, support: np.ndarray) -> np.ndarray:
    return np.average(rates, axis=1, weights=support) if support.any() else np.zeros(3)


def _by(axis: int, truth: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
    """Right answers, answers and truths, summed over pictures (0) or classes (1)."""
    return [np.asarray(each.sum(axis=axis)) for each in (truth & predicted, predicted, truth)]


def _rates(right: np.ndarray, answered: np.ndarray, support: np.ndarray) -> np.ndarray:
    """(3, K): precision, recall and F1, 0 where they are not defined."""
    wholes = np.stack([answered, support, answered + support])
    parts = np.stack([right, right, 2 * right])
    return np.asarray(parts / np.maximum(wholes, 1))


def _line(heading: str, values: Sequence[object], width: int) -> str:
    texts = [f"{v:.{_DIGITS}f}" if isinstance(v, float) else str(v) for v in values]
    return f"{heading:>{width}s} " + "".join(f" {text:>9}" for text in texts)
