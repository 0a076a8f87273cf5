"""A plot of where a clip moves: the motion of each frame as a curve, which were kept, and where shots begin."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BACKGROUND, FAINT, GRID, SERIES, TEXT, Colour
from .timeline import FrameTimeline

_SCALE = 2  # drawn so many times larger and scaled down, which smooths the edges
_TEXT_SIZE = 13 * _SCALE
_LEFT, _RIGHT, _TOP, _BOTTOM = (each * _SCALE for each in (14, 14, 34, 50))
_CURVE: Colour = SERIES[3]
_KEPT: Colour = SERIES[0]
_SHOT: Colour = SERIES[5]
_GRADUAL: Colour = (74, 56, 68)
_TICK = 14 * _SCALE  # height of the mark of a kept frame
_SHOWN = 0.98  # of the frames are not cut off at the top of the plot, unless they move hardly more than those


def motion_plot(
    energy: np.ndarray | Sequence[float], timeline: FrameTimeline, *, width: int = 768, height: int = 256
) -> np.ndarray:
    """uint8 `[height, width, 3]`: time across, motion up. `energy` has a number of at least 0 for each source frame.

    Few very large values, as of cuts, are cut off. Raises ValueError where the numbers are not those of the frames.
    """
    values = np.asarray(energy, dtype=np.float64)
    count = len(timeline.source_pts)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"Invalid energy of shape {values.shape}. It is a number of at least 0 for {count} frames.")
    W, H = width * _SCALE, height * _SCALE
    left, top, right, bottom = _LEFT, _TOP, W - _RIGHT, H - _BOTTOM
    picture = Image.new("RGB", (W, H), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    ticks = timeline.duration / timeline.time_base
    places = [left + float((pts - timeline.source_pts[0]) / ticks) * (right - left) for pts in timeline.source_pts]
    for first, last, _ in timeline.transitions:
        draw.rectangle((places[first], top, places[last + 1], bottom), fill=_GRADUAL)
    draw.line((left, bottom, right, bottom), fill=GRID, width=_SCALE)
    _draw_curve(draw, values, places, (top, right, bottom))
    for begin in timeline.shots[1:]:
        draw.line((places[begin], top - 6 * _SCALE, places[begin], bottom), fill=_SHOT, width=_SCALE)
    for frame in timeline.kept:
        x = places[frame]
        draw.line((x, bottom + 4 * _SCALE, x, bottom + 4 * _SCALE + _TICK), fill=_KEPT, width=_SCALE)
    _draw_words(draw, timeline, W, H)
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))


def _draw_curve(
    draw: ImageDraw.ImageDraw, values: np.ndarray, places: Sequence[float], box: tuple[float, float, float]
) -> None:
    """The area under the curve: a column for each frame, or the largest value where several share a pixel."""
    top, right, bottom = box
    usual = float(np.quantile(values, _SHOWN))
    peak = max(float(values.max()) if values.max() < 1.5 * usual else usual, 1e-9)
    heights: dict[int, float] = {}
    for value, x, end in zip(values.tolist(), places, [*places[1:], right], strict=True):
        for column in range(round(x), max(round(x) + 1, round(end))):
            heights[column] = max(heights.get(column, 0.0), min(value / peak, 1.0))
    for column, share in heights.items():
        if share > 0:
            draw.line((column, bottom - share * (bottom - top), column, bottom), fill=_CURVE)


def _draw_words(draw: ImageDraw.ImageDraw, timeline: FrameTimeline, W: int, H: int) -> None:
    font = ImageFont.load_default(_TEXT_SIZE)
    changes, gradual = len(timeline.shots) - 1, len(timeline.transitions)
    text, x = 9 * _SCALE, float(_LEFT)
    parts = [
        ("motion", _CURVE),
        (f"{len(timeline.kept)} of {len(timeline.source_pts)} frames kept", _KEPT),
        (
            f"{changes} {'change' if changes == 1 else 'changes'} of shot" + (f", {gradual} gradual" * bool(gradual)),
            _SHOT,
        ),
    ]
    for words, colour in parts:
        draw.rectangle((x, text, x + 9 * _SCALE, text + 9 * _SCALE), fill=colour)
        draw.text((x + 14 * _SCALE, text + 4.5 * _SCALE), words, fill=TEXT, font=font, anchor="lm")
        x += 32 * _SCALE + draw.textlength(words, font=font)
    draw.text((_LEFT, H - 8 * _SCALE), "0 s", fill=FAINT, font=font, anchor="ls")
    draw.text((W - _RIGHT, H - 8 * _SCALE), f"{float(timeline.duration):.2f} s", fill=FAINT, font=font, anchor="rs")
