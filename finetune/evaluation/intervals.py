"""An interval for every metric, by the method that covers it; docs/statistics.md says why.

An entry is ``{"low", "high", "method", "effective_n", "clusters", "reliable", "why"}``. ``low`` and
``high`` are ``None`` for a metric that is not defined and for one without an interval; ``why``
says what is wrong with an interval that is not reliable. ``effective_n`` is how many independent
pictures a proportion rests on, ``clusters`` how many groups any metric rests on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune.evaluation.agreement import agreement, mean_f1
from finetune.evaluation.auc_intervals import (
    Area,
    AreaSum,
    area_interval,
    area_under_roc,
    average_precision,
    precision_interval,
)
from finetune.evaluation.bootstrap import CHUNK
from finetune.evaluation.calibration_error import calibration_error
from finetune.evaluation.entries import (
    FEW_PICTURES,
    Answers,
    Entry,
    Setting,
    area_of,
    entry_of,
    few_of_class,
    few_units,
    grouped,
    proportion,
    rarest,
    undefined,
)
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.ranks import rank_distances
from finetune.evaluation.resampled import SQUARES, Losses, resampled_entries
from finetune.specs import LabelKind, LabelSpec

__all__ = ["compute_intervals"]

ECE_FROM = 1000  # pictures


def compute_intervals(
    predictions: Predictions, metrics: Mapping[str, Any], *, confidence: float = 0.95,
    seed: int = 0, resamples: int = 2000,
) -> dict[str, Any]:
    """Intervals of all metrics, under the keys of the metrics, and ``confidence``.

    Pictures of a group are not independent, so that with groups these are what is drawn and
    counted. The ``groups`` block of the metrics has one row a group, and needs none.

    Args:
        predictions: What the metrics were computed of.
        metrics: What `finetune.evaluation.metrics.compute_metrics` returned.
        confidence: Between 0 and 1.
        seed: Of the resamples.
        resamples: Of the bootstrap.
    """
    setting = Setting(confidence, seed, resamples)
    spec, groups = predictions.label_spec, predictions.groups
    clusters = None
    if groups is not None and len(set(groups)) < len(groups):
        clusters = np.unique(np.array(groups), return_inverse=True)[1]
    found = _block(predictions.labels, predictions.probabilities, clusters, spec, metrics, setting)
    if metrics.get("groups", {}).get("count") and groups is not None:
        from finetune.evaluation.metrics import group_means

        labels, means, _ = group_means(predictions.labels, predictions.probabilities, groups)
        found["groups"] = _block(labels, means, None, spec, metrics["groups"], setting)
    return {"confidence": confidence, **found}


def _block(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray | None,
           spec: LabelSpec, metrics: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Intervals of the metrics of one set of answers."""
    width = spec.output_width
    if spec.kind is LabelKind.multi:
        predicted = (probabilities >= 0.5) & ~np.isnan(labels)
        truth = np.asarray(labels, float)
    else:
        predicted = np.eye(width, dtype=bool)[probabilities.argmax(axis=1)]
        truth = np.eye(width, dtype=bool)[labels]
    answers = Answers(truth, predicted, probabilities, clusters, spec)
    sums, by_class = (AreaSum(), AreaSum()), {}
    for place, name in enumerate(spec.class_names):
        areas = _class_areas(answers, place)
        by_class[name] = _class_block(answers, place, areas, setting)
        for total, area in zip(sums, areas, strict=True):
            total.add(area)
    found = {"per_class": by_class, **_mean_areas(answers, sums, metrics, setting)}
    overall = _several if spec.kind is LabelKind.multi else _single
    found |= overall(answers, labels, metrics, setting)
    return {key: found[key] for key in metrics if key in found}


def _class_areas(answers: Answers, place: int) -> tuple[Area | None, Area | None]:
    truth, scores = answers.truth[:, place].astype(float), answers.probabilities[:, place]
    arguments = truth, scores, answers.clusters
    return area_under_roc(*arguments), average_precision(*arguments)


def _class_block(answers: Answers, place: int, areas: tuple[Area | None, Area | None],
                 setting: Setting) -> dict[str, Entry]:
    """Entries of one class against the rest."""
    truth, predicted = answers.truth[:, place], answers.predicted[:, place]
    yes, no, known = truth == 1, truth == 0, ~np.isnan(truth)
    few = few_of_class(answers, place)
    shares = {"precision": (yes, predicted), "recall": (predicted, yes),
              "specificity": (~predicted, no), "npv": (no, ~predicted & known)}
    found = {name: proportion(answers, hits, counted, setting,
                               few_of_class(answers, place, negatives=name != "recall"))
             for name, (hits, counted) in shares.items()}
    found["f1"] = proportion(answers, yes & predicted, yes | predicted & known, setting, few,
                              f1=True)
    found["roc_auc"] = area_of(answers, areas[0], area_interval, few, setting)
    found["average_precision"] = area_of(answers, areas[1], precision_interval, few, setting)
    return found


def _mean_areas(answers: Answers, sums: tuple[AreaSum, AreaSum],
                metrics: Mapping[str, Any], setting: Setting) -> dict[str, Entry]:
    """Macro ROC-AUC and average precision, with the covariances of the classes."""
    found = {}
    for place, (name, interval) in enumerate((("roc_auc", area_interval),
                                              ("average_precision", precision_interval))):
        first, count = sums[place].first, sums[place].count
        if metrics.get(name) is None or first is None:
            found[name] = undefined()
            continue
        both_the_same = answers.spec.is_binary and name == "roc_auc"
        area = first if both_the_same or count == 1 else sums[place].mean()
        why = rarest(answers) + few_units(answers, answers.units)
        found[name] = area_of(answers, area, interval, why, setting)
        found[name]["clusters"] = grouped(answers, answers.units)
    return found


def _single(answers: Answers, labels: np.ndarray, metrics: Mapping[str, Any],
            setting: Setting) -> dict[str, Any]:
    """Overall entries of single labels."""
    everything = np.ones(len(labels), bool)
    few = few_units(answers, answers.units)
    right = answers.predicted[np.arange(len(labels)), labels]
    found: dict[str, Any] = {"accuracy": proportion(answers, right, everything, setting, few)}
    for key in metrics:
        if key.startswith("top_") and key.endswith("_accuracy"):
            hits = _in_top(answers.probabilities, labels, int(key.split("_")[1]))
            found[key] = proportion(answers, hits, everything, setting, few)
    found |= resampled_entries(answers, agreement, _losses(answers, labels), metrics, setting)
    found["ece"] = _calibration(answers, right, setting)
    if "positive" in metrics:
        found["positive"] = _positive(answers, metrics["positive"]["class"], setting)
    return found


def _in_top(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the k likeliest, ties broken as scikit-learn does."""
    found = np.empty(len(labels), bool)
    for rows in _rows(probabilities):
        order = np.argsort(probabilities[rows], axis=1, kind="stable")[:, ::-1][:, :k]
        found[rows] = (order == labels[rows, None]).any(axis=1)
    return found


def _rows(values: np.ndarray) -> Iterator[slice]:
    """All rows, as many at a time as hold CHUNK values."""
    step = max(1, CHUNK // values.shape[1])
    return (slice(start, start + step) for start in range(0, len(values), step))


def _positive(answers: Answers, name: str, setting: Setting) -> dict[str, Entry]:
    """The class entries that a diagnostic study reports, by its words."""
    place = answers.spec.class_names.index(name)
    rows = _class_block(answers, place, (None, None), setting)
    words = {"sensitivity": "recall", "specificity": "specificity", "ppv": "precision",
             "npv": "npv"}
    return {word: rows[row] for word, row in words.items()}


def _losses(answers: Answers, labels: np.ndarray) -> Losses:
    """For each mean, its sum over each picture and how many values that sums."""
    epsilon = np.finfo(np.float64).eps
    likely = answers.probabilities[np.arange(len(labels)), labels].clip(epsilon, 1 - epsilon)
    squares = np.concatenate([
        ((answers.probabilities[rows] - answers.truth[rows]) ** 2).sum(axis=1)
        for rows in _rows(answers.truth)])
    half = 2 if answers.spec.output_width <= 2 else 1
    one = np.ones(len(labels))
    losses = {"log_loss": (-np.log(likely), one), "brier": (squares / half, one)}
    if answers.spec.is_ordinal:
        distances = rank_distances(labels, answers.predicted.argmax(axis=1))
        losses |= {"mean_absolute_error": (distances, one), SQUARES: (distances**2, one)}
    return losses


def _calibration(answers: Answers, right: np.ndarray, setting: Setting) -> Entry:
    """The debiased calibration error; an interval from 1,000 pictures up."""
    error = calibration_error(right, answers.probabilities.max(axis=1), answers.clusters)
    units = grouped(answers, answers.units)
    if len(right) < ECE_FROM:
        entry = entry_of(None, None, why=[f"no interval below {ECE_FROM} pictures"], clusters=units)
    else:
        why, wrong = few_units(answers, answers.units), int((~right).sum())
        if wrong < FEW_PICTURES:
            why.append(f"{wrong} wrong answers, fewer than {FEW_PICTURES}")
        entry = entry_of(error.interval(setting.confidence), "normal, allowing for bias", why=why,
                       clusters=units)
    return entry | {"debiased": error.debiased}


def _several(answers: Answers, labels: np.ndarray, metrics: Mapping[str, Any],
             setting: Setting) -> dict[str, Any]:
    """Overall entries of several labels; unknown targets are left out as in the metrics."""
    known = ~np.isnan(labels)
    truth = np.nan_to_num(labels).astype(bool)
    right = (truth == answers.predicted).all(axis=1)
    few = few_units(answers, answers.units)
    found = {"accuracy": proportion(answers, right, known.any(axis=1), setting, few),
             "micro_f1": _micro_f1(answers, truth, setting)}
    epsilon = np.finfo(np.float64).eps
    likely = np.where(truth, answers.probabilities, 1 - answers.probabilities).clip(epsilon, None)
    counts = known.sum(axis=1).astype(float)
    squares = np.where(known, (answers.probabilities - truth) ** 2, 0.0).sum(axis=1)
    losses = {"log_loss": (-np.where(known, np.log(likely), 0.0).sum(axis=1), counts),
              "brier": (squares, counts)}
    return found | resampled_entries(answers, mean_f1, losses, metrics, setting)


def _micro_f1(answers: Answers, truth: np.ndarray, setting: Setting) -> Entry:
    """F1 over all pairs of picture and class; the pairs of a picture are a cluster."""
    hits, either = truth & answers.predicted, truth | answers.predicted
    of = np.arange(len(truth)) if answers.clusters is None else answers.clusters
    pairs = Answers(truth, answers.predicted, answers.probabilities,
                     np.repeat(of, truth.shape[1]), answers.spec)
    entry = proportion(pairs, hits.ravel(), either.ravel(), setting, [], f1=True)
    return entry | {"clusters": grouped(answers, entry["clusters"] or 0)}
