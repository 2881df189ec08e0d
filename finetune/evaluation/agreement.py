"""Metrics of many confusion matrices at once, from three sums for each class.

Hits, pictures and answers of each class are all that balanced accuracy, F1, kappa and the
correlation need; a resample changes only these.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["agreement", "heaviest_error", "mean_f1"]

FEW = 3  # the rarest classes among which the heaviest error is looked for


def agreement(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Balanced accuracy, macro F1, Cohen's kappa and Matthews correlation of B matrices.

    As `finetune.evaluation.metrics` has them, but NaN where one is not defined: kappa and the
    correlation when all labels or all answers are of one class.

    Args:
        totals: (B, 3 K) hits, pictures and answers of each class.
    """
    hits, pictures, answers = np.split(totals, 3, axis=1)
    return {"balanced_accuracy": _mean_ratio(hits, pictures),
            "macro_f1": _mean_ratio(2 * hits, pictures + answers),
            **_chance_corrected(hits, pictures, answers)}


def mean_f1(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Macro F1 alone, of B times several labels.

    Args:
        totals: (B, 3 K) hits, pictures and answers of each class.
    """
    hits, pictures, answers = np.split(totals, 3, axis=1)
    return {"macro_f1": _mean_ratio(2 * hits, pictures + answers)}


def _mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """(B,) mean over the classes (B, K) that have a whole; NaN without any."""
    there = wholes > 0
    ratios = np.where(there, parts / np.where(there, wholes, 1), 0)
    count = there.sum(axis=1)
    return np.asarray(ratios.sum(axis=1) / np.where(count > 0, count, np.nan))


def _chance_corrected(
    hits: np.ndarray, pictures: np.ndarray, answers: np.ndarray,
) -> dict[str, np.ndarray]:
    count, right = pictures.sum(axis=1), hits.sum(axis=1)
    chance = (pictures * answers).sum(axis=1)
    spread = (count**2 - (pictures**2).sum(axis=1)) * (count**2 - (answers**2).sum(axis=1))
    shared = count * right - chance
    left = count**2 - chance
    return {"cohen_kappa": shared / np.where(left > 0, left, np.nan),
            "mcc": shared / np.sqrt(np.where(spread > 0, spread, np.nan))}


def heaviest_error(
    total: np.ndarray, statistic: Callable[[np.ndarray], dict[str, np.ndarray]], *,
    exclusive: bool = True,
) -> dict[str, float]:
    """By how much one more wrong picture can lower each metric.

    Looked for among the rarest classes that have a hit, and answers of the rarest other ones.

    Args:
        total: (3 K,) hits, pictures and answers of each class.
        statistic: `agreement` or `mean_f1`.
        exclusive: Whether a picture that is not answered as its class is answered as another.
    """
    hits, pictures, _ = np.split(total, 3)
    order = np.argsort(pictures, kind="stable")
    classes = len(pictures)
    rare = [c for c in order if hits[c] > 0][:FEW]
    changes = []
    for c in rare:
        for other in order[:FEW + 1] if exclusive else [c]:
            if other == c and exclusive:
                continue
            change = np.zeros_like(total)
            change[c] = change[2 * classes + c] = -1
            change[2 * classes + other] += exclusive
            changes.append(change)
    if not changes:
        return {}
    before, after = statistic(total[None]), statistic(total + np.array(changes))
    return {name: float(np.nanmax(before[name] - after[name], initial=0.0)) for name in before}
