"""A plot of where a clip moves: the motion of each frame as a curve, which were kept, and where shots begin."""

from collections.abc import Sequence

import numpy as np

from .axes import Plot, end_of, plain
from .canvas import SERIES, WIDTH, Mark, heading, key, stacked
from .timeline import FrameTimeline

KEPT, MOTION, SHOT = SERIES[0], SERIES[1], SERIES[4]
_GRADUAL = (70, 58, 100)
_TICK = 12.0  # height of the mark of a kept frame
_LEAST = 0.1  # grey levels: the end of the axis where nothing moves
_SHOWN = 0.98  # of the frames are not cut off at the top of the plot, unless they move hardly more than those


def motion_plot(
    energy: np.ndarray | Sequence[float], timeline: FrameTimeline, *, width: float = WIDTH, height: float = 180
) -> np.ndarray:
    """uint8 `[H, W, 3]`: time across, motion up. `energy` has a number of at least 0 for each source frame.

    Few very large values, as of cuts, are cut off. Raises ValueError where the numbers are not those of the frames.
    """
    values = np.asarray(energy, dtype=np.float64)
    count = len(timeline.source_pts)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"Invalid energy of shape {values.shape}. It is a number of at least 0 for {count} frames.")
    usual = float(np.quantile(values, _SHOWN))
    peak = max(float(values.max()) if values.max() < 1.5 * usual else usual, _LEAST)
    seconds = [float((pts - timeline.source_pts[0]) * timeline.time_base) for pts in timeline.source_pts]
    ends = [*seconds[1:], float(timeline.duration)]
    plot = Plot(
        (0.0, ends[-1]),
        (0.0, end_of(peak)),
        x_name="seconds",
        y_name="grey levels of motion" + (", the highest cut off" if values.max() > end_of(peak) else ""),
        width=width,
        height=height,
        under=_TICK + 2,
    )
    canvas = plot.canvas
    for first, last, _ in timeline.transitions:
        canvas.box(plot.x(seconds[first]), plot.top, plot.x(ends[last]), plot.bottom, _GRADUAL)
        canvas.box(plot.x(seconds[first]), plot.top, plot.x(ends[last]), plot.top + 3, SHOT)
    _draw_curve(plot, values, seconds, ends)
    for begin in timeline.shots[1:]:
        canvas.line([(plot.x(seconds[begin]), plot.top - 4), (plot.x(seconds[begin]), plot.bottom)], SHOT, 1.5)
    for frame in timeline.kept:
        x = plot.x(seconds[frame])
        canvas.line([(x, plot.bottom + 2), (x, plot.bottom + 2 + _TICK)], KEPT, 1)
    changes = len(timeline.shots) - 1
    gradual = f", {len(timeline.transitions)} gradual" if timeline.transitions else ""
    marks = [
        Mark("motion", MOTION),
        Mark("kept frames", KEPT),
        Mark(f"{changes} {'change' if changes == 1 else 'changes'} of shot{gradual}", SHOT),
    ]
    title = f"{len(timeline.kept):,} of {count:,} frames kept, {plain(round(ends[-1], 2))} s"
    return stacked([heading(title, width), key(marks, width), canvas.picture()])


def _draw_curve(plot: Plot, values: np.ndarray, seconds: Sequence[float], ends: Sequence[float]) -> None:
    """The area under the curve: a column for each frame, or the largest value where several share half a pixel."""
    heights: dict[int, float] = {}
    for value, begin, end in zip(values.tolist(), seconds, ends, strict=True):
        first, last = round(2 * plot.x(begin)), round(2 * plot.x(end))
        for column in range(first, max(first + 1, last)):
            heights[column] = max(heights.get(column, 0.0), value)
    for column, value in heights.items():
        plot.canvas.box(column / 2, plot.y(value), column / 2 + 0.5, plot.bottom, MOTION)
