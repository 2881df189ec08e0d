"""Charts as SVG that is part of a page: drawn from data, readable without a script.

Lines keep their points in the units of the data, below a transformation to the drawing's; so the
page's script can say exact values where the pointer is.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Axis", "Line", "Mark", "draw_chart", "nice_ticks"]

GAP = {"left": 44, "right": 10, "top": 12, "bottom": 38}


@dataclass(frozen=True)
class Axis:
    """One side of a chart; ``name`` says what the numbers are, in a few words."""

    name: str
    low: float = 0.0
    high: float = 1.0
    whole: bool = False  # only whole numbers are marked

    @property
    def span(self) -> float:
        """High minus low, never 0."""
        return (self.high - self.low) or 1.0


@dataclass(frozen=True)
class Line:
    """Points joined in their order.

    Attributes:
        name: For the legend and the values shown at the pointer.
        x: (P,) in the units of the axis.
        y: (P,).
        look: Classes of page.css, such as ``s0`` or ``faint``.
        dots: Whether each point is marked.
        bars: Low and high of each point's interval, or nothing.
        extra: What else is known of each point, as text, or nothing.
        lead: What stands before each of these.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: str = "s0"
    dots: bool = False
    bars: Sequence[Sequence[float]] = ()
    extra: Sequence[str] = ()
    lead: str = ""


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``x`` with a text above it."""

    x: float
    text: str = ""
    look: str = "dotted"
    row: int = 0


def draw_chart(lines: Sequence[Line], x: Axis, y: Axis, *, title: str, marks: Sequence[Mark] = (),
               diagonal: bool = False, width: int = 420, height: int = 300) -> Markup:
    """A chart as an ``<svg>``.

    Args:
        lines: Drawn in their order.
        x: The axis below.
        y: The axis at the left.
        title: What is seen, for those who can't see it.
        marks: Vertical lines.
        diagonal: Draw the line from the lower left to the upper right.
        width: Of the drawing; the page scales it.
        height: Of the drawing.
    """
    top = GAP["top"] + 16 + 13 * (1 + max((m.row for m in marks if m.text), default=-1))
    box = (GAP["left"], top, width - GAP["right"], height - GAP["bottom"])
    across, down = (box[2] - box[0]) / x.span, (box[3] - box[1]) / y.span
    place = (f"matrix({across:.6g} 0 0 {-down:.6g} {box[0] - x.low * across:.6g} "
             f"{box[3] + y.low * down:.6g})")
    inner = [f'<path class="guide" d="M{x.low:g} {y.low:g}L{x.high:g} {y.high:g}"/>'] * diagonal
    inner += [f'<path class="mark {m.look}" d="M{m.x:g} {y.low:g}V{y.high:g}"/>' for m in marks]
    inner += [_line(line) for line in lines]
    return Markup(  # every text in it went through escape
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" tabindex="0" '
        f'aria-label="{escape(title)}" data-x="{escape(x.name)}" data-y="{escape(y.name)}">'
        f"{_frame(x, y, box, width)}{_texts(marks, x, box, across)}"
        f'<g class="lines" transform="{place}">{"".join(inner)}</g></svg>')


def _line(line: Line) -> str:
    points = [(a, b) for a, b in zip(line.x, line.y, strict=True)]
    parts = [f'<path d="M{a:.5g} {low:.5g}V{high:.5g}"/>'
             for (a, _), (low, high) in zip(points, line.bars, strict=False)]
    told = (f' data-lead="{escape(line.lead)}" data-extra="{escape(json.dumps([*line.extra]))}"'
            if line.extra else "")
    joined = " ".join(f"{a:.5g},{b:.5g}" for a, b in points)
    parts.append(f'<polyline data-name="{escape(line.name)}"{told} points="{joined}"/>')
    if line.dots:
        dots = "".join(f"M{a:.5g} {b:.5g}h0" for a, b in points)
        parts.append(f'<path class="dots" d="{dots}"/>')
    return f'<g class="{line.look}">{"".join(parts)}</g>'


Box = tuple[float, float, float, float]


def _frame(x: Axis, y: Axis, box: Box, width: int) -> str:
    """Grid, numbers and names of both axes."""
    left, top, right, bottom = box
    parts = [f'<text class="name" x="2" y="12">{escape(y.name)}</text>']
    for value in nice_ticks(y, count=5):
        at = bottom - (value - y.low) / y.span * (bottom - top)
        parts.append(f'<path class="grid" d="M{left:g} {at:.1f}H{right:g}"/><text x="{left - 6:g}" '
                     f'y="{at + 4:.1f}" text-anchor="end">{_shown(value)}</text>')
    for value in nice_ticks(x, count=5 if width > 260 else 2):
        at = left + (value - x.low) / x.span * (right - left)
        parts.append(f'<path class="tick" d="M{at:.1f} {bottom:g}v4"/><text x="{at:.1f}" '
                     f'y="{bottom + 16:g}" text-anchor="middle">{_shown(value)}</text>')
    parts.append(f'<path class="axis" d="M{left:g} {bottom:g}H{right:g}"/>'
                 f'<text class="name" x="{right:g}" y="{bottom + 32:g}" text-anchor="end">'
                 f"{escape(x.name)}</text>")
    return "".join(parts)


def _texts(marks: Sequence[Mark], x: Axis, box: Box, across: float) -> str:
    parts = []
    for mark in marks:
        at = box[0] + (mark.x - x.low) * across
        side = "start" if at < box[0] + 40 else "end" if at > box[2] - 40 else "middle"
        if mark.text:
            parts.append(f'<text class="told" x="{at:.1f}" y="{box[1] - 5 - 13 * mark.row:g}" '
                         f'text-anchor="{side}">{escape(mark.text)}</text>')
    return "".join(parts)


def _shown(value: float) -> str:
    return f"{value:.6g}"


def nice_ticks(axis: Axis, *, count: int) -> list[float]:
    """About ``count`` round numbers within an axis.

    >>> nice_ticks(Axis("", 0, 1), count=5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(Axis("", 1, 3, whole=True), count=5)
    [1.0, 2.0, 3.0]
    """
    rough = axis.span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if axis.whole:
        step = max(1.0, math.ceil(step))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
