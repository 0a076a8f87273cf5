"""A plot of the layers of a model: one bar for each, as high as its error, coloured by what became of it."""

from collections.abc import Sequence

import numpy as np

from .axes import Plot, frames_axis, share, usual_end
from .canvas import SERIES, TEXT, WIDTH, Mark, heading, key, stacked

_LEAST = 1.5  # pixels of a bar: a layer without an error is still seen


def layer_plot(errors: Sequence[float], kinds: Sequence[str], *, title: str, width: float = WIDTH) -> np.ndarray:
    """uint8 `[H, W, 3]`: errors are shares of at least 0, kinds what each layer is named by.

    A few errors that are far higher than the others are cut off, and the plot says so. One that is no number is drawn
    as a frame, and counted in the key. ValueError where there is not one for each of the same layers, where one is
    below 0, or there is no layer.
    """
    values = np.asarray(errors, dtype=np.float64)
    if not len(values) or len(values) != len(kinds) or (values < 0).any():
        raise ValueError(
            f"Invalid errors of {len(values)} layers, {len(kinds)} kinds. Give one of at least 0 for each."
        )
    known = np.isfinite(values)
    axis = {**frames_axis(len(values)), "x_name": "layer, from the first"}
    largest, most = float(values[known].max(initial=0)), usual_end(values[known])
    name = "relative error" + (f", up to {share(round(largest, 5))}, cut off" if largest > most else "")
    plot = Plot(y=(0.0, most), y_name=name, y_text=share, width=width, **axis)
    names = list(dict.fromkeys(kinds))
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}
    gap = 0.5 if len(values) * 6 < plot.right - plot.left else 0.0
    for index, (value, kind) in enumerate(zip(values.tolist(), kinds, strict=True)):
        left, right = plot.x(index), plot.x(index + 1)
        right = max(right - gap, left + 0.5)
        if known[index]:
            plot.canvas.box(left + gap, min(plot.y(value), plot.bottom - _LEAST), right, plot.bottom, colours[kind])
        else:
            plot.canvas.box(left + gap, plot.top, right, plot.bottom, TEXT, filled=False)
    marks = [Mark(name, colours[name]) for name in names]
    if not known.all():
        marks.append(Mark(f"no number ({(~known).sum()})", TEXT, filled=False))
    return stacked([heading(title[:1].upper() + title[1:], width), key(marks, width), plot.canvas.picture()])
