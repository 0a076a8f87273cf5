"""Where two frames differ, in tiles, and the boxes around what differs."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .interpolator import ALIGN

TILE = 8  # pixels
THRESHOLD = 2
"""Grey levels: a difference of 4x4 pixels that coding noise and grain rarely have, and the eye hardly sees."""
_CELL = 4  # pixels: the mean over it is what noise cancels in
_PEAK = 4  # a single pixel counts when it is over so many thresholds
_REACH = 0.05  # of the longer side: tiles twice as far apart belong together
_MARGIN = 16  # pixels of context around what is active, at least
_PER_BOX = 64 * 64  # pixels that take as long as what each box takes besides its pixels
_WORTH = 0.03  # share of the frame that a cut through what is active has to save
_MOST_BOXES = 64  # that are tried; more of them are one
_WHOLE = 0.75  # share of the frame from which on the whole of it is computed


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, the ends not included, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def with_(self, other: "Box") -> "Box":
        """The box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def times(self, factor: int) -> "Box":
        """The same part where everything is so many times as large."""
        return Box(factor * self.top, factor * self.left, factor * self.bottom, factor * self.right)

    def of(self, frame: Any) -> Any:
        """That part of `[H, W, ...]`, as a view."""
        return frame[self.top : self.bottom, self.left : self.right]


def changed_tiles(first: np.ndarray, second: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """bool `[ceil(H/8), ceil(W/8)]`: tiles in which uint8 `[H, W, 3]` frames differ by more than `threshold`.

    They do when the mean |difference| over 4x4 pixels does, or that of a single pixel by far. 0: any difference counts.
    """
    return over(*differences(first, second), threshold)


def over(means: np.ndarray, peaks: np.ndarray, threshold: int) -> np.ndarray:
    return (means > threshold) | (peaks > _PEAK * threshold) if threshold > 0 else peaks > 0


def differences(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each tile: the largest mean |difference| over 4x4 pixels, and the largest |difference|."""
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"Frames of different kinds: {first.dtype} {first.shape}, {second.dtype} {second.shape}.")
    H, W, _ = first.shape
    h, w = -(-H // TILE), -(-W // TILE)
    difference = np.zeros((h * TILE, w * TILE * 3), np.uint8)
    one, two = first.reshape(H, 3 * W), second.reshape(H, 3 * W)
    np.subtract(np.maximum(one, two), np.minimum(one, two), out=difference[:H, : 3 * W])
    peaks = difference.reshape(h, TILE, -1).max(1).reshape(h, w, 3 * TILE).max(-1)
    # the rows of a cell first, along the memory; 4 * 4 * 3 values of 255 fit into 16 bits
    sums = difference.reshape(h * TILE // _CELL, _CELL, -1).sum(1, dtype=np.uint16)
    sums = sums.reshape(h, TILE // _CELL, w, TILE // _CELL, 3 * _CELL).sum(-1, dtype=np.uint16).max((1, 3))
    return sums / (3 * _CELL**2), peaks


def active_tiles(changed: np.ndarray) -> np.ndarray:
    """bool like `changed`: these, what lies between those that are near each other, and a rim of one tile."""
    reach = max(1, round(_REACH * max(changed.shape)))
    # what lies beyond the edge never counts: so something near it is taken to come from there
    closed = ~grown(~grown(changed, reach), reach)
    return grown(closed | changed)


def active_boxes(active: np.ndarray, height: int, width: int) -> list[tuple[Box, np.ndarray]]:
    """Boxes in pixels around active tiles, each with bool like `active`: the tiles that are its own.

    Boxes have a margin, and sizes of 64 pixels as far as the frame allows; they may overlap. One box of the whole frame
    where little would be saved; none where nothing is active.
    """
    groups = [part for group in _merged(labelled(active), height, width) for part in _split(group, height, width)]
    # where a group was cut, its box reaches a tile further: there two boxes are blended
    boxes = [(_padded(tight(grown(own) & active), height, width), own) for own in groups]
    if sum(box.area for box, _ in boxes) > _WHOLE * height * width:
        return [(Box(0, 0, height, width), active)]
    return boxes


def labelled(active: np.ndarray) -> np.ndarray:
    """int64 like bool `active`: 0, or the number, from 1, of the group of neighbouring tiles that a tile belongs to."""
    edges = np.diff(active.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for row in range(1, len(active)):
        above, here = (np.flatnonzero(rows == each).tolist() for each in (row - 1, row))
        for run in here:
            for other in above:  # neighbours across corners too
                if starts[other] <= stops[run] and starts[run] <= stops[other]:
                    parent[root(run)] = root(other)
    labels, numbers = np.zeros(active.shape, np.int64), {}
    for run, (row, start, stop) in enumerate(zip(rows, starts, stops, strict=True)):
        labels[row, start:stop] = numbers.setdefault(root(run), len(numbers) + 1)
    return labels


def _merged(labels: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """bool like `labels` for each group: two become one as long as one box takes no longer than two."""
    count = int(labels.max(initial=0))
    if count > _MOST_BOXES:
        return [labels > 0]
    groups = {number: labels == number for number in range(1, count + 1)}
    boxes = {number: tight(group) for number, group in groups.items()}

    def loss(one: int, two: int) -> int:
        around = boxes[one].with_(boxes[two])
        return sum(sign * _price(box, height, width) for sign, box in ((1, around), (-1, boxes[one]), (-1, boxes[two])))

    losses = {pair: loss(*pair) for pair in combinations(boxes, 2)}
    while losses and min(losses.values()) <= 0:
        one, two = min(losses, key=losses.__getitem__)
        groups[one], boxes[one] = groups[one] | groups.pop(two), boxes[one].with_(boxes.pop(two))
        losses = {pair: value for pair, value in losses.items() if one not in pair and two not in pair}
        losses |= {(one, other): loss(one, other) for other in boxes if other != one}
    return list(groups.values())


def _split(tiles: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """bool like `tiles` for each part: cut in two along a row or column, again and again, where that saves much."""
    best = _price(tight(tiles), height, width) - _WORTH * height * width
    parts = None
    for axis, sides in enumerate(((height, width), (width, height))):
        cut, price = _best_cut(tiles if axis == 0 else tiles.T, *sides)
        if price < best:
            lines = np.arange(tiles.shape[axis]) < cut
            before = lines[:, None] if axis == 0 else lines
            best, parts = price, (tiles & before, tiles & ~before)
    return [tiles] if parts is None else [each for part in parts for each in _split(part, height, width)]


def _best_cut(tiles: np.ndarray, down: int, across: int) -> tuple[int, float]:
    """Before which row to cut, and the price of the two boxes; of frames of `down` times `across` pixels."""
    rows = np.flatnonzero(tiles.any(1))
    if len(rows) < 2:
        return 0, np.inf
    first, last = tiles[rows].argmax(1), tiles.shape[1] - tiles[rows, ::-1].argmax(1)
    areas = []  # of the rows up to each, and from each on
    for order in (slice(None), slice(None, None, -1)):
        left, right = np.minimum.accumulate(first[order]), np.maximum.accumulate(last[order])
        ends = rows[order]
        top, bottom = np.minimum(ends, ends[0]), np.maximum(ends, ends[0]) + 1
        areas.append((_lengths(top, bottom, down) * _lengths(left, right, across))[order])
    prices = areas[0][:-1] + areas[1][1:] + 2 * _PER_BOX
    best = int(prices.argmin())
    return int(rows[best + 1]), float(prices[best])


def _lengths(starts: np.ndarray, stops: np.ndarray, limit: int) -> np.ndarray:
    """Those of `_span`, of many at once, in tiles."""
    first, last = np.maximum(0, starts * TILE - _MARGIN), np.minimum(limit, stops * TILE + _MARGIN)
    return np.minimum(limit, -(-(last - first) // ALIGN) * ALIGN)


def tight(tiles: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(tiles.any(1)), np.flatnonzero(tiles.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _price(tiles: Box, height: int, width: int) -> int:
    return _padded(tiles, height, width).area + _PER_BOX


def _padded(tiles: Box, height: int, width: int) -> Box:
    top, bottom = _span(tiles.top * TILE, tiles.bottom * TILE, height)
    left, right = _span(tiles.left * TILE, tiles.right * TILE, width)
    return Box(top, left, bottom, right)


def _span(start: int, stop: int, limit: int) -> tuple[int, int]:
    """With the margin as far as there is one, a multiple of 64 long, inside 0 to `limit`; or all of it."""
    first, last = max(0, start - _MARGIN), min(limit, stop + _MARGIN)
    length = -(-(last - first) // ALIGN) * ALIGN
    if length >= limit:
        return 0, limit
    begin = max(0, min(first - (length - (last - first)) // 2, limit - length))
    return begin, begin + length


def grown(tiles: np.ndarray, reach: int = 1) -> np.ndarray:
    """bool tiles, with those around every one that is True, up to `reach` away."""
    wide = torch.from_numpy(tiles.astype(np.float32))[None, None]
    for size, pad in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):  # rows, then columns
        wide = F.max_pool2d(wide, size, 1, pad)
    return (wide[0, 0] > 0).numpy()
