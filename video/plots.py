"""A plot of rate-distortion curves: bits per pixel on a logarithmic axis, decibels, a shape and a colour for each."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from .axes import Plot
from .canvas import SERIES, SHAPES, WIDTH, Mark, heading, key, stacked
from .rate_curves import Point

COLOURS = SERIES
"""Of the curves in their order; each has a shape, too."""
_ABOVE, _BELOW = 5.0, 3.0  # dB shown around the curves that the plot is about


def rate_plot(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    about: Collection[str],
    notes: Mapping[str, str] | None = None,
    width: float = WIDTH,
    height: float = 250,
) -> np.ndarray:
    """uint8 `[H, W, 3]`: all curves, those named in `about` bold, with a key below.

    The axes show the qualities of `about` and some dB around them. `notes` are added to names in the key. Raises
    ValueError where `about` has no points.
    """
    shown = [point for name in about for point in curves.get(name, ())]
    if not shown:
        raise ValueError(f"No points for {', '.join(about) or 'any curve'}. Give at least one.")
    rates, decibels = _ranges(shown, [point for points in curves.values() for point in points])
    plot = Plot(
        rates,
        decibels,
        log_x=True,
        x_name="bits per pixel (up and left is better)",
        y_name="PSNR, dB",
        width=width,
        height=height,
    )
    marks = []
    with plot.canvas.inside(plot.left, plot.top, plot.right, plot.bottom):
        for index, (name, points) in enumerate(curves.items()):
            colour, shape, strong = COLOURS[index % len(COLOURS)], SHAPES[index % len(SHAPES)], name in about
            places = [(plot.x(point.bits_per_pixel), plot.unbound_y(point.psnr)) for point in points]
            plot.canvas.line(places, colour, 3 if strong else 1.5)
            for x, y in places:
                plot.canvas.mark(shape, x, y, 4 if strong else 3, colour)
            words = " ".join(filter(None, (name, (notes or {}).get(name, ""))))
            marks.append(Mark(words, colour, shape, strong=strong))
    return stacked([heading(title, width), plot.canvas.picture(), key(marks, width)])


def _ranges(about: Sequence[Point], all_points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(lowest, highest) bits per pixel of what is seen, and dB."""
    low = math.floor(min(point.psnr for point in about) - _BELOW)
    high = math.ceil(max(point.psnr for point in about) + _ABOVE)
    rates = [point.bits_per_pixel for point in all_points if low <= point.psnr <= high]
    return (min(rates) / 1.15, max(rates) * 1.15), (low, high)
