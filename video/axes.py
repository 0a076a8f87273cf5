"""The inside of a plot: where values lie, lines at round numbers, the numbers, and what both directions mean."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .canvas import (
    FAINT,
    GRID,
    LINE,
    SCALE,
    TEXT,
    WIDTH,
    Canvas,
    Colour,
    log_ticks,
    plain,
    text_width,
    thinned,
    ticks,
)

Range = tuple[float, float]

_TICK = 4.0  # pixels between a number and the plot
_SIDE = 8.0  # pixels right of a plot
_DENSE = 2.0  # values for each pixel across, from which on a band is drawn instead of a line


class Plot:
    """A plot of `width` x `height` with numbers at its left and under it, to be drawn into.

    x, y: (lowest, highest) value. The names of the axes stand above the numbers at the left, and under the others.
    `x_ticks` replaces round numbers, `x_text` and `y_text` write them. `under` pixels are left free under the plot.
    """

    def __init__(
        self,
        x: Range,
        y: Range,
        *,
        x_name: str,
        y_name: str,
        width: float = WIDTH,
        height: float = 150,
        scale: int = SCALE,
        log_x: bool = False,
        x_text: Callable[[float], str] = plain,
        y_text: Callable[[float], str] = plain,
        x_ticks: Sequence[float] | None = None,
        under: float = 0,
    ) -> None:
        self.x_range, self.y_range, self.log_x = x, y, log_x
        self.canvas = Canvas(width, height, scale=scale)
        levels = ticks(*y, most=max(2, int(height / 30)))
        labels = [y_text(level) for level in levels]
        self.left = max(text_width(label) for label in labels) + _TICK + 1
        self.top, self.right = LINE + _TICK if y_name else LINE / 2, width - _SIDE
        self.bottom = height - 2 * LINE - under
        self.canvas.text(0, LINE / 2 - 1, y_name, FAINT, room=width)
        for level, label in zip(levels, labels, strict=True):
            y_place = self.y(level)
            self.canvas.line([(self.left, y_place), (self.right, y_place)], GRID)
            self.canvas.text(self.left - _TICK, y_place, label, FAINT, "rm")
        self._label_x(x_ticks, x_text, under)
        self.canvas.text((self.left + self.right) / 2, height - LINE / 2, x_name, FAINT, "mm", room=width)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = map(math.log, self.x_range) if self.log_x else self.x_range
        share = ((math.log(value) if self.log_x else value) - low) / (high - low)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top; values beyond the ends lie at the ends."""
        return min(max(self.unbound_y(value), self.top), self.bottom)

    def unbound_y(self, value: float) -> float:
        """Pixels from the top, outside of the plot for values beyond the ends."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def level(self, value: float, name: str, ink: Colour = TEXT) -> None:
        """A dashed line across, with its name at its right end, above it where there is room."""
        y = self.y(value)
        self.canvas.dashes((self.left, y), (self.right, y), ink, 1.2)
        above = y - self.top > LINE
        self.canvas.text(self.right - 2, y - 2 if above else y + 3, name, ink, "rb" if above else "ra")

    def curve(self, values: Sequence[float], ink: Colour) -> None:
        """One value for each whole number across, from 0 on, in the middle of its place.

        Where there are more than the plot has pixels, the lowest and the highest of each pixel are joined.
        """
        points = np.asarray(values, dtype=np.float64)
        span = int(self.right - self.left)
        if points.size <= _DENSE * span:
            places = [(self.x(index + 0.5), self.y(value)) for index, value in enumerate(points.tolist())]
            self.canvas.line(places, ink, 1.5)
            if points.size <= span / 8:
                for x, y in places:
                    self.canvas.mark("disc", x, y, 2, ink)
            return
        for part in np.array_split(np.arange(points.size), span):
            x, low, high = self.x(float(part.mean()) + 0.5), points[part].min(), points[part].max()
            self.canvas.line([(x, self.y(low) + 0.5), (x, self.y(high) - 0.5)], ink, 1)

    def _label_x(self, wanted: Sequence[float] | None, words: Callable[[float], str], under: float) -> None:
        low, high = self.x_range
        values = wanted if wanted is not None else log_ticks(low, high) if self.log_x else ticks(low, high, most=6)
        labels = [words(value) for value in values]
        widths = [text_width(label) for label in labels]
        # at the ends numbers move inwards, so that nothing is cut off
        places = [
            min(max(self.x(value), width / 2), self.canvas.width - width / 2)
            for value, width in zip(values, widths, strict=True)
        ]
        y = self.bottom + under + LINE / 2
        for index in thinned(places, widths):
            self.canvas.text(places[index], y, labels[index], FAINT, "mm")
        if self.log_x:
            for value in values:
                self.canvas.line([(self.x(value), self.top), (self.x(value), self.bottom)], GRID)


def frames_axis(count: int) -> dict[str, Any]:
    """How `Plot` is told that `count` frames, or other things that are counted from 0, are across."""
    wanted = [tick for tick in ticks(0, max(count - 1, 1), most=6) if tick == int(tick) and tick < count]
    places = [tick + 0.5 for tick in wanted]
    return {"x": (0.0, float(count)), "x_name": "frame", "x_ticks": places, "x_text": lambda place: plain(place - 0.5)}


def usual_end(values: Sequence[float] | np.ndarray, most: float = 3.0) -> float:
    """The end of an axis from 0 on which most values are seen well, the last few percent perhaps cut off.

    That is done where the largest is more than `most` times what nine of ten do not exceed.
    """
    numbers = np.asarray(values, dtype=np.float64)
    largest, usual = float(numbers.max(initial=0)), 0.0
    if numbers.size > 1:
        usual = float(np.quantile(numbers, 0.9, method="lower"))
    return end_of(max(1.5 * usual, largest / 50) if largest > most * usual > 0 else largest)


def share(value: float) -> str:
    """A share as the text of an axis."""
    return f"{100 * value:g} %"


def end_of(most: float) -> float:
    """The next number after `most` that is 1, 1.2, 1.5, 2, ... times a power of ten: the end of an axis; 1 for 0."""
    if not most > 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(step * unit for step in steps if step * unit >= most * (1 - 1e-9))
