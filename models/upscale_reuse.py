"""Only what changed is upscaled: every tile keeps the small picture that its result was made from.

A tile whose picture differs from the one it was last made from is made anew, with those around it, in a few boxes with
as much around them as the network sees. All other tiles keep their result, bit for bit. What a tile is compared with is
the picture that its result was made from, not the frame before: changes below the threshold do not pile up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .changed_tiles import TILE, Box, active_boxes, changed_tiles, grown, tight
from .upscaler import Upscaler

THRESHOLD = 3
"""Grey levels."""

Check = Callable[[], None]


@dataclass
class UpscaleCost:
    """What upscaling took so far. Pixels are those of small frames: width times height."""

    frames: int = 0
    tiles: int = 0
    tiles_computed: int = 0
    pixels: int = 0
    computed: int = 0
    """Of all pixels, those that the upscaler was given, margins included."""
    seconds: float = 0.0
    """In the upscaler."""
    seconds_around: float = 0.0
    """Comparing frames, and putting them together."""

    @property
    def computed_fraction(self) -> float:
        """Share of the tiles; 0 when there was nothing to compute."""
        return self.tiles_computed / self.tiles if self.tiles else 0.0

    @property
    def seconds_whole(self) -> float | None:
        """What upscaling all pixels would take, judging by those that were; None when none were."""
        return self.seconds / self.computed * self.pixels if self.computed else None


@dataclass
class ReusingUpscaler:
    """Frames of one size, in order, upscaled; `changed` says which tiles of the last one were made anew.

    `threshold` is that of `changed_tiles`; None has the whole of every frame computed, 0 gives the same bits as that.
    """

    upscaler: Upscaler
    threshold: int | None = THRESHOLD
    check: Check = lambda: None
    cost: UpscaleCost = field(default_factory=UpscaleCost)
    changed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    _seen: np.ndarray | None = field(default=None, repr=False)
    _made: np.ndarray | None = field(default=None, repr=False)

    @property
    def scale(self) -> int:
        """Times of the size."""
        return self.upscaler.scale

    def frame(self, frame: np.ndarray, cut: bool = False) -> np.ndarray:
        """uint8 `[H, W, 3]` -> uint8 `[sH, sW, 3]`, not to be written into. `cut`: nothing of before is of use."""
        started, before = time.perf_counter(), self.cost.seconds
        H, W, _ = frame.shape
        boxes: list[tuple[Box, np.ndarray]] = []
        if cut or self.threshold is None or self._seen is None or self._seen.shape != frame.shape:
            boxes = [(Box(0, 0, H, W), np.ones((-(-H // TILE), -(-W // TILE)), bool))]
        else:
            assert self._made is not None
            reach = -(-self.upscaler.reach // TILE)
            active = grown(changed_tiles(self._seen, frame, self.threshold), reach)
            boxes = active_boxes(active, H, W)
        self._compute(frame, boxes)
        assert self._made is not None
        self.cost.frames += 1
        self.cost.tiles += self.changed.size
        self.cost.tiles_computed += int(self.changed.sum())
        self.cost.pixels += H * W
        self.cost.seconds_around += time.perf_counter() - started - (self.cost.seconds - before)
        return self._made

    def report(self) -> dict[str, Any]:
        """What was computed, and what that saved; `seconds_saved` is None where there is nothing to judge it by."""
        cost, whole = self.cost, self.cost.seconds_whole
        spent = cost.seconds + cost.seconds_around
        return {
            "computed_fraction": round(cost.computed_fraction, 6),
            "tiles": cost.tiles,
            "tiles_computed": cost.tiles_computed,
            "seconds_upscaling": round(spent, 3),
            "seconds_saved": None if whole is None else round(whole - spent if self.threshold is not None else 0.0, 3),
            "seconds_saved_basis": "the seconds that a computed pixel took in this run",
        }

    def _compute(self, frame: np.ndarray, boxes: list[tuple[Box, np.ndarray]]) -> None:
        H, W, _ = frame.shape
        self.changed = np.zeros((-(-H // TILE), -(-W // TILE)), bool)
        if boxes and boxes[0][0].area == H * W:
            self._made, self._seen = self._upscaled(frame), frame.copy()
            self.changed[:] = True
            return
        if not boxes:
            return
        assert self._made is not None and self._seen is not None
        self._made = self._made.copy()
        for box, own in boxes:
            self.changed |= own
            tiles = tight(own)
            inner = Box(tiles.top * TILE, tiles.left * TILE, min(H, tiles.bottom * TILE), min(W, tiles.right * TILE))
            made = self._upscaled(box.of(frame))
            self._scaled(inner).of(self._made)[...] = self._scaled(inner, box).of(made)
            inner.of(self._seen)[...] = inner.of(frame)

    def _scaled(self, box: Box, inside: Box | None = None) -> Box:
        s, top, left = self.scale, inside.top if inside else 0, inside.left if inside else 0
        return Box(s * (box.top - top), s * (box.left - left), s * (box.bottom - top), s * (box.right - left))

    def _upscaled(self, frame: np.ndarray) -> np.ndarray:
        self.check()
        started = time.perf_counter()
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.upscaler.device).permute(2, 0, 1)[None]
        made = self.upscaler(pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255))
        found = _to_bytes(made)[0]
        self.cost.seconds += time.perf_counter() - started
        self.cost.computed += frame.shape[0] * frame.shape[1]
        return found


def _to_bytes(frames: Tensor) -> np.ndarray:
    """`[B, 3, H, W]` in [0, 1] -> uint8 `[B, H, W, 3]`, clipped and rounded."""
    rounded = frames.detach().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())
