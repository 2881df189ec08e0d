"""How often a probability is right: the data of reliability diagrams."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.evaluation.shares import group_numbers, share

__all__ = ["reliability_bins", "reliability_diagram"]

BINS = 10
PER_BIN = 20  # fewer pictures than this in a bin say nothing


def reliability_bins(confidence: np.ndarray, right: np.ndarray,
                     groups: Sequence[Any] | np.ndarray | None = None, *,
                     bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of nearly equally many pictures, by rising confidence.

    Equal confidences are in the same bin, so that there can be fewer bins than asked for; so there
    are with fewer than 20 pictures for each.

    Args:
        confidence: (N,) probabilities.
        right: (N,) whether what was said with this probability is so.
        groups: The group of each picture, for the intervals.
        bins: How many at most.

    Returns:
        For each bin ``low``, ``high`` (the confidences that it spans), ``confidence`` (mean),
        ``count``, ``accuracy`` and its ``interval`` [low, high].
    """
    if not len(confidence):
        return []
    number = max(1, min(bins, len(confidence) // PER_BIN))
    edges = np.quantile(confidence, np.linspace(0, 1, number + 1)[1:-1], method="higher")
    bin_of = np.digitize(confidence, np.unique(edges))
    units = None if groups is None else group_numbers(groups, len(confidence))
    return [_bin(confidence[i], right[i], None if units is None else units[i])
            for i in (np.flatnonzero(bin_of == b) for b in np.unique(bin_of))]


def _bin(confidence: np.ndarray, right: np.ndarray, units: np.ndarray | None) -> dict[str, Any]:
    found = share(right.astype(bool), None, units)
    return {"low": float(confidence.min()), "high": float(confidence.max()),
            "confidence": float(confidence.mean()), "count": len(right),
            "accuracy": found["value"], "interval": [found["low"], found["high"]]}


def reliability_diagram(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str],
                        groups: Sequence[Any] | None = None, *,
                        bins: int = BINS) -> dict[str, Any]:
    """Bins of the answer (``top_label``) and of each class against the rest (``per_class``).

    Args:
        labels: (N,) class indices; or (N, K) with NaN = unknown: there is no ``top_label`` then.
        probabilities: (N, K).
        class_names: K names.
        groups: The group of each picture, for the intervals.
        bins: How many at most.
    """
    units = None if groups is None else group_numbers(groups, len(labels))

    def of(confidence: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
        known = ~np.isnan(truth)
        return reliability_bins(confidence[known], truth[known],
                                None if units is None else units[known], bins=bins)

    single = labels.ndim == 1
    truths = ((labels == k).astype(float) if single else labels[:, k]
              for k in range(len(class_names)))
    by_class = {name: of(probabilities[:, k], truth)
                for k, (name, truth) in enumerate(zip(class_names, truths, strict=True))}
    right = (probabilities.argmax(axis=1) == labels).astype(float) if single else None
    return {"top_label": None if right is None else of(probabilities.max(axis=1), right),
            "per_class": by_class}
