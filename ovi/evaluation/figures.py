"""Plots as inline SVG text: lines, bars, dots on an axis, a share with its interval.

Colours are CSS classes (`video`, `audio`, `plain`, ...) that the page defines, so a plot follows its light or dark
theme. It does not know what is plotted. No script, no outside file, equal input gives equal text.
Try it: `python -c "from ovi.evaluation.figures import *; print(bars([Bar('own sound', 'video', 0.9)]))"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
WIDTH = 420.0  # of a plot that shares its row
WIDE = 900.0


@dataclass(frozen=True)
class Line:
    """A curve: its CSS class and its points; `faint` ones are drawn thin and behind."""

    kind: str
    points: Sequence[Point]
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """Values to pixels along one direction."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Row:
    """One line of a dot plot: a label and its values; more than `DOTS` values are drawn as a histogram."""

    label: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A labelled value, with a few words after it."""

    label: str
    kind: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Span:
    """A value with its interval on an axis of its own, and the single values behind it."""

    label: str
    note: str
    value: float
    low: float
    high: float
    values: Sequence[float]


DOTS = 80  # above this many values dots hide each other


def lines(series: Sequence[Line], x_label: str, height: float = 190.0, width: float = WIDTH) -> str:
    """Curves over one x axis with their ends marked; the y axis spans what is drawn, not zero."""
    drawn = [line for line in series if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_axis = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, 44, width - 52)
    low, high = padded(min(ys), max(ys))
    y_axis = Axis(low, high, height - 32, 10)
    parts = [_grid(y_axis, x_axis)]
    x_ticks = ticks(x_axis.low, x_axis.high, 5)
    parts += [text(x_axis(tick), height - 13, number(tick), "tick", "middle") for tick in x_ticks]
    parts.append(text(x_axis.end + 20, height - 13, x_label, "tick"))
    for line in sorted(drawn, key=lambda line: not line.faint):
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.kind}{" faint" if line.faint else ""}" points="{path}"/>')
        if line.faint:
            continue
        for x, y in (line.points[0], line.points[-1]):
            parts.append(f'<circle class="fill {line.kind}" cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="3"/>')
        x, y = line.points[-1]
        parts.append(text(x_axis(x) + 8, y_axis(y) + 4, fixed(y), f"value {line.kind}"))
    return svg(width, height, parts)


def bars(rows: Sequence[Bar], width: float = WIDTH) -> str:
    """Horizontal bars from zero with their values at the end."""
    label, step = 150.0, 26.0
    axis = Axis(0, max(row.value for row in rows) or 1.0, label, width - 96)
    parts = []
    for index, row in enumerate(rows):
        y = 4 + index * step
        parts.append(text(label - 10, y + 15, row.label, "tick", "end"))
        parts.append(f'<rect class="fill {row.kind}" x="{label}" y="{y:.1f}" rx="2" '
                     f'width="{max(axis(row.value) - label, 1):.1f}" height="18"/>')  # fmt: skip
        parts.append(text(axis(row.value) + 7, y + 14, fixed(row.value), "value"))
        parts.append(text(axis(row.value) + 44, y + 14, row.note, "tick"))
    return svg(width, 8 + step * len(rows), parts)


def dots(rows: Sequence[Row], x_label: str, width: float = WIDE) -> str:
    """Values of several groups over one axis: a dot each, a histogram where there are many, a tick at the mean."""
    label, step = 190.0, 58.0
    values = [value for row in rows for value in row.values]
    low, high = padded(min(values), max(values))
    axis = Axis(low, high, label, width - 20)
    bottom = step * len(rows) + 4
    parts = []
    for tick in ticks(low, high, 6):
        parts.append(f'<path class="grid" d="M{axis(tick):.1f} 4V{bottom:.1f}"/>')
        parts.append(text(axis(tick), bottom + 15, number(tick), "tick", "middle"))
    parts.append(text(axis.end, bottom + 31, x_label, "tick", "end"))
    for index, row in enumerate(rows):
        base = 4 + (index + 1) * step - 8
        parts.append(text(label - 14, base - 22, row.label, "name", "end"))
        parts.append(text(label - 14, base - 6, f"{len(row.values)} pairs", "tick", "end"))
        parts.append(_histogram(row, axis, base) if len(row.values) > DOTS else _swarm(row, axis, base))
        if row.values:
            mean = axis(float(np.mean(row.values)))
            parts.append(f'<path class="mean" d="M{mean:.1f} {base - 42:.1f}V{base + 4:.1f}"/>')
    return svg(width, bottom + 36, parts)


def interval(value: float, low: float, high: float, marks: dict[str, float], kind: str, width: float = WIDE) -> str:
    """A share between 0 and 1 with its interval, and named marks (chance, real clips) on the same axis."""
    axis = Axis(0.0, 1.0, 14, width - 14)
    y = 44.0
    parts = [f'<path class="axis" d="M{axis.start} {y}H{axis.end}"/>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="axis" d="M{axis(tick):.1f} {y - 4}V{y + 4}"/>')
        parts.append(text(axis(tick), y + 20, number(tick), "tick", "middle"))
    for name, at in marks.items():
        parts.append(f'<path class="mark" d="M{axis(at):.1f} {y - 18}V{y + 8}"/>')
        parts.append(text(axis(at), y - 24, name, "tick", "end" if at > 0.85 else "middle"))
    parts.append(f'<path class="span {kind}" d="M{axis(low):.1f} {y}H{max(axis(high), axis(low) + 1):.1f}"/>')
    parts.append(f'<circle class="fill {kind} ring" cx="{axis(value):.1f}" cy="{y}" r="6.5"/>')
    return svg(width, 72, parts)


def spans(rows: Sequence[Span], width: float = WIDE) -> str:
    """A line a value: its interval as a bar, single values as thin ticks; each row spans what it shows, not zero."""
    label, step = 310.0, 44.0
    parts = []
    for index, row in enumerate(rows):
        y = 20 + index * step
        low, high = padded(min(row.low, row.value, *row.values), max(row.high, row.value, *row.values))
        axis = Axis(low, high, label, width - 90)
        parts.append(text(label - 14, y + 2, row.label, "name", "end"))
        parts.append(text(label - 14, y + 17, row.note, "tick", "end"))
        parts.append(f'<path class="axis" d="M{axis.start} {y}H{axis.end}"/>')
        parts += [f'<path class="grid" d="M{axis(value):.1f} {y - 9}V{y + 9}"/>' for value in row.values]
        parts.append(
            f'<path class="span video" d="M{axis(row.low):.1f} {y}H{max(axis(row.high), axis(row.low) + 1):.1f}"/>'
        )
        parts.append(f'<circle class="fill video ring" cx="{axis(row.value):.1f}" cy="{y}" r="6"/>')
        parts += [text(axis(end), y + 17, number(end), "tick", "middle") for end in dict.fromkeys((row.low, row.high))]
        parts.append(text(axis.end + 12, y + 4, fixed(row.value), "value"))
    return svg(width, 12 + step * len(rows), parts)


def changes(rows: Sequence[Span], width: float = WIDE) -> str:
    """A line a change with its interval, all on one axis with a mark at none."""
    label, step = 310.0, 34.0
    ends = [end for row in rows for end in (row.low, row.high, row.value)]
    axis = Axis(*padded(min(0.0, *ends), max(0.0, *ends)), label, width - 90)
    bottom = 14 + step * len(rows)
    parts = []
    for tick in ticks(axis.low, axis.high, 5):
        parts.append(f'<path class="grid" d="M{axis(tick):.1f} 4V{bottom}"/>')
        parts.append(text(axis(tick), bottom + 15, number(tick), "tick", "middle"))
    parts.append(f'<path class="axis" d="M{axis(0):.1f} 4V{bottom}"/>')
    for index, row in enumerate(rows):
        y = 22 + index * step
        parts.append(text(label - 14, y + 4, row.label, "name", "end"))
        parts.append(
            f'<path class="span video" d="M{axis(row.low):.1f} {y}H{max(axis(row.high), axis(row.low) + 1):.1f}"/>'
        )
        parts.append(f'<circle class="fill video ring" cx="{axis(row.value):.1f}" cy="{y}" r="6"/>')
        parts.append(text(axis.end + 12, y + 4, number(row.value), "value"))
    return svg(width, bottom + 24, parts)


def envelope(audio: NDArray[np.floating], columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest sample of each of `columns` equal stretches, clipped to [-1, 1]."""
    starts = np.arange(columns) * len(audio) // columns
    clipped = np.clip(audio, -1, 1).astype(np.float64)
    return np.minimum.reduceat(clipped, starts), np.maximum.reduceat(clipped, starts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values within [low, high]."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power) if step >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(low: float, high: float) -> tuple[float, float]:
    """The range with a twentieth of air on both sides; a range of nothing becomes one around it."""
    air = (high - low) / 20 or abs(high) / 20 or 1.0
    return low - air, high + air


def number(value: float) -> str:
    """A figure as a reader wants it: three significant digits, a true minus sign."""
    shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return shown.replace("-", "−")


def fixed(value: float) -> str:
    """A figure beside others like it: always three significant digits, 1.70 and not 1.7."""
    return f"{value:#.3g}".rstrip(".").replace("-", "−") if abs(value) < 1000 else number(value)


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px;min-width:{0.62 * width:g}px"'
    return f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" role="img" {size}>{"".join(parts)}</svg>'


def _grid(y_axis: Axis, x_axis: Axis) -> str:
    rows = ticks(y_axis.low, y_axis.high, 4)
    return "".join(
        f'<path class="grid" d="M{x_axis.start} {y_axis(tick):.1f}H{x_axis.end}"/>'
        + text(x_axis.start - 8, y_axis(tick) + 4, number(tick), "tick", "end")
        for tick in rows
    )


def _histogram(row: Row, axis: Axis, base: float) -> str:
    counts, edges = np.histogram(row.values, bins=48, range=(axis.low, axis.high))
    tall = max(int(counts.max()), 1)
    return "".join(
        f'<rect class="fill {row.kind}" x="{axis(left) + 0.5:.1f}" y="{base - 38 * count / tall:.1f}" '
        f'width="{axis(right) - axis(left) - 1:.1f}" height="{38 * count / tall:.1f}"/>'
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    )


def _swarm(row: Row, axis: Axis, base: float) -> str:
    """Dots side by side; a dot that would touch the one before it is stacked upon it."""
    radius, placed, parts = 4.0, [-1e9] * 9, []
    for value in sorted(row.values):
        x = axis(value)
        floor = next((level for level, last in enumerate(placed) if x - last >= 2 * radius), len(placed) - 1)
        placed[floor] = x
        y = base - radius - floor * 2 * radius * 0.55
        parts.append(f'<circle class="fill {row.kind} dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')
    return "".join(parts)
