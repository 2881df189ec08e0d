"""The figure of a search for a learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.files import write_with
from finetune.report.drawing import COLOURS, STYLE
from finetune.training.rate_search import RateCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_rate_figure"]

ROOM = 0.35  # of the losses' range, above the first loss: what diverges leaves the figure


def write_rate_figure(path: Path, curve: RateCurve, suggested: Mapping[str, float | None], *,
                      depths: Sequence[tuple[str, RateCurve, float | None]] = (),
                      note: str = "") -> Path:
    """Write the loss over the rate as a PNG; the same numbers give the same bytes.

    Args:
        path: The file.
        curve: All rates grown together.
        suggested: Rates by rule, marked.
        depths: Name, curve and suggested rate of each depth that was searched alone, from the stem
            up; a second panel.
        note: Above all, where there is something to say.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        panels = 2 if depths else 1
        figure = Figure(figsize=(6.6 * panels, 4.4 + 0.3 * bool(note)), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        if note:
            figure.suptitle(note, fontsize=11, x=0.01, ha="left")
        _draw_together(axes[0], curve, suggested)
        if depths:
            _draw_depths(axes[1], depths)
        return write_with(path, lambda stream: figure.savefig(
            stream, format="png", metadata={"Software": None}))


def _draw_together(axes: "Axes", curve: RateCurve, suggested: Mapping[str, float | None]) -> None:
    axes.plot(curve.rates, curve.compared, color="#bbbbbb", linewidth=1, label="loss of a batch")
    axes.plot(curve.rates, curve.smoothed, color="#222222", linewidth=2, label="smoothed")
    for colour, (name, rate) in zip(COLOURS, suggested.items(), strict=False):
        if rate is not None:
            axes.axvline(rate, color=colour, linewidth=1, linestyle=":", zorder=0)
            axes.plot(rate, _height(curve, rate), "o", color=colour, label=f"{name}: {rate:.2g}")
    _finish(axes, [curve], "All trained depths, at their ratio", "rate of the classifier")


def _draw_depths(axes: "Axes", depths: Sequence[tuple[str, RateCurve, float | None]]) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.9, 0, len(depths)))
    for colour, (name, curve, rate) in zip(colours, depths, strict=True):
        told = "none" if rate is None else f"{rate:.2g}"
        axes.plot(curve.rates, curve.smoothed, color=colour, linewidth=1.6,
                  label=f"{name}: {told}")
        if rate is not None:
            axes.plot(rate, _height(curve, rate), "o", color=colour)
    _finish(axes, [curve for _, curve, _ in depths], "Each depth alone, the others frozen",
            "rate of the depth")


def _height(curve: RateCurve, rate: float) -> float:
    return float(np.interp(np.log(rate), np.log(curve.rates), curve.smoothed))


def _finish(axes: "Axes", curves: Sequence[RateCurve], title: str, x: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    low = min(min(curve.smoothed) for curve in curves)
    high = max(curve.smoothed[0] for curve in curves)
    room = ROOM * (high - low or abs(high) or 1.0)
    axes.set(xscale="log", xlabel=x, ylabel="training loss", ylim=(low - room, high + 2 * room))
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))
    axes.set_title(title)
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, borderaxespad=0,
                handlelength=1.4, columnspacing=1.2)
