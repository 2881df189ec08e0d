"""A forest plot as a table: in each row an interval on one scale, with the line of no difference.

Places are percentages of the cell's width, so that a row may be as wide and as high as its text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from finetune.evaluation.verdicts import OWN_UNITS, shown
from finetune.report.svg import Axis, nice_ticks

__all__ = ["Scale", "draw_interval", "draw_scale", "scale_of", "told"]

MARGIN = 4.0  # percent at either side


@dataclass(frozen=True)
class Scale:
    """From where to where all rows of a plot go, in the metric's unit; 0 is within."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Percent of the width."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return MARGIN + (100 - 2 * MARGIN) * share


def scale_of(entries: Sequence[Mapping[str, Any]]) -> Scale:
    """One that all intervals fit in."""
    ends = [end for entry in entries for end in (entry["low"], entry["value"], entry["high"])
            if end is not None]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    return Scale(low, high) if high > low else Scale(-0.01, 0.01)


def told(metric: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """The difference with its sign, and its interval, as `finetune.evaluation.verdicts.shown`.

    >>> told("accuracy", {"value": 0.021, "low": -0.004, "high": 0.046})
    ('+2.1', '-0.4 to 4.6')
    """
    if entry["value"] is None:
        return "–", ""
    text = shown(metric, entry["value"], unit=False)
    sign = "" if text.startswith("-") or not float(text) else "+"
    if entry["low"] is None or entry["high"] is None:
        return sign + text, ""
    return sign + text, (f"{shown(metric, entry['low'], unit=False)} to "
                         f"{shown(metric, entry['high'], unit=False)}")


def draw_interval(metric: str, entry: Mapping[str, Any], scale: Scale) -> Markup:
    """The point and the interval of a row; filled where the verdict is better or worse."""
    kind = entry["verdict"]["kind"]
    parts = [_zero(scale, "100%")]
    if entry["low"] is not None and entry["high"] is not None:
        parts.append(f'<line class="span" x1="{scale.place(entry["low"]):.2f}%" '
                     f'x2="{scale.place(entry["high"]):.2f}%" y1="50%" y2="50%"/>')
    if entry["value"] is not None:
        parts.append(f'<circle cx="{scale.place(entry["value"]):.2f}%" cy="50%" r="4.5"/>')
    title = ", ".join(text for text in told(metric, entry) if text)
    return Markup(  # every text in it went through escape
        f'<svg class="interval {escape(kind)}" role="img" aria-label="{escape(title)}">'
        f'{"".join(parts)}</svg>')


def draw_scale(metric: str, scale: Scale) -> Markup:
    """Numbers below the rows."""
    parts = [_zero(scale, "6")]
    count = 2 if metric in OWN_UNITS else 4  # points are short
    for value in nice_ticks(Axis("", scale.low, scale.high), count=count):
        at = scale.place(value)
        side = "start" if at < 12 else "end" if at > 88 else "middle"
        parts.append(f'<line x1="{at:.2f}%" x2="{at:.2f}%" y2="5"/><text x="{at:.2f}%" y="19" '
                     f'text-anchor="{side}">{_tick(metric, value)}</text>')
    return Markup(f'<svg class="scale" aria-hidden="true">{"".join(parts)}</svg>')


def _tick(metric: str, value: float) -> str:
    return shown(metric, value, unit=False).removesuffix(".0")


def _zero(scale: Scale, down: str) -> str:
    at = f"{scale.place(0):.2f}%"
    return f'<line class="zero" x1="{at}" x2="{at}" y2="{down}"/>'
