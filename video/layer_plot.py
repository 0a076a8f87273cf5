"""A plot of the layers of a model: one bar for each, as high as its error, coloured by what became of it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BACKGROUND, FAINT, GRID, SERIES, TEXT, Colour, heading

_KINDS: tuple[Colour, ...] = (SERIES[3], SERIES[0], SERIES[2], SERIES[5], SERIES[4])
_LEFT, _TOP, _BOTTOM, _LINE = 56, 8, 24, 22  # pixels
_HEIGHT = 200


def layer_plot(errors: Sequence[float], kinds: Sequence[str], *, title: str, width: int = 960) -> np.ndarray:
    """uint8 `[H, width, 3]`: errors are shares of at least 0, kinds what each layer is named by.

    ValueError where they are not one for each of the same layers, or there is no layer.
    """
    values = np.asarray(errors, dtype=np.float64)
    if not len(values) or len(values) != len(kinds) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"Invalid errors of {len(values)} layers, {len(kinds)} kinds. Give one of at least 0 for each."
        )
    picture = Image.new("RGB", (width, _HEIGHT + _LINE), BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    low, high, right = _HEIGHT - _BOTTOM, _TOP, width - 8
    most = float(values.max()) or 1.0
    for step in range(5):
        y = low - step / 4 * (low - high)
        draw.line((_LEFT, y, right, y), fill=GRID)
        draw.text((_LEFT - 6, y), f"{most * step / 4:.2%}", fill=FAINT, font=font, anchor="rm")
    names = list(dict.fromkeys(kinds))
    colours = {name: _KINDS[index % len(_KINDS)] for index, name in enumerate(names)}
    wide = (right - _LEFT) / len(values)
    for index, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        left, top = _LEFT + index * wide, low - value / most * (low - high)
        # a layer without an error is still seen
        draw.rectangle((left, min(top, low - 2), max(left, left + wide - 2 * (wide > 6)), low), fill=colours[kind])
    draw.text((_LEFT, low + 4), "layer 1", fill=FAINT, font=font, anchor="la")
    draw.text((right, low + 4), str(len(values)), fill=FAINT, font=font, anchor="ra")
    x = float(_LEFT)
    for name in names:
        draw.rectangle((x, _HEIGHT + 4, x + 12, _HEIGHT + 16), fill=colours[name])
        draw.text((x + 18, _HEIGHT + 10), name, fill=TEXT, font=font, anchor="lm")
        x += 40 + draw.textlength(name, font=font)
    return np.concatenate([heading(title, width), np.asarray(picture)])
