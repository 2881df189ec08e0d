"""For whom it fails: metrics of the pictures with one value of a metadata column.

A difference between hospitals can be one of classes: where hard classes are frequent, fewer answers
are right. What is compared is therefore how many answers are right against how many would be if
each class were recognised as often as over all pictures (indirect standardisation).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import ConfigurationError, DataError, did_you_mean
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.shares import group_numbers
from finetune.specs import LabelKind

__all__ = ["choose_columns", "holm", "measure_subgroups", "spread_test"]

FEW_PICTURES = 30  # values with fewer are merged
MOST_VALUES = 40   # values beyond the most frequent ones are merged
NO_VALUE, OTHER = "(no value)", "(other)"
SINGLE = ("accuracy", "balanced_accuracy", "roc_auc")
MULTI = ("accuracy", "macro_f1", "roc_auc", "average_precision")
BINARY = ("sensitivity", "specificity")


def choose_columns(metadata: Mapping[str, Sequence[str]], wanted: str | None,
                   ) -> dict[str, Sequence[str]]:
    """The columns that are wanted, in that order; empty when none is.

    Args:
        metadata: All columns.
        wanted: Names, separated by commas, or None.

    Raises:
        ConfigurationError: A name is not a column, or stands twice.

    >>> choose_columns({"site": ["a", "b"], "sex": ["f", "m"]}, "sex")
    {'sex': ['f', 'm']}
    """
    names = [name.strip() for name in (wanted or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in metadata]
    if unknown:
        there = ", ".join(metadata) or ("none: only a CSV file with a row for each picture has "
                                        "columns")
        raise ConfigurationError(
            f"data.subgroup_columns: there is no column {unknown[0]!r}"
            f"{did_you_mean(unknown[0], metadata)} beside path, label and split; there are {there}")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"data.subgroup_columns={wanted} names a column twice")
    return {name: metadata[name] for name in names}


def measure_subgroups(
    predictions: Predictions, columns: Mapping[str, Sequence[str]], *, confidence: float = 0.95,
    seed: int = 0, resamples: int = 2000,
) -> dict[str, Any]:
    """Metrics with intervals for each value of each column, the worst, and whether chance does it.

    Values with fewer than 30 pictures, and those beyond the 40 most frequent, are merged as
    ``(other)``, an empty value is ``(no value)``. A value that still has fewer than 30 pictures is
    ``small``: it is shown, and neither named the worst nor tested.

    A column's entry has ``values``, a list of ``{"value", "count", "clusters", "merged", "small",
    "absent", "against_expected", "metrics"}``, the most frequent first: ``absent`` are classes of
    which it has no picture (balanced accuracy is the mean over the others), ``against_expected``
    is the share of right answers less what its classes let expect, ``metrics`` are entries of
    `compute_intervals` with ``value``. ``worst`` is the value furthest below what is expected,
    ``test`` is `spread_test` over the values that aren't small with ``p_holm``, corrected for the
    number of columns, and ``more_than_chance`` at the confidence.

    Args:
        predictions: Of one part.
        columns: For each name the value of each picture, in the order of ``predictions.ids``.
        confidence: Between 0 and 1.
        seed: Of the intervals' resamples.
        resamples: Of the intervals' bootstrap.

    Raises:
        DataError: A column has another length than the predictions.
    """
    settings = {"confidence": confidence, "seed": seed, "resamples": resamples}
    found = {name: _column(predictions, name, values, settings)
             for name, values in columns.items()}
    tested = {name: entry["test"] for name, entry in found.items() if entry["test"]}
    corrected = holm([test["p"] for test in tested.values()])
    for test, p in zip(tested.values(), corrected, strict=True):
        test |= {"p_holm": p, "columns_tested": len(tested),
                 "more_than_chance": bool(p < 1 - confidence)}
    return {"confidence": confidence, "columns": found}


def _column(predictions: Predictions, name: str, values: Sequence[str],
            settings: dict[str, Any]) -> dict[str, Any]:
    if len(values) != len(predictions):
        raise DataError(f"column {name!r} has {len(values)} values for {len(predictions)} pictures")
    names, merged = _merged(values)
    surplus, stratum, picture = _right(predictions)
    rows = []
    for value, count in Counter(names).most_common():
        chosen = np.flatnonzero(np.array(names) == value)
        rows.append({
            "value": value, "count": count, **_sizes(predictions, chosen),
            "merged": merged if value == OTHER else [], "small": count < FEW_PICTURES,
            "against_expected": float(np.mean(surplus[np.isin(picture, chosen)])),
            "metrics": _metrics(_taken(predictions, chosen), settings)})
    large = [row for row in rows if not row["small"]]
    return {"values": rows, "worst": _worst(large),
            "test": _tested(predictions, names, [row["value"] for row in large],
                            (surplus, stratum, picture))}


def _merged(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Each picture's value, rare ones as ``(other)``; and which these are.

    A single rare value keeps its name.
    """
    shown = [value.strip() or NO_VALUE for value in values]
    counts = Counter(shown).most_common()
    rare = [value for place, (value, count) in enumerate(counts)
            if count < FEW_PICTURES or place >= MOST_VALUES]
    if len(rare) < 2:
        return shown, []
    return [OTHER if value in set(rare) else value for value in shown], sorted(rare)


def _right(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each known answer: right (0, 1) less the mean of its class, the class, the picture.

    The answers of several labels are one each, and their classes a label's yes and no.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    if predictions.label_spec.kind is LabelKind.multi:
        picture, label = np.nonzero(~np.isnan(labels))
        truth = labels[picture, label] == 1
        right = (probabilities[picture, label] >= 0.5) == truth
        stratum = 2 * label + truth
    else:
        picture, stratum = np.arange(len(labels)), np.asarray(labels)
        right = probabilities.argmax(axis=1) == labels
    counts = np.bincount(stratum)
    means = np.bincount(stratum, weights=right) / np.maximum(counts, 1)
    return right - means[stratum], stratum, picture


def _sizes(predictions: Predictions, chosen: np.ndarray) -> dict[str, Any]:
    """How many groups there are, and which classes that occur elsewhere do not occur."""
    groups, spec = predictions.groups, predictions.label_spec
    truth = (predictions.labels == 1 if spec.kind is LabelKind.multi
             else np.eye(spec.output_width, dtype=bool)[predictions.labels])
    lacking = truth.any(axis=0) & ~truth[chosen].any(axis=0)
    return {"clusters": None if groups is None else len({groups[i] for i in chosen}),
            "absent": [name for name, lacks in zip(spec.class_names, lacking, strict=True)
                       if lacks]}


def _taken(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    groups = predictions.groups
    return Predictions([predictions.ids[i] for i in chosen], predictions.labels[chosen],
                       predictions.logits[chosen], predictions.label_spec,
                       None if groups is None else [groups[i] for i in chosen])


def _metrics(part: Predictions, settings: dict[str, Any]) -> dict[str, Any]:
    metrics = compute_metrics(part)
    intervals = compute_intervals(part, metrics, **settings)
    single = part.label_spec.kind is LabelKind.single
    found = {key: {"value": metrics[key], **intervals[key]}
             for key in (SINGLE if single else MULTI)}
    if "positive" in metrics:
        found |= {key: {"value": metrics["positive"][key], **intervals["positive"][key]}
                  for key in BINARY}
    return found


def _worst(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if len(rows) < 2:
        return None
    row = min(rows, key=lambda each: each["against_expected"])
    return {key: row[key] for key in ("value", "count", "against_expected")}


def _tested(predictions: Predictions, names: Sequence[str], large: Sequence[str],
            answers: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Any] | None:
    """`spread_test` over the large values; the means of classes are then these pictures' own."""
    if len(large) < 2:
        return None
    right, stratum, picture = answers
    place = {value: number for number, value in enumerate(large)}
    of = np.array([place.get(name, -1) for name in names])[picture]
    units = group_numbers(predictions.groups, len(predictions))[picture]
    kept = of >= 0
    return spread_test(right[kept], of[kept], stratum[kept], units[kept])


def spread_test(right: np.ndarray, of: np.ndarray, stratum: np.ndarray,
                units: np.ndarray) -> dict[str, Any] | None:
    """Whether, given the class, being right depends on the value: a chi-squared test.

    A score test: the statistic is the surplus of right answers of each value over what the means
    of the classes let expect, against its covariance summed over units (a sandwich: pictures of
    one patient aren't independent). With one unit for each picture it is, in large samples, the
    generalised test of Cochran, Mantel and Haenszel (Landis, Heyman, Koch 1978, International
    Statistical Review 46).

    Args:
        right: (N,) whether an answer is right, 0 or 1; adding a constant for each class does
            nothing.
        of: (N,) numbers 0..G-1 of values.
        stratum: (N,) numbers of classes, within which is compared.
        units: (N,) numbers of what is independent.

    Returns:
        ``statistic``, ``freedom``, ``p``, ``units``; ``None`` where nothing can be compared: no
        class occurs with two values, or every answer of a class is the same.
    """
    from scipy.stats import chi2

    classes = np.unique(stratum, return_inverse=True)[1]
    counts = np.bincount(classes)
    centred = right - (np.bincount(classes, weights=right) / counts)[classes]
    is_of = np.eye(int(of.max()) + 1)[of]
    shares = np.array([is_of[classes == each].mean(axis=0) for each in range(len(counts))])
    moves = (is_of - shares[classes]) * centred[:, None]
    number = np.unique(units, return_inverse=True)[1]
    sums = np.stack([np.bincount(number, weights=column) for column in moves.T], axis=1)
    total, count = sums.sum(axis=0), len(sums)
    covariance = sums.T @ sums
    freedom = int(np.linalg.matrix_rank(covariance, tol=1e-9 * max(covariance.trace(), 1e-300)))
    if not freedom or covariance.trace() < 1e-12:
        return None
    statistic = float(total @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ total)
    return {"statistic": statistic, "freedom": freedom, "p": float(chi2.sf(statistic, freedom)),
            "units": count}


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    count, found, most = len(values), [0.0] * len(values), 0.0
    for place, i in enumerate(np.argsort(values, kind="stable").tolist()):
        most = max(most, min(1.0, (count - place) * values[i]))
        found[i] = most
    return found
