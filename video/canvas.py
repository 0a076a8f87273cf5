"""What pictures at a node are drawn with: colours, text that fits, marks, keys.

Lengths are in pixels of a node that shows a picture 360 wide, as nodes do; pictures come out `scale` times as large,
and are drawn twice as large again and averaged, which smooths edges. The colours of SERIES stay apart for the
colour-blind, too: any two differ by 25 or more (CIE 1976) to normal, deuteranopic and protanopic eyes, and each has a
contrast of 3 or more to the background.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Place = tuple[float, float]

WIDTH = 344
"""Of what is in a picture at a node; around it are the margins of `stacked`."""
SCALE = 2
"""Of pictures at a node: they stay sharp where the editor is zoomed in, or the screen is a fine one."""
BACKGROUND: Colour = (27, 29, 33)
TEXT: Colour = (226, 228, 232)
FAINT: Colour = (164, 168, 176)
GRID: Colour = (64, 68, 76)
SERIES: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (34, 136, 51),
    (187, 187, 187),
    (160, 110, 255),
    (238, 221, 136),
    (110, 110, 110),
)
"""Of things that are told apart, in their order."""
SHAPES = ("disc", "square", "triangle", "diamond", "cross", "disc", "square")
"""Of the marks of lines, in their order."""
SIZE = 12.0
"""Of text."""
LINE = 16.0
"""Of text: from one line to the next."""
_SMOOTHING = 2
_SWATCH = 10.0
_BETWEEN = 12.0  # two names in a key
_DASH = 6.0


@dataclass(frozen=True)
class Mark:
    """What a colour and a shape mean. Shapes are those of `Canvas.mark`."""

    name: str
    colour: Colour
    shape: str = "square"
    filled: bool = True
    strong: bool = False
    edged: bool = False
    """A line around it: for colours that are hard to see on the background."""


class Canvas:
    """A picture to draw on, `width` x `height`, as `picture()` gives it: uint8 `[height * scale, width * scale, 3]`."""

    def __init__(self, width: float, height: float, *, scale: int = SCALE) -> None:
        self.width, self.height = width, height
        self._dense = scale * _SMOOTHING
        size = (round(width * scale) * _SMOOTHING, round(height * scale) * _SMOOTHING)
        self._image = Image.new("RGB", size, BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> np.ndarray:
        """What was drawn."""
        return np.array(self._image.reduce(_SMOOTHING))

    def place(self, picture: np.ndarray, left: float = 0, top: float = 0) -> None:
        """A picture uint8 `[h, w, 3]`, pixel by pixel."""
        image = Image.fromarray(picture.repeat(_SMOOTHING, 0).repeat(_SMOOTHING, 1))
        self._image.paste(image, (round(left * self._dense), round(top * self._dense)))

    def line(self, places: Sequence[Place], ink: Colour, width: float = 1.0) -> None:
        """From place to place."""
        dense = [(x * self._dense, y * self._dense) for x, y in places]
        self._draw.line(dense, fill=ink, width=max(1, round(width * self._dense)), joint="curve")

    def dashes(self, start: Place, end: Place, ink: Colour, width: float = 1.0) -> None:
        """A line with gaps."""
        (x, y), (right, bottom) = start, end
        length = math.hypot(right - x, bottom - y)
        for piece in range(math.ceil(length / (2 * _DASH))):
            begin, stop = 2 * _DASH * piece / length, min((2 * piece + 1) * _DASH / length, 1.0)
            ends = [(x + share * (right - x), y + share * (bottom - y)) for share in (begin, stop)]
            self.line(ends, ink, width)

    def box(self, left: float, top: float, right: float, bottom: float, ink: Colour, *, filled: bool = True) -> None:
        """A rectangle; nothing where it is less than half a pixel of the picture."""
        x0, y0, x1, y1 = (round(each * self._dense) for each in (left, top, right, bottom))
        if x1 <= x0 or y1 <= y0:
            return
        line = max(1, round(self._dense))
        self._draw.rectangle(
            (x0, y0, x1 - 1, y1 - 1), fill=ink if filled else None, outline=None if filled else ink, width=line
        )

    @contextmanager
    def inside(self, left: float, top: float, right: float, bottom: float) -> Iterator[None]:
        """What is drawn meanwhile is cut off at the sides of a rectangle."""
        outer, inner = self._image, self._image.copy()
        self._image, self._draw = inner, ImageDraw.Draw(inner)
        try:
            yield
        finally:
            x0, y0, x1, y1 = (round(each * self._dense) for each in (left, top, right, bottom))
            outer.paste(inner.crop((x0, y0, x1, y1)), (x0, y0))
            self._image, self._draw = outer, ImageDraw.Draw(outer)

    def text(
        self, x: float, y: float, words: str, ink: Colour = TEXT, anchor: str = "lm", room: float | None = None
    ) -> None:
        """A line of text; `anchor` is Pillow's. What is longer than `room` is cut off and ends on dots."""
        words = words if room is None else fitted(words, room)
        self._draw.text((x * self._dense, y * self._dense), words, fill=ink, font=_font(self._dense), anchor=anchor)

    def mark(self, shape: str, x: float, y: float, radius: float, ink: Colour, *, filled: bool = True) -> None:
        """A disc, square, triangle, diamond, cross, bar (a short line) or ring; not filled: its outline."""
        X, Y, r = x * self._dense, y * self._dense, radius * self._dense
        inside, line = ink if filled else BACKGROUND, round(1.5 * self._dense)
        if shape == "disc":
            self._draw.ellipse((X - r, Y - r, X + r, Y + r), fill=inside, outline=ink, width=line)
        elif shape == "ring":
            self._draw.ellipse((X - r, Y - r, X + r, Y + r), outline=ink, width=line)
        elif shape == "square":
            r *= 0.9
            self._draw.rectangle((X - r, Y - r, X + r, Y + r), fill=inside, outline=ink, width=line)
        elif shape == "bar":
            self.line([(x - radius, y), (x + radius, y)], ink, 2)
        elif shape == "cross":
            self.line([(x - radius, y - radius), (x + radius, y + radius)], ink, 2)
            self.line([(x - radius, y + radius), (x + radius, y - radius)], ink, 2)
        else:
            corners = {
                "triangle": ((X - 1.1 * r, Y + r), (X + 1.1 * r, Y + r), (X, Y - 1.1 * r)),
                "diamond": ((X - 1.2 * r, Y), (X, Y - 1.2 * r), (X + 1.2 * r, Y), (X, Y + 1.2 * r)),
            }[shape]
            self._draw.polygon(corners, fill=inside, outline=ink, width=line)


def text_width(words: str) -> float:
    """How wide a line of text is."""
    return _font(SCALE * _SMOOTHING).getlength(words) / (SCALE * _SMOOTHING)


def fitted(words: str, room: float) -> str:
    """The text, or as much of its beginning as fits with dots after it."""
    if text_width(words) <= room:
        return words
    count = len(words)
    while count and text_width(words[:count].rstrip() + "...") > room:
        count -= 1
    return words[:count].rstrip() + "..."


def wrapped(words: str, room: float) -> list[str]:
    """The lines of a text, broken between words so that they fit; a word that alone is too long ends on dots."""
    lines = []
    for paragraph in words.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer) > room:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [fitted(line, room) for line in lines]


def heading(text: str, width: float = WIDTH, *, scale: int = SCALE) -> np.ndarray:
    """Lines of text, broken where they are too long. What stands before the first line break is bright."""
    first, _, rest = text.partition("\n")
    lines = [(line, TEXT) for line in wrapped(first, width)]
    lines += [(line, FAINT) for line in wrapped(rest, width)] if rest else []
    canvas = Canvas(width, LINE * len(lines), scale=scale)
    for index, (line, ink) in enumerate(lines):
        canvas.text(0, LINE * (index + 0.5), line, ink)
    return canvas.picture()


def key(marks: Iterable[Mark], width: float = WIDTH, *, title: str = "", scale: int = SCALE) -> np.ndarray:
    """What colours and shapes mean, in as many lines as it takes. Names that are longer than a line are cut off."""
    places: list[tuple[Mark, float, int]] = []
    x, row = (text_width(title) + _BETWEEN if title else 0.0), 0
    for mark in marks:
        long = _SWATCH + 5 + text_width(mark.name)
        if x and x + long > width:
            x, row = 0.0, row + 1
        places.append((mark, x, row))
        x += long + _BETWEEN
    canvas = Canvas(width, LINE * (row + 1), scale=scale)
    canvas.text(0, LINE / 2, title, TEXT, room=width)
    for mark, x, row in places:
        y, r = LINE * (row + 0.5), _SWATCH / 2
        canvas.mark(mark.shape, x + r, y, r, mark.colour, filled=mark.filled)
        if mark.edged:
            canvas.box(x, y - r, x + 2 * r, y + r, FAINT, filled=False)
        ink = TEXT if mark.strong else FAINT
        canvas.text(x + _SWATCH + 5, y, mark.name, ink, room=width - x - _SWATCH - 5)
    return canvas.picture()


def stacked(parts: Sequence[np.ndarray], *, gap: float = 4, scale: int = SCALE) -> np.ndarray:
    """Pictures one under another, left-aligned, with a gap between them and a margin of two around."""
    margin, between = round(2 * gap * scale), round(gap * scale)
    width = max(part.shape[1] for part in parts)
    height = sum(part.shape[0] for part in parts) + between * (len(parts) - 1)
    sheet = np.full((height + 2 * margin, width + 2 * margin, 3), BACKGROUND, dtype=np.uint8)
    top = margin
    for part in parts:
        sheet[top : top + part.shape[0], margin : margin + part.shape[1]] = part
        top += part.shape[0] + between
    return sheet


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most about so many: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    power = math.floor(math.log10((high - low) / most))
    steps = [base * 10.0**each for each in (power, power + 1) for base in (1, 2, 5)]
    step = next(step for step in steps if (high - low) / step <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range of numbers above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [each for each in marks if low <= each <= high]


def plain(number: float) -> str:
    """A number of an axis: 0.05, 12, 1,500, 2.5 M."""
    if abs(number) >= 1e6:
        return f"{number / 1e6:,g} M"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:g}"


def thinned(places: Sequence[float], widths: Sequence[float], gap: float = 6) -> list[int]:
    """Which of the labels that are centred at rising places stay when none may touch the one before."""
    kept: list[int] = []
    for index, (place, width) in enumerate(zip(places, widths, strict=True)):
        if not kept or place - width / 2 >= places[kept[-1]] + widths[kept[-1]] / 2 + gap:
            kept.append(index)
    return kept


@lru_cache(maxsize=8)
def _font(dense: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SIZE * dense)
