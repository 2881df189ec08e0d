"""Expected calibration error without most of its bias."""

from collections.abc import Callable

import numpy as np

__all__ = ["debiased_error", "debiased_errors"]

BINS = 15


def debiased_error(
    right: np.ndarray, confidence: np.ndarray, *, bins: int = BINS,
) -> float:
    """Expected calibration error less its bias, at least 0.

    Even a calibrated network has an error above 0, as the accuracy of a bin is never exactly its
    confidence. The bias is the expectation of what `debiased_ce` of Kumar, Liang, Ma 2019
    (arXiv:1909.10155, section 5) simulates: each bin's gap moves by its binomial deviation. It
    removes most of the bias, not all.

    Args:
        right: (N,) whether the answer was right.
        confidence: (N,) its probability.
        bins: Bins of equal width over 0..1, closed on the right.
    """
    columns = bin_columns(right, confidence, bins)
    return float(debiased_errors(bins)(columns.sum(axis=0)[None])["ece"][0])


def bin_columns(right: np.ndarray, confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(N, 3 bins): one-hot bin, the same times right, times confidence. Their sums are enough."""
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    one = np.eye(bins)[place]
    return np.hstack([one, one * right[:, None], one * confidence[:, None]])


def debiased_errors(bins: int = BINS) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The statistic that gives ``ece`` (B,), debiased, of sums (B, 3 bins)."""
    from scipy.stats import norm

    def statistic(totals: np.ndarray) -> dict[str, np.ndarray]:
        count, right, confidence = np.split(totals, 3, axis=1)
        safe = np.maximum(count, 1)
        gaps = np.abs(right - confidence) / safe
        rate = right / safe
        spread = np.sqrt(np.maximum(rate * (1 - rate) / safe, 1e-30))
        folded = (spread * (2 / np.pi) ** 0.5 * np.exp(-((gaps / spread) ** 2) / 2)
                  + gaps * (1 - 2 * norm.cdf(-gaps / spread)))
        shares = count / totals[:, :bins].sum(axis=1, keepdims=True)
        plain, expected = (shares * gaps).sum(axis=1), (shares * folded).sum(axis=1)
        return {"ece": np.maximum(0.0, 2 * plain - expected)}

    return statistic
