"""Metrics that are functions of sums over pictures, and how each cluster moves them.

A metric of a run is a smooth function f of totals T = sum of t_i over pictures. To first order it
is f's mean over endless pictures plus a sum of one number for each picture, the gradient of f at T
times t_i (the infinitesimal jackknife: Efron 1982, The Jackknife, the Bootstrap and Other
Resampling Plans, chapter 6). Differences of two runs, and of several, are judged by these numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.agreement import agreement, mean_f1
from finetune.evaluation.bootstrap import cluster_sums
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.ranks import rank_distances, squares_by_chance
from finetune.specs import LabelKind

__all__ = ["Moved", "Summed", "class_key", "linearise", "summed_metrics"]

BINS, TOP_K, TOP_K_FROM = 15, 3, 5  # as `finetune.evaluation.metrics` has them
STEP = 1e-4                         # of a total, for the derivative by it
NOISE = 1e-7                        # of what is summed: numerical derivatives miss by 1e-8
CHUNK = 4_000_000                   # numbers in memory at once
SQUARES = "squares"
Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
Ratios = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Moved:
    """A metric, and how each cluster moves it.

    Attributes:
        value: Of all pictures.
        moves: (C,) what each cluster adds to the metric's error; they sum to 0.
    """

    value: float
    moves: np.ndarray


@dataclass(frozen=True)
class Summed:
    """What is summed, and the metrics of the sums.

    Attributes:
        sums: (C, F), sparse; of each cluster.
        statistic: Metrics (B,) of totals (B, F); NaN where one is not defined.
    """

    sums: Any
    statistic: Statistic


def class_key(metric: str, place: int) -> str:
    """The name under which a metric of one class stands among those of all.

    >>> class_key("recall", 2)
    'recall[2]'
    """
    return f"{metric}[{place}]"


def summed_metrics(predictions: Predictions, clusters: np.ndarray | None = None) -> Summed:
    """The sums of a run's answers from which its metrics follow, all but areas under curves.

    The metrics have the names and values of `finetune.evaluation.metrics.compute_metrics`;
    precision, recall and F1 of each class stand under `class_key`.

    Args:
        predictions: Of one run.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
    """
    from scipy.sparse import csr_array, hstack

    probabilities, spec = predictions.probabilities, predictions.label_spec
    parts = _several if spec.kind is LabelKind.multi else _single
    truth, answers, ratios, bins = parts(predictions.labels, probabilities, spec.is_ordinal)
    columns = [truth & answers, truth, answers, *(np.stack(r, axis=1) for r in ratios.values())]
    if bins is not None:
        columns.append(bins)
    columns = hstack([csr_array(part, dtype=float) for part in columns])
    overall = mean_f1 if spec.kind is LabelKind.multi else agreement
    return Summed(cluster_sums(columns, clusters),
                  _statistic(overall, list(ratios), spec.output_width))


Parts = tuple[np.ndarray, np.ndarray, Ratios, np.ndarray | None]


def _single(labels: np.ndarray, probabilities: np.ndarray, ordinal: bool) -> Parts:
    """Truth and answers (N, K) bool, sums and counts of what is a mean, bins of confidence."""
    width, rows, one = probabilities.shape[1], np.arange(len(labels)), np.ones(len(labels))
    predicted = probabilities.argmax(axis=1)
    truth, answers = np.eye(width, dtype=bool)[labels], np.eye(width, dtype=bool)[predicted]
    smallest = np.finfo(np.float64).eps
    likely = probabilities[rows, labels].clip(smallest, 1 - smallest)
    squares = ((probabilities - truth) ** 2).sum(axis=1) / (2 if width <= 2 else 1)
    right = labels == predicted
    ratios: Ratios = {"accuracy": (right.astype(float), one), "log_loss": (-np.log(likely), one),
                      "brier": (squares, one)}
    if width >= TOP_K_FROM:
        best = np.argsort(probabilities, axis=1, kind="stable")[:, -TOP_K:]
        hits = (best == labels[:, None]).any(axis=1).astype(float)
        ratios[f"top_{TOP_K}_accuracy"] = (hits, one)
    if ordinal:
        distances = rank_distances(labels, predicted)
        ratios |= {"mean_absolute_error": (distances, one), SQUARES: (distances**2, one)}
    return truth, answers, ratios, _bins(right, probabilities.max(axis=1))


def _bins(right: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """(N, 15) right less confidence, in the bin of the confidence."""
    bin_of = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return np.asarray(np.eye(BINS)[bin_of] * (right - confidence)[:, None])


def _several(labels: np.ndarray, probabilities: np.ndarray, ordinal: bool) -> Parts:
    """The same of several labels; what is unknown is left out, and there are no bins."""
    known = ~np.isnan(labels)
    truth, answers = labels == 1, (probabilities >= 0.5) & known
    some, counts = known.any(axis=1), known.sum(axis=1).astype(float)
    smallest = np.finfo(np.float64).eps
    likely = np.where(truth, probabilities, 1 - probabilities).clip(smallest, 1 - smallest)
    squares = np.where(known, (probabilities - truth) ** 2, 0.0).sum(axis=1)
    right = (truth == answers).all(axis=1) & some
    found = 2.0 * (truth & answers).sum(axis=1)
    return truth, answers, {
        "accuracy": (right.astype(float), some.astype(float)),
        "log_loss": (-np.where(known, np.log(likely), 0.0).sum(axis=1), counts),
        "brier": (squares, counts),
        "micro_f1": (found, truth.sum(axis=1) + answers.sum(axis=1).astype(float)),
    }, None


def _statistic(overall: Statistic, ratios: list[str], width: int) -> Statistic:
    """Metrics of totals: of 3 K counts of classes, of sums and counts, and of bins."""
    ends = 3 * width + 2 * len(ratios)

    def statistic(totals: np.ndarray) -> dict[str, np.ndarray]:
        counts = totals[:, :3 * width]
        found = {**overall(counts), **_of_classes(counts)}
        for place, name in enumerate(ratios):
            at = 3 * width + 2 * place
            found[name] = _ratio(totals[:, at], totals[:, at + 1])
        if totals.shape[1] > ends:
            pictures = counts[:, width:2 * width].sum(axis=1)
            found["ece"] = _ratio(np.abs(totals[:, ends:]).sum(axis=1), pictures)
        if SQUARES in found:
            _, pictures, answers = np.split(counts, 3, axis=1)
            chance = squares_by_chance(pictures, answers)
            found["quadratic_kappa"] = 1 - _ratio(found.pop(SQUARES), chance)
        return found

    return statistic


def _of_classes(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class."""
    hits, pictures, answers = np.split(counts, 3, axis=1)
    tables = {"recall": _ratio(hits, pictures), "precision": _ratio(hits, answers),
              "f1": _ratio(2 * hits, pictures + answers)}
    return {class_key(name, place): values[:, place]
            for name, values in tables.items() for place in range(hits.shape[1])}


def _ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.asarray(parts / np.where(wholes > 0, wholes, np.nan))


def linearise(summed: Summed) -> Mapping[str, Moved]:
    """Each metric that is defined, and how each cluster moves it.

    The gradient is taken numerically, by totals that aren't 0: the others are so for every
    picture. Where its parts cancel but for its error, a cluster moves nothing: without this, two
    runs without a mistake would seem to be known alike to nine digits.
    """
    total = np.asarray(summed.sums.sum(axis=0)).ravel()
    values = {name: float(value[0]) for name, value in summed.statistic(total[None]).items()}
    which = np.flatnonzero(total)
    gradients = _gradients(total, which, summed.statistic)
    columns = summed.sums.tocsc()[:, which]
    return {name: Moved(value, _moves(columns, gradients[name]))
            for name, value in values.items() if np.isfinite(value)}


def _moves(columns: Any, gradient: np.ndarray) -> np.ndarray:
    """(C,) what each cluster moves; 0 where it is the gradient's error."""
    moves, terms = np.asarray(columns @ gradient), np.asarray(abs(columns) @ np.abs(gradient))
    return np.where(np.abs(moves) > NOISE * terms, moves, 0.0)


def _gradients(total: np.ndarray, which: np.ndarray, statistic: Statistic,
               ) -> dict[str, np.ndarray]:
    """Derivatives of each metric by the totals that are named."""
    rows, parts = max(1, CHUNK // len(total)), []
    for start in range(0, len(which), rows):
        places = which[start:start + rows]
        steps = np.zeros((len(places), len(total)))
        steps[np.arange(len(places)), places] = sizes = STEP * np.abs(total[places])
        above, below = statistic(total + steps), statistic(total - steps)
        parts.append({name: (above[name] - below[name]) / (2 * sizes) for name in above})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
