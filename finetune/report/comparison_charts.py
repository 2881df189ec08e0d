"""Charts of a comparison: quality against what it costs, and how all runs learnt."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from finetune.report.charts import Chart
from finetune.report.svg import Axis, Line, draw_chart

__all__ = ["COLOURS", "cost_charts", "cost_units", "learning_charts"]

COLOURS = 10          # page.css has so many; with more methods they repeat
POINTS = 8_000        # of all lines of a chart
MOST_DOTTED = 40      # epochs up to which each is a dot


def cost_charts(result: Mapping[str, Any], *, title: str) -> list[Chart]:
    """A chart for each cost that two methods or more have: a point a method, the front a line.

    Args:
        result: What ``comparison.json`` holds.
        title: The metric's.
    """
    units = cost_units(result["methods"])
    charts = [_cost(result, key, *units[key], title) for key in result["front"] if key in units]
    return [chart for chart in charts if chart is not None]


def cost_units(methods: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """For each cost its name with a unit that suits these numbers, and that unit's size."""
    def largest(key: str) -> float:
        return max((row["cost"][key] or 0.0 for row in methods), default=0.0)

    seconds, trained = largest("seconds"), largest("trained_parameters")
    return {"seconds": next((f"{name} of training", size) for name, size in (
                ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
                if seconds >= 3 * size or size == 1.0),
            "trained_parameters": next((f"trained parameters{name}", size) for name, size in (
                (", millions", 1e6), (", thousands", 1e3), ("", 1.0))
                if trained >= 3 * size or size == 1.0),
            "peak_memory_mb": ("peak memory, MB", 1.0)}


def _cost(result: Mapping[str, Any], key: str, name: str, unit: float,
          title: str) -> Chart | None:
    lines, legend = [], []
    for place, row in enumerate(result["methods"]):
        entry, cost = row["metrics"][result["metric"]], row["cost"][key]
        if entry["mean"] is None or cost is None:
            continue
        known = entry["low"] is not None and entry["high"] is not None
        lines.append(Line(row["name"], [cost / unit], [entry["mean"]], f"s{place % COLOURS} big",
                          dots=True, bars=[(entry["low"], entry["high"])] if known else ()))
        legend.append((lines[-1].look, row["name"]))
    if len(lines) < 2:
        return None
    on_front = sorted((line.x[0], line.y[0]) for line in lines
                      if line.name in result["front"][key])
    front = _stairs("none is better at no greater cost", on_front)
    x = Axis(name, 0.0, 1.06 * max(line.x[0] for line in lines) or 1.0)
    y = Axis(title, *_room(value for line in lines for value in (
        *line.y, *(end for bar in line.bars for end in bar))))
    words = f"{title} by {name}"
    return Chart(words, draw_chart([front, *lines], x, y, title=words), [
        *legend, ("front", front.name)])


def _stairs(name: str, points: Sequence[tuple[float, float]]) -> Line:
    """What can be had at a cost: level until the next point that costs more."""
    corners = [corner for before, after in pairwise(points)
               for corner in (before, (after[0], before[1]))] + [*points[-1:]]
    return Line(name, [x for x, _ in corners], [y for _, y in corners], "front")


def learning_charts(result: Mapping[str, Any], *, title: str) -> list[Chart]:
    """The metric on validation and the training loss of every run, by epoch.

    Args:
        result: What ``comparison.json`` holds.
        title: The metric's.
    """
    return [chart for chart in (
        _learning(result, f"{title} on validation",
                  lambda epoch: epoch["val"].get(result["metric"])),
        _learning(result, "Training loss", lambda epoch: epoch["train_loss"])) if chart]


def _learning(result: Mapping[str, Any], title: str, read: Any) -> Chart | None:
    runs = [(place, run) for place, row in enumerate(result["methods"]) for run in row["runs"]]
    lines = [line for place, run in runs
             if (line := _curve(result["methods"][place]["name"], place, run, read,
                                most=max(20, POINTS // len(runs)))).x]
    if not lines:
        return None
    x = [value for line in lines for value in line.x]
    svg = draw_chart(lines, Axis("epoch", min(x), max(x), whole=True),
                     Axis("", *_room(value for line in lines for value in line.y)),
                     title=f"{title} by epoch, {len(lines)} runs")
    drawn = {line.look for line in lines}
    legend = [(f"s{place % COLOURS}", row["name"]) for place, row in enumerate(result["methods"])
              if f"s{place % COLOURS}" in drawn]
    return Chart(title, svg, legend)


def _curve(method: str, place: int, run: Mapping[str, Any], read: Any, *, most: int) -> Line:
    """Of one run; the epoch that validation chose says so."""
    known = [(epoch["epoch"], value) for epoch in run["curve"]
             if (value := read(epoch)) is not None and math.isfinite(value)]
    known = known[::max(1, math.ceil(len(known) / most))]
    chosen = (run["selection"] or {}).get("epoch")
    return Line(f"{method}, seed {run['seed']}", [x for x, _ in known], [y for _, y in known],
                f"s{place % COLOURS}", dots=len(known) <= MOST_DOTTED,
                extra=["chosen" if x == chosen else "" for x, _ in known])


def _room(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    margin = 0.05 * (high - low) or 0.02
    return low - margin, high + margin
