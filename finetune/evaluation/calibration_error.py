"""Expected calibration error without most of its bias, and an interval of it."""

from dataclasses import dataclass

import numpy as np

__all__ = ["CalibrationError", "calibration_error"]

BINS = 15


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error of N pictures.

    Attributes:
        plain: As it is usually computed.
        debiased: Less its bias, at least 0.
        deviation: Standard deviation of the plain one.
        largest_bias: What the plain one of a calibrated network is on average; the bias of others
            is smaller.
        clusters: Independent groups, or pictures.
    """

    plain: float
    debiased: float
    deviation: float
    largest_bias: float
    clusters: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Conservative: each end allows for the bias that would move it outward."""
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, max(self.clusters - 1, 1))) * self.deviation
        return max(0.0, self.plain - self.largest_bias - half), min(1.0, self.debiased + half)


def calibration_error(
    right: np.ndarray, confidence: np.ndarray, clusters: np.ndarray | None = None, *,
    bins: int = BINS,
) -> CalibrationError:
    """Expected calibration error, plain and debiased, with what an interval needs.

    Even a calibrated network has an error above 0, as the accuracy of a bin is never exactly its
    confidence. The bias is the expectation of what the debiased estimator of Kumar, Liang, Ma 2019
    (arXiv:1909.10155, section 5) simulates: each bin's gap moves by its normal deviation, so that
    its size is that of a folded normal. This removes most of the bias, not all. A bin's deviation
    is the found one, or a calibrated network's where that is larger (a bin without an error has
    next to none).

    Args:
        right: (N,) whether the answer was right.
        confidence: (N,) its probability.
        clusters: (N,) numbers of groups; ``None`` without groups.
        bins: Bins of equal width over 0..1, closed on the right.
    """
    of = np.arange(len(right)) if clusters is None else clusters
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins) / len(right)
    covariance = _covariance(of, place, (right - confidence) / len(right), bins)
    expected = np.bincount(place, weights=confidence * (1 - confidence), minlength=bins)
    lifted = np.maximum(expected / len(right) ** 2 - covariance.diagonal(), 0)
    covariance += np.diag(lifted)
    deviations, signs = np.sqrt(covariance.diagonal()), np.sign(gaps)
    plain = float(np.abs(gaps).sum())
    bias = float(_folded_mean(gaps, deviations).sum()) - plain
    return CalibrationError(plain, max(0.0, plain - bias),
                            float(signs @ covariance @ signs) ** 0.5,
                            float(deviations.sum()) * (2 / np.pi) ** 0.5, int(of.max()) + 1)


def _covariance(of: np.ndarray, place: np.ndarray, moves: np.ndarray, bins: int) -> np.ndarray:
    """(bins, bins) of the sums of the moves in each bin, over independent clusters."""
    from scipy.sparse import csr_array

    count = int(of.max()) + 1
    sums = csr_array((moves, (of, place)), shape=(count, bins))
    mean = np.asarray(sums.sum(axis=0)).ravel() / count
    square = (sums.T @ sums).toarray() - count * np.outer(mean, mean)
    return np.asarray(square * count / max(count - 1, 1))


def _folded_mean(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Mean of the absolute value of normal variables."""
    from scipy.stats import norm

    ratio = means / np.maximum(deviations, 1e-30)
    return np.asarray(deviations * (2 / np.pi) ** 0.5 * np.exp(-(ratio**2) / 2)
                      + means * (1 - 2 * norm.cdf(-ratio)))
