"""Pictures of results as matplotlib figures; nothing here touches files or pyplot's state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from finetune.report.curves import Curve

__all__ = ["STYLE", "draw_classes", "draw_counts", "draw_history", "draw_matrix", "draw_sheet"]

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
NUMBERS_UP_TO, NAMES_UP_TO = 20, 10


def draw_history(history: Sequence[dict[str, Any]], *, metric: str, chosen: int | None) -> Figure:
    """Losses and validation metrics by epoch, with unfreezings and the chosen epoch marked.

    Args:
        history: One entry for each epoch.
        metric: The metric that chooses the epoch; drawn thicker.
        chosen: The epoch that was chosen.
    """
    figure = Figure(figsize=(10, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, history, {"train": "train_loss", "validation": _loss_key(history)}, metric)
    names = [metric, "accuracy", "balanced_accuracy", "macro_f1", "average_precision", "roc_auc"]
    shown = [n for n in dict.fromkeys(names) if _has(history, n)][:4]
    _lines(right, history, {n.replace("_", " "): n for n in shown}, metric)
    for axes, title in ((left, "Loss"), (right, "Metrics on validation")):
        axes.set_title(title, pad=30)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        _mark_epochs(axes, history, chosen)
        axes.legend(loc="best")
    return figure


def _loss_key(history: Sequence[dict[str, Any]]) -> str:
    return "loss" if _has(history, "loss") else "log_loss"


def _value(entry: dict[str, Any], key: str) -> float:
    found = entry[key] if key in entry else entry.get("val", {}).get(key)
    return math.nan if found is None else float(found)


def _has(history: Sequence[dict[str, Any]], key: str) -> bool:
    return any(not math.isnan(_value(entry, key)) for entry in history)


def _lines(axes: Axes, history: Sequence[dict[str, Any]], keys: dict[str, str],
           metric: str) -> None:
    epochs = [entry["epoch"] for entry in history]
    few = "o" if len(epochs) <= 30 else None
    for colour, (label, key) in zip(COLOURS, keys.items(), strict=False):
        axes.plot(epochs, [_value(entry, key) for entry in history], label=label, color=colour,
                  linewidth=2.4 if key == metric else 1.5, marker=few, markersize=3.5)


def _mark_epochs(axes: Axes, history: Sequence[dict[str, Any]], chosen: int | None) -> None:
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


def _note(axes: Axes, epoch: float, text: str, *, row: int) -> None:
    axes.annotate(text, (epoch, 1), xycoords=("data", "axes fraction"), fontsize=8,
                  xytext=(0, 3 + 12 * row), textcoords="offset points", ha="center",
                  color="#222222" if row else "#666666")


def _matrix_size(count: int) -> tuple[float, float]:
    """Inches of a square matrix of ``count`` classes, and its font size in points."""
    return (min(9.6, 3.4 + 0.32 * count), 10 if count <= 12 else 8.5 if count <= 24 else 6.5)


def draw_matrix(matrix: np.ndarray, labels: Sequence[str], *, title: str) -> Figure:
    """A confusion matrix of (K, K): counts, or shares of each row when it holds floats.

    Up to 20 classes the numbers stand in the cells; with more, colour and CSV tell them.
    """
    shares = np.issubdtype(matrix.dtype, np.floating)
    side, font = _matrix_size(len(labels))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(matrix, display_labels=labels)
    many = len(labels) > NUMBERS_UP_TO
    display.plot(ax=axes, cmap="Blues", include_values=not many, colorbar=False,
                 values_format=".2f" if shares else "d",
                 im_kw={"vmin": 0, **({"vmax": 1} if shares else {})},
                 text_kw={} if many else {"fontsize": font if len(labels) < 12 else 7})
    figure.colorbar(display.im_, ax=axes, shrink=0.6, pad=0.02).outline.set_visible(False)
    _dress_matrix(axes, labels, font, title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _dress_matrix(axes: Axes, columns: Sequence[str], font: float, title: str) -> None:
    axes.set_title(title)
    axes.tick_params(length=0, labelsize=font)
    axes.spines[:].set_visible(False)
    if len(columns) > 5 or max(map(len, columns), default=0) > 9:
        for label in axes.get_xticklabels():
            label.set(rotation=90 if len(columns) > 12 else 45, rotation_mode="anchor",
                      ha="right", va="center" if len(columns) > 12 else "top")


def draw_counts(table: np.ndarray, labels: Sequence[str], columns: Sequence[str], *,
                title: str) -> Figure:
    """A row of numbers (K, columns) for each class, coloured by each row's shares."""
    side, font = _matrix_size(len(labels))
    figure = Figure(figsize=(6.4, max(2.4, 0.62 * side + 0.6)), layout="constrained")
    axes = figure.subplots()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(labels)), labels)
    whole = np.issubdtype(table.dtype, np.integer)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value}" if whole else f"{value:.2f}", ha="center", va="center",
                  fontsize=min(font, 9), color="white" if shares[row, column] > 0.5 else "#222222")
    _dress_matrix(axes, [], font, title)
    return figure


@dataclass(frozen=True)
class Axis:
    """Titles of a plot of curves, and where its legend lies in the way least."""

    title: str
    x: str
    y: str
    legend: str


def draw_classes(curves: Sequence[Curve], mean: Curve | None, text: Axis, *,
                 diagonal: bool) -> Figure:
    """One curve for each class and their mean; more than ten classes are faint lines.

    Args:
        curves: Labels are complete, with the area.
        mean: Mean over classes; drawn black.
        text: Title and axes.
        diagonal: Draw the line of chance.
    """
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.subplots()
    few = len(curves) <= NAMES_UP_TO
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1, linestyle=":")
    for place, curve in enumerate(curves):
        how: dict[str, Any] = {"color": "#0072b2", "linewidth": 0.8, "alpha": 0.25}
        if few:
            how = {"color": COLOURS[place], "linewidth": 1.6, "label": curve.label}
        axes.plot(*_thinned(curve), **how)
    if mean is not None:
        axes.plot(mean.x, mean.y, color="black", linewidth=2, linestyle="--" if few else "-",
                  label=mean.label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=text.x, ylabel=text.y, aspect="equal")
    axes.set_title(text.title)
    axes.grid(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=text.legend, fontsize=8.5)
    else:
        axes.text(0.5, 0.5, "not defined: needs pictures\nof at least two classes", ha="center")
    return figure


def _thinned(curve: Curve, *, points: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points: what a figure can show, so that an SVG stays small."""
    if len(curve.x) <= points:
        return curve.x, curve.y
    kept = np.linspace(0, len(curve.x) - 1, points).round().astype(int)
    return curve.x[kept], curve.y[kept]


def draw_sheet(images: Sequence[np.ndarray], titles: Sequence[str], *, title: str) -> Figure:
    """Pictures in rows with a short title above each."""
    columns = min(8, max(1, math.ceil(math.sqrt(len(images) * 1.2))))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.7 * columns + 0.2, 1.95 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, text in zip(grid, images, titles, strict=False):
        axes.imshow(_shown(image), vmin=0, vmax=255, cmap="gray", interpolation="nearest")
        axes.set_title(text, fontsize=8, loc="center")
    return figure


def _shown(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8: the first three channels, or the first."""
    seen = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    if seen.dtype != np.uint8:
        seen = (np.nan_to_num(seen).clip(0, 1) * 255).round().astype(np.uint8)
    return seen
