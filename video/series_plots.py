"""Plots of numbers of frames: stacked bars of what each frame took, and a line of how good each is."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .axes import Plot, frames_axis, usual_end
from .canvas import FAINT, SCALE, SERIES, WIDTH, Mark, heading, key, plain

LINE_COLOUR = SERIES[1]
_LEAST_BAR = 3.0  # pixels


def bar_chart(
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    text: Callable[[float], str] = plain,
    width: float = WIDTH,
    height: float = 110,
    scale: int = SCALE,
) -> np.ndarray:
    """Stacked bars, one for each frame, or for a few neighbouring frames (their mean) where there are many.

    series: name -> a number of at least 0 for each frame; all of one length. Names with only zeros are left out. A few
    bars that are far higher than the others are cut off, and the plot says so.
    """
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in series.items() if np.any(values)}
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(series) if name in rows}
    count = len(next(iter(series.values())))
    bins = np.array_split(np.arange(count), max(1, min(count, int((width - 40) / _LEAST_BAR))))
    totals = [sum(float(values[part].mean()) for values in rows.values()) for part in bins]
    end = usual_end(totals)
    note = f"up to {text(round(max(totals), 4))}, cut off" if max(totals) > end else ""
    size = {"width": width, "height": height, "scale": scale}
    plot = Plot(y=(0.0, end), y_name=note, y_text=text, **size, **frames_axis(count))
    gap = 0.5 if len(bins) * 6 < plot.right - plot.left else 0.0
    for part in bins:
        level, left, right = 0.0, plot.x(float(part[0])) + gap, plot.x(float(part[-1] + 1)) - gap
        for name, values in rows.items():
            value = float(values[part].mean())
            plot.canvas.box(left, plot.y(level + value), right, plot.y(level), colours[name])
            level += value
    marks = [Mark(name, colour) for name, colour in colours.items()]
    return np.concatenate([key(marks, width, title=title, scale=scale), plot.canvas.picture()])


def line_plot(
    values: Sequence[float],
    *,
    title: str,
    unit: str,
    width: float = WIDTH,
    height: float = 170,
    scale: int = SCALE,
) -> np.ndarray:
    """One number for each frame as a line, with the mean as a dashed one; a band where frames share a pixel."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 1 or points.size == 0 or not np.isfinite(points).all():
        raise ValueError(f"Invalid values to plot: {points.size} of them. They are finite numbers, at least one.")
    low, high, mean = float(points.min()), float(points.max()), float(points.mean())
    spread = max(high - low, 1e-3 * abs(high), 1.0)
    ends = (low - 0.1 * spread, high + 0.1 * spread)
    plot = Plot(y=ends, y_name=unit, width=width, height=height, scale=scale, **frames_axis(points.size))
    plot.canvas.dashes((plot.left, plot.y(mean)), (plot.right, plot.y(mean)), FAINT, 1.2)
    plot.curve(points.tolist(), LINE_COLOUR)
    label = f"{title}: mean {mean:.2f} {unit}" + (f", {low:.2f} to {high:.2f}" if points.size > 1 else "")
    return np.concatenate([heading(label, width, scale=scale), plot.canvas.picture()])
