"""Plots as SVG text: lines and bars with axes, readable on light and dark pages, told apart by colour, dash and mark.

Colours are CSS variables (`--ink`, `--faint`, `--grid`, `--s0` to `--s5`) that the page sets for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 46
_DASHES = ("", "", "7 3", "2 3", "8 3 2 3", "4 4")
_LETTER = 7.0  # pixels, about, of a letter of the labels


@dataclass(frozen=True)
class Line:
    """A named series of (x, y) points, drawn in style number `style`; `strong` lines stand out."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    strong: bool = False


class Axes:
    """A frame with numbers at its sides; gives the place of a value."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], *, log_x: bool = False, height: int = HEIGHT
    ) -> None:
        self.x, self.y, self.log_x, self.height = x, y, log_x, height
        self.right, self.bottom = WIDTH - _RIGHT, height - _BOTTOM

    def across(self, value: float) -> float:
        """Pixels from the left."""
        low, high = (math.log(v) for v in self.x) if self.log_x else self.x
        share = ((math.log(value) if self.log_x else value) - low) / (high - low)
        return round(_LEFT + share * (self.right - _LEFT), 1)

    def down(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.bottom - share * (self.bottom - _TOP), 1)

    def frame(self, x_label: str, y_label: str) -> list[str]:
        """Grid, numbers and the names of both axes."""
        parts = []
        for value in _log_ticks(*self.x) if self.log_x else ticks(*self.x):
            x = self.across(value)
            parts.append(f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{self.bottom}"/>')
            parts.append(_text(x, self.bottom + 18, f"{value:g}", "faint", "middle"))
        for value in ticks(*self.y):
            y = self.down(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{self.right}" y2="{y}"/>')
            parts.append(_text(_LEFT - 8, y + 4, f"{value:,g}", "faint", "end"))
        parts.append(_text((_LEFT + self.right) / 2, self.height - 8, x_label, "ink", "middle"))
        middle = (_TOP + self.bottom) / 2
        turned = f'transform="translate(14 {middle}) rotate(-90)"'
        parts.append(f'<text class="ink" text-anchor="middle" {turned}>{escape(y_label)}</text>')
        return parts


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    step = next(
        base * 10.0**power
        for power in range(-4, 10)
        for base in (1, 2, 5)
        if (high - low) / (base * 10.0**power) <= about
    )
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [base * 10.0**d for d in decades for base in (1, 2, 5) if low <= base * 10.0**d <= high * 1.0001]


def line_plot(lines: Sequence[Line], *, x_label: str, y_label: str, log_x: bool = False, title: str) -> str:
    """Lines with marks and a key under the plot; a line of one point is a mark only."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x = (min(xs) / 1.15, max(xs) * 1.15) if log_x else (min(xs), max(max(xs), min(xs) + 1))
    axes = Axes(x, _padded(ys), log_x=log_x)
    parts = axes.frame(x_label, y_label)
    for line in sorted(lines, key=lambda each: each.strong):
        places = [(axes.across(px), axes.down(py)) for px, py in line.points]
        colour, width = f"var(--s{line.style})", 3 if line.strong else 1.8
        path = " ".join(f"{px},{py}" for px, py in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{_DASHES[line.style]}"/>'
        )
        parts.extend(_mark(line, px, py) for px, py in places)
    return _svg(parts, axes.height, title) + _key(lines)


def bar_plot(
    values: Sequence[float], *, marked: Sequence[int], cuts: Sequence[int], level: float, x_label: str, title: str
) -> str:
    """A bar per frame; `marked` ones in another colour, dashed lines before `cuts`, a line across at `level`."""
    axes = Axes((0, len(values)), (0, max(level, *values) * 1.08), height=260)
    parts = axes.frame(x_label, "tokens")
    width = axes.across(1) - axes.across(0)
    for i, value in enumerate(values):
        top = axes.down(value)
        colour = "var(--s1)" if i in set(marked) else "var(--s0)"
        parts.append(
            f'<rect x="{axes.across(i) + 0.08 * width:.1f}" y="{top}" width="{0.84 * width:.1f}" '
            f'height="{max(axes.bottom - top, 0.8):.1f}" fill="{colour}"/>'
        )
    y = axes.down(level)
    parts.append(f'<line class="rule" x1="{_LEFT}" y1="{y}" x2="{axes.right}" y2="{y}"/>')
    for cut in cuts:
        x = axes.across(cut)
        parts.append(f'<line class="cut" x1="{x}" y1="{_TOP}" x2="{x}" y2="{axes.bottom}"/>')
        parts.append(_text(x - 4, _TOP + 30, "cut", "faint", "end"))
    parts.append(_text(axes.right - 4, y - 5, f"every frame for itself: {level:,.0f}", "ink", "end"))
    return _svg(parts, axes.height, title)


def frame_plot(values: Sequence[float], *, x_label: str, y_label: str, title: str) -> str:
    """One number per frame as a line."""
    axes = Axes((0, len(values)), _padded(values), height=200)
    points = " ".join(f"{axes.across(i + 0.5)},{axes.down(value)}" for i, value in enumerate(values))
    line = f'<polyline points="{points}" fill="none" stroke="var(--s0)" stroke-width="2"/>'
    dot = f'<circle cx="{axes.across(0.5)}" cy="{axes.down(values[0])}" r="3" fill="var(--s0)"/>'
    return _svg([*axes.frame(x_label, y_label), line, dot], axes.height, title)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.5)
    return low - margin, high + margin


def _mark(line: Line, x: float, y: float) -> str:
    colour, size = f"var(--s{line.style})", 5.5 if line.strong else 3.5
    if line.style % 3 == 0:
        return f'<circle cx="{x}" cy="{y}" r="{size}" fill="{colour}"/>'
    if line.style % 3 == 1:
        corners = [(x, y - 1.3 * size), (x + 1.3 * size, y), (x, y + 1.3 * size), (x - 1.3 * size, y)]
        return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" fill="{colour}"/>'
    return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}" fill="{colour}"/>'


def _key(lines: Sequence[Line]) -> str:
    """The names of the lines, each beside a piece of it."""
    x, y, parts = 0.0, 14.0, []
    for line in lines:
        width = 46 + _LETTER * len(line.name)
        if x and x + width > WIDTH:
            x, y = 0.0, y + 22
        colour = f"var(--s{line.style})"
        if len(line.points) > 1:
            parts.append(
                f'<line x1="{x}" y1="{y}" x2="{x + 30}" y2="{y}" stroke="{colour}" '
                f'stroke-width="{3 if line.strong else 1.8}" stroke-dasharray="{_DASHES[line.style]}"/>'
            )
        parts.append(_mark(line, x + 15, y))
        parts.append(_text(x + 36, y + 4, line.name, "ink", "start"))
        x += width + 12
    return _svg(parts, round(y + 12), "key")


def _text(x: float, y: float, text: str, css: str, anchor: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
