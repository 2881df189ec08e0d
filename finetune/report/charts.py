"""Which charts a page shows of a run, from its history, its metrics and its answers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from finetune.evaluation.abstention import area_under_risk, risk_coverage
from finetune.evaluation.predictions import Predictions
from finetune.report.curves import Curve, mean_curve, precision_recall_curves, roc_curves
from finetune.report.drawing import metric_titles
from finetune.report.svg import Axis, Line, Mark, draw_chart

__all__ = ["Chart", "class_charts", "history_charts", "reliability_charts", "risk_chart",
           "worst_calibrated"]

FEW = 10             # classes up to which each has a colour of its own
POINTS = 8_000       # of all lines of a chart
FROM = "from a probability of "
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "average_precision", "roc_auc")
Answers = Mapping[str, Sequence[Mapping[str, Any]]]
"""Reliability bins by what they are of: ``as answered``, ``calibrated``."""


@dataclass(frozen=True)
class Chart:
    """A drawing with a title above and a legend below: pairs of look and name."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]] = field(default_factory=list)


def history_charts(history: Sequence[dict[str, Any]], *, metric: str,
                   chosen: int | None) -> list[Chart]:
    """Losses, and validation metrics, by epoch; unfreezings and the chosen epoch are marked."""
    if not history:
        return []
    known = {key for entry in history for key, value in entry["val"].items() if value is not None}
    titles = metric_titles(single="balanced_accuracy" in known)
    keys = [key for key in dict.fromkeys((metric, *METRICS)) if key in known][:4]
    marks = _epoch_marks(history, chosen)
    loss = "loss" if "loss" in known else "log_loss"
    losses = [_epochs("training", [e.get("train_loss") for e in history], history, 0),
              _epochs("validation", [e["val"].get(loss) for e in history], history, 1)]
    metrics = [_epochs(titles.get(key, key), [e["val"].get(key) for e in history], history, i)
               for i, key in enumerate(keys)]
    return [_by_epoch("Loss", "", losses, marks),
            _by_epoch("Metrics on validation", "", metrics, marks)]


def _epochs(name: str, values: Sequence[float | None], history: Sequence[dict[str, Any]],
            place: int) -> Line:
    known = [(e["epoch"], v) for e, v in zip(history, values, strict=True)
             if v is not None and math.isfinite(v)]
    return Line(name, [e for e, _ in known], [v for _, v in known], f"s{place}",
                dots=len(history) <= 40)


def _by_epoch(title: str, y: str, lines: Sequence[Line], marks: Sequence[Mark]) -> Chart:
    shown = [line for line in lines if line.x]
    x = [epoch for line in shown for epoch in line.x] + [mark.x for mark in marks]
    values = [value for line in shown for value in line.y]
    low, high = _room(values)
    axis = Axis("epoch", min(x, default=0), max(x, default=1), whole=True)
    svg = draw_chart(shown, axis, Axis(y, low, high), marks=marks, title=f"{title}, by epoch")
    return Chart(title, svg, [(line.look, line.name) for line in shown])


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.04 * (high - low) or 0.05
    return low - margin, high + margin


def _epoch_marks(history: Sequence[dict[str, Any]], chosen: int | None) -> list[Mark]:
    opened = [e for e in history if e.get("opened") and e["epoch"] > history[0]["epoch"]]
    step = max(1, math.ceil(len(opened) / 6))
    marks = [Mark(e["epoch"], "" if i % step else _opened(e["opened"], first=i == 0))
             for i, e in enumerate(opened)]
    return marks + ([] if chosen is None else [Mark(chosen, f"chosen: {chosen}", "dashed", 1)])


def _opened(depths: Sequence[int], *, first: bool) -> str:
    low, high = min(depths), max(depths)
    return f"{'opens ' if first else ''}{low}{f'–{high}' if high > low else ''}"


def class_charts(predictions: Predictions) -> list[Chart]:
    """ROC and precision-recall curves of each class, with their mean."""
    names = predictions.label_spec.class_names
    roc, precision = roc_curves(predictions, names), precision_recall_curves(predictions, names)
    x, y = Axis("false positive rate"), Axis("true positive rate")
    recall, right = Axis("recall"), Axis("precision")
    found = [_curves("ROC curve, and the area under it", roc, x, y, diagonal=True),
             _curves("Precision and recall, average precision", precision, recall, right)]
    return [chart for chart in found if chart is not None]


def _curves(title: str, curves: Sequence[Curve], x: Axis, y: Axis, *,
            diagonal: bool = False) -> Chart | None:
    if not curves:
        return None
    few, mean = len(curves) <= FEW, mean_curve(curves)
    lines = [_curve(curve, f"s{i}" if few else "faint", POINTS // max(len(curves), 20))
             for i, curve in enumerate(curves)]
    legend = [(line.look, line.name) for line in lines] if few else [
        ("faint", f"each of {len(curves)} classes")]
    if mean is not None:
        lines.append(_curve(mean, "mean", 200))
        legend.append(("mean", lines[-1].name))
    return Chart(title, draw_chart(lines, x, y, diagonal=diagonal, height=400,
                                   title=f"{title}, of {len(curves)} classes"), legend)


def _curve(curve: Curve, look: str, points: int) -> Line:
    """At most so many points; steps become corners."""
    places = np.arange(len(curve.x))
    if len(places) > points:
        places = np.linspace(0, len(curve.x) - 1, points).round().astype(int)
    x, y, thresholds = curve.x[places], curve.y[places], curve.thresholds[places]
    if curve.steps:
        x, y = np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]
        thresholds = np.repeat(thresholds, 2)[1:]
    extra = ["" if np.isnan(t) else f"{t:.3g}" for t in thresholds]
    name = f"{curve.name} {curve.area:.3f}"
    return Line(name, x.tolist(), y.tolist(), look, lead=FROM,
                extra=extra if any(extra) else ())


def reliability_charts(answers: Mapping[str, Mapping[str, Any]], *,
                       count: int = FEW) -> tuple[list[Chart], list[Chart]]:
    """Of the likeliest class, and of each class against the rest, as small ones.

    Args:
        answers: For ``as answered`` and, where it was kept, ``calibrated``: what
            `finetune.evaluation.reliability.reliability_diagram` gives.
        count: With more classes, only so many: those `worst_calibrated`.
    """
    top = {name: found["top_label"] or [] for name, found in answers.items()}
    first = next(iter(answers.values()))
    names = worst_calibrated(first["per_class"], count=count)
    bins = {name: {kind: found["per_class"].get(name, []) for kind, found in answers.items()}
            for name in names if first["per_class"][name]}
    high = _highest(row for kinds in bins.values() for rows in kinds.values() for row in rows)
    small = [_reliability(name, kinds, high=high, width=200, height=200)
             for name, kinds in bins.items()]
    return ([_reliability("Reliability of the likeliest class", top)] if any(top.values()) else [],
            small)


def _highest(rows: Iterable[Mapping[str, Any]]) -> float:
    """The end of axes that all classes share: of many classes, each is rarely likely."""
    most = max((max(row["confidence"], row["interval"][1] or 0) for row in rows), default=1.0)
    return next(end for end in (0.1, 0.2, 0.5, 1.0) if end >= most or end == 1.0)


def worst_calibrated(per_class: Answers, *, count: int) -> list[str]:
    """The classes in their order; of more than ``count``, those furthest off the diagonal.

    How far: the mean distance of bins, each counted by its pictures.
    """
    if len(per_class) <= count:
        return list(per_class)
    off = {name: sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
           / max(1, sum(row["count"] for row in rows)) for name, rows in per_class.items()}
    return sorted(off, key=lambda name: -off[name])[:count]


def _reliability(title: str, bins: Answers, *, high: float = 1.0, width: int = 420,
                 height: int = 400) -> Chart:
    lines = []
    for place, (kind, rows) in enumerate(bins.items()):
        known = [row for row in rows if row["accuracy"] is not None]
        extra = [f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}, {row['count']} pictures"
                 for row in known]
        lines.append(Line(kind, [row["confidence"] for row in known],
                          [row["accuracy"] for row in known], f"s{place}", dots=True,
                          bars=[row["interval"] for row in known], extra=extra))
    said, right = Axis("probability", 0, high), Axis("share that is so", 0, high)
    svg = draw_chart(lines, said, right, diagonal=True, title=f"Reliability: {title}",
                     width=width, height=height)
    has_legend = len(lines) > 1 and width > 200  # small ones have one in common
    legend = [(line.look, line.name) for line in lines] if has_legend else []
    return Chart(title, svg, legend)


def risk_chart(answers: Mapping[str, np.ndarray], labels: np.ndarray, *,
               point: tuple[float, float] | None = None) -> Chart:
    """Mistakes among the answers, by the share that is answered, the surest first.

    Args:
        answers: For ``as answered`` and, where it was kept, ``calibrated``: (N, K) probabilities.
        labels: (N,) class indices.
        point: (share answered, risk) at the threshold of the run's abstention.
    """
    lines = []
    for place, (kind, odds) in enumerate(answers.items()):
        sure, right = odds.max(axis=1), odds.argmax(axis=1) == labels
        thresholds, coverage, risk = risk_coverage(sure, right)
        kept = np.unique(np.linspace(0, len(risk) - 1, 400).round().astype(int))
        lines.append(Line(f"{kind}, mean {area_under_risk(sure, right):.3f}",
                          coverage[kept].tolist(), risk[kept].tolist(), f"s{place}",
                          lead=FROM,
                          extra=[f"{t:.3g}" for t in thresholds[kept]]))
    high = max(value for line in lines for value in line.y)
    legend = [(line.look, line.name) for line in lines]
    if point is not None:
        lines.append(Line("the run's threshold", [point[0]], [point[1]], "mean", dots=True))
        legend.append(("mean", "the run's threshold"))
    title = "Mistakes among what is answered"
    return Chart(title, draw_chart(lines, Axis("share that is answered"),
                                   Axis("share that is wrong", 0, _room([0.0, high])[1]),
                                   title=f"{title}: risk and coverage", height=400), legend)
