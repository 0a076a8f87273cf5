"""Masks of what is to be made anew: read, given as a rectangle, and brought to the cells of a grid."""

import os
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

_COVERS = 0.5  # from here on a pixel is masked
_SHAPE = 0.02  # by how much the aspect may differ: scaling rounds to whole pixels
_MOST_PIXELS = 1 << 26


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """bool `[H, W]` of a picture: where it is light. Raises ValueError where it is none."""
    name = os.path.basename(os.fspath(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path)
        with picture:
            if picture.width * picture.height > _MOST_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise ValueError(f"The mask {name!r} has {size} pixels, more than {_MOST_PIXELS:,}. Scale it down.")
            return np.asarray(picture.convert("L")) >= 255 * _COVERS
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Cannot read the mask {name!r}: {error}. Give a picture, white where it is masked."
        ) from error


def area_mask(x: int, y: int, width: int, height: int, frame: tuple[int, int]) -> np.ndarray:
    """bool `[H, W]` of a rectangle from (x, y) in a `frame` of (width, height). ValueError where it leaves it."""
    if min(x, y) < 0 or min(width, height) < 1 or x + width > frame[0] or y + height > frame[1]:
        raise ValueError(
            f"Invalid area {x},{y},{width},{height}. It lies inside the frames of {frame[0]}x{frame[1]} "
            "pixels, and has at least one."
        )
    mask = np.zeros(frame[::-1], dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def covered_cells(mask: np.ndarray, frame: tuple[int, int], grid: tuple[int, int], cell: int) -> np.ndarray:
    """bool `[T, h, w]`: the cells of which the mask covers any pixel.

    mask: bool, or numbers of which those from 0.5 on count, `[T, H, W]` or `[H, W]`, of the size of the frame (width,
    height), or of its shape at another size. grid: (h, w) cells of `cell` x `cell` pixels, which may reach beyond the
    frame: there they repeat its edge, and so does the mask. Raises ValueError for another shape.
    """
    if mask.ndim not in (2, 3) or not mask.size:
        raise ValueError(
            f"Invalid mask of shape {mask.shape}. The shape is [height, width] or [frames, height, width]."
        )
    H, W = mask.shape[-2:]
    width, height = frame
    if abs(W / width - H / height) > _SHAPE * max(W / width, H / height):
        raise ValueError(
            f"Invalid mask of {W}x{H} pixels. The frames have {width}x{height}: give a mask of that size or that shape."
        )
    top, bottom = _spans(grid[0], height, cell, H)
    left, right = _spans(grid[1], width, cell, W)
    counts = np.zeros((H + 1, W + 1), dtype=np.int64)  # of the masked pixels above and to the left
    cells = np.empty((mask.size // (H * W), *grid), dtype=bool)
    for index, one in enumerate(mask.reshape(-1, H, W)):  # one at a time, as counts are large
        counts[1:, 1:] = (one if one.dtype == bool else one >= _COVERS).cumsum(0).cumsum(1)
        rows = counts[bottom] - counts[top]
        cells[index] = rows[:, right] > rows[:, left]
    return cells


def _spans(cells: int, side: int, cell: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell along an axis of `side` pixels the first of the mask's `pixels` that touches it, and one too far."""
    first = np.minimum(np.arange(cells) * cell, (side - 1) // cell * cell)
    last = np.minimum(first + cell, side)
    return first * pixels // side, -(-last * pixels // side)
