"""Pictures of results as matplotlib figures; nothing here touches files or pyplot's state.

matplotlib is loaded with the first figure, not with this module: training needs none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.report.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STYLE", "Axis", "draw_classes", "draw_counts", "draw_history", "draw_matrix",
           "draw_reliability", "metric_titles"]

METRIC_TITLES = {
    "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro F1",
    "average_precision": "Average precision", "roc_auc": "ROC-AUC", "micro_f1": "Micro F1",
    "cohen_kappa": "Cohen's kappa", "quadratic_kappa": "Quadratic weighted kappa",
    "mean_absolute_error": "Mean absolute error, in ranks", "mcc": "Matthews correlation",
    "top_3_accuracy": "Top-3 accuracy", "log_loss": "Log loss", "brier": "Brier score",
    "ece": "Expected calibration error",
}

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31", "#56b4e9", "#e69f00", "#7f3c8d",
           "#666666", "#1b3a4b"]  # told apart by colour-blind readers as far as ten can be
STYLE: dict[str, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.titlesize": 11, "axes.titlelocation": "left", "axes.labelsize": 10, "font.size": 10,
    "axes.labelcolor": "#222222", "text.color": "#222222", "xtick.color": "#444444",
    "ytick.color": "#444444", "axes.grid": False, "grid.color": "#e4e4e4", "legend.frameon": False,
    "legend.fontsize": 9, "figure.facecolor": "white", "text.parse_math": False,
    "svg.fonttype": "path", "svg.hashsalt": "finetune", "savefig.dpi": 150,
}
ZEROS_UP_TO, NUMBERS_UP_TO, NAMES_UP_TO = 20, 60, 10


def metric_titles(*, single: bool) -> dict[str, str]:
    """What each metric is called; with several labels, accuracy means that all are right."""
    return METRIC_TITLES if single else METRIC_TITLES | {"accuracy": "Subset accuracy"}


def _figure(width: float, height: float) -> "Figure":
    """An empty one, in inches, that makes room for its texts."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_history(history: Sequence[dict[str, Any]], *, metric: str, chosen: int | None,
                 note: str = "") -> "Figure":
    """Losses and validation metrics by epoch, with unfreezings and the chosen epoch marked.

    Args:
        history: One entry for each epoch.
        metric: The metric that chooses the epoch; drawn thicker.
        chosen: The epoch that was chosen.
        note: Above all, when there is something to say.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10, 4.6 + 0.3 * bool(note))
    if note:
        figure.suptitle(note, fontsize=11, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    _lines(left, history, {"train": "train_loss", "validation": _loss_key(history)}, metric)
    names = [metric, "accuracy", "balanced_accuracy", "macro_f1", "average_precision", "roc_auc"]
    shown = [n for n in dict.fromkeys(names) if _has(history, n)][:4]
    titles = metric_titles(single=_has(history, "balanced_accuracy"))
    _lines(right, history, {titles.get(n, n): n for n in shown}, metric)
    for axes, title in ((left, "Loss"), (right, "Metrics on validation")):
        axes.set_title(title, pad=30)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        _mark_epochs(axes, history, chosen)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, borderaxespad=0,
                    handlelength=1.4, columnspacing=1.2)
    return figure


def _loss_key(history: Sequence[dict[str, Any]]) -> str:
    return "loss" if _has(history, "loss") else "log_loss"


def _value(entry: dict[str, Any], key: str) -> float:
    found = entry[key] if key in entry else entry.get("val", {}).get(key)
    return math.nan if found is None else float(found)


def _has(history: Sequence[dict[str, Any]], key: str) -> bool:
    return any(not math.isnan(_value(entry, key)) for entry in history)


def _lines(axes: "Axes", history: Sequence[dict[str, Any]], keys: dict[str, str],
           metric: str) -> None:
    epochs = [entry["epoch"] for entry in history]
    few = "o" if len(epochs) <= 30 else None
    for colour, (label, key) in zip(COLOURS, keys.items(), strict=False):
        axes.plot(epochs, [_value(entry, key) for entry in history], label=label, color=colour,
                  linewidth=2.4 if key == metric else 1.5, marker=few, markersize=3.5)


def _mark_epochs(axes: "Axes", history: Sequence[dict[str, Any]], chosen: int | None) -> None:
    first = history[0]["epoch"]
    if chosen is not None:
        axes.axvline(chosen, color="#222222", linewidth=1, linestyle="--", zorder=0)
        _note(axes, chosen, f"chosen: epoch {chosen}", row=1)
    opened = [entry for entry in history if entry.get("opened") and entry["epoch"] > first]
    step = max(1, math.ceil(len(opened) / 6))
    for place, entry in enumerate(opened):
        axes.axvline(entry["epoch"], color="#8a8a8a", linewidth=1, linestyle=":", zorder=0)
        if place % step == 0:
            _note(axes, entry["epoch"], _opened_text(entry["opened"], first=place == 0), row=0)


def _opened_text(depths: Sequence[int], *, first: bool) -> str:
    low, high = min(depths), max(depths)
    span = f"{low}" if low == high else f"{low}–{high}"
    return f"opens {span}" if first else span


def _note(axes: "Axes", epoch: float, text: str, *, row: int) -> None:
    axes.annotate(text, (epoch, 1), xycoords=("data", "axes fraction"), fontsize=8,
                  xytext=(0, 3 + 12 * row), textcoords="offset points", ha="center",
                  color="#222222" if row else "#666666")


def _matrix_size(count: int) -> tuple[float, float]:
    """Inches of a square matrix of ``count`` classes, and its font size in points."""
    return (min(11.5, 3.4 + 0.32 * count), 10 if count <= 12 else 8.5 if count <= 24 else 6.5)


def draw_matrix(matrix: np.ndarray, labels: Sequence[str], *, title: str) -> "Figure":
    """A confusion matrix of (K, K): counts, or percent of each row when it holds floats (shares).

    Up to 60 classes the numbers stand in the cells, from 21 without zeros; above, colour and CSV
    tell them. From 21 classes colour follows the square root, so that one picture among many is
    seen.
    """
    from matplotlib.colors import PowerNorm

    count = len(labels)
    side, font = _matrix_size(count)
    values, top = _in_percent(matrix)
    figure = _figure(side + 0.2, side)
    axes = figure.subplots()
    scale = PowerNorm(0.5 if count > ZEROS_UP_TO else 1, vmin=0, vmax=top)
    cells = axes.imshow(values, cmap="Blues", norm=scale, interpolation="nearest")
    axes.set_xticks(range(count), labels)
    axes.set_yticks(range(count), labels)
    if count <= NUMBERS_UP_TO:
        font_inside = font if count < 12 else 7 if count <= 30 else 5.5
        _write_cells(axes, values, scale(values), font_inside, zeros=count <= ZEROS_UP_TO)
    else:
        figure.colorbar(cells, ax=axes, shrink=0.6, pad=0.02).outline.set_visible(False)
    _dress_matrix(axes, labels, font)
    _set_title(figure, title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _in_percent(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Whole numbers to show, and that of the darkest colour; shares become percent."""
    if np.issubdtype(matrix.dtype, np.floating):
        return (100 * matrix).round().astype(int), 100
    return matrix, max(1, int(matrix.max()))


def _write_cells(axes: "Axes", values: np.ndarray, darkness: np.ndarray, font: float, *,
                 zeros: bool) -> None:
    """Each number in its cell, white where ``darkness`` (0..1) is above a half."""
    for (row, column), value in np.ndenumerate(values):
        if value or zeros:
            axes.text(column, row, f"{value}", ha="center", va="center", fontsize=font,
                      color="white" if darkness[row, column] > 0.5 else "#222222",
                      in_layout=False)


def _set_title(figure: "Figure", title: str) -> None:
    """From the left edge: above a small matrix with long names, it would be cut."""
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")


def _dress_matrix(axes: "Axes", columns: Sequence[str], font: float) -> None:
    axes.tick_params(length=0, labelsize=font)
    axes.spines[:].set_visible(False)
    if len(columns) > 5 or max(map(len, columns), default=0) > 9:
        for label in axes.get_xticklabels():
            label.set(rotation=90 if len(columns) > 12 else 45, rotation_mode="anchor",
                      ha="right", va="center" if len(columns) > 12 else "top")


def draw_counts(table: np.ndarray, labels: Sequence[str], columns: Sequence[str], *,
                title: str) -> "Figure":
    """A row of counts (K, columns) for each class, coloured by its shares of the row.

    Floats are shares and shown in percent.
    """
    font = _matrix_size(len(labels))[1]
    figure = _figure(6.4, 1.2 + 0.24 * max(len(labels), 3))
    axes = figure.subplots()
    counts = not np.issubdtype(table.dtype, np.floating)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1) if counts else table
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(labels)), labels)
    _write_cells(axes, _in_percent(table)[0], shares, min(font, 9), zeros=True)
    _dress_matrix(axes, [], font)
    _set_title(figure, title)
    return figure


@dataclass(frozen=True)
class Axis:
    """Titles of a plot of curves."""

    title: str
    x: str
    y: str


def draw_classes(curves: Sequence[Curve], mean: Curve | None, text: Axis, *,
                 diagonal: bool) -> "Figure":
    """One curve for each class and their mean; more than ten classes are faint lines.

    Args:
        curves: Labels are complete, with the area.
        mean: Mean over classes; drawn black.
        text: Title and axes.
        diagonal: Draw the line of chance.
    """
    few = len(curves) <= NAMES_UP_TO
    entries = (len(curves) if few else 1) + (mean is not None)
    figure = _figure(5.6, 6.1 + 0.2 * entries)
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1, linestyle=":")
    for place, curve in enumerate(curves):
        how: dict[str, Any] = {"color": "#0072b2", "linewidth": 0.8, "alpha": 0.25}
        if few:
            how = {"color": COLOURS[place], "linewidth": 1.6, "label": curve.label}
        _draw_curve(axes, curve, points=1000 if few else max(100, 10_000 // len(curves)), **how)
    if not few:
        axes.plot([], [], color="#0072b2", linewidth=0.8, label=f"each of {len(curves)} classes")
    if mean is not None:
        _draw_curve(axes, mean, color="black", linewidth=2, linestyle="--" if few else "-",
                    label=mean.label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=text.x, ylabel=text.y, aspect="equal")
    axes.set_title(text.title)
    axes.grid(True)
    if entries:
        figure.legend(loc="outside lower left", fontsize=9)
    else:
        axes.text(0.5, 0.5, "not defined: needs pictures\nof at least two classes", ha="center")
    return figure


def _draw_curve(axes: "Axes", curve: Curve, *, points: int = 1000, **how: Any) -> None:
    """Precision is constant between two recalls; its steps enclose the average precision."""
    axes.plot(*_thinned(curve, points), drawstyle="steps-pre" if curve.steps else "default", **how)


def _thinned(curve: Curve, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points: what a figure can show, so that an SVG stays small."""
    if len(curve.x) <= points:
        return curve.x, curve.y
    kept = np.linspace(0, len(curve.x) - 1, points).round().astype(int)
    return curve.x[kept], curve.y[kept]


def draw_reliability(bins: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> "Figure":
    """How often answers are right, by the probability with which they are given.

    Args:
        bins: For each kind of answers: ``confidence`` (mean), ``accuracy`` and ``interval`` of
            each bin.
        title: Above.
    """
    figure = _figure(5.2, 5.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for (name, rows), colour in zip(bins.items(), COLOURS, strict=False):
        shown = [row for row in rows if row["accuracy"] is not None]
        x, y = [r["confidence"] for r in shown], [r["accuracy"] for r in shown]
        bars = [[max(0.0, v - r["interval"][0]) for r, v in zip(shown, y, strict=True)],
                [max(0.0, r["interval"][1] - v) for r, v in zip(shown, y, strict=True)]]
        axes.errorbar(x, y, yerr=bars, color=colour, marker="o", markersize=4, linewidth=1.5,
                      elinewidth=1, capsize=2, label=name)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the likeliest class",
             ylabel="share that is right", title=title)
    if len(bins) > 1:
        axes.legend(loc="upper left")
    return figure
