"""A plot of rate-distortion curves: bits per pixel on a logarithmic axis, decibels, a shape and a colour for each."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BACKGROUND, FAINT, GRID, SERIES, TEXT, Colour
from .rate_curves import Point

COLOURS: tuple[Colour, ...] = (SERIES[0], (240, 228, 66), SERIES[3], SERIES[5], SERIES[2], SERIES[1], SERIES[4])
"""Of the curves in their order, after Okabe and Ito: they stay apart for the colour-blind, as do the shapes."""
_SHAPES = ("disc", "diamond", "square", "triangle", "cross", "disc", "square")
_SCALE = 2  # drawn so many times larger and scaled down, which smooths the edges
_TEXT_SIZE, _LINE = 15 * _SCALE, 24 * _SCALE
_LEFT, _RIGHT, _TOP, _BOTTOM = (each * _SCALE for each in (64, 16, 44, 52))
_ABOVE, _BELOW = 5.0, 3.0  # dB shown around the curves that the plot is about


class _Axes:
    """Where a point lies in the picture."""

    def __init__(self, box: tuple[int, int, int, int], rates: tuple[float, float], decibels: tuple[float, float]):
        self.box, self.rates, self.decibels = box, rates, decibels

    def x(self, rate: float) -> float:
        low, high = map(math.log, self.rates)
        return self.box[0] + (math.log(rate) - low) / (high - low) * (self.box[2] - self.box[0])

    def y(self, decibels: float) -> float:
        low, high = self.decibels
        return self.box[3] - (decibels - low) / (high - low) * (self.box[3] - self.box[1])


def rate_plot(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    about: Collection[str],
    notes: Mapping[str, str] | None = None,
    width: int = 960,
    height: int = 720,
) -> np.ndarray:
    """uint8 `[height, width, 3]`: all curves, those named in `about` bold, with a key below.

    The axes show the qualities of `about` and some dB around them. `notes` are added to names in the key. Raises
    ValueError where `about` has no points.
    """
    shown = [point for name in about for point in curves.get(name, ())]
    if not shown:
        raise ValueError(f"No points for {', '.join(about) or 'any curve'}. Give at least one.")
    W, H = width * _SCALE, height * _SCALE
    box = (_LEFT, _TOP, W - _RIGHT, H - _BOTTOM - _LINE * len(curves) - _RIGHT)
    axes = _Axes(box, *_ranges(shown, [point for points in curves.values() for point in points]))
    picture = Image.new("RGB", (W, H), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_axes(draw, axes, title)
    inside = Image.new("RGB", (W, H))
    mask = Image.new("L", (W, H))
    for index, (name, points) in enumerate(curves.items()):
        colour, shape = COLOURS[index % len(COLOURS)], _SHAPES[index % len(_SHAPES)]
        places = [(axes.x(point.bits_per_pixel), axes.y(point.psnr)) for point in points]
        for target, ink in ((ImageDraw.Draw(inside), colour), (ImageDraw.Draw(mask), 255)):
            target.line(places, fill=ink, width=(4 if name in about else 2) * _SCALE, joint="curve")
            for place in places:
                _draw_shape(target, shape, place, (6 if name in about else 4) * _SCALE, ink)
        y = box[3] + _BOTTOM + _LINE * (index + 0.5)
        _draw_shape(draw, shape, (_LEFT + 6 * _SCALE, y), 5 * _SCALE, colour)
        label = " ".join(filter(None, (name, (notes or {}).get(name, ""))))
        draw.text((_LEFT + 22 * _SCALE, y), label, fill=TEXT if name in about else FAINT, font=_font(), anchor="lm")
    picture.paste(inside.crop(box), box, mask.crop(box))
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))


def _ranges(about: Sequence[Point], all_points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(lowest, highest) bits per pixel of what is seen, and dB."""
    low = math.floor(min(point.psnr for point in about) - _BELOW)
    high = math.ceil(max(point.psnr for point in about) + _ABOVE)
    rates = [point.bits_per_pixel for point in all_points if low <= point.psnr <= high]
    return (min(rates) / 1.15, max(rates) * 1.15), (low, high)


def _draw_axes(draw: ImageDraw.ImageDraw, axes: _Axes, title: str) -> None:
    left, top, right, bottom = axes.box
    for rate in _log_ticks(*axes.rates):
        x = axes.x(rate)
        draw.line((x, top, x, bottom), fill=GRID, width=_SCALE)
        draw.text((x, bottom + 5 * _SCALE), f"{rate:g}", fill=FAINT, font=_font(), anchor="ma")
    low, high = axes.decibels
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 10)
    for decibels in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
        y = axes.y(decibels)
        draw.line((left, y, right, y), fill=GRID, width=_SCALE)
        draw.text((left - 8 * _SCALE, y), str(decibels), fill=FAINT, font=_font(), anchor="rm")
    draw.text((left, 10 * _SCALE), title, fill=TEXT, font=_font(), anchor="la")
    draw.text((right, 10 * _SCALE), "up and left is better", fill=FAINT, font=_font(), anchor="ra")
    draw.text((8 * _SCALE, top - 6 * _SCALE), "dB", fill=TEXT, font=_font(), anchor="lb")
    middle = (left + right) / 2
    draw.text((middle, bottom + 26 * _SCALE), "bits per pixel", fill=TEXT, font=_font(), anchor="ma")


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, place: tuple[float, float], r: float, ink: Colour | int) -> None:
    x, y = place
    if shape == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=ink)
    elif shape == "diamond":
        draw.polygon(((x - 1.2 * r, y), (x, y - 1.2 * r), (x + 1.2 * r, y), (x, y + 1.2 * r)), fill=ink)
    elif shape == "triangle":
        draw.polygon(((x - 1.1 * r, y + r), (x + 1.1 * r, y + r), (x, y - 1.1 * r)), fill=ink)
    else:
        draw.line((x - r, y - r, x + r, y + r), fill=ink, width=round(0.7 * r))
        draw.line((x - r, y + r, x + r, y - r), fill=ink, width=round(0.7 * r))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
