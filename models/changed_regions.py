"""Only what moves is computed: where two frames differ, in a few boxes; everything else is copied.

Frames are compared in tiles. Tiles that differ, those between them (what moves from one to the other is there half way)
and a rim around them are active. Active tiles get the interpolator's pixels, blended in over the rim, where both frames
look alike; all other pixels are those of the nearer frame, bit for bit. The interpolator sees boxes around groups of
active tiles, with a margin for context.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .interpolator import ALIGN, Interpolator

TILE = 16  # pixels
THRESHOLD = 2
"""Grey levels: a difference of 4x4 pixels that coding noise and grain rarely have, and the eye hardly sees."""
_CELL = 4  # pixels: the mean over it is what noise cancels in
_PEAK = 4  # a single pixel counts when it is over so many thresholds
_REACH = 0.05  # of the longer side: tiles twice as far apart belong together
_MARGIN = 32  # pixels of context around what is active
_PER_BOX = 64 * 64  # pixels that take as long as what each box takes besides its pixels
_WHOLE = 0.85  # share of the frame from which on the whole of it is computed
AT_ONCE = 1_000_000  # pixels of in-between frames that are computed together, if it is more than one frame

Check = Callable[[], None]


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

    def of(self, frame: Any) -> Any:
        """That part of `[H, W, ...]`, as a view."""
        return frame[self.top : self.bottom, self.left : self.right]


@dataclass
class Cost:
    """What in-between frames took so far. Pixels are those of frames of one plane: width times height."""

    frames: int = 0
    pixels: int = 0
    """Of all in-between frames."""
    computed: int = 0
    """Of these, what the interpolator was given, margins included."""
    seconds: float = 0.0
    """In the interpolator."""
    seconds_around: float = 0.0
    """Comparing frames, and putting them together."""

    @property
    def computed_fraction(self) -> float:
        """0 when there was nothing to compute; a margin that is filled up can take it a little above 1."""
        return self.computed / self.pixels if self.pixels else 0.0

    @property
    def seconds_whole(self) -> float | None:
        """What computing all pixels would take, judging by those that were; None when none were."""
        return self.seconds / self.computed * self.pixels if self.computed else None


def changed_tiles(first: np.ndarray, second: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """bool `[ceil(H/16), ceil(W/16)]`: tiles in which uint8 `[H, W, 3]` frames differ by more than `threshold`.

    They do when the mean |difference| over 4x4 pixels does, or that of a single pixel by far. 0: any difference counts.
    """
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"Frames of different kinds: {first.dtype} {first.shape}, {second.dtype} {second.shape}.")
    H, W, _ = first.shape
    h, w = -(-H // TILE), -(-W // TILE)
    difference = np.zeros((h * TILE, w * TILE * 3), np.uint8)
    rows, columns = slice(0, H), slice(0, 3 * W)
    one, two = first.reshape(H, 3 * W), second.reshape(H, 3 * W)
    np.subtract(np.maximum(one, two), np.minimum(one, two), out=difference[rows, columns])
    peaks = difference.reshape(h, TILE, -1).max(1).reshape(h, w, 3 * TILE).max(-1)
    if threshold <= 0:
        return peaks > 0
    # the rows of a cell first, along the memory; 4 * 4 * 3 values of 255 fit into 16 bits
    sums = difference.reshape(h * TILE // _CELL, _CELL, -1).sum(1, dtype=np.uint16)
    sums = sums.reshape(h, TILE // _CELL, w, TILE // _CELL, 3 * _CELL).sum(-1, dtype=np.uint16).max((1, 3))
    return (sums > threshold * 3 * _CELL**2) | (peaks > _PEAK * threshold)


def active_tiles(changed: np.ndarray) -> np.ndarray:
    """bool like `changed`: these, what lies between those that are near each other, and a rim of one tile."""
    reach = max(1, round(_REACH * max(changed.shape)))
    tiles = torch.from_numpy(changed.astype(np.float32))[None, None]
    # what lies beyond the edge never counts: so something near it is taken to come from there
    grown = F.max_pool2d(tiles, 2 * reach + 1, 1, reach)
    closed = 1 - F.max_pool2d(1 - grown, 2 * reach + 1, 1, reach)
    return _grown((torch.maximum(closed, tiles)[0, 0] > 0).numpy())


def active_boxes(active: np.ndarray, height: int, width: int) -> list[Box]:
    """Boxes in pixels around all active tiles, each with a margin, in sizes of 64 pixels as far as the frame allows.

    One box of the whole frame where little would be saved; none where nothing is active.
    """
    groups = list(_groups(active, height, width, 0, 0)) if active.any() else []
    boxes = [_padded(group, height, width) for group in groups]
    if sum(box.area for box in boxes) > _WHOLE * height * width:
        return [Box(0, 0, height, width)]
    return boxes


def _groups(active: np.ndarray, height: int, width: int, top: int, left: int) -> Iterator[Box]:
    """Boxes in tiles, parted along rows and columns without active tiles, where that saves area."""
    rows, columns = np.flatnonzero(active.any(1)), np.flatnonzero(active.any(0))
    whole = Box(top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1, left + int(columns[-1]) + 1)
    inner = active[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    best, parts = _price(whole, height, width), None
    for axis, filled in enumerate((rows - rows[0], columns - columns[0])):
        for gap in np.flatnonzero(np.diff(filled) > 1):
            end, start = int(filled[gap]) + 1, int(filled[gap + 1])
            one, two = (inner[:end], inner[start:]) if axis == 0 else (inner[:, :end], inner[:, start:])
            corner = (whole.top + start, whole.left) if axis == 0 else (whole.top, whole.left + start)
            price = _price(_tight(one, whole.top, whole.left), height, width)
            price += _price(_tight(two, *corner), height, width)
            if price < best:
                best, parts = price, ((one, whole.top, whole.left), (two, *corner))
    if parts is None:
        yield whole
        return
    for part, at_row, at_column in parts:
        yield from _groups(part, height, width, at_row, at_column)


def _tight(active: np.ndarray, top: int, left: int) -> Box:
    rows, columns = np.flatnonzero(active.any(1)), np.flatnonzero(active.any(0))
    return Box(top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1, left + int(columns[-1]) + 1)


def _price(tiles: Box, height: int, width: int) -> int:
    return _padded(tiles, height, width).area + _PER_BOX


def _padded(tiles: Box, height: int, width: int) -> Box:
    top, bottom = _span(tiles.top * TILE, tiles.bottom * TILE, height)
    left, right = _span(tiles.left * TILE, tiles.right * TILE, width)
    return Box(top, left, bottom, right)


def _span(start: int, stop: int, limit: int) -> tuple[int, int]:
    """With the margin, a multiple of 64 long, moved inside 0 to `limit`; all of it where that does not fit."""
    length = -(-(stop - start + 2 * _MARGIN) // ALIGN) * ALIGN
    if length >= limit:
        return 0, limit
    # at multiples of a tile, which keeps tiles whole
    begin = (start - (length - (stop - start)) // 2) // TILE * TILE
    begin = max(0, min(begin, limit - length))
    return begin, begin + length


def blend_weights(active: np.ndarray, box: Box) -> Tensor:
    """float32 `[h, w]` of the box: 1 where the interpolator's pixels are taken, 0 where the frame is kept as it is.

    They fall from 1 to 0 over the inner half of the rim: what differs has 1 all over, what is not active exactly 0.
    """
    inner = ~_grown(~active)
    top, left = box.top // TILE, box.left // TILE
    bottom, right = -(-box.bottom // TILE), -(-box.right // TILE)
    tiles = np.pad(inner, 1, mode="edge")[top : bottom + 2, left : right + 2].astype(np.float32)
    fine = F.interpolate(torch.from_numpy(tiles)[None, None], scale_factor=TILE, mode="bilinear")[0, 0]
    y, x = box.top - top * TILE + TILE, box.left - left * TILE + TILE
    h, w = box.bottom - box.top, box.right - box.left
    # a lone tile still has a quarter at its very corner, and half a tile away nothing
    return (4 * fine[y : y + h, x : x + w]).clamp_(0, 1)


def _grown(tiles: np.ndarray) -> np.ndarray:
    """With the eight neighbours of every tile that is True."""
    return (F.max_pool2d(torch.from_numpy(tiles.astype(np.float32))[None, None], 3, 1, 1)[0, 0] > 0).numpy()


@dataclass
class InBetweens:
    """In-between frames by an interpolator that is given what moves.

    `threshold` is that of `changed_tiles`; None has the whole of every frame computed. `device` is where the
    interpolator runs, and `at_once` how many pixels at several times it is given together. `cost` says what it took.
    """

    interpolator: Interpolator
    threshold: int | None = THRESHOLD
    check: Check = lambda: None
    device: torch.device | str = "cpu"
    at_once: int = AT_ONCE
    cost: Cost = field(default_factory=Cost)
    _prepared: tuple[np.ndarray, Tensor, Any] | None = field(default=None, repr=False)

    def frames(self, first: np.ndarray, second: np.ndarray, times: Sequence[float]) -> Iterator[np.ndarray]:
        """uint8 `[H, W, 3]` at each of `times` (above 0, below 1) between two uint8 `[H, W, 3]`."""
        H, W, _ = first.shape
        started, before = time.perf_counter(), self.cost.seconds
        active, boxes = self._active(first, second)
        whole = boxes == [Box(0, 0, H, W)]
        step = max(1, self.at_once // (H * W))
        for begin in range(0, len(times), step):
            some = [float(each) for each in times[begin : begin + step]]
            made = self._whole(first, second, some) if whole else self._parts(first, second, some, active, boxes)
            self.cost.frames += len(some)
            self.cost.pixels += len(some) * H * W
            self.cost.computed += len(some) * sum(box.area for box in boxes)
            spent = time.perf_counter() - started
            self.cost.seconds_around += spent - (self.cost.seconds - before)
            yield from made
            started, before = time.perf_counter(), self.cost.seconds

    def report(self) -> dict[str, Any]:
        """What was computed, and what that saved; `seconds_saved` is None where there is nothing to judge it by."""
        cost, whole = self.cost, self.cost.seconds_whole
        spent = cost.seconds + cost.seconds_around
        return {
            "computed_fraction": round(cost.computed_fraction, 6),
            "skipped_fraction": round(max(0.0, 1 - cost.computed_fraction), 6) if cost.frames else 0.0,
            "seconds_interpolating": round(spent, 3),
            "seconds_saved": None if whole is None else round(whole - spent if self.threshold is not None else 0.0, 3),
            "seconds_saved_basis": "the seconds that a computed pixel took in this run",
        }

    def _active(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, list[Box]]:
        H, W, _ = first.shape
        if self.threshold is None:
            return np.ones((1, 1), bool), [Box(0, 0, H, W)]
        active = active_tiles(changed_tiles(first, second, self.threshold))
        return active, active_boxes(active, H, W)

    def _whole(self, first: np.ndarray, second: np.ndarray, times: list[float]) -> list[np.ndarray]:
        one, two = self._ready(first), self._ready(second)
        self._prepared = two
        made = self._timed(lambda: self.interpolator.between(one[1], two[1], times, (one[2], two[2])))
        return list(_to_bytes(made))

    def _ready(self, frame: np.ndarray) -> tuple[np.ndarray, Tensor, Any]:
        """The frame as the interpolator takes it, with what it keeps of it; made once for two pairs in a row."""
        if self._prepared is not None and self._prepared[0] is frame:
            return self._prepared
        planes = self._planes(frame)
        return frame, planes, self._timed(lambda: self.interpolator.prepare(planes))

    def _parts(
        self, first: np.ndarray, second: np.ndarray, times: list[float], active: np.ndarray, boxes: list[Box]
    ) -> list[np.ndarray]:
        made = [(first if each <= 0.5 else second).copy() for each in times]
        for box in boxes:
            one, two = self._planes(box.of(first)), self._planes(box.of(second))
            inner = self._timed(lambda one=one, two=two: self.interpolator.between(one, two, times))
            weights = blend_weights(active, box).to(inner.device)
            for index, (frame, each) in enumerate(zip(made, times, strict=True)):
                near = one if each <= 0.5 else two
                mixed = torch.lerp(near, inner[index : index + 1].float(), weights)
                box.of(frame)[...] = _to_bytes(mixed)[0]
        return made

    def _planes(self, frame: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device)
        planes = pixels.permute(2, 0, 1)[None]  # [1, 3, H, W]
        return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _timed(self, work: Callable[[], Any]) -> Any:
        self.check()
        started = time.perf_counter()
        made = work()
        if isinstance(made, Tensor) and made.is_cuda:
            torch.cuda.synchronize(made.device)
        self.cost.seconds += time.perf_counter() - started
        return made


def _to_bytes(frames: Tensor) -> np.ndarray:
    """`[T, 3, H, W]` in [0, 1] -> uint8 `[T, H, W, 3]`, clipped and rounded."""
    rounded = frames.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())
