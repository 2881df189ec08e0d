"""Sets of classes that hold the true one with a wished probability: split conformal prediction.

The promise is for a picture of a new group that is drawn like the validation groups, on average
over validation sets (Vovk 2005; Angelopoulos 2021, arXiv:2107.07511).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.errors import ConfigurationError, first_of
from finetune.evaluation.halves import one_per_group
from finetune.evaluation.shares import group_numbers, share

__all__ = ["METHODS", "MIN_GROUPS", "PredictionSets", "fit_prediction_sets", "set_scores"]

METHODS = ("aps", "lac")
MIN_GROUPS = 100


@dataclass(frozen=True)
class PredictionSets:
    """A class is in the set of a picture when its score is at most the quantile.

    Attributes:
        method: One of `METHODS`, see `set_scores`.
        level: The wished coverage.
        quantiles: (K,), all alike unless ``by_class``; infinite where there were too few pictures
            of a class for the level: it is in every set. Empty where sets were refused.
        by_class: Whether the level is promised for each class (Mondrian).
        randomised: Whether APS draws a random number for each picture.
        count: Calibration pictures, one of each group.
        reason: Why sets were refused, or what is special, in words; or empty.
    """

    method: str
    level: float
    quantiles: tuple[float, ...]
    by_class: bool = False
    randomised: bool = False
    count: int = 0
    reason: str = ""

    @property
    def refused(self) -> bool:
        """Whether there are no sets."""
        return not self.quantiles

    def apply(self, probabilities: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """(N, K) bool: who is in each picture's set. An empty set means: abstain.

        Args:
            probabilities: (N, K), calibrated as those that it was fitted on.
            seed: Of the random numbers of a randomised method.

        Raises:
            ValueError: Sets were refused.
        """
        if self.refused:
            raise ValueError(f"no prediction sets: {self.reason}")
        drawn = np.random.default_rng(seed).random(len(probabilities))
        uniform = drawn if self.randomised else None
        return np.asarray(set_scores(probabilities, self.method, uniform) <= self.quantiles)

    def measure(self, labels: np.ndarray, probabilities: np.ndarray,
                groups: Sequence[Any] | None = None, *, seed: int = 0) -> dict[str, Any]:
        """Coverage with its interval (of groups), sizes of sets, and coverage by class.

        ``group_coverage`` gives each group the same weight: that is what the level promises.
        """
        sets = self.apply(probabilities, seed=seed)
        inside, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
        units = group_numbers(groups, len(labels))
        by_group = np.bincount(units, weights=inside) / np.bincount(units)
        return {
            "coverage": share(inside, None, groups),
            "group_coverage": float(by_group.mean()),
            "coverage_by_class": [share(inside, labels == k, groups)
                                  for k in range(sets.shape[1])],
            "mean_size": float(sizes.mean()),
            "sizes": np.bincount(sizes, minlength=sets.shape[1] + 1).tolist(),
            "empty": share(sizes == 0, None, groups),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON (an infinite quantile is ``None``); `from_dict` is the inverse."""
        quantiles = [float(q) if np.isfinite(q) else None for q in self.quantiles]
        return asdict(self) | {"quantiles": quantiles}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PredictionSets":
        """What `to_dict` described."""
        quantiles = tuple(np.inf if q is None else q for q in values["quantiles"])
        return cls(**{**values, "quantiles": quantiles})


def set_scores(probabilities: np.ndarray, method: str,
               uniform: np.ndarray | None = None) -> np.ndarray:
    """(N, K) how late each class enters the set.

    ``lac``: 1 - p (Sadinle 2019, arXiv:1609.00451): the smallest sets, which may be empty.
    ``aps``: the probability of all classes that are likelier, plus (1 - U) p (Romano 2020,
    arXiv:2006.02544). Without random numbers U is 1, the paper's set without randomisation: it has
    at least the likeliest class and covers a little more than asked for. With them U is uniform,
    coverage is exact, and sets may be empty.

    Args:
        probabilities: (N, K).
        method: One of `METHODS`.
        uniform: (N,) random numbers of 0 to 1 for ``aps``.
    """
    if method == "lac":
        return np.asarray(1 - probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    likelier = np.zeros_like(ranked)
    likelier[:, 1:] = ranked.cumsum(axis=1)[:, :-1]
    if uniform is not None:
        likelier = likelier + (1 - uniform[:, None]) * ranked
    scores = np.empty_like(ranked)
    np.put_along_axis(scores, order, likelier, axis=1)
    return scores


def fit_prediction_sets(
    labels: np.ndarray, probabilities: np.ndarray, *, level: float, seed: int,
    groups: Sequence[Any] | None = None, method: str = "aps", by_class: bool = False,
    randomised: bool = False, class_names: Sequence[str] | None = None,
) -> PredictionSets:
    """Quantiles of the scores of one random picture of each group.

    Refused, with a reason, below 100 groups and for multi-label.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K), calibrated or not, by nothing that was fitted on the same pictures.
        level: The wished coverage, between 0 and 1.
        seed: Of the choice of pictures and of a randomised method.
        groups: The group of each picture.
        method: One of `METHODS`.
        by_class: Promise the level for each class.
        randomised: Whether APS draws a random number for each picture.
        class_names: For words; numbers where not given.

    Raises:
        ConfigurationError: The level or the method can't be.
    """
    _check(level, method)
    base = {"by_class": by_class, "randomised": randomised and method == "aps"}
    if labels.ndim == 2:
        return PredictionSets(method, level, (), **base, reason=(
            "no prediction sets: a set holds the one true class, these pictures have any number; "
            "use a threshold for each label"))
    rows = one_per_group(groups, len(labels), seed=seed)
    if len(rows) < MIN_GROUPS:
        what = "pictures" if groups is None else "groups"
        return PredictionSets(method, level, (), **base, count=len(rows), reason=(
            f"no prediction sets: {len(rows)} calibration {what} are too few, {MIN_GROUPS} are "
            "needed"))
    uniform = np.random.default_rng([seed, 1]).random(len(rows)) if base["randomised"] else None
    scores = set_scores(probabilities[rows], method, uniform)
    own, width = scores[np.arange(len(rows)), labels[rows]], probabilities.shape[1]
    parts = [own[labels[rows] == k] if by_class else own for k in range(width)]
    quantiles = tuple(_quantile(part, level) for part in parts)
    names = class_names or [str(k) for k in range(width)]
    always = [name for name, q in zip(names, quantiles, strict=True) if np.isinf(q)]
    return PredictionSets(method, level, quantiles, **base, count=len(rows), reason=(
        f"too few pictures for the level, in every set: {first_of(always)}" if always else ""))


def _check(level: float, method: str) -> None:
    if method not in METHODS:
        raise ConfigurationError(f"{method!r} is not a way to make prediction sets; "
                                 f"choose one of {', '.join(METHODS)}")
    if not 0 < level < 1:
        raise ConfigurationError(f"prediction sets can't cover a share of {level:g}; give a number "
                                 "between 0 and 1, such as 0.9")


def _quantile(scores: np.ndarray, level: float) -> float:
    """The ceil((n + 1) * level)-th smallest; infinite when there are not so many."""
    place = int(np.ceil((len(scores) + 1) * level - 1e-9))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else float("inf")
