"""Only what moves is computed: where two frames differ, in a few boxes; everything else is copied.

Frames are compared in tiles. Tiles that differ, those between them (what moves from one to the other is there half way)
and a rim around them are active. Active tiles get the interpolator's pixels, blended in over the rim, where both frames
look alike. Tiles that differ faintly, by hardly more than noise does, are mixed of both frames. All other pixels are
those of the nearer frame, bit for bit. The interpolator sees boxes around groups of active tiles, with a margin.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .changed_tiles import THRESHOLD, TILE, Box, active_boxes, active_tiles, differences, grown, over, tight
from .interpolator import Interpolator

FAINT = 4  # thresholds up to which a tile is mixed: however it moved, half way it is a few levels from that
AT_ONCE = 16_000_000  # pixels at several times that an interpolator is asked for at once, 15 bytes each


Check = Callable[[], None]


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


def blend_weights(active: np.ndarray, own: np.ndarray, box: Box) -> Tensor:
    """float32 `[h, w]` of the box: how much of the interpolator's pixels is taken.

    They fall from 1 to 0 over the rim of what is `active`: what differs has 1 all over, what is not active exactly 0.
    Where active tiles are not `own` but another box's, they fall to 0 within a tile.
    """
    return _softened(~grown(~active), box) * _softened(own, box)


def _softened(tiles: np.ndarray, box: Box) -> Tensor:
    """float32 pixels of the box: 1 in tiles that are True, falling to 0 evenly within one tile around them."""
    top, left = box.top // TILE, box.left // TILE
    bottom, right = -(-box.bottom // TILE), -(-box.right // TILE)
    around = np.pad(tiles, 2, mode="edge")[top : bottom + 4, left : right + 4]
    pixels = torch.from_numpy(around.repeat(TILE, 0).repeat(TILE, 1).astype(np.float32))[None, None]
    for pool in (F.max_pool2d, F.avg_pool2d):  # half a tile further, then the mean over a tile
        for size in ((TILE + 1, 1), (1, TILE + 1)):
            pixels = pool(pixels, size, 1)
    y, x = box.top - top * TILE + TILE, box.left - left * TILE + TILE  # a tile of two is used up by the means
    return pixels[0, 0, y : y + box.bottom - box.top, x : x + box.right - box.left].contiguous()


def _all_weights(boxes: list[tuple[Box, np.ndarray]]) -> list[tuple[Box, Tensor]]:
    """Weights for each box, so that where two meet, the later one is blended over a rim of the earlier one."""
    active = np.logical_or.reduce([own for _, own in boxes])
    taken, weights = np.zeros_like(active), []
    for box, own in boxes:
        mine = grown(own) & active & ~taken
        taken |= mine
        weights.append((box, blend_weights(active, mine, box)))
    return weights


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

    def shown(self, frame: np.ndarray, begins_shot: bool = False) -> np.ndarray:
        """What a frame that is passed on becomes: here it stays as it is."""
        return frame

    def frames(self, first: np.ndarray, second: np.ndarray, times: Sequence[float]) -> Iterator[np.ndarray]:
        """uint8 `[H, W, 3]` at each of `times` (above 0, below 1) between two uint8 `[H, W, 3]`."""
        H, W, _ = first.shape
        started, before = time.perf_counter(), self.cost.seconds
        boxes, faint = self._boxes(first, second)
        whole = bool(boxes) and boxes[0][0].area == H * W
        weights = [] if whole or not boxes else _all_weights(boxes)
        step = max(1, self.at_once // (H * W))
        for begin in range(0, len(times), step):
            some = [float(each) for each in times[begin : begin + step]]
            made = self._whole(first, second, some) if whole else self._parts(first, second, some, weights, faint)
            self.cost.frames += len(some)
            self.cost.pixels += len(some) * H * W
            self.cost.computed += len(some) * sum(box.area for box, _ in boxes)
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

    def _boxes(self, first: np.ndarray, second: np.ndarray) -> tuple[list[tuple[Box, np.ndarray]], np.ndarray]:
        """What the interpolator is given, and which tiles are mixed."""
        H, W, _ = first.shape
        if self.threshold is None:
            return [(Box(0, 0, H, W), np.ones((1, 1), bool))], np.zeros((1, 1), bool)
        difference = differences(first, second)
        changed = over(*difference, self.threshold)
        moving = over(*difference, FAINT * self.threshold)
        return active_boxes(active_tiles(moving), H, W), changed & ~moving

    def _whole(self, first: np.ndarray, second: np.ndarray, times: list[float]) -> list[np.ndarray]:
        one, two = self._ready(first), self._ready(second)
        self._prepared = two
        made = self._timed(lambda: self.interpolator.between(one[1], two[1], times, (one[2], two[2])))
        return list(to_bytes(made))

    def _ready(self, frame: np.ndarray) -> tuple[np.ndarray, Tensor, Any]:
        """The frame as the interpolator takes it, with what it keeps of it; made once for two pairs in a row."""
        if self._prepared is not None and self._prepared[0] is frame:
            return self._prepared
        planes = self._planes(frame)
        return frame, planes, self._timed(lambda: self.interpolator.prepare(planes))

    def _parts(
        self,
        first: np.ndarray,
        second: np.ndarray,
        times: list[float],
        boxes: list[tuple[Box, Tensor]],
        faint: np.ndarray,
    ) -> list[np.ndarray]:
        made = [(first if each <= 0.5 else second).copy() for each in times]
        for frame, each in zip(made, times, strict=True):
            mix_tiles(frame, first, second, each, faint)
        for box, weights in boxes:
            one, two = self._planes(box.of(first)), self._planes(box.of(second))
            inner = self._timed(lambda one=one, two=two: self.interpolator.between(one, two, times))
            share = weights.to(inner.device)
            for index, frame in enumerate(made):
                mixed = torch.lerp(self._planes(box.of(frame)), inner[index : index + 1].float(), share)
                box.of(frame)[...] = to_bytes(mixed)[0]
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


def to_bytes(frames: Tensor) -> np.ndarray:
    """`[T, 3, H, W]` in [0, 1] -> uint8 `[T, H, W, 3]`, clipped and rounded."""
    rounded = frames.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())


def mix_tiles(
    frame: np.ndarray, first: np.ndarray, second: np.ndarray, share: float, tiles: np.ndarray, side: int = TILE
) -> None:
    """Puts a cross-fade with `share` of the second frame where `tiles`, of `side` pixels, are True."""
    if not tiles.any():
        return
    around = tight(tiles)
    part = around.times(side)
    one, two, target = (part.of(each) for each in (first, second, frame))
    weight = round(share * 256)
    mixed = ((one.astype(np.uint16) * (256 - weight) + two.astype(np.uint16) * weight + 128) >> 8).astype(np.uint8)
    where = around.of(tiles).repeat(side, 0).repeat(side, 1)[: target.shape[0], : target.shape[1], None]
    np.copyto(target, mixed, where=where)
