"""DeLong's test: whether two models have the same area under the ROC curve on the same pictures."""

from dataclasses import dataclass

import numpy as np

from finetune.evaluation.auc_intervals import Area, area_under_roc, mean_area

__all__ = ["AreaDifference", "area_difference", "compare_areas"]


@dataclass(frozen=True)
class AreaDifference:
    """The first area less the second.

    Attributes:
        value: Difference.
        error: Its standard error.
        z: Their ratio; 0 where both are 0.
        p: Two-sided, of a normal z.
        test: How it was computed.
    """

    value: float
    error: float
    z: float
    p: float
    test: str


def compare_areas(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, clusters: np.ndarray | None = None,
) -> AreaDifference | None:
    """Difference of the areas under two models' ROC curves; ``None`` where one isn't defined.

    Of several classes it is the difference of the means over the classes, with the covariances of
    classes and models (DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44; with clusters Obuchowski
    1997, Biometrics 53).

    Args:
        truth: (N,) or (N, K); 0, 1 or NaN = unknown.
        first: Scores of the first model, of the same shape; higher for positives.
        second: Scores of the second.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
    """
    truth, first, second = (a if a.ndim == 2 else a[:, None] for a in (truth, first, second))
    pairs = []
    for place in range(truth.shape[1]):
        one = area_under_roc(truth[:, place], first[:, place], clusters)
        other = area_under_roc(truth[:, place], second[:, place], clusters)
        if one is None or other is None:
            return None
        pairs.append((one, other))
    return area_difference([one for one, _ in pairs], [other for _, other in pairs],
                           clustered=clusters is not None)


def area_difference(first: list[Area], second: list[Area], *, clustered: bool,
                    ) -> AreaDifference:
    """Difference of the mean areas of the same classes of two models.

    Args:
        first: An area for each class, of `finetune.evaluation.auc_intervals.area_under_roc`.
        second: The same of the second model.
        clustered: Whether pictures are of groups.
    """
    from scipy.stats import norm

    one, other = (areas[0] if len(areas) == 1 else mean_area(areas) for areas in (first, second))
    positives, negatives = (
        np.mean([(getattr(a, part) - getattr(b, part)) * _inflated(a.clusters[place])
                 for a, b in zip(first, second, strict=True)], axis=0)
        for place, part in enumerate(("of_positives", "of_negatives")))
    variance = float(positives @ positives + negatives @ negatives)
    if clustered or len(first) > 1:  # a picture, or a group, is a positive and a negative
        variance = max(0.0, variance + 2 * float(positives @ negatives))
    value, error = one.value - other.value, variance**0.5
    z = value / error if error > 0 else 0.0
    test = "delong, obuchowski" if clustered else "delong"
    return AreaDifference(value, error, z, float(2 * norm.sf(abs(z))), test)


def _inflated(count: float) -> float:
    """By how much moves of a sample are too small: its mean was taken from itself."""
    return float((count / (count - 1)) ** 0.5) if count > 1 else 1.0
