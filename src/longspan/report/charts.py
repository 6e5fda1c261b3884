"""Line charts as inline SVG: lines with bands, light grid lines, marks; colours are CSS variables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from longspan.report.scales import Axis

COLORS = 8
"""Colours in chart.css; the ninth line takes the first colour again, with hollow points."""
DASHES = 8
"""Dash patterns in chart.css."""
MOST_DOTS = 40
"""A line of more points is drawn without dots."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a line, and what a reader is told about it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""
    """The place in words: `8k tokens`."""
    text: str = ""
    """The value in words: `23.45 (22.10-24.80)`."""
    length: int | None = None
    """The window length it was measured at, by which the page's filter finds it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart."""

    label: str
    points: Sequence[Point]
    short: str = ""
    """The label where there is little room; the label itself if empty."""
    color: int = 0
    dash: int = 0
    data: dict[str, int] = field(default_factory=dict)
    """data- attributes, by which the page's filters find the line."""
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a chart in SVG units and the room around its plot; names of lines stand in the room on the right."""

    width: int = 560
    height: int = 330
    left: int = 50
    right: int = 12
    top: int = 26
    bottom: int = 40

    def x(self, place: float) -> float:
        """Horizontal coordinate of a place between 0 and 1."""
        return self.left + place * (self.width - self.left - self.right)

    def y(self, place: float) -> float:
        """Vertical coordinate of a place between 0 and 1."""
        return self.height - self.bottom - place * (self.height - self.top - self.bottom)


def chart_style(scheme: Literal["light", "dark"] | None = None) -> str:
    """The CSS that charts need, wherever they stand.

    Args:
        scheme: colours written out, for programs that know no CSS variables; None follows the reader's own scheme.
    """
    style = Path(__file__).with_name("chart.css").read_text(encoding="utf-8")
    if scheme is None:
        return style
    light, dark, rules = re.split(r"^@media[^{]*{|^}\n(?=\.)", style, flags=re.MULTILINE)
    colors = dict(re.findall(r"(--\w+): (#\w+)", light if scheme == "light" else dark))
    return re.sub(r"var\((--\w+)\)", lambda match: colors[match[1]], rules)


def room_for(names: Sequence[str]) -> int:
    """Room on the right for `names` of lines, within what leaves enough to the plot."""
    return min(170, 30 + max((round(6.9 * len(name)) for name in names), default=0))


def line_chart(
    name: str,
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    marks: Sequence[tuple[float, str]] = (),
    frame: Frame | None = None,
) -> str:
    """A chart as one `<svg>` element that scales with its place in the page, whose script names the lines.

    Args:
        name: unique in the page; an identifier.
        curves: the lines, in the order in which they are drawn.
        x: the horizontal axis.
        y: the vertical axis; points outside it are cut off.
        marks: vertical lines (value on `x`, what it says).
    """
    frame = frame or Frame()
    title = escape(f"{y.title} by {x.title}", quote=True)
    edges = (
        f'data-right="{frame.width - frame.right}" data-top="{frame.top}" data-bottom="{frame.height - frame.bottom}"'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{title}" {edges}>'
        f"{plot(name, curves, x, y, frame, marks=marks)}</svg>"
    )


def plot(
    name: str,
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    frame: Frame,
    *,
    marks: Sequence[tuple[float, str]] = (),
    direct_labels: bool = False,
) -> str:
    """What stands inside a chart's `<svg>`; with `direct_labels` each line is named at its right end."""
    left, right, top, bottom = frame.left, frame.width - frame.right, frame.top, frame.height - frame.bottom
    clip = f'<clipPath id="clip-{name}"><rect x="{left}" y="{top - 4}" width="{right - left}" '
    parts = [f'{clip}height="{bottom - top + 4}"/></clipPath>', _grid(x, y, frame)]
    for value, text in marks:
        place = x.place(value)
        if -0.01 <= place <= 1.01:
            at = frame.x(place)
            parts.append(f'<path class="mark" d="M{at:.1f} {top - 4}V{bottom}"/>')
            side = "end" if place > 0.85 else "start" if place < 0.15 else "middle"
            parts.append(f'<text class="note" x="{at:.1f}" y="{top - 9}" text-anchor="{side}">{escape(text)}</text>')
    parts.append(f'<g clip-path="url(#clip-{name})">')
    parts.extend(_curve(curve, x, y, frame) for curve in curves)
    parts.append("</g>")
    if direct_labels:
        parts.append(_labels(curves, x, y, frame))
    return "".join(parts)


def _grid(x: Axis, y: Axis, frame: Frame) -> str:
    left, right, bottom = frame.left, frame.width - frame.right, frame.height - frame.bottom
    lines, texts = [], []
    for value, text in y.ticks:
        at = frame.y(y.place(value))
        lines.append(f"M{left} {at:.1f}H{right}")
        texts.append(f'<text x="{left - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        at = frame.x(x.place(value))
        lines.append(f"M{at:.1f} {bottom}v4")
        texts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')
    middle = (left + right) / 2
    caption = (
        f'<text class="axis" x="{middle:.1f}" y="{frame.height - 5}" text-anchor="middle">{escape(x.title)}</text>'
    )
    return f'<path class="grid" d="{"".join(lines)}"/><g class="ticks">{"".join(texts)}{caption}</g>'


def _curve(curve: Curve, x: Axis, y: Axis, frame: Frame) -> str:
    points = [point for point in curve.points if math.isfinite(point.y) and (y.kind == "linear" or point.y > 0)]
    places = [(frame.x(x.place(point.x)), _vertical(point.y, y, frame)) for point in points]
    data = "".join(f' data-{key}="{value}"' for key, value in curve.data.items())
    classes = f"line c{curve.color % COLORS} d{curve.dash % DASHES}"
    classes += " hollow" if curve.color >= COLORS else ""
    classes += "" if curve.shown else " off"
    classes += " dense" if len(points) > MOST_DOTS else ""
    path = "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
    circles = "".join(
        f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2.6"{_told(point, y, frame)}/>'
        for point, (across, down) in zip(points, places, strict=True)
    )
    body = f'{_band(points, x, y, frame)}<path class="stroke" d="M{path}"/>{circles}' if points else ""
    names = (
        f'data-label="{escape(curve.label, quote=True)}" data-short="{escape(curve.short or curve.label, quote=True)}"'
    )
    return f'<g class="{classes}" {names}{data}>{body}</g>'


def _told(point: Point, y: Axis, frame: Frame) -> str:
    """What the page's script reads of a point: words, its length, and the ends of its interval in the chart."""
    told = f' data-x="{escape(point.name, quote=True)}" data-t="{escape(point.text, quote=True)}"'
    if point.length is not None:
        told += f' data-length="{point.length}"'
    if _has_band(point, y):
        low, high = (_vertical(end or 0.0, y, frame) for end in (point.low, point.high))
        told += f' data-low="{low:.1f}" data-high="{high:.1f}"'
    return told


def _has_band(point: Point, y: Axis) -> bool:
    return point.low is not None and point.high is not None and (y.kind == "linear" or point.low > 0)


def _band(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> str:
    edges = [
        (frame.x(x.place(point.x)), _vertical(point.low or 0.0, y, frame), _vertical(point.high or 0.0, y, frame))
        for point in points
        if _has_band(point, y)
    ]
    if len(edges) < 2:
        return ""
    upper = "L".join(f"{across:.1f} {high:.1f}" for across, _, high in edges)
    lower = "L".join(f"{across:.1f} {low:.1f}" for across, low, _ in reversed(edges))
    return f'<path class="band" d="M{upper}L{lower}Z"/>'


def _vertical(value: float, y: Axis, frame: Frame) -> float:
    return frame.y(min(y.place(value), 3.0)) if math.isfinite(value) else frame.y(3.0)


def _labels(curves: Sequence[Curve], x: Axis, y: Axis, frame: Frame, gap: float = 15.0) -> str:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    ends = []
    for curve in curves:
        points = [point for point in curve.points if math.isfinite(point.y)]
        if points:
            last = max(points, key=lambda point: point.x)
            inside = min(max(y.place(last.y), 0.0), 1.0)
            ends.append((frame.y(inside), frame.x(x.place(last.x)), curve))
    ends.sort(key=lambda end: end[0])
    places = _spread([end[0] for end in ends], gap, frame.top, frame.height - frame.bottom)
    parts = []
    edge = frame.width - frame.right
    for (down, across, curve), place in zip(ends, places, strict=True):
        classes = f"c{curve.color % COLORS} d{curve.dash % DASHES}"
        leader = f"M{across + 4:.1f} {down:.1f}L{edge + 8} {place:.1f}h10"
        text = f'<text x="{edge + 22}" y="{place + 4:.1f}">{escape(curve.short or curve.label)}</text>'
        parts.append(f'<g class="label {classes}"><path class="leader" d="{leader}"/>{text}</g>')
    return "".join(parts)


def _spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` (ascending) moved so that neighbours are `gap` apart, all inside low..high if they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved
