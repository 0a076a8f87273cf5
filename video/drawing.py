"""Pictures to look at before reading numbers: where tokens went, and plots of what was spent and what it gave.

All take and give uint8 RGB arrays. Colours stay apart for the colour-blind: tokens per block go from dark to light
(inferno), kinds of tokens have the colours of Okabe and Ito.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

HEAT: tuple[Colour, ...] = ((101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39))
"""Of blocks with 1, 2, ... tokens; the last also for more."""
SERIES: tuple[Colour, ...] = (
    (230, 159, 0),
    (160, 160, 160),
    (0, 158, 115),
    (86, 180, 233),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of the names in a bar chart, in their order."""
STATES: tuple[Colour, ...] = (SERIES[1], SERIES[0], SERIES[3], SERIES[5])
"""Of what is as it was, of what is new, and two more."""
_LINE_COLOUR = SERIES[3]
BACKGROUND: Colour = (27, 29, 33)
TEXT: Colour = (226, 228, 232)
FAINT: Colour = (120, 124, 132)
GRID: Colour = (58, 61, 68)

_TEXT_SIZE = 14  # pixels
_LINE = 22  # pixels that a line of text takes
_MARGIN = 12  # pixels
_GAP = 8  # pixels between panels
_SHEET = 1048  # pixels that a sheet is wide inside: four panels of 256
_LABELS = 52  # pixels left of a plot
_EDGE = 2  # pixels that a frame around something is wide
_SHADE = 0.65  # brightness of the grey picture under the colours
_COVER = 0.6  # opacity of the colours


def heat_overlay(frame: np.ndarray, costs: np.ndarray, *, block: int = 16) -> np.ndarray:
    """The frame in grey with the blocks that took tokens coloured by how many.

    frame: uint8 `[H, W, 3]`; costs: integers `[bh, bw]` of blocks of `block` pixels that cover it, the last ones
    perhaps only in part. Gives uint8 `[H, W, 3]`. Raises ValueError when the blocks do not cover the frame.
    """
    H, W = frame.shape[:2]
    if costs.shape != (-(-H // block), -(-W // block)):
        raise ValueError(
            f"Invalid costs of shape {costs.shape}. A {W}x{H} frame has {-(-H // block)} x {-(-W // block)} blocks."
        )
    grey = (frame @ np.array([0.299, 0.587, 0.114]))[..., np.newaxis] * _SHADE  # [H, W, 1]
    colours = np.array([(0, 0, 0), *HEAT], dtype=np.float64)[np.minimum(costs, len(HEAT))]  # [bh, bw, 3]
    cover = np.where(costs > 0, _COVER, 0.0)[..., np.newaxis]
    colours, cover = (each.repeat(block, 0).repeat(block, 1)[:H, :W] for each in (colours, cover))
    return np.rint(grey * (1 - cover) + colours * cover).astype(np.uint8)


def scaled(frame: np.ndarray, width: int) -> np.ndarray:
    """The frame `width` pixels wide, aspect kept; enlarged without smoothing, so that blocks keep their edges."""
    H, W = frame.shape[:2]
    if width == W:
        return frame
    method = Image.Resampling.NEAREST if width > W else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(frame).resize((width, max(1, round(H * width / W))), method))


def captioned(frame: np.ndarray, caption: str) -> np.ndarray:
    """The frame with a line of text under it, cut off where it is too long."""
    strip = Image.new("RGB", (frame.shape[1], _LINE), BACKGROUND)
    ImageDraw.Draw(strip).text((2, _LINE / 2), caption, fill=TEXT, font=_font(), anchor="lm")
    return np.concatenate([frame, np.asarray(strip)])


def tiled(panels: Sequence[np.ndarray], columns: int, *, gap: int = _GAP) -> np.ndarray:
    """Panels of one size, uint8 `[h, w, 3]`, in rows of `columns`."""
    if not panels or columns < 1:
        raise ValueError(f"Invalid sheet of {len(panels)} panels in {columns} columns. Both are at least 1.")
    columns = min(columns, len(panels))
    h, w, _ = panels[0].shape
    rows = -(-len(panels) // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), BACKGROUND, dtype=np.uint8)
    for index, picture in enumerate(panels):
        top, left = index // columns * (h + gap), index % columns * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    return sheet


def stacked(parts: Sequence[np.ndarray], *, margin: int = _MARGIN) -> np.ndarray:
    """Pictures one under another, left-aligned, with a margin around each."""
    width = max(part.shape[1] for part in parts) + 2 * margin
    height = sum(part.shape[0] + margin for part in parts) + margin
    sheet = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    top = margin
    for part in parts:
        sheet[top : top + part.shape[0], margin : margin + part.shape[1]] = part
        top += part.shape[0] + margin
    return sheet


def heading(text: str, width: int) -> np.ndarray:
    """Lines of text, each `width` pixels wide."""
    lines = text.splitlines() or [""]
    strip = Image.new("RGB", (width, _LINE * len(lines)), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for index, line in enumerate(lines):
        colour = TEXT if index == 0 else FAINT
        draw.text((0, _LINE * (index + 0.5)), line, fill=colour, font=_font(), anchor="lm")
    return np.asarray(strip)


def heat_key(width: int) -> np.ndarray:
    """What the colours of `heat_overlay` mean, as one line `width` pixels wide."""
    names = [*(str(count) for count in range(1, len(HEAT))), f"{len(HEAT)} or more"]
    base = round(128 * _SHADE)
    colours: dict[str, Colour] = {"0": (base, base, base)}
    for name, (red, green, blue) in zip(names, HEAT, strict=True):
        # as they look over a medium grey
        colours[name] = (_covered(base, red), _covered(base, green), _covered(base, blue))
    return _key("tokens in a block of 16x16 pixels:", colours, width)


def bar_chart(series: Mapping[str, Sequence[float]], *, title: str, width: int = 960, height: int = 180) -> np.ndarray:
    """Stacked bars, one for each frame, or for a few neighbouring frames (their mean) where there are many.

    series: name -> a number of at least 0 for each frame; all of one length. Names with only zeros are left out.
    """
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in series.items() if np.any(values)}
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(series) if name in rows}
    count = len(next(iter(series.values())))
    bins = np.array_split(np.arange(count), min(count, (width - _LABELS) // 3))
    totals = np.array([sum(float(values[part].mean()) for values in rows.values()) for part in bins])
    top = round_up(float(totals.max(initial=0)))
    picture, draw, plot = _axes(width, height, 0.0, top, count)
    step = (plot[2] - plot[0]) / len(bins)
    gap = 1 if step >= 4 else 0
    for index, part in enumerate(bins):
        level, left = 0.0, plot[0] + index * step
        for name, values in rows.items():
            value = float(values[part].mean())
            low, high = (plot[3] - share / top * (plot[3] - plot[1]) for share in (level, level + value))
            if low - high >= 0.5:
                draw.rectangle((left, high, left + max(1.0, step - gap) - 1, low), fill=colours[name])
            level += value
    return np.concatenate([_key(title, colours, width), np.asarray(picture)])


def line_plot(values: Sequence[float], *, title: str, unit: str, width: int = 960, height: int = 220) -> np.ndarray:
    """One number for each frame as a line, with the mean as a dashed one."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 1 or points.size == 0 or not np.isfinite(points).all():
        raise ValueError(f"Invalid values to plot: {points.size} of them. They are finite numbers, at least one.")
    spread = max(float(points.max() - points.min()), 1e-3 * abs(float(points.max())), 1e-6)
    low, high = float(points.min()) - 0.1 * spread, float(points.max()) + 0.1 * spread
    picture, draw, plot = _axes(width, height, low, high, points.size)

    def place(index: float, value: float) -> tuple[float, float]:
        across = (index + 0.5) / points.size
        return plot[0] + across * (plot[2] - plot[0]), plot[3] - (value - low) / (high - low) * (plot[3] - plot[1])

    mean = place(0, float(points.mean()))[1]
    for left in range(int(plot[0]), int(plot[2]), 10):
        draw.line((left, mean, min(left + 5, plot[2]), mean), fill=FAINT)
    places = [place(index, value) for index, value in enumerate(points.tolist())]
    for start, end in pairwise(places):
        draw.line((*start, *end), fill=_LINE_COLOUR, width=2)
    if points.size <= 100:
        for x, y in places:
            draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=_LINE_COLOUR)
    label = f"{title}: mean {points.mean():.2f} {unit}, {points.min():.2f} to {points.max():.2f}"
    return np.concatenate([heading(label, width), np.asarray(picture)])


def heat_sheet(
    panels: Sequence[np.ndarray], captions: Sequence[str], *, title: str, series: Mapping[str, Sequence[float]]
) -> np.ndarray:
    """One picture: the title, the panels with their captions, what their colours mean, and `series` as a bar chart.

    panels: uint8 `[H, W, 3]` of one size, from `heat_overlay`. series: tokens of each frame by kind.
    """
    H, W, _ = panels[0].shape
    columns = min(len(panels), 4 if 2 * W > H else 6)
    width = min(_SHEET // 2, (_SHEET - _GAP * (columns - 1)) // columns)
    labelled = [captioned(scaled(each, width), text) for each, text in zip(panels, captions, strict=True)]
    return stacked(
        [
            heading(title, _SHEET),
            tiled(labelled, columns, gap=_GAP),
            heat_key(_SHEET),
            bar_chart(series, title="tokens of each frame:", width=_SHEET),
        ]
    )


def outlined(frame: np.ndarray, cells: np.ndarray, colour: Colour, *, cell: int = 8) -> np.ndarray:
    """The frame with a line around the marked cells, inside them.

    frame: uint8 `[H, W, 3]`; cells: bool `[h, w]` of `cell` x `cell` pixels that cover it, perhaps more.
    """
    H, W, _ = frame.shape
    marked = cells.repeat(cell, 0).repeat(cell, 1)[:H, :W]
    around = np.pad(marked, _EDGE)  # beyond the frame nothing is marked
    inner = marked.copy()
    for dy, dx in ((0, _EDGE), (2 * _EDGE, _EDGE), (_EDGE, 0), (_EDGE, 2 * _EDGE)):
        inner &= around[dy : dy + H, dx : dx + W]
    return np.where((marked & ~inner)[..., np.newaxis], np.array(colour, np.uint8), frame)


def state_sheet(
    panels: Sequence[np.ndarray],
    captions: Sequence[str],
    states: Sequence[str],
    *,
    title: str,
    colours: Mapping[str, Colour],
) -> np.ndarray:
    """One picture: the title, the panels with their captions, each framed in the colour of its state, and a key.

    panels: uint8 `[H, W, 3]` of one size.
    """
    H, W, _ = panels[0].shape
    columns = min(len(panels), 4 if 2 * W > H else 6)
    width = min(_SHEET // 2, (_SHEET - _GAP * (columns - 1)) // columns)
    labelled = []
    for panel, caption, state in zip(panels, captions, states, strict=True):
        inner = scaled(panel, width - 2 * _EDGE)
        framed = np.full((inner.shape[0] + 2 * _EDGE, width, 3), colours[state], dtype=np.uint8)
        framed[_EDGE:-_EDGE, _EDGE:-_EDGE] = inner
        labelled.append(captioned(framed, caption))
    return stacked([heading(title, _SHEET), tiled(labelled, columns, gap=_GAP), _key("frames:", colours, _SHEET)])


def _axes(
    width: int, height: int, low: float, high: float, frames: int
) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[float, float, float, float]]:
    """An empty plot with lines and numbers; the last value is its inner rectangle: left, top, right, bottom."""
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = float(_LABELS), 8.0, width - 8.0, height - _LINE - 2.0
    step_size = (high - low) / 4
    digits = 0 if step_size >= 1 and step_size == round(step_size) else 1 if step_size >= 0.5 else 3
    for step in range(5):
        y = bottom - step / 4 * (bottom - top)
        draw.line((left, y, right, y), fill=GRID)
        value = low + step / 4 * (high - low)
        draw.text((left - 6, y), f"{value:,.{digits}f}", fill=FAINT, font=_font(), anchor="rm")
    draw.text((left, bottom + 4), "frame 0", fill=FAINT, font=_font(), anchor="la")
    if frames > 1:
        draw.text((right, bottom + 4), f"{frames - 1}", fill=FAINT, font=_font(), anchor="ra")
    return picture, draw, (left, top, right, bottom)


def _covered(under: float, colour: float) -> int:
    return round(under * (1 - _COVER) + colour * _COVER)


def _key(title: str, colours: Mapping[str, Colour], width: int) -> np.ndarray:
    """A title and what each colour means, in one line."""
    strip = Image.new("RGB", (width, _LINE), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    x = 0.0
    draw.text((x, _LINE / 2), title, fill=TEXT, font=_font(), anchor="lm")
    x += draw.textlength(title, font=_font()) + 16
    for name, colour in colours.items():
        draw.rectangle((x, 5, x + 12, _LINE - 6), fill=colour)
        draw.text((x + 17, _LINE / 2), name, fill=FAINT, font=_font(), anchor="lm")
        x += 17 + draw.textlength(name, font=_font()) + 16
    return np.asarray(strip)


def round_up(value: float) -> float:
    """The next number that divides well by four: the end of an axis. 1 for what is not above 0."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * unit >= value))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
