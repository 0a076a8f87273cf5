"""Pictures to look at before reading numbers: where tokens went, what moved, what was made, what was computed.

All take and give uint8 RGB arrays. More tokens are lighter, from violet to pale yellow, which eyes that see no colour
can tell apart, too: each step differs by 20 or more (CIE 1976) to normal, deuteranopic and protanopic eyes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .canvas import BACKGROUND, LINE, SCALE, SERIES, TEXT, WIDTH, Canvas, Colour, Mark, heading, key, stacked
from .series_plots import bar_chart

HEAT: tuple[Colour, ...] = ((80, 0, 140), (165, 25, 120), (215, 70, 50), (250, 150, 20), (255, 240, 130))
"""Of blocks with 1, 2, ... tokens; the last also for more."""
STATES: tuple[Colour, ...] = (SERIES[3], SERIES[0], SERIES[1], SERIES[4])
"""Of what is as it was, of what is new, and two more."""
_GAP = 4.0  # pixels between panels
_TALLEST = 200.0  # pixels of a panel
_ALONE = 0.7  # of the width that a single panel takes
_EDGE = 2  # pixels that a frame around something is wide
_SHADE = 0.65  # brightness of the grey picture under the colours
_COVER = 0.6  # opacity of the colours
_LUMA = np.array([0.299, 0.587, 0.114])


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
    grey = (frame @ _LUMA)[..., np.newaxis] * _SHADE  # [H, W, 1]
    colours = np.array([(0, 0, 0), *HEAT], dtype=np.float64)[np.minimum(costs, len(HEAT))]  # [bh, bw, 3]
    cover = np.where(costs > 0, _COVER, 0.0)[..., np.newaxis]
    colours, cover = (each.repeat(block, 0).repeat(block, 1)[:H, :W] for each in (colours, cover))
    return np.rint(grey * (1 - cover) + colours * cover).astype(np.uint8)


def shaded(frame: np.ndarray, shade: float = _SHADE) -> np.ndarray:
    """The frame, uint8 `[H, W, 3]`, in darker grey."""
    return np.rint(frame @ _LUMA * shade).astype(np.uint8)[..., np.newaxis].repeat(3, -1)


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


def outlined_panel(frame: np.ndarray, cells: np.ndarray, colour: Colour, *, cell: float, panels: int) -> np.ndarray:
    """As `outlined`, as large as `panel_grid` shows one of so many panels, so that lines do not get lost."""
    H, W, _ = frame.shape
    picture = scaled(frame, panel_width(W, H, min(panels, columns_of(W, H)))[1])
    h, w, _ = picture.shape
    rows, columns = (((np.arange(small) + 0.5) * large / small / cell).astype(int) for small, large in ((h, H), (w, W)))
    return outlined(picture, cells[rows][:, columns], colour, cell=1)


def framed(panel: np.ndarray, colour: Colour) -> np.ndarray:
    """The panel with its outermost pixels in a colour: about 2 in 120 on each side."""
    edge = max(1, round(max(panel.shape[:2]) * _EDGE / 120))
    picture = panel.copy()
    for side in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
        picture[side] = colour
    return picture


def scaled(frame: np.ndarray, width: int) -> np.ndarray:
    """The frame `width` pixels wide, aspect kept; enlarged without smoothing, so that blocks keep their edges."""
    H, W = frame.shape[:2]
    if width == W:
        return frame
    method = Image.Resampling.NEAREST if width > W else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(frame).resize((width, max(1, round(H * width / W))), method))


def captioned(frame: np.ndarray, caption: str, *, scale: int = 1) -> np.ndarray:
    """The frame with a line of text under it, cut off where it is too long."""
    W = frame.shape[1]
    strip = Canvas(W / scale, LINE, scale=scale)
    strip.text(1, LINE / 2, caption, TEXT, room=W / scale - 2)
    return np.concatenate([frame, strip.picture()])


def tiled(panels: Sequence[np.ndarray], columns: int, *, gap: int = 8) -> np.ndarray:
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


def panel_count(width: int, height: int) -> int:
    """How many frames of that size are legible together at a node."""
    return 4 if height > width else 6


def columns_of(width: int, height: int) -> int:
    """How many frames of that size are legible beside each other at a node."""
    return 2 if width > 2.2 * height else 3 if width >= height else 4


def panel_width(
    frame_width: int, frame_height: int, columns: int, *, width: float = WIDTH, scale: int = SCALE
) -> tuple[int, int]:
    """(place, picture): how many pixels wide one of so many places is, and a frame of that size in it."""
    place = int(width * scale - round(_GAP * scale) * (columns - 1)) // columns
    if columns == 1:
        place = round(_ALONE * place)
    return place, max(1, min(place, round(_TALLEST * scale * frame_width / frame_height)))


def panel_grid(
    panels: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    width: float = WIDTH,
    scale: int = SCALE,
) -> np.ndarray:
    """Pictures of one size with their captions, in rows: as many beside each other as are legible."""
    H, W, _ = panels[0].shape
    columns = columns or min(len(panels), columns_of(W, H))
    cell, inner = panel_width(W, H, columns, width=width, scale=scale)
    labelled = []
    for panel, caption in zip(panels, captions, strict=True):
        picture = scaled(panel, inner)
        room = ((0, 0), (0, cell - inner), (0, 0))
        padded = np.stack([np.pad(picture[..., i], room[:2], constant_values=BACKGROUND[i]) for i in range(3)], -1)
        labelled.append(captioned(padded, caption, scale=scale))
    return tiled(labelled, columns, gap=round(_GAP * scale))


def heat_key(width: float = WIDTH, *, scale: int = SCALE) -> np.ndarray:
    """What the colours of `heat_overlay` mean, `width` pixels wide."""
    names = [*(str(count) for count in range(1, len(HEAT))), f"{len(HEAT)}+"]
    base = round(128 * _SHADE)
    marks = [Mark("0", (base, base, base), edged=True)]
    for name, (red, green, blue) in zip(names, HEAT, strict=True):
        # as they look over a medium grey
        marks.append(Mark(name, (_covered(base, red), _covered(base, green), _covered(base, blue)), edged=True))
    return key(marks, width, title="Tokens in 16x16 pixels:", scale=scale)


def heat_sheet(
    panels: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    title: str,
    series: Mapping[str, Sequence[float]],
    motion: Sequence[np.ndarray] = (),
    columns: int | None = None,
    width: float = WIDTH,
    scale: int = SCALE,
) -> np.ndarray:
    """One picture: the title, the panels with their captions, what their colours mean, and `series` as a bar chart.

    panels: uint8 `[H, W, 3]` of one size, from `heat_overlay`. series: tokens of each frame by kind. motion: pictures
    to stand under the panels.
    """
    size = {"width": width, "scale": scale}
    chart = bar_chart(series, title="Tokens of each frame:", **size)
    grid = panel_grid(panels, captions, columns=columns, **size)
    return stacked([heading(title, **size), grid, heat_key(**size), *motion, chart], scale=scale)


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
    pictures = [framed(panel, colours[state]) for panel, state in zip(panels, states, strict=True)]
    marks = [Mark(name, colour) for name, colour in colours.items()]
    return stacked([heading(title), panel_grid(pictures, captions), key(marks, title="Frames:")])


def _covered(under: float, colour: float) -> int:
    return round(under * (1 - _COVER) + colour * _COVER)
