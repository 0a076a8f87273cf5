"""A plot of what patches of a model cost: errors of its layers as bars, and errors of settings over their work."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BACKGROUND, FAINT, GRID, SERIES, TEXT, Colour, heading, round_up, stacked

COLOURS: tuple[Colour, ...] = (SERIES[3], SERIES[0], SERIES[2], SERIES[5])
"""Of the settings' kinds in their order; each has a shape of its own, too."""
BAR: Colour = SERIES[3]
WORST: Colour = SERIES[0]
WISHED: Colour = SERIES[4]
_SCALE = 2  # drawn so many times larger and scaled down, which smooths the edges
_LEFT, _RIGHT, _TOP, _BOTTOM = (each * _SCALE for each in (56, 12, 8, 42))
_TEXT_SIZE = 13 * _SCALE
_SHAPES = ("disc", "square", "triangle", "diamond")
_HEIGHT = 220

Bar = tuple[float | None, float | None]
Point = tuple[float, float, bool]


def fidelity_plot(
    layers: Sequence[Bar],
    settings: Mapping[str, Sequence[Point]],
    *,
    wished: float,
    chosen: tuple[float, float] | None = None,
    width: int = 768,
) -> np.ndarray:
    """uint8 `[H, width + 24, 3]`, one panel for each of both that there is; a line of text where there is neither.

    layers: mean and worst error of each, None where it is no number. settings: kind -> (share of the work, error,
    whether it is faster than dense) of each one tried. The wished error is a dashed line, `chosen` is ringed.
    """
    parts = []
    if layers:
        parts += [heading("error of each layer: mean over the steps, and the worst step", width)]
        parts += [_finished(*_bars(layers, wished, width))]
    if settings:
        parts += [heading("error of settings over the work of attention that they leave", width)]
        parts += [_finished(*_curves(settings, wished, chosen, width))]
    return stacked(parts or [heading("no layer was compared, and no setting tried", width)], margin=12)


class _Panel:
    """Axes from 0 to `most` in both directions, and where a value lies between them."""

    def __init__(self, width: int, most: tuple[float, float]):
        self.picture = Image.new("RGB", (width * _SCALE, _HEIGHT * _SCALE), BACKGROUND)
        self.draw = ImageDraw.Draw(self.picture)
        self.box = (_LEFT, _TOP, width * _SCALE - _RIGHT, _HEIGHT * _SCALE - _BOTTOM)
        self.most = most
        for step in range(5):
            y = self.y(most[1] * step / 4)
            self.draw.line((self.box[0], y, self.box[2], y), fill=GRID, width=_SCALE)
            self.text((self.box[0] - 6 * _SCALE, y), f"{most[1] * step / 4:.3g}", "rm")

    def x(self, value: float) -> float:
        return self.box[0] + value / self.most[0] * (self.box[2] - self.box[0])

    def y(self, value: float) -> float:
        return self.box[3] - min(value / self.most[1], 1.0) * (self.box[3] - self.box[1])

    def text(self, place: tuple[float, float], words: str, anchor: str, ink: Colour = FAINT) -> None:
        self.draw.text(place, words, fill=ink, font=_font(), anchor=anchor)

    def level(self, value: float, name: str) -> None:
        """A dashed line across, with its name."""
        y = self.y(value)
        for left in range(self.box[0], self.box[2], 12 * _SCALE):
            self.draw.line((left, y, min(left + 7 * _SCALE, self.box[2]), y), fill=WISHED, width=2 * _SCALE)
        high = y - self.box[1] > 20 * _SCALE
        self.text((self.box[2] - 4 * _SCALE, y + (-3 if high else 4) * _SCALE), name, "rb" if high else "ra", WISHED)


def _bars(layers: Sequence[Bar], wished: float, width: int) -> tuple[_Panel, list[tuple[str, str, Colour]]]:
    known = [each for bar in layers for each in bar if each is not None]
    panel = _Panel(width, (len(layers), round_up(max([*known, 1.25 * wished]))))
    wide = panel.x(1) - panel.x(0)
    gap = min(0.2 * wide, 6 * _SCALE)
    for index, (mean, worst) in enumerate(layers):
        left, right = panel.x(index) + gap / 2, panel.x(index + 1) - gap / 2
        if mean is None:
            panel.draw.rectangle((left, panel.box[1], right, panel.box[3]), outline=WISHED, width=_SCALE)
            continue
        if mean > 0:
            panel.draw.rectangle((left, panel.y(mean), right, panel.box[3]), fill=BAR)
        if worst:
            panel.draw.line((left, panel.y(worst), right, panel.y(worst)), fill=WORST, width=2 * _SCALE)
    panel.level(wished, "wished")
    panel.text((panel.box[0], panel.box[3] + 4 * _SCALE), "layer 1", "la")
    panel.text((panel.box[2], panel.box[3] + 4 * _SCALE), str(len(layers)), "ra")
    broken = [("box", "no number", WISHED)] if any(mean is None for mean, _ in layers) else []
    return panel, [("square", "mean", BAR), ("line", "worst step", WORST), *broken]


def _curves(
    settings: Mapping[str, Sequence[Point]], wished: float, chosen: tuple[float, float] | None, width: int
) -> tuple[_Panel, list[tuple[str, str, Colour]]]:
    points = [point for each in settings.values() for point in each]
    most = max(1.0, *(point[0] for point in points))
    panel = _Panel(width, (most, round_up(max([*(point[1] for point in points), 1.25 * wished]))))
    for tick in range(0, 101, 20):
        panel.text(
            (panel.x(tick / 100), panel.box[3] + 4 * _SCALE),
            f"{tick} %",
            "ma" if 0 < tick < 100 * most else "la" if tick == 0 else "ra",
        )
    panel.level(wished, "wished")
    key = []
    for index, (name, some) in enumerate(settings.items()):
        colour, shape = COLOURS[index % len(COLOURS)], _SHAPES[index % len(_SHAPES)]
        places = [(panel.x(work), panel.y(error)) for work, error, _ in sorted(some)]
        panel.draw.line(places, fill=colour, width=2 * _SCALE, joint="curve")
        for place, (_, _, faster) in zip(places, sorted(some), strict=True):
            _draw_shape(panel.draw, shape, place, 5 * _SCALE, colour, filled=faster)
        key.append((shape, name, colour))
    if chosen is not None:
        x, y, r = panel.x(chosen[0]), panel.y(chosen[1]), 9 * _SCALE
        panel.draw.ellipse((x - r, y - r, x + r, y + r), outline=TEXT, width=2 * _SCALE)
    return panel, [*key, ("hollow", "slower than dense", FAINT), ("ring", "recommended", TEXT)]


def _finished(panel: _Panel, key: Sequence[tuple[str, str, Colour]]) -> np.ndarray:
    """The panel with what its colours and shapes mean below it, `_HEIGHT` pixels high."""
    x, y = float(_LEFT), panel.box[3] + 30 * _SCALE
    for shape, name, colour in key:
        r = (7 if shape == "ring" else 5) * _SCALE
        if shape == "line":
            panel.draw.line((x - r, y, x + r, y), fill=colour, width=2 * _SCALE)
        elif shape == "box":
            panel.draw.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=_SCALE)
        elif shape == "ring":
            panel.draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=2 * _SCALE)
        else:
            _draw_shape(panel.draw, "disc" if shape == "hollow" else shape, (x, y), r, colour, filled=shape != "hollow")
        panel.text((x + 12 * _SCALE, y), name, "lm", TEXT)
        x += 34 * _SCALE + panel.draw.textlength(name, font=_font())
    W, H = panel.picture.size
    return np.array(panel.picture.resize((W // _SCALE, H // _SCALE), Image.Resampling.LANCZOS))


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, place: tuple[float, float], r: float, ink: Colour, *, filled: bool
) -> None:
    x, y = place
    inside, line = ink if filled else BACKGROUND, 2 * _SCALE
    if shape == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=inside, outline=ink, width=line)
    elif shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=inside, outline=ink, width=line)
    elif shape == "diamond":
        corners = ((x - 1.2 * r, y), (x, y - 1.2 * r), (x + 1.2 * r, y), (x, y + 1.2 * r))
        draw.polygon(corners, fill=inside, outline=ink, width=line)
    else:
        corners = ((x - 1.1 * r, y + r), (x + 1.1 * r, y + r), (x, y - 1.1 * r))
        draw.polygon(corners, fill=inside, outline=ink, width=line)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
