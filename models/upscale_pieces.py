"""Which pieces of a frame an upscaler is given: rectangles around tiles, with as much around them as it sees."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .changed_tiles import TILE, Box, tight


@dataclass(frozen=True)
class Piece:
    """Both in pixels of the small frame: what is made, and what it is made from."""

    inner: Box
    outer: Box


@dataclass(frozen=True)
class Cutter:
    """Cuts frames of a size into pieces.

    `margin`: pixels around what is made that the upscaler is given too; `at_once`: pixels that it is given together;
    `per_piece`: pixels that take as long as what each piece takes besides its pixels.
    """

    height: int
    width: int
    margin: int
    at_once: int
    per_piece: int

    @property
    def rows(self) -> int:
        """Rows of tiles that are as many pixels as are given at once."""
        return max(1, self.at_once // self.width // TILE)

    def around(self, tiles: np.ndarray) -> list[Piece]:
        """Pieces that hold all tiles that are True in bool `[ceil(H/8), ceil(W/8)]`, none twice; perhaps others too."""
        if not tiles.any():
            return []
        return [piece for box in self._split(tight(tiles), tiles) for piece in self._parts(box)]

    def whole(self) -> list[Piece]:
        """The frame in as few pieces as may be."""
        return list(self._parts(Box(0, 0, -(-self.height // TILE), -(-self.width // TILE))))

    def price(self, pieces: list[Piece]) -> int:
        """What they take, in pixels."""
        return sum(piece.outer.area + self.per_piece for piece in pieces)

    def _split(self, box: Box, tiles: np.ndarray) -> Iterator[Box]:
        """Boxes of tiles inside `box`: cut in two along a row or column, again and again, as long as that saves."""
        inside = box.of(tiles)
        best, parts = self._price(box), None
        for axis in (0, 1):
            cut, price = self._best_cut(inside if axis == 0 else inside.T, box, axis)
            if price < best:
                first, second = (inside[:cut], inside[cut:]) if axis == 0 else (inside[:, :cut], inside[:, cut:])
                down, across = (cut, 0) if axis == 0 else (0, cut)
                best = price
                parts = (tight(first), box.top, box.left), (tight(second), box.top + down, box.left + across)
        if parts is None:
            yield box
            return
        for part in parts:
            yield from self._split(_moved(*part), tiles)

    def _best_cut(self, tiles: np.ndarray, box: Box, axis: int) -> tuple[int, float]:
        """Before which row to cut, and the price of the two tight boxes; `tiles` are those of the box, or turned."""
        rows = np.flatnonzero(tiles.any(1))
        if len(rows) < 2:
            return 0, np.inf
        first, last = tiles[rows].argmax(1), tiles.shape[1] - tiles[rows, ::-1].argmax(1)
        origin, side = ((box.top, box.left), (box.left, box.top))[axis]
        limits = (self.height, self.width) if axis == 0 else (self.width, self.height)
        areas = []  # of the rows up to each, and from each on
        for order in (slice(None), slice(None, None, -1)):
            left, right = np.minimum.accumulate(first[order]), np.maximum.accumulate(last[order])
            ends = rows[order]
            top, bottom = np.minimum(ends, ends[0]), np.maximum(ends, ends[0]) + 1
            down = self._lengths(top + origin, bottom + origin, limits[0])
            areas.append((down * self._lengths(left + side, right + side, limits[1]))[order])
        prices = areas[0][:-1] + areas[1][1:] + 2 * self.per_piece
        best = int(prices.argmin())
        return int(rows[best + 1]), float(prices[best])

    def _lengths(self, starts: np.ndarray, stops: np.ndarray, limit: int) -> np.ndarray:
        """Pixels, with what lies around, of tiles from `starts` to `stops`."""
        return np.minimum(limit, stops * TILE + self.margin) - np.maximum(0, starts * TILE - self.margin)

    def _price(self, tiles: Box) -> int:
        return self._piece(tiles).outer.area + self.per_piece

    def _piece(self, tiles: Box) -> Piece:
        H, W, reach = self.height, self.width, self.margin
        inner = Box(tiles.top * TILE, tiles.left * TILE, min(H, tiles.bottom * TILE), min(W, tiles.right * TILE))
        outer = Box(
            max(0, inner.top - reach),
            max(0, inner.left - reach),
            min(H, inner.bottom + reach),
            min(W, inner.right + reach),
        )
        return Piece(inner, outer)

    def _parts(self, tiles: Box) -> Iterator[Piece]:
        """Pieces of a box of tiles, as even as tiles allow, so few that none is larger than what is given at once."""
        h, w = tiles.bottom - tiles.top, tiles.right - tiles.left
        rows = columns = 1
        while (rows, columns) != (h, w):
            height, width = -(-h // rows) * TILE + 2 * self.margin, -(-w // columns) * TILE + 2 * self.margin
            if min(height, self.height) * min(width, self.width) <= self.at_once:
                break
            if columns == w or (rows < h and height > width):
                rows += 1
            else:
                columns += 1
        down, across = (np.linspace(0, n, parts + 1).round().astype(int) for n, parts in ((h, rows), (w, columns)))
        for top, bottom in pairwise(down.tolist()):
            for left, right in pairwise(across.tolist()):
                yield self._piece(_moved(Box(top, left, bottom, right), tiles.top, tiles.left))


def _moved(box: Box, down: int, across: int) -> Box:
    return Box(box.top + down, box.left + across, box.bottom + down, box.right + across)
