"""Every number about a set of predictions, ready for JSON.

A number that is not defined (a ROC curve without negatives) is ``None``, never NaN. Precision,
recall and F1 of a class follow scikit-learn's ``zero_division=0``; means leave such an F1 out.
"""

from typing import Any

import numpy as np

from finetune.errors import CheckError, DataError, first_of
from finetune.evaluation.class_report import class_report
from finetune.evaluation.per_class import confusion_counts, describe_class
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.ranks import rank_agreement
from finetune.evaluation.selection import SELECT_METRICS, higher_is_better, select_value
from finetune.specs import LabelKind, LabelSpec

__all__ = [
    "SELECT_METRICS",
    "compute_metrics",
    "expected_calibration_error",
    "group_means",
    "higher_is_better",
    "select_value",
]

Metrics = dict[str, Any]
TOP_K, TOP_K_FROM = 3, 5  # the third-best of four says nothing


def compute_metrics(predictions: Predictions) -> Metrics:
    """Metrics of predictions: scalars, ``per_class``, ``confusion_matrix``, and ``groups``.

    ``groups`` holds the same numbers on the mean probabilities of each group's pictures, when at
    least one group has more than one picture; ``count`` says how many groups, ``left_out`` how
    many have pictures of different labels and were not counted.

    Raises:
        DataError: There are no predictions.
        CheckError: A logit is NaN or infinite; names the pictures.
    """
    _check(predictions)
    probabilities, spec = predictions.probabilities, predictions.label_spec
    result = _metrics(predictions.labels, probabilities, spec)
    groups = predictions.groups
    if groups is not None and len(set(groups)) < len(groups):
        labels, means, left_out = group_means(predictions.labels, probabilities, groups)
        nested = _metrics(labels, means, spec) if len(labels) else {"count": 0}
        result["groups"] = {**nested, "left_out": left_out}
    return result


def _check(predictions: Predictions) -> None:
    if not len(predictions):
        raise DataError("there are no predictions to compute metrics of")
    broken = np.flatnonzero(~np.isfinite(predictions.logits).all(axis=1))
    if len(broken):
        names = [predictions.ids[i] for i in broken]
        raise CheckError(f"the network answered NaN or infinity for {len(names)} pictures "
                         f"({first_of(names)}); its weights or these pictures are broken")


def group_means(
    labels: np.ndarray, probabilities: np.ndarray, groups: list[str],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and mean probabilities (G, K) of groups, and how many groups had mixed labels.

    Groups whose pictures have different labels are not among the rows; what is unknown of one
    picture and known of another is no difference. The rest are in the order of their names.
    """
    names, members = np.unique(np.array(groups), return_inverse=True)
    rows = [np.flatnonzero(members == i) for i in range(len(names))]
    shared = [(r, label) for r in rows if (label := _shared(labels[r])) is not None]
    means = [probabilities[r].mean(axis=0) for r, _ in shared]
    own = np.array([label for _, label in shared], labels.dtype).reshape(-1, *labels.shape[1:])
    return own, np.array(means).reshape(-1, probabilities.shape[1]), len(rows) - len(shared)


def _shared(labels: np.ndarray) -> np.ndarray | None:
    """What is known of some pictures' labels, the class or (K,); None where they differ."""
    known = ~np.isnan(labels.astype(float))
    low = np.where(known, labels, np.inf).min(axis=0)
    high = np.where(known, labels, -np.inf).max(axis=0)
    return None if (low < high).any() else np.where(known.any(axis=0), low, np.nan)


def _metrics(labels: np.ndarray, probabilities: np.ndarray, spec: LabelSpec) -> Metrics:
    multi = spec.kind is LabelKind.multi
    return (_multi_label if multi else _single_label)(labels, probabilities, spec)


def _single_label(labels: np.ndarray, probabilities: np.ndarray, spec: LabelSpec) -> Metrics:
    width = spec.output_width
    predicted = probabilities.argmax(axis=1)
    matrix = np.bincount(width * labels + predicted, minlength=width**2).reshape(width, width)
    truth = np.eye(width)[labels]
    answers = np.eye(width)[predicted]
    per_class = _per_class(truth, answers, probabilities, spec)
    result = {
        "count": len(labels),
        **_agreement(labels, predicted, matrix),
        **(rank_agreement(matrix) if spec.is_ordinal else {}),
        **_probabilistic(labels, truth, probabilities),
        **_areas(per_class, need_all=True),
        "per_class": per_class,
        "class_names": list(spec.class_names),
        "confusion_matrix": matrix.tolist(),
        "classification_report": _report(truth, answers, spec),
    }
    if spec.is_binary:
        result["positive"] = _positive(matrix, spec)
    return result


def _agreement(labels: np.ndarray, predicted: np.ndarray, matrix: np.ndarray) -> Metrics:
    """Metrics of the predicted class alone."""
    support = matrix.sum(axis=1)
    recalls = matrix.diagonal()[support > 0] / support[support > 0]
    return {
        "accuracy": float(np.mean(labels == predicted)),
        "balanced_accuracy": float(recalls.mean()),
        "macro_f1": float(_f1(matrix).mean()),
        "cohen_kappa": _kappa(matrix),
        "mcc": _correlation(matrix),
    }


def _f1(matrix: np.ndarray) -> np.ndarray:
    """F1 of each class that occurs, in truth or answer."""
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.asarray(2 * matrix.diagonal()[both > 0] / both[both > 0])


def _kappa(matrix: np.ndarray) -> float | None:
    """Cohen's kappa; ``None`` when one class is all there is, in truth and answer."""
    total = matrix.sum()
    expected = float(matrix.sum(axis=0) @ matrix.sum(axis=1)) / total**2
    return None if expected == 1 else float((matrix.trace() / total - expected) / (1 - expected))


def _correlation(matrix: np.ndarray) -> float | None:
    """Matthews correlation (Gorodkin 2004); ``None`` when all answers or all labels are one."""
    truth, answers = matrix.sum(axis=1, dtype=float), matrix.sum(axis=0, dtype=float)
    total = truth.sum()
    together = matrix.trace() * total - truth @ answers
    spread = (total**2 - answers @ answers) * (total**2 - truth @ truth)
    return float(together / np.sqrt(spread)) if spread else None


def _probabilistic(labels: np.ndarray, truth: np.ndarray, probabilities: np.ndarray) -> Metrics:
    """Metrics of the probabilities.

    Brier score as scikit-learn has it: the squared distance to the one-hot truth, halved for two
    classes (Brier 1950).
    """
    width = truth.shape[1]
    squares = float(((probabilities - truth) ** 2).sum(axis=1).mean())
    result = {
        "log_loss": float(-np.log(_clipped((probabilities * truth).sum(axis=1))).mean()),
        "brier": squares / 2 if width <= 2 else squares,
        "ece": expected_calibration_error(labels, probabilities),
    }
    if width >= TOP_K_FROM:
        best = np.argsort(probabilities, axis=1, kind="stable")[:, -TOP_K:]
        result[f"top_{TOP_K}_accuracy"] = float((best == labels[:, None]).any(axis=1).mean())
    return result


def _clipped(probabilities: np.ndarray) -> np.ndarray:
    """Away from 0, as scikit-learn's log loss does it."""
    smallest = np.finfo(np.float64).eps
    return probabilities.clip(smallest, 1 - smallest)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15,
) -> float:
    """Mean distance between confidence and accuracy of the top class (Guo 2017, arXiv:1706.04599).

    Args:
        labels: (N,) class indices.
        probabilities: (N, K).
        bins: Bins of equal width over 0..1, closed on the right as in the paper.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _areas(per_class: dict[str, Metrics], *, need_all: bool) -> Metrics:
    """Macro ROC-AUC and average precision.

    Average precision is the mean over classes that have a positive. ROC-AUC of single labels is
    defined only when every class occurs; of multi-labels it is the mean where it is defined.
    """
    curves = [entry["roc_auc"] for entry in per_class.values()]
    defined = [area for area in curves if area is not None]
    enough = bool(defined) and not (need_all and len(defined) < len(curves))
    precisions = [entry["average_precision"] for entry in per_class.values()]
    precisions = [area for area in precisions if area is not None]
    return {"roc_auc": float(np.mean(defined)) if enough else None,
            "average_precision": float(np.mean(precisions)) if precisions else None}


def _per_class(truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray,
               spec: LabelSpec) -> dict[str, Metrics]:
    return {name: describe_class(truth[:, i], predicted[:, i], probabilities[:, i])
            for i, name in enumerate(spec.class_names)}


def _positive(matrix: np.ndarray, spec: LabelSpec) -> Metrics:
    """What a diagnostic study reports, for the positive of two classes; undefined is ``None``."""
    name = spec.positive_class or spec.class_names[-1]
    place = spec.class_names.index(name)
    (tn, fp), (fn, tp) = (matrix if place == 1 else matrix[::-1, ::-1]).tolist()
    return {"class": name, "sensitivity": _share(tp, tp + fn), "specificity": _share(tn, tn + fp),
            "ppv": _share(tp, tp + fp), "npv": _share(tn, tn + fn)}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _report(truth: np.ndarray, predicted: np.ndarray, spec: LabelSpec) -> str:
    """The report over the classes that occur, in truth or answer; both (N, K) one-hot."""
    present = np.flatnonzero(truth.any(axis=0) | predicted.any(axis=0))
    return class_report(truth[:, present] > 0, predicted[:, present] > 0,
                        [spec.class_names[i] for i in present], exclusive=True)


def _multi_label(labels: np.ndarray, probabilities: np.ndarray, spec: LabelSpec) -> Metrics:
    """Metrics of any number of classes; unknown targets are left out, threshold 0.5.

    An unknown target counts as a true negative where only positives matter (F1, subset accuracy),
    which leaves it out of those numbers.
    """
    known = ~np.isnan(labels)
    predicted = (probabilities >= 0.5) & known
    truth = np.nan_to_num(labels).astype(bool)
    per_class = _per_class(labels, predicted, probabilities, spec)
    return {
        "count": len(labels),
        **_set_agreement(truth, predicted, known),
        **_masked_losses(labels, probabilities, known),
        **_areas(per_class, need_all=False),
        "per_class": per_class,
        "class_names": list(spec.class_names),
        "confusion_matrix": [confusion_counts(labels[:, i], predicted[:, i]).tolist()
                             for i in range(spec.output_width)],
        "classification_report": class_report(truth, predicted, spec.class_names,
                                              exclusive=False),
    }


def _set_agreement(truth: np.ndarray, predicted: np.ndarray, known: np.ndarray) -> Metrics:
    """Subset accuracy over pictures with a known target; F1 over classes that occur.

    A class occurs in truth or answers; without either its F1 is not defined and left out, as
    scikit-learn's ``zero_division=nan`` does.
    """
    pictures = known.any(axis=1)
    all_right = (truth == predicted).all(axis=1)[pictures]
    right = (truth & predicted).sum(axis=0)
    both = truth.sum(axis=0) + predicted.sum(axis=0)
    occurs = both > 0
    scores = 2 * right[occurs] / both[occurs]
    return {"accuracy": float(all_right.mean()) if pictures.any() else None,
            "macro_f1": float(scores.mean()) if occurs.any() else None,
            "micro_f1": float(2 * right.sum() / both.sum()) if occurs.any() else None}


def _masked_losses(labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray) -> Metrics:
    """Binary cross-entropy and Brier score over known targets."""
    if not known.any():
        return {"log_loss": None, "brier": None}
    target, probability = labels[known], _clipped(probabilities[known])
    losses = target * np.log(probability) + (1 - target) * np.log1p(-probability)
    return {"log_loss": float(-losses.mean()),
            "brier": float(((probability - target) ** 2).mean())}
