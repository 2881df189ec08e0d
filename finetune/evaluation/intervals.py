"""An interval for every metric, by the method that covers it; docs/statistics.md says why.

An entry is ``{"low", "high", "method", "effective_n", "clusters", "reliable", "why"}``. ``low`` and
``high`` are ``None`` for a metric that is not defined and for one without an interval; ``why``
says what is wrong with an interval that is not reliable. ``effective_n`` is how many independent
pictures a proportion rests on, ``clusters`` how many groups any metric rests on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.agreement import agreement, heaviest_error, mean_f1
from finetune.evaluation.auc_intervals import (
    Area,
    area_interval,
    area_under_roc,
    average_precision,
    effective_number,
    mean_area,
    precision_interval,
)
from finetune.evaluation.bootstrap import (
    bootstrap_interval,
    cluster_sums,
    leave_one_out,
    resample,
    weighted_errors_interval,
)
from finetune.evaluation.calibration_error import calibration_error
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.proportions import Proportion, count_proportion
from finetune.specs import LabelKind, LabelSpec

__all__ = ["compute_intervals", "proportion_entry", "roc_entry"]

FEW_CLUSTERS, FEW_PICTURES, ECE_FROM, FEW_ERRORS = 20, 10, 1000, 30
Entry = dict[str, Any]
Losses = Mapping[str, tuple[np.ndarray, np.ndarray]]
Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class _Setting:
    """How intervals are computed."""

    confidence: float
    seed: int
    resamples: int


@dataclass(frozen=True)
class _Answers:
    """Truth (N, K) with NaN, answers (N, K) bool, probabilities (N, K), clusters (N,) or None."""

    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    clusters: np.ndarray | None
    spec: LabelSpec

    @property
    def units(self) -> int:
        """Independent clusters: groups, or pictures without groups."""
        return len(self.truth) if self.clusters is None else int(self.clusters.max()) + 1


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
    setting = _Setting(confidence, seed, resamples)
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


def proportion_entry(hits: np.ndarray, counted: np.ndarray, clusters: np.ndarray | None = None, *,
                     confidence: float = 0.95) -> Entry:
    """The entry of one proportion: hits among what is counted.

    Args:
        hits: (N,) bool.
        counted: (N,) bool.
        clusters: (N,) numbers 0..C-1 of groups; ``None`` without groups.
        confidence: Between 0 and 1.
    """
    answers = _one_class(counted.astype(float), hits.astype(float), clusters)
    return _proportion(answers, hits, counted, _Setting(confidence, 0, 0), [])


def roc_entry(truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None, *,
              confidence: float = 0.95) -> Entry:
    """The entry of one area under the ROC curve.

    Args:
        truth: (N,) 0, 1 or NaN = unknown.
        scores: (N,) higher for positives.
        clusters: (N,) numbers 0..C-1 of groups; ``None`` without groups.
        confidence: Between 0 and 1.
    """
    answers = _one_class(truth, scores, clusters)
    return _area(answers, area_under_roc(truth, scores, clusters), area_interval,
                 _few_of_class(answers, 0), _Setting(confidence, 0, 0))


def _one_class(truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None) -> _Answers:
    spec = LabelSpec(LabelKind.multi, ("class",))
    return _Answers(truth[:, None], scores[:, None] >= 0.5, scores[:, None], clusters, spec)


def _block(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray | None,
           spec: LabelSpec, metrics: Mapping[str, Any], setting: _Setting) -> dict[str, Any]:
    """Intervals of the metrics of one set of answers."""
    width = spec.output_width
    if spec.kind is LabelKind.multi:
        predicted = (probabilities >= 0.5) & ~np.isnan(labels)
        truth = np.asarray(labels, float)
    else:
        predicted = np.eye(width, dtype=bool)[probabilities.argmax(axis=1)]
        truth = np.eye(width)[labels]
    answers = _Answers(truth, predicted, probabilities, clusters, spec)
    areas = [_class_areas(answers, place) for place in range(width)]
    found = {"per_class": {name: _class_block(answers, place, areas[place], setting)
                           for place, name in enumerate(spec.class_names)},
             **_mean_areas(answers, areas, metrics, setting)}
    overall = _several if spec.kind is LabelKind.multi else _single
    found |= overall(answers, labels, metrics, setting)
    return {key: found[key] for key in metrics if key in found}


def _entry(ends: tuple[float, float] | None, method: str | None, *, why: list[str],
           clusters: int | None = None, effective: float | None = None) -> Entry:
    low, high = ends if ends else (None, None)
    return {"low": low, "high": high, "method": method, "effective_n": effective,
            "clusters": clusters, "reliable": not why and ends is not None,
            "why": "; ".join(dict.fromkeys(why)) or None}


def _undefined() -> Entry:
    return _entry(None, None, why=["not defined on these pictures"])


def _grouped(answers: _Answers, count: float) -> int | None:
    """The number of groups to be told; ``None`` without groups."""
    return None if answers.clusters is None else int(count)


def _few_units(answers: _Answers, count: float) -> list[str]:
    """A word about too few clusters."""
    name = "pictures" if answers.clusters is None else "groups"
    return [f"{int(count)} {name}, fewer than {FEW_CLUSTERS}"] if count < FEW_CLUSTERS else []


def _few_of_class(answers: _Answers, place: int, *, negatives: bool = True) -> list[str]:
    """A word about too few positives, or negatives, of a class."""
    counts = {"positives": int((answers.truth[:, place] == 1).sum())}
    if negatives:
        counts["negatives"] = int((answers.truth[:, place] == 0).sum())
    return [f"{count} {name}, fewer than {FEW_PICTURES}"
            for name, count in counts.items() if count < FEW_PICTURES]


def _proportion(answers: _Answers, hits: np.ndarray, counted: np.ndarray, setting: _Setting,
                why: list[str], *, f1: bool = False) -> Entry:
    """Wilson's interval of the hits among what is counted."""
    share = count_proportion(hits, counted, answers.clusters)
    if share is None:
        return _undefined()
    ends = share.interval(setting.confidence)
    method = "wilson" if answers.clusters is None else "wilson, design effect"
    if f1:  # a monotone function of hits among pictures or answers of the class
        ends, method = (_f1_of(ends[0]), _f1_of(ends[1])), method + ", of jaccard"
    return _entry(ends, method, why=why + _few_share(answers, share),
                  effective=share.effective, clusters=_grouped(answers, share.clusters))


def _few_share(answers: _Answers, share: Proportion) -> list[str]:
    if answers.clusters is not None:
        return _few_units(answers, share.clusters)
    few = share.count < FEW_PICTURES
    return [f"a share of {share.count} pictures, fewer than {FEW_PICTURES}"] if few else []


def _f1_of(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def _class_areas(answers: _Answers, place: int) -> tuple[Area | None, Area | None]:
    arguments = answers.truth[:, place], answers.probabilities[:, place], answers.clusters
    return area_under_roc(*arguments), average_precision(*arguments)


def _class_block(answers: _Answers, place: int, areas: tuple[Area | None, Area | None],
                 setting: _Setting) -> dict[str, Entry]:
    """Entries of one class against the rest."""
    truth, predicted = answers.truth[:, place], answers.predicted[:, place]
    yes, no, known = truth == 1, truth == 0, ~np.isnan(truth)
    few = _few_of_class(answers, place)
    shares = {"precision": (yes, predicted), "recall": (predicted, yes),
              "specificity": (~predicted, no), "npv": (no, ~predicted & known)}
    found = {name: _proportion(answers, hits, counted, setting,
                               _few_of_class(answers, place, negatives=name != "recall"))
             for name, (hits, counted) in shares.items()}
    found["f1"] = _proportion(answers, yes & predicted, yes | predicted & known, setting, few,
                              f1=True)
    found["roc_auc"] = _area(answers, areas[0], area_interval, few, setting)
    found["average_precision"] = _area(answers, areas[1], precision_interval, few, setting)
    return found


def _area(answers: _Answers, area: Area | None, interval: Any, why: list[str],
          setting: _Setting) -> Entry:
    if area is None:
        return _undefined()
    low, high, method = interval(area, setting.confidence)
    if answers.clusters is not None:
        method = method.replace("delong", "obuchowski")
    fewest = min(area.clusters) if interval is area_interval else area.clusters[0]
    few = _few_units(answers, fewest) if answers.clusters is not None else []
    return _entry((low, high), method, why=why + few, clusters=_grouped(answers, fewest))


def _rarest(answers: _Answers) -> list[str]:
    """A word about the rarest class that occurs: in means over classes it weighs as any other."""
    counts = (answers.truth == 1).sum(axis=0)
    if not counts.any():
        return []
    place = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    few = counts[place] < FEW_PICTURES
    return [f"{counts[place]} positives of {answers.spec.class_names[place]!r}, "
            f"fewer than {FEW_PICTURES}"] if few else []


def _mean_areas(answers: _Answers, areas: list[tuple[Area | None, Area | None]],
                metrics: Mapping[str, Any], setting: _Setting) -> dict[str, Entry]:
    """Macro ROC-AUC and average precision, with the covariances of the classes."""
    found = {}
    for place, (name, interval) in enumerate((("roc_auc", area_interval),
                                              ("average_precision", precision_interval))):
        there = [pair[place] for pair in areas if pair[place] is not None]
        if metrics.get(name) is None or not there:
            found[name] = _undefined()
            continue
        both_the_same = answers.spec.is_binary and name == "roc_auc"
        area = there[0] if both_the_same or len(there) == 1 else mean_area(there)
        why = _rarest(answers) + _few_units(answers, answers.units)
        found[name] = _area(answers, area, interval, why, setting)
        found[name]["clusters"] = _grouped(answers, answers.units)
    return found


def _single(answers: _Answers, labels: np.ndarray, metrics: Mapping[str, Any],
            setting: _Setting) -> dict[str, Any]:
    """Overall entries of single labels."""
    everything = np.ones(len(labels), bool)
    few = _few_units(answers, answers.units)
    right = answers.predicted[np.arange(len(labels)), labels]
    found: dict[str, Any] = {"accuracy": _proportion(answers, right, everything, setting, few)}
    for key in metrics:
        if key.startswith("top_") and key.endswith("_accuracy"):
            hits = _in_top(answers.probabilities, labels, int(key.split("_")[1]))
            found[key] = _proportion(answers, hits, everything, setting, few)
    found |= _resampled(answers, agreement, _losses(answers, labels), metrics, setting)
    found["ece"] = _calibration(answers, right, setting)
    if "positive" in metrics:
        found["positive"] = _positive(answers, metrics["positive"]["class"], setting)
    return found


def _in_top(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the k likeliest, ties broken as scikit-learn does."""
    order = np.argsort(probabilities, axis=1, kind="stable")[:, ::-1][:, :k]
    return np.asarray((order == labels[:, None]).any(axis=1))


def _positive(answers: _Answers, name: str, setting: _Setting) -> dict[str, Entry]:
    """The class entries that a diagnostic study reports, by its words."""
    place = answers.spec.class_names.index(name)
    rows = _class_block(answers, place, (None, None), setting)
    words = {"sensitivity": "recall", "specificity": "specificity", "ppv": "precision",
             "npv": "npv"}
    return {word: rows[row] for word, row in words.items()}


def _resampled(answers: _Answers, statistic: Statistic, losses: Losses, metrics: Mapping[str, Any],
               setting: _Setting) -> dict[str, Entry]:
    """Entries of metrics of the confusion matrix and of means of losses, from the same resamples.

    Bootstrap, moved outward to what a weighted sum of errors allows where these are few.
    """
    truth = answers.truth == 1
    columns = np.hstack([truth & answers.predicted, truth, answers.predicted,
                         *(np.stack(pair, axis=1) for pair in losses.values())]).astype(float)
    sums = cluster_sums(columns, answers.clusters)
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
            entry = _undefined()
        elif name in heaviest and entry["low"] is not None:
            _widen(entry, point, left[name], heaviest[name], setting, loss=name in losses)
        found[name] = _undefined() if entry["low"] == entry["high"] else entry
    return found


def _both(statistic: Statistic, losses: list[str], width: int) -> Statistic:
    """Metrics of the first columns, and the means whose sums and counts are in the others."""
    def both(totals: np.ndarray) -> dict[str, np.ndarray]:
        found = statistic(totals[:, :width])
        for place, name in enumerate(losses):
            total, count = totals[:, width + 2 * place], totals[:, width + 2 * place + 1]
            found[name] = total / np.where(count > 0, count, np.nan)
        return found

    return both


def _words(answers: _Answers, name: str) -> list[str]:
    """What speaks against an interval of a bootstrapped metric."""
    why = _few_units(answers, answers.units)
    if name in ("balanced_accuracy", "macro_f1"):
        return _rarest(answers) + why
    wrong = int(_wrong(answers).sum())
    if name in ("log_loss", "brier") and wrong < FEW_PICTURES:
        why.append(f"{wrong} pictures with a wrong answer, fewer than {FEW_PICTURES}")
    return why


def _wrong(answers: _Answers) -> np.ndarray:
    """(N,) whether any answer about a picture is wrong."""
    return np.asarray(((answers.truth == 1) != answers.predicted).any(axis=1))


def _heaviest(answers: _Answers, statistic: Statistic, losses: Losses,
              total: np.ndarray) -> dict[str, float]:
    """The weight of one more error, for metrics that rest on few of them."""
    found, wrong = {}, _wrong(answers)
    of = np.arange(len(wrong)) if answers.clusters is None else answers.clusters
    if len(np.unique(of[wrong])) < FEW_ERRORS:
        exclusive = answers.spec.kind is LabelKind.single
        found = {name: weight * _pictures_per_cluster(answers)
                 for name, weight in heaviest_error(total, statistic, exclusive=exclusive).items()}
    for name, (values, counts) in losses.items():
        sums = np.bincount(of, weights=values)
        if effective_number(sums) < FEW_ERRORS and counts.any():
            found[name] = float(sums.max() / counts.sum())
    return found


def _pictures_per_cluster(answers: _Answers) -> float:
    """Of the cluster that a picture is in, on average."""
    if answers.clusters is None:
        return 1.0
    sizes = np.bincount(answers.clusters).astype(float)
    return float((sizes**2).sum() / sizes.sum())


def _bootstrapped(answers: _Answers, point: float, drawn: np.ndarray, left: np.ndarray,
                  setting: _Setting, why: list[str]) -> Entry:
    interval = None
    if np.isfinite(point):
        interval = bootstrap_interval(drawn, point, left, confidence=setting.confidence)
    if interval is None:
        return _undefined()
    low, high, method = interval
    return _entry((low, high), method, why=why, clusters=_grouped(answers, answers.units))


def _widen(entry: Entry, point: float, left: np.ndarray, weight: float, setting: _Setting, *,
           loss: bool) -> None:
    """Ends moved outward to the interval of a weighted sum of few errors."""
    left = left[np.isfinite(left)]
    variance = float(((left - left.mean()) ** 2).sum()) if len(left) else 0.0
    distance = point if loss else 1 - point
    least, most = weighted_errors_interval(distance, variance, weight, setting.confidence)
    low, high = (least, most) if loss else (max(1 - most, 0.0), 1 - least)
    entry["low"], entry["high"] = min(entry["low"], low), max(entry["high"], high)
    entry["method"] += ", fay-feuer"


def _losses(answers: _Answers, labels: np.ndarray) -> Losses:
    """For each mean, its sum over each picture and how many values that sums."""
    epsilon = np.finfo(np.float64).eps
    likely = answers.probabilities[np.arange(len(labels)), labels].clip(epsilon, 1 - epsilon)
    squares = ((answers.probabilities - answers.truth) ** 2).sum(axis=1)
    half = 2 if answers.spec.output_width <= 2 else 1
    one = np.ones(len(labels))
    return {"log_loss": (-np.log(likely), one), "brier": (squares / half, one)}


def _calibration(answers: _Answers, right: np.ndarray, setting: _Setting) -> Entry:
    """The debiased calibration error; an interval from 1,000 pictures up."""
    error = calibration_error(right, answers.probabilities.max(axis=1), answers.clusters)
    units = _grouped(answers, answers.units)
    if len(right) < ECE_FROM:
        entry = _entry(None, None, why=[f"no interval below {ECE_FROM} pictures"], clusters=units)
    else:
        why, wrong = _few_units(answers, answers.units), int((~right).sum())
        if wrong < FEW_PICTURES:
            why.append(f"{wrong} wrong answers, fewer than {FEW_PICTURES}")
        entry = _entry(error.interval(setting.confidence), "normal, allowing for bias", why=why,
                       clusters=units)
    return entry | {"debiased": error.debiased}


def _several(answers: _Answers, labels: np.ndarray, metrics: Mapping[str, Any],
             setting: _Setting) -> dict[str, Any]:
    """Overall entries of several labels; unknown targets are left out as in the metrics."""
    known = ~np.isnan(labels)
    truth = np.nan_to_num(labels).astype(bool)
    right = (truth == answers.predicted).all(axis=1)
    few = _few_units(answers, answers.units)
    found = {"accuracy": _proportion(answers, right, known.any(axis=1), setting, few),
             "micro_f1": _micro_f1(answers, truth, setting)}
    epsilon = np.finfo(np.float64).eps
    likely = np.where(truth, answers.probabilities, 1 - answers.probabilities).clip(epsilon, None)
    counts = known.sum(axis=1).astype(float)
    squares = np.where(known, (answers.probabilities - truth) ** 2, 0.0).sum(axis=1)
    losses = {"log_loss": (-np.where(known, np.log(likely), 0.0).sum(axis=1), counts),
              "brier": (squares, counts)}
    return found | _resampled(answers, mean_f1, losses, metrics, setting)


def _micro_f1(answers: _Answers, truth: np.ndarray, setting: _Setting) -> Entry:
    """F1 over all pairs of picture and class; the pairs of a picture are a cluster."""
    hits, either = truth & answers.predicted, truth | answers.predicted
    of = np.arange(len(truth)) if answers.clusters is None else answers.clusters
    pairs = _Answers(truth, answers.predicted, answers.probabilities,
                     np.repeat(of, truth.shape[1]), answers.spec)
    entry = _proportion(pairs, hits.ravel(), either.ravel(), setting, [], f1=True)
    return entry | {"clusters": _grouped(answers, entry["clusters"] or 0)}
