"""Entries of metrics that are bootstrapped: of the confusion matrix, and means of losses."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from finetune.evaluation.agreement import heaviest_error
from finetune.evaluation.auc_intervals import effective_number
from finetune.evaluation.bootstrap import (
    bootstrap_interval,
    cluster_sums,
    leave_one_out,
    resample,
    weighted_errors_interval,
)
from finetune.evaluation.entries import (
    FEW_PICTURES,
    Answers,
    Entry,
    Setting,
    entry_of,
    few_units,
    grouped,
    rarest,
    undefined,
)
from finetune.evaluation.ranks import squares_by_chance

__all__ = ["SQUARES", "Losses", "resampled_entries"]

SQUARES = "squared_rank_distance"  # a mean that quadratic kappa is computed from
FEW_ERRORS = 30  # below, a bootstrap draws too seldom what it has seldom seen
Losses = Mapping[str, tuple[np.ndarray, np.ndarray]]
Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


def resampled_entries(answers: Answers, statistic: Statistic, losses: Losses,
                      metrics: Mapping[str, Any], setting: Setting) -> dict[str, Entry]:
    """Entries of metrics of the confusion matrix and of means of losses, from the same resamples.

    Bootstrap, moved outward to what a weighted sum of errors allows where these are few.

    Args:
        answers: Truth and answers.
        statistic: `agreement` or `mean_f1`.
        losses: For each mean, its sum over each picture and how many values that sums.
        metrics: What is ``None`` in them is not defined.
        setting: How intervals are computed.
    """
    from scipy.sparse import csr_array, hstack

    truth = answers.truth == 1
    columns = [truth & answers.predicted, truth, answers.predicted,
               *(np.stack(pair, axis=1) for pair in losses.values())]
    sums = cluster_sums(hstack([csr_array(part, dtype=float) for part in columns]),
                        answers.clusters)
    both = _both(statistic, list(losses), 3 * truth.shape[1])
    total = np.asarray(sums.sum(axis=0)).ravel()
    points = {name: float(value[0]) for name, value in both(total[None]).items()}
    drawn = resample(sums, both, resamples=setting.resamples, seed=setting.seed)
    left = leave_one_out(sums, both)
    heaviest = _heaviest(answers, statistic, losses, total[:3 * truth.shape[1]])
    found = {}
    for name, point in points.items():
        why = _words(answers, name)
        entry = _bootstrapped(answers, point, drawn[name], left[name], setting, why)
        if metrics.get(name) is None:
            entry = undefined()
        elif name in heaviest and entry["low"] is not None:
            _widen(entry, point, left[name], heaviest[name], setting, loss=name in losses)
        found[name] = undefined() if entry["low"] == entry["high"] else entry
    return found


def _both(statistic: Statistic, losses: list[str], width: int) -> Statistic:
    """Metrics of the first columns, and the means whose sums and counts are in the others."""
    def both(totals: np.ndarray) -> dict[str, np.ndarray]:
        found = statistic(totals[:, :width])
        for place, name in enumerate(losses):
            total, count = totals[:, width + 2 * place], totals[:, width + 2 * place + 1]
            found[name] = total / np.where(count > 0, count, np.nan)
        if SQUARES in found:
            found["quadratic_kappa"] = 1 - found.pop(SQUARES) / _by_chance(totals[:, :width])
        return found

    return both


def _by_chance(totals: np.ndarray) -> np.ndarray:
    """(B,) squared distances of ranks that chance gives; NaN where it gives none."""
    _, pictures, answers = np.split(totals, 3, axis=1)
    chance = squares_by_chance(pictures, answers)
    return np.where(chance > 0, chance, np.nan)


def _words(answers: Answers, name: str) -> list[str]:
    """What speaks against an interval of a bootstrapped metric."""
    why = few_units(answers, answers.units)
    if name in ("balanced_accuracy", "macro_f1"):
        return rarest(answers) + why
    wrong = int(_wrong(answers).sum())
    by_errors = ("log_loss", "brier", "mean_absolute_error", "quadratic_kappa")
    if name in by_errors and wrong < FEW_PICTURES:
        why.append(f"{wrong} pictures with a wrong answer, fewer than {FEW_PICTURES}")
    return why


def _wrong(answers: Answers) -> np.ndarray:
    """(N,) whether any answer about a picture is wrong."""
    return np.asarray(((answers.truth == 1) != answers.predicted).any(axis=1))


def _heaviest(answers: Answers, statistic: Statistic, losses: Losses,
              total: np.ndarray) -> dict[str, float]:
    """The weight of one more error, for metrics that rest on few of them."""
    found, wrong = {}, _wrong(answers)
    of = np.arange(len(wrong)) if answers.clusters is None else answers.clusters
    if len(np.unique(of[wrong])) < FEW_ERRORS:
        exclusive = answers.spec.is_exclusive
        found = {name: weight * _pictures_per_cluster(answers)
                 for name, weight in heaviest_error(total, statistic, exclusive=exclusive).items()}
    for name, (values, counts) in losses.items():
        sums = np.bincount(of, weights=values)
        if effective_number(sums) < FEW_ERRORS and counts.any():
            found[name] = float((sums.max() or 1.0) / counts.sum())  # none seen: one of a rank
    if SQUARES in found:
        found["quadratic_kappa"] = found.pop(SQUARES) / float(_by_chance(total[None])[0])
    return found


def _pictures_per_cluster(answers: Answers) -> float:
    """Of the cluster that a picture is in, on average."""
    if answers.clusters is None:
        return 1.0
    sizes = np.bincount(answers.clusters).astype(float)
    return float((sizes**2).sum() / sizes.sum())


def _bootstrapped(answers: Answers, point: float, drawn: np.ndarray, left: np.ndarray,
                  setting: Setting, why: list[str]) -> Entry:
    interval = None
    if np.isfinite(point):
        interval = bootstrap_interval(drawn, point, left, confidence=setting.confidence)
    if interval is None:
        return undefined()
    low, high, method = interval
    return entry_of((low, high), method, why=why, clusters=grouped(answers, answers.units))


def _widen(entry: Entry, point: float, left: np.ndarray, weight: float, setting: Setting, *,
           loss: bool) -> None:
    """Ends moved outward to the interval of a weighted sum of few errors."""
    left = left[np.isfinite(left)]
    variance = float(((left - left.mean()) ** 2).sum()) if len(left) else 0.0
    distance = point if loss else 1 - point
    least, most = weighted_errors_interval(distance, variance, weight, setting.confidence)
    low, high = (least, most) if loss else (max(1 - most, 0.0), 1 - least)
    entry["low"], entry["high"] = min(entry["low"], low), max(entry["high"], high)
    entry["method"] += ", fay-feuer"
