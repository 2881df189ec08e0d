"""What a page shows of the answers to one part: numbers, matrix, curves, probabilities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.decisions import Decisions, apply_decisions
from finetune.evaluation.per_class import measured_by_class
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.reliability import reliability_diagram
from finetune.files import read_json
from finetune.report.charts import class_charts, reliability_charts, risk_chart
from finetune.report.drawing import metric_titles
from finetune.report.matrix import MOST_CLASSES, cell_pictures, matrix_rows
from finetune.report.mistakes import find_confusions
from finetune.report.page import Thumbnails
from finetune.specs import LabelKind

__all__ = ["HEADLINE", "describe_answers", "describe_numbers"]

HEADLINE = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
            "average_precision", "roc_auc")
COLUMNS = {"precision": "precision", "npv": "NPV", "recall": "recall",
           "specificity": "specificity", "f1": "F1", "roc_auc": "ROC-AUC",
           "average_precision": "average precision", "support": "pictures"}
MATRIX_ALONE = 12   # classes up to which the matrix itself shows what is confused
ZEROS_UP_TO = 20    # classes up to which a 0 is written


def describe_numbers(metrics: dict[str, Any], part: str | None) -> dict[str, Any]:
    """The values that templates name, from ``metrics.json`` alone."""
    values = metrics.get(part, {}) if part else {}
    single = "balanced_accuracy" in values
    titles = metric_titles(single=single)
    intervals = metrics.get("intervals", {}).get(part, {})  # a run of an earlier version has none
    many = len(values.get("class_names", [])) > MATRIX_ALONE
    return {"part": part, "values": values, "single": single, "titles": titles,
            "headline": {key: titles[key] for key in HEADLINE if key in values},
            "intervals": intervals, "unreliable": _unreliable(intervals),
            "per_class": measured_by_class(values), "columns": _columns(values),
            "per_group": measured_by_class(values.get("groups", {})), "absent": _absent(values),
            "confusions": find_confusions(values, count=12) if single and many else [],
            "matrix": _matrix(values)}


def describe_answers(folder: Path, predictions: Predictions, values: dict[str, Any], *,
                     thumbnails: Thumbnails, decided: Mapping[str, Any]) -> dict[str, Any]:
    """The values that templates name, from the answers themselves.

    Args:
        folder: The run, with ``decisions.json`` where decisions were fitted.
        predictions: The answers to the reported part.
        values: Metrics of this part.
        thumbnails: Pictures for the cells of the matrix.
        decided: ``decisions`` of the metrics, where they are of this part, else nothing.
    """
    odds = {"as answered": predictions.probabilities}
    if decided.get("calibration", {}).get("kept") and (folder / "decisions.json").exists():
        stored = read_json(folder / "decisions.json")
        odds["calibrated"] = apply_decisions(Decisions.from_dict(stored),
                                             predictions.logits)["probabilities"]
    names, labels = predictions.label_spec.class_names, predictions.labels
    reliability, classwise = reliability_charts(
        {kind: reliability_diagram(labels, each, names, predictions.groups)
         for kind, each in odds.items()})
    shown = len(names) <= MOST_CLASSES and "confusion_matrix" in values
    return {"curves": class_charts(predictions), "reliability": reliability,
            "classwise": classwise, "kinds": list(odds),
            "risk": _risk(predictions, odds, decided),
            "gallery": cell_pictures(predictions, thumbnails) if shown else {}}


def _risk(predictions: Predictions, odds: Mapping[str, np.ndarray],
          decided: Mapping[str, Any]) -> Any:
    if predictions.label_spec.kind is LabelKind.multi:
        return None
    told = decided.get("abstention", {})
    point = None
    if "answered" in told and told["accuracy"]["value"] is not None:
        point = (told["answered"]["value"], 1 - told["accuracy"]["value"])
    return risk_chart(odds, predictions.labels, point=point)


def _matrix(values: dict[str, Any]) -> dict[str, Any]:
    count = len(values.get("class_names", []))
    if not count or count > MOST_CLASSES:
        return {}
    columns, rows = matrix_rows(values)
    return {"columns": columns, "rows": list(zip(values["class_names"], rows, strict=True)),
            "zeros": count <= ZEROS_UP_TO}


def _columns(values: dict[str, Any]) -> dict[str, str]:
    """The columns of a table by class; with many classes each, the negative value says nothing."""
    few = "balanced_accuracy" not in values or len(values["per_class"]) == 2
    return {key: title for key, title in COLUMNS.items() if few or key != "npv"}


def _unreliable(intervals: dict[str, Any]) -> list[str]:
    """Why headline intervals aren't to be relied on."""
    entries = [intervals[key] for key in HEADLINE if key in intervals]
    reasons = [reason for entry in entries if not entry["reliable"]
               for reason in (entry["why"] or "").split("; ")]
    return list(dict.fromkeys(filter(None, reasons)))[:3]


def _absent(values: dict[str, Any]) -> list[str]:
    """Classes of which the part has no picture."""
    return [name for name, row in values.get("per_class", {}).items() if not row["support"]]
