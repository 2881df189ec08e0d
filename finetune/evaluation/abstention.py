"""Answering only where the network is sure: risk against coverage, and a threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.errors import ConfigurationError
from finetune.evaluation.halves import cross_fitted
from finetune.evaluation.shares import share

__all__ = ["MIN_PICTURES", "Abstention", "area_under_risk", "choose_confidence",
           "fit_abstention", "measure_answered", "risk_coverage"]

MIN_PICTURES = 50


@dataclass(frozen=True)
class Abstention:
    """The network answers where its highest probability is at least ``threshold``.

    Attributes:
        accuracy: The wished accuracy of what is answered.
        threshold: ``None`` where it was refused.
        guarantee: With what probability the accuracy is to hold; ``None``: it holds on the
            pictures that the threshold was fitted on.
        validation: `measure_answered` of validation pictures, by thresholds fitted without them;
            ``None`` when all are of one group.
        reason: Why it was refused, in words; or empty.
    """

    accuracy: float
    threshold: float | None
    guarantee: float | None = None
    validation: dict[str, Any] | None = None
    reason: str = ""

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) which pictures are answered, from (N, K) probabilities.

        Raises:
            ValueError: It was refused.
        """
        if self.threshold is None:
            raise ValueError(f"no threshold for abstention: {self.reason}")
        return np.asarray(probabilities.max(axis=1) >= self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Abstention":
        """What `to_dict` described."""
        return cls(**values)


def risk_coverage(confidence: np.ndarray,
                  right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds, coverage, risk), a value for each different confidence, falling thresholds.

    Answered are confidences of at least the threshold; coverage is their share, risk the share of
    mistakes among them (El-Yaniv 2010, JMLR; Geifman 2017, arXiv:1705.08500).

    Args:
        confidence: (N,).
        right: (N,) whether the answer is right.
    """
    levels, level_of = np.unique(confidence, return_inverse=True)
    answered = np.bincount(level_of)[::-1].cumsum()
    wrong = np.bincount(level_of, weights=~right.astype(bool))[::-1].cumsum()
    return levels[::-1], answered / len(right), wrong / answered


def area_under_risk(confidence: np.ndarray, right: np.ndarray) -> float:
    """AURC: the mean risk over coverages 1/N, 2/N ... 1 (Geifman 2019, arXiv:1805.08206).

    Equal confidences count as if in random order. Less is better; answers in random order have the
    error rate.
    """
    _, level_of, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = (np.bincount(level_of, weights=~right.astype(bool)) / counts)[np.sort(level_of)]
    return float((wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean())


def choose_confidence(confidence: np.ndarray, right: np.ndarray, *, accuracy: float,
                      guarantee: float | None = None) -> float | None:
    """The threshold that answers most pictures at a wished accuracy; ``None`` when none does.

    Without a guarantee the accuracy is that of the given pictures. With one it is a lower bound
    that holds for new independent pictures with that probability: exact binomial, over the
    log2(N) thresholds of a binary search (Geifman 2017, arXiv:1705.08500, algorithm 1).

    Args:
        confidence: (N,) highest probabilities.
        right: (N,) whether the answer is right.
        accuracy: 0 to 1.
        guarantee: A probability, such as 0.95.
    """
    thresholds, coverage, risk = risk_coverage(confidence, right)
    if guarantee is None:
        reached = np.flatnonzero(1 - risk >= accuracy - 1e-12)
        return _halfway(thresholds, int(reached[-1])) if len(reached) else None
    counts = np.rint(coverage * len(right)).astype(np.int64)
    steps = max(1, int(np.ceil(np.log2(len(thresholds)))))
    low, high, best = 0, len(thresholds) - 1, None
    for _ in range(steps):
        place = (low + high + 1) // 2
        wrong = int(np.rint(risk[place] * counts[place]))
        if _upper_bound(wrong, int(counts[place]), (1 - guarantee) / steps) <= 1 - accuracy:
            low, best = place, place
        else:
            high = max(place - 1, low)
    return None if best is None else _halfway(thresholds, best)


def _halfway(thresholds: np.ndarray, place: int) -> float:
    """Halfway to the next lower confidence, so that no rounding decides; 0: all are answered."""
    last = place + 1 >= len(thresholds)
    return 0.0 if last else float((thresholds[place] + thresholds[place + 1]) / 2)


def _upper_bound(wrong: int, count: int, error: float) -> float:
    """Clopper-Pearson's one-sided bound of a risk."""
    from scipy.stats import beta

    return 1.0 if wrong >= count else float(beta.ppf(1 - error, wrong + 1, count - wrong))


def fit_abstention(labels: np.ndarray, probabilities: np.ndarray, *, accuracy: float,
                   folds: np.ndarray, guarantee: float | None = None,
                   groups: Sequence[Any] | None = None) -> Abstention:
    """A threshold fitted on all given pictures, and how thresholds do on folds left out.

    Refused, with a reason, below 50 pictures, for multi-label and where no threshold reaches it.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K), calibrated or not.
        accuracy: The wished accuracy of what is answered.
        folds: (N,) from `finetune.evaluation.halves.group_folds`.
        guarantee: See `choose_confidence`.
        groups: The group of each picture, for the intervals.

    Raises:
        ConfigurationError: The accuracy or the guarantee can't be.
    """
    _check(accuracy, guarantee)
    refused = _refused(labels)
    if refused:
        return Abstention(accuracy, None, guarantee, reason=refused)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

    def fit(rows: np.ndarray) -> float | None:
        return choose_confidence(confidence[rows], right[rows], accuracy=accuracy,
                                 guarantee=guarantee)

    threshold = fit(np.arange(len(labels)))
    if threshold is None:
        return Abstention(accuracy, None, guarantee, reason=(
            f"no share of the validation pictures is answered with an accuracy of {accuracy:g}"))
    if len(np.unique(folds)) < 2:
        return Abstention(accuracy, threshold, guarantee)
    answered = cross_fitted(fit, lambda t, rows: confidence[rows] >= (np.inf if t is None else t),
                            folds)
    return Abstention(accuracy, threshold, guarantee, measure_answered(right, answered, groups))


def _check(accuracy: float, guarantee: float | None) -> None:
    if not 0 < accuracy <= 1:
        raise ConfigurationError(f"an accuracy of {accuracy:g} can't be wished for; "
                                 "give a number above 0, at most 1")
    if guarantee is not None and not 0 < guarantee < 1:
        raise ConfigurationError(f"{guarantee:g} is not a probability for a guarantee; "
                                 "give a number between 0 and 1, such as 0.95")


def _refused(labels: np.ndarray) -> str | None:
    if labels.ndim == 2:
        return "no abstention: multi-label pictures have no single answer; use thresholds"
    if len(labels) < MIN_PICTURES:
        return (f"no abstention: {len(labels)} validation pictures are too few, "
                f"{MIN_PICTURES} are needed")
    return None


def measure_answered(right: np.ndarray, answered: np.ndarray,
                     groups: Sequence[Any] | None = None) -> dict[str, Any]:
    """The share that is answered and the accuracy of these, with intervals (of groups)."""
    return {"answered": share(answered, None, groups), "accuracy": share(right, answered, groups)}
