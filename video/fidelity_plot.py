"""Plots of what patches of a model cost: errors of its layers as bars, and errors of settings over their work."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .axes import Plot, end_of, frames_axis, share
from .canvas import FAINT, SERIES, SHAPES, TEXT, WIDTH, Mark, heading, key, stacked

COLOURS = (SERIES[1], SERIES[0], SERIES[2], SERIES[4])
"""Of the settings' kinds in their order; each has a shape of its own, too."""
BAR, WORST = SERIES[1], SERIES[0]
WISHED = TEXT
_MOST = 1.0  # of an error that is shown: nothing is left of what was there

Bar = tuple[float | None, float | None]
Point = tuple[float, float, bool]


def fidelity_plot(
    layers: Sequence[Bar],
    settings: Mapping[str, Sequence[Point]],
    *,
    wished: float,
    chosen: tuple[float, float] | None = None,
    width: float = WIDTH,
) -> np.ndarray:
    """uint8 `[H, W, 3]`, one plot for each of both that there is; a line of text where there is neither.

    layers: mean and worst error of each, None or NaN where it is no number. settings: kind -> (share of the work,
    error, whether it is faster than dense) of each one tried; those without a number are left out. The wished error is
    a dashed line, `chosen` is ringed. Errors above 1, or above what was wished where that is more, are at the top.
    """
    layers = [(_number(mean), _number(worst)) for mean, worst in layers]
    settings = {name: [point for point in some if math.isfinite(point[1])] for name, some in settings.items()}
    settings = {name: some for name, some in settings.items() if some}
    parts = []
    if layers:
        parts += [heading("Error of each layer", width), *_bars(layers, wished, width)]
    if settings:
        parts += [heading("Error of settings, over the work they leave", width)]
        parts += _curves(settings, wished, chosen, width)
    return stacked(parts or [heading("No layer was compared, and no setting tried.", width)])


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _most(errors: Sequence[float], wished: float) -> float:
    """The upper end of an axis of errors."""
    return end_of(max(1.25 * wished, min(max(errors, default=0.0), _MOST)))


def _bars(layers: Sequence[Bar], wished: float, width: float) -> list[np.ndarray]:
    known = [each for bar in layers for each in bar if each is not None]
    axis = {**frames_axis(len(layers)), "x_name": "layer of attention, from the first"}
    plot = Plot(y=(0.0, _most(known, wished)), y_name="relative error", width=width, **axis)
    canvas = plot.canvas
    gap = 0.5 if len(layers) * 6 < plot.right - plot.left else 0.0
    for index, (mean, worst) in enumerate(layers):
        left, right = plot.x(index) + gap, plot.x(index + 1) - gap
        if mean is None:
            canvas.box(left, plot.top, right, plot.bottom, TEXT, filled=False)
            continue
        canvas.box(left, plot.y(mean), right, plot.bottom, BAR)
        if worst:
            canvas.line([(left, plot.y(worst)), (right, plot.y(worst))], WORST, 2)
    plot.level(wished, "wished", WISHED)
    marks = [Mark("mean of the steps", BAR), Mark("worst step", WORST, "bar")]
    if any(mean is None for mean, _ in layers):
        marks.append(Mark("no number", TEXT, filled=False))
    return [key(marks, width), canvas.picture()]


def _curves(
    settings: Mapping[str, Sequence[Point]], wished: float, chosen: tuple[float, float] | None, width: float
) -> list[np.ndarray]:
    points = [point for each in settings.values() for point in each]
    ends = (0.0, max(1.0, *(point[0] for point in points))), (0.0, _most([point[1] for point in points], wished))
    plot = Plot(
        *ends, x_name="work of attention that is left", y_name="relative error", width=width, height=170, x_text=share
    )
    plot.level(wished, "wished", WISHED)
    marks = []
    for index, (name, some) in enumerate(settings.items()):
        colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index % len(COLOURS)]
        plot.canvas.line([(plot.x(work), plot.y(error)) for work, error, _ in sorted(some)], colour, 1.5)
        for work, error, faster in some:
            plot.canvas.mark(shape, plot.x(work), plot.y(error), 3.5, colour, filled=faster)
        marks.append(Mark(name, colour, shape))
    if not all(faster for _, _, faster in points):
        marks.append(Mark("slower than dense", FAINT, "disc", filled=False))
    if chosen is not None:
        plot.canvas.mark("ring", plot.x(chosen[0]), plot.y(chosen[1]), 7, TEXT)
        marks.append(Mark("recommended", TEXT, "ring", strong=True))
    return [key(marks, width), plot.canvas.picture()]
