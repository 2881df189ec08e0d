"""How far answers about ordered classes are from the truth, in ranks."""

import numpy as np

__all__ = ["rank_agreement", "rank_distances", "squares_by_chance"]


def rank_agreement(matrix: np.ndarray) -> dict[str, float | None]:
    """Quadratic weighted kappa and mean absolute error in ranks, from a confusion matrix.

    Kappa (Cohen 1968) is one minus the mean squared distance of truth and answer by what chance
    would give; ``None`` when one class is all there is, in truth and answer.

    Args:
        matrix: (K, K) counts; row = true class, column = answer, from the lowest up.
    """
    ranks = np.arange(len(matrix))
    distances = np.abs(ranks[:, None] - ranks)
    total = matrix.sum()
    chance = float(squares_by_chance(matrix.sum(axis=1)[None], matrix.sum(axis=0)[None])[0])
    squares = float((matrix * distances**2).sum() / total)
    return {"quadratic_kappa": 1 - squares / chance if chance else None,
            "mean_absolute_error": float((matrix * distances).sum() / total)}


def squares_by_chance(pictures: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(B,) mean squared distance in ranks if answers had nothing to do with pictures.

    Args:
        pictures: (B, K) of each class.
        answers: (B, K) of each class.
    """
    ranks = np.arange(pictures.shape[1])
    count = pictures.sum(axis=1)
    spread = count * ((pictures + answers) @ ranks**2) - 2 * (pictures @ ranks) * (answers @ ranks)
    return np.asarray(spread / np.maximum(count, 1) ** 2)


def rank_distances(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N,) absolute distances in ranks of two (N,) arrays of class indices."""
    return np.asarray(np.abs(labels - predicted).astype(float))
