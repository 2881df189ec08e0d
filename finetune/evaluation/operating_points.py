"""From probabilities to answers: a threshold for a wish or the best F1, or the least cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.errors import ConfigurationError
from finetune.evaluation.halves import cross_fitted
from finetune.evaluation.shares import group_numbers, mean_and_error, share

__all__ = ["MIN_CASES", "TARGETS", "CostRule", "OperatingPoint", "choose_threshold",
           "fit_operating_point", "measure_answers", "outcomes"]

TARGETS = ("sensitivity", "specificity", "precision", "f1")
MIN_CASES = 10


@dataclass(frozen=True)
class OperatingPoint:
    """Positive is who has a probability of at least ``threshold``.

    Attributes:
        class_name: The class against all others, or the label.
        place: Its column.
        target: One of `TARGETS`.
        wish: The least value of it, on the pictures that the threshold was fitted on; F1 has none.
        threshold: ``None`` where it was refused.
        validation: `measure_answers` of validation pictures, by thresholds fitted without them.
        unstable: Whether there were fewer than 10 positives or negatives.
        reason: Why it is refused or unstable, in words; empty when it is neither.
    """

    class_name: str
    place: int
    target: str
    wish: float | None
    threshold: float | None
    validation: dict[str, Any] | None = None
    unstable: bool = False
    reason: str = ""

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) whether each picture is positive, from (N, K) probabilities.

        Raises:
            ValueError: The point was refused.
        """
        if self.threshold is None:
            raise ValueError(f"no threshold for {self.class_name}: {self.reason}")
        return np.asarray(probabilities[:, self.place] >= self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OperatingPoint":
        """What `to_dict` described."""
        return cls(**values)


def choose_threshold(truth: np.ndarray, scores: np.ndarray, *, target: str,
                     wish: float | None) -> float | None:
    """The threshold that reaches ``wish`` and loses least else; ``None`` when none reaches it.

    That is the highest one for sensitivity, and the lowest for specificity and precision; for F1
    the highest one with the best F1. It lies halfway to the next lower score, so that no rounding
    decides.

    Args:
        truth: (N,) whether positive.
        scores: (N,) probabilities; positive is >= threshold.
        target: One of `TARGETS`.
        wish: 0 to 1; F1 has none.
    """
    levels, level_of = np.unique(scores, return_inverse=True)
    positives = np.bincount(level_of, weights=truth)[::-1].cumsum()
    both = np.bincount(level_of)[::-1].cumsum()
    negatives = both - positives
    with np.errstate(invalid="ignore"):
        value = {"sensitivity": positives / positives[-1], "precision": positives / both,
                 "specificity": 1 - negatives / negatives[-1],
                 "f1": 2 * positives / (both + positives[-1])}[target]
    reached = np.flatnonzero(value >= (value.max() if wish is None else wish) - 1e-12)
    if not len(reached):
        return None
    place = len(levels) - 1 - (reached[0] if target in ("sensitivity", "f1") else reached[-1])
    return float((levels[place] + (levels[place - 1] if place else 0.0)) / 2)


def fit_operating_point(
    labels: np.ndarray, probabilities: np.ndarray, *, class_name: str, place: int, target: str,
    wish: float | None, folds: np.ndarray, groups: Sequence[Any] | None = None,
) -> OperatingPoint:
    """A threshold fitted on all given pictures, and how thresholds do on folds left out.

    Args:
        labels: (N,) class indices, or (N, K) with NaN = unknown; unknown ones don't count.
        probabilities: (N, K), calibrated or not.
        class_name: The class against all others, or the label.
        place: Its column.
        target: One of `TARGETS`.
        wish: 0 to 1; F1 has none: its threshold is that of the best one.
        folds: (N,) from `finetune.evaluation.halves.group_folds`.
        groups: The group of each picture, for the intervals.

    Raises:
        ConfigurationError: The target isn't known, the wish is not within 0 to 1, or F1 has one.
    """
    _check(target, wish)
    truth = outcomes(labels, place)
    known = ~np.isnan(truth)
    truth, scores, folds = truth[known] == 1, probabilities[known, place], folds[known]
    units = None if groups is None else group_numbers(groups, len(known))[known]
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return OperatingPoint(class_name, place, target, wish, None, reason=(
            f"{positives} positive and {negatives} negative validation pictures; both are needed"))
    threshold = choose_threshold(truth, scores, target=target, wish=wish)
    if threshold is None:
        return OperatingPoint(class_name, place, target, wish, None, reason=(
            f"no threshold has a {target} of {wish} on the validation pictures"))
    few = min(positives, negatives) < MIN_CASES
    reason = (f"{positives} positive and {negatives} negative validation pictures; below "
              f"{MIN_CASES} a threshold is unstable") if few else ""
    return OperatingPoint(class_name, place, target, wish, threshold,
                          _crossed(truth, scores, target, wish, folds, units), few, reason)


def _check(target: str, wish: float | None) -> None:
    if target not in TARGETS:
        raise ConfigurationError(f"target {target!r} is not one of {', '.join(TARGETS)}")
    if target == "f1":
        if wish is not None:
            raise ConfigurationError(f"an f1 of {wish:g} can't be wished for; leave it out: the "
                                     "threshold of the best one is taken")
    elif wish is None or not 0 < wish <= 1:
        raise ConfigurationError(f"a {target} of {wish} can't be wished for; "
                                 "give a number above 0, at most 1")


def _crossed(truth: np.ndarray, scores: np.ndarray, target: str, wish: float | None,
             folds: np.ndarray, units: np.ndarray | None) -> dict[str, Any] | None:
    """None where the known pictures lie in a single fold: nothing can be left out."""
    if len(np.unique(folds)) < 2:
        return None

    def fit(rows: np.ndarray) -> float:
        found = choose_threshold(truth[rows], scores[rows], target=target, wish=wish)
        return np.inf if found is None else found

    said = cross_fitted(fit, lambda threshold, rows: scores[rows] >= threshold, folds)
    return measure_answers(truth, said, units)


def outcomes(labels: np.ndarray, place: int) -> np.ndarray:
    """(N,) 1, 0 or NaN = unknown: whether each picture is of the class, or has the label."""
    found = labels == place if labels.ndim == 1 else labels[:, place]
    return np.asarray(found.astype(np.float64))


def measure_answers(truth: np.ndarray, said: np.ndarray,
                    groups: Sequence[Any] | np.ndarray | None = None) -> dict[str, Any]:
    """Counts, shares with intervals (of groups where there are), and F1; truth is 0, 1 or NaN."""
    yes, no = truth == 1, truth == 0  # an unknown one is neither
    tp, fp = int((yes & said).sum()), int((no & said).sum())
    fn, tn = int(yes.sum()) - tp, int(no.sum()) - fp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "sensitivity": share(said, yes, groups),
            "specificity": share(~said, no, groups),
            "precision": share(yes, said & (yes | no), groups),
            "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None}


@dataclass(frozen=True)
class CostRule:
    """The answer with the least expected cost (Elkan 2001, IJCAI).

    Attributes:
        costs: K rows of K numbers: row = the true class, column = the answer.
    """

    costs: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        matrix = [list(row) for row in self.costs]
        if not matrix or any(len(row) != len(matrix) for row in matrix):
            raise ConfigurationError(f"costs {matrix} are not a square: they need a row for each "
                                     "true class and in it a number for each answer")
        if not np.isfinite(matrix).all():
            raise ConfigurationError(f"costs {matrix} are not all finite numbers")

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) the class with the least expected cost, from (N, K) probabilities."""
        return np.asarray((probabilities @ np.array(self.costs)).argmin(axis=1))

    def measure(self, labels: np.ndarray, probabilities: np.ndarray,
                groups: Sequence[Any] | None = None) -> dict[str, Any]:
        """Mean cost a picture of this rule, of the likeliest class, and of one answer for all.

        ``saved`` is the likeliest class's cost minus the rule's, with its standard error.
        """
        costs = np.array(self.costs)
        own = costs[labels, self.answers(probabilities)]
        likeliest = costs[labels, probabilities.argmax(axis=1)]
        saved, error = mean_and_error(likeliest - own, groups)
        return {"cost": float(own.mean()), "cost_of_likeliest": float(likeliest.mean()),
                "cost_of_one_answer": float(costs[labels].mean(axis=0).min()),
                "saved": saved, "saved_error": error if np.isfinite(error) else None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return {"costs": [list(row) for row in self.costs]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CostRule":
        """What `to_dict` described."""
        return cls(tuple(tuple(row) for row in values["costs"]))
