"""A plot of what each of several ways costs: one bar for each, in parts, the longest as long as the plot."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BACKGROUND, FAINT, SERIES, TEXT, Colour, heading

COLOURS: tuple[Colour, ...] = (SERIES[4], SERIES[3], SERIES[2], SERIES[0], SERIES[5])
"""Of the parts in their order."""
_ROW, _BAR = 26, 16  # pixels that a row and the bar in it are high
_VALUE = 72  # pixels to the right of the longest bar, for its number
_GAP = 10  # pixels


def cost_plot(
    names: Sequence[str], parts: Mapping[str, Sequence[float]], *, title: str, chosen: int, width: int = 960
) -> np.ndarray:
    """uint8 `[H, width, 3]`: a bar for each name, stacked of the parts, with its length in percent of the longest.

    parts: name -> a number of at least 0 for each bar; at most five. The row `chosen` stands out. ValueError where
    numbers and names do not fit together.
    """
    values = np.array([*parts.values()], dtype=np.float64)  # [parts, bars]
    if values.ndim != 2 or not 0 < values.shape[0] <= len(COLOURS) or values.shape[1] != len(names):
        raise ValueError(f"Invalid parts of shape {values.shape}. Give up to {len(COLOURS)}, for {len(names)} bars.")
    totals = values.sum(0)
    if not np.isfinite(values).all() or (values < 0).any() or not totals.max() > 0:
        raise ValueError("Invalid costs to plot. They are numbers of at least 0, not all of them 0.")
    picture = Image.new("RGB", (width, _ROW * (len(names) + 1)), BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    x = float(_GAP)
    for part, colour in zip(parts, COLOURS, strict=False):
        draw.rectangle((x, 7, x + 12, 19), fill=colour)
        draw.text((x + 18, 13), part, fill=TEXT, font=font, anchor="lm")
        x += 40 + draw.textlength(part, font=font)
    left = 2 * _GAP + max(draw.textlength(name, font=font) for name in names)
    length = max(1.0, width - left - _VALUE)
    for row, name in enumerate(names):
        middle, ink = _ROW * (row + 1.5), TEXT if row == chosen else FAINT
        draw.text((left - _GAP, middle), name, fill=ink, font=font, anchor="rm")
        x = left
        for value, colour in zip(values[:, row], COLOURS, strict=False):
            end = x + value / totals.max() * length
            if end - x >= 0.5:
                draw.rectangle((x, middle - _BAR / 2, end, middle + _BAR / 2), fill=colour)
            x = end
        draw.text((x + _GAP / 2, middle), f"{totals[row] / totals.max():.1%}", fill=ink, font=font, anchor="lm")
    return np.concatenate([heading(title, width), np.asarray(picture)])
