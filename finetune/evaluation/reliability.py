"""How often a probability is right: the data of reliability diagrams."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.evaluation.shares import share

__all__ = ["reliability_bins", "reliability_diagram"]

BINS = 10
PER_BIN = 20  # fewer pictures than this in a bin say nothing


def reliability_bins(confidence: np.ndarray, right: np.ndarray, *,
                     bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of nearly equally many pictures, by rising confidence.

    Equal confidences are in the same bin, so that there can be fewer bins than asked for; so there
    are with fewer than 20 pictures for each.

    Args:
        confidence: (N,) probabilities.
        right: (N,) whether what was said with this probability is so.
        bins: How many at most.

    Returns:
        For each bin ``low``, ``high`` (the confidences that it spans), ``confidence`` (mean),
        ``count``, ``accuracy`` and its Wilson ``interval`` [low, high].
    """
    if not len(confidence):
        return []
    number = max(1, min(bins, len(confidence) // PER_BIN))
    edges = np.quantile(confidence, np.linspace(0, 1, number + 1)[1:-1], method="higher")
    bin_of = np.digitize(confidence, np.unique(edges))
    return [_bin(confidence[bin_of == b], right[bin_of == b]) for b in np.unique(bin_of)]


def _bin(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    found = share(int(right.sum()), len(right))
    return {"low": float(confidence.min()), "high": float(confidence.max()),
            "confidence": float(confidence.mean()), "count": len(right),
            "accuracy": found["value"], "interval": [found["low"], found["high"]]}


def reliability_diagram(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str],
                        *, bins: int = BINS) -> dict[str, Any]:
    """Bins of the answer (``top_label``) and of each class against the rest (``per_class``).

    Args:
        labels: (N,) class indices; or (N, K) with NaN = unknown: there is no ``top_label`` then.
        probabilities: (N, K).
        class_names: K names.
        bins: How many at most.
    """
    single = labels.ndim == 1
    truth = np.eye(len(class_names))[labels] if single else labels
    known = ~np.isnan(truth)
    by_class = {name: reliability_bins(probabilities[known[:, k], k], truth[known[:, k], k],
                                       bins=bins) for k, name in enumerate(class_names)}
    top = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels,
                           bins=bins) if single else None
    return {"top_label": top, "per_class": by_class}
