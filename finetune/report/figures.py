"""The figures of a run as PNG and SVG, and their numbers as CSV.

Drawn from the run directory alone; the test part when there is one, else validation.
"""

import csv
import functools
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.predictions import Predictions
from finetune.files import safe_cell, write_text, write_with
from finetune.report.curves import Curve, mean_curve, precision_recall_curves, roc_curves
from finetune.report.drawing import (
    STYLE,
    Axis,
    draw_classes,
    draw_counts,
    draw_history,
    draw_matrix,
    draw_reliability,
)
from finetune.report.fonts import drawable
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "reported_part", "write_figures"]

FIGURES = ("curves", "confusion_matrix", "confusion_matrix_normalised", "roc", "precision_recall")
REHEARSAL = "REHEARSAL on generated pictures"
PARTS = {"test": "test pictures", "val": "validation pictures, also used for selection"}


def reported_part(run: RunDirectory) -> str | None:
    """The part whose results are reported: test, else val, else None."""
    return next((part for part in PARTS if run.predictions_path(part).exists()), None)


def write_figures(folder: Path) -> list[str]:
    """Write ``figures/NAME.png``, ``.svg`` and ``.csv`` for each of `FIGURES`.

    Figures whose source (history, predictions) is missing are not written.

    Returns:
        Warnings: class names that no installed font can draw.
    """
    run = RunDirectory(folder)
    note = REHEARSAL if _is_rehearsal(run) else ""
    if run.history:
        with _style([]):
            _write_history(run, note)
    part = reported_part(run)
    if part is None:
        return []
    predictions = Predictions.load(run.predictions_path(part))
    labels, families, told = drawable(predictions.label_spec.class_names)
    seen = "\n".join(filter(None, [PARTS[part], note]))
    with _style(families):
        _write_matrices(folder / "figures", predictions, labels, seen)
        _write_classes(folder / "figures", predictions, labels, seen)
        if part == "test":
            _write_reliability(run, seen)
    return told


def _is_rehearsal(run: RunDirectory) -> bool:
    return (run.path / "environment.json").exists() and bool(run.environment.get("rehearsal"))


@contextmanager
def _style(families: Sequence[str]) -> Iterator[None]:
    """Our look and fonts while drawing; matplotlib's own settings come back afterwards."""
    import matplotlib as mpl

    fonts = {"font.family": list(families)} if families else {}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # weights that lack
    with mpl.rc_context({**STYLE, **fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        warnings.filterwarnings("ignore", message="constrained_layout", category=UserWarning)
        yield


def _save(figure: "Figure", stem: Path) -> None:
    """PNG and SVG without dates: the same numbers give the same bytes."""
    for kind, made in (("png", {"Software": None}), ("svg", {"Date": None})):
        draw = functools.partial(figure.savefig, format=kind, metadata=made)
        write_with(stem.with_suffix(f".{kind}"), draw)


def _save_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(safe_cell, header))
    writer.writerows(map(safe_cell, row) for row in rows)
    write_text(path, text.getvalue())


def _write_history(run: RunDirectory, note: str) -> None:
    history, chosen, metric = run.history, None, "balanced_accuracy"
    if (run.path / "metrics.json").exists():
        selection = run.metrics.get("selection", {})
        chosen, metric = selection.get("epoch"), selection.get("metric", metric)
    stem = run.path / "figures" / "curves"
    _save(draw_history(history, metric=metric, chosen=chosen, note=note), stem)
    rows = [_flat(entry) | {"chosen": int(entry["epoch"] == chosen)} for entry in history]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _save_table(stem.with_suffix(".csv"), columns,
                [[row.get(column) for column in columns] for row in rows])


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """One epoch as columns; depths are joined by spaces."""
    row: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            row |= {f"{key}_{name}": number for name, number in value.items()}
        elif isinstance(value, list):
            row[key] = " ".join(map(str, value))
        elif key != "selected":  # best so far; the column "chosen" says the final choice
            row[key] = value
    return row


def _write_matrices(folder: Path, predictions: Predictions, labels: Sequence[str],
                    part: str) -> None:
    # Only this needs the matrix, not all of the metrics: metrics.json may be missing.
    from finetune.evaluation.metrics import compute_metrics

    matrix = np.array(compute_metrics(predictions)["confusion_matrix"])
    names = predictions.label_spec.class_names
    if predictions.label_spec.kind is LabelKind.multi:
        _write_counts(folder, matrix, names, labels, part)
        return
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for stem, values, what in (
            ("confusion_matrix", matrix, "counts"),
            ("confusion_matrix_normalised", shares, "percent of each true class")):
        _save(draw_matrix(values, labels, title=f"Confusion matrix\n{what}\n{part}"), folder / stem)
        _save_table(folder / f"{stem}.csv", ["true \\ predicted", *names],
                    [[name, *row] for name, row in zip(names, values.tolist(), strict=True)])


def _write_counts(folder: Path, matrix: np.ndarray, names: Sequence[str], labels: Sequence[str],
                  part: str) -> None:
    """Multi-label: (K, 2, 2) as four columns."""
    columns = ["true negative", "false positive", "false negative", "true positive"]
    shares = matrix / np.maximum(matrix.sum(axis=2, keepdims=True), 1)
    for stem, values, what in (("confusion_matrix", matrix, "counts"),
                               ("confusion_matrix_normalised", shares, "percent of the truth")):
        table = values.reshape(-1, 4)
        _save(draw_counts(table, labels, columns, title=f"Answers by class, {what}\n{part}"),
              folder / stem)
        _save_table(folder / f"{stem}.csv", ["class", *columns],
                    [[name, *row] for name, row in zip(names, table.tolist(), strict=True)])


def _write_classes(folder: Path, predictions: Predictions, labels: Sequence[str],
                   part: str) -> None:
    roc = roc_curves(predictions, labels)
    _save(draw_classes(roc, mean_curve(roc), Axis(
        f"ROC curve, area under it\n{part}", "false positive rate (1 - specificity)",
        "true positive rate (sensitivity)"), diagonal=True), folder / "roc")
    _save_curves(folder / "roc.csv", roc, "false_positive_rate", "true_positive_rate")
    precision = precision_recall_curves(predictions, labels)
    _save(draw_classes(precision, mean_curve(precision), Axis(
        f"Precision and recall, average precision\n{part}", "recall (sensitivity)",
        "precision (positive predictive value)"), diagonal=False),
        folder / "precision_recall")
    _save_curves(folder / "precision_recall.csv", precision, "recall", "precision")


def _write_reliability(run: RunDirectory, part: str) -> None:
    """Of the likeliest class, as the network answers and, where that was kept, calibrated."""
    found = run.metrics if (run.path / "metrics.json").exists() else {}
    calibration = found.get("decisions", {}).get("calibration", {})
    kinds = {"as answered": "before"} | ({"calibrated": "after"} if calibration.get("kept") else {})
    bins = {name: calibration.get(kind, {}).get("reliability", {}).get("top_label", [])
            for name, kind in kinds.items()}
    if not any(bins.values()):
        return
    stem = run.path / "figures" / "reliability"
    _save(draw_reliability(bins, title=f"Reliability of the likeliest class\n{part}"), stem)
    columns = ("low", "high", "confidence", "accuracy", "count")
    _save_table(stem.with_suffix(".csv"), ["answers", *columns, "interval_low", "interval_high"],
                [[name, *(row[c] for c in columns), *row["interval"]]
                 for name, rows in bins.items() for row in rows])


def _save_curves(path: Path, curves: Sequence[Curve], x: str, y: str) -> None:
    rows = ([curve.name, *("" if np.isnan(v) else float(v) for v in point)]
            for curve in curves
            for point in zip(curve.x, curve.y, curve.thresholds, strict=True))
    _save_table(path, ["class", x, y, "threshold"], rows)
