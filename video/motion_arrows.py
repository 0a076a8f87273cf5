"""A picture of what moved where between frames: arrows on the frame."""

import math
from collections.abc import Sequence

import numpy as np

from .canvas import BACKGROUND, SCALE, TEXT, Canvas, heading
from .drawing import columns_of, panel_grid, panel_width, scaled, shaded

_APART = 13.0  # pixels, at least, from arrow to arrow
_LONGEST = 0.85  # of that, the longest arrow: it does not touch the next
_SHORTEST = 2.5  # pixels of an arrow; what is shorter is a dot
_SHADE = 0.45


def arrow_panels(
    frames: Sequence[np.ndarray], motions: Sequence[np.ndarray], names: Sequence[str], *, block: float = 16
) -> list[np.ndarray]:
    """A line of text and the frames with arrows, to be stacked; nothing where nothing moved.

    frames: uint8 `[H, W, 3]`; motions: float `[bh, bw, 2]`, pixels down and right that each block moved since the frame
    before, NaN where that is not known. The longest arrow of all is nearly as long as arrows are apart.
    """
    if not frames:
        return []
    H, W, _ = frames[0].shape
    columns = max(3, columns_of(W, H))
    across = panel_width(W, H, columns)[1]
    block *= across / W / SCALE
    means = [_thinned(motion, block) for motion in motions]
    known = [each[0][np.isfinite(each[0])] for each in means]
    longest = max((float(np.hypot(*each.reshape(-1, 2).T).max(initial=0)) for each in known), default=0.0)
    if not longest > 0:
        return []
    drawn, captions = [], []
    for frame, (motion, side), name in zip(frames, means, names, strict=True):
        drawn.append(_with_arrows(scaled(shaded(frame, _SHADE), across), motion, side * block, longest))
        lengths = np.hypot(motion[..., 0], motion[..., 1])
        captions.append(f"{name}: {np.nanmean(lengths) if np.isfinite(lengths).any() else 0:.2g} pixels")
    text = f"Motion since the frame before; the longest arrow: {longest:.1f} pixels"
    return [heading(text), panel_grid(drawn, captions, columns=columns)]


def _thinned(motion: np.ndarray, block: float) -> tuple[np.ndarray, int]:
    """The mean motion of squares of blocks that are far enough apart in a panel, and how many blocks their side is."""
    side = max(1, math.ceil(_APART / block))
    bh, bw, _ = motion.shape
    padded = np.full((-(-bh // side) * side, -(-bw // side) * side, 2), np.nan)
    padded[:bh, :bw] = motion
    squares = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side, 2)
    known = np.isfinite(squares)
    total, count = np.where(known, squares, 0).sum((1, 3)), known.sum((1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), side


def _with_arrows(picture: np.ndarray, motion: np.ndarray, cell: float, longest: float) -> np.ndarray:
    """The picture with an arrow for each cell of `cell` pixels of a node."""
    canvas = Canvas(picture.shape[1] / SCALE, picture.shape[0] / SCALE)
    canvas.place(picture)
    for row, line in enumerate(motion.tolist()):
        for column, (dy, dx) in enumerate(line):
            if np.isfinite(dy) and np.isfinite(dx):
                x, y = (column + 0.5) * cell, (row + 0.5) * cell
                _arrow(canvas, x, y, dx / longest * cell * _LONGEST, dy / longest * cell * _LONGEST)
    return canvas.picture()


def _arrow(canvas: Canvas, x: float, y: float, dx: float, dy: float) -> None:
    """From before to after, around its middle."""
    length = float(np.hypot(dx, dy))
    if length < _SHORTEST:
        canvas.mark("disc", x, y, 0.7, TEXT)
        return
    ux, uy, vx, vy = dx / length, dy / length, -dy / length, dx / length  # along it, and across
    start, tip = (x - dx / 2, y - dy / 2), (x + dx / 2, y + dy / 2)
    head = min(4.0, 0.6 * length)
    wings = [(tip[0] - head * (ux + side * vx), tip[1] - head * (uy + side * vy)) for side in (-0.6, 0.6)]
    for ink, width in ((BACKGROUND, 2.6), (TEXT, 1.2)):
        canvas.line([start, tip], ink, width)
        canvas.line([wings[0], tip, wings[1]], ink, width)
