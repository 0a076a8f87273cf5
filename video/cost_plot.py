"""A plot of what each of several ways costs: one bar for each, in parts, the longest as long as the plot."""

from collections.abc import Mapping, Sequence

import numpy as np

from .canvas import FAINT, LINE, SERIES, TEXT, WIDTH, Canvas, Mark, heading, key, stacked

COLOURS = SERIES[:5]
"""Of the parts in their order."""
_BAR = 9  # pixels that a bar is high
_ROW = LINE + _BAR + 5  # pixels of a name and its bar
_VALUE = 48  # pixels right of the longest bar, for its number
_INDENT = 12  # pixels; before the name of the chosen one stands a mark


def cost_plot(
    names: Sequence[str], parts: Mapping[str, Sequence[float]], *, title: str, chosen: int, width: float = WIDTH
) -> np.ndarray:
    """uint8 `[H, W, 3]`: a bar under each name, stacked of the parts, with its length in percent of the longest.

    parts: name -> a number of at least 0 for each bar; at most five. The row `chosen` is marked and bright. ValueError
    where numbers and names do not fit together.
    """
    values = np.array([*parts.values()], dtype=np.float64)  # [parts, bars]
    if values.ndim != 2 or not 0 < values.shape[0] <= len(COLOURS) or values.shape[1] != len(names):
        raise ValueError(f"Invalid parts of shape {values.shape}. Give up to {len(COLOURS)}, for {len(names)} bars.")
    totals = values.sum(0)
    if not np.isfinite(values).all() or (values < 0).any() or not totals.max() > 0:
        raise ValueError("Invalid costs to plot. They are numbers of at least 0, not all of them 0.")
    canvas = Canvas(width, _ROW * len(names))
    for row, name in enumerate(names):
        top, ink = _ROW * row, TEXT if row == chosen else FAINT
        percent = f"{totals[row] / totals.max():.1%}"
        if row == chosen:
            canvas.mark("disc", 4, top + LINE / 2, 3.5, TEXT)
        canvas.text(_INDENT, top + LINE / 2, name, ink, room=width - _INDENT)
        x = float(_INDENT)
        for value, colour in zip(values[:, row], COLOURS, strict=False):
            end = x + value / totals.max() * (width - _INDENT - _VALUE)
            canvas.box(x, top + LINE, end, top + LINE + _BAR, colour)
            x = end
        canvas.text(x + 4, top + LINE + _BAR / 2, percent, ink)
    marks = [Mark(part, colour) for part, colour in zip(parts, COLOURS, strict=False)]
    return stacked([heading(title, width), key([*marks, Mark("chosen", TEXT, "disc")], width), canvas.picture()])
