"""Only what changed is upscaled; what hardly changed is brought up to date without the network, the rest is copied.

Every tile keeps its upscaled picture and the small one that this was made from. A tile is made anew when the small
picture differs by more than a threshold from the one that it was made from: not from the frame before, so that small
changes do not pile up. Where it differs by less, the difference alone is interpolated to the large size and added. That
costs next to nothing, and carries on light, focus and faint motion that a copy would hold back. Where nothing differs
the pixels stay as they are, bit for bit. Tiles that moved as a whole can be moved (models/followed_motion.py).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .changed_tiles import TILE, Box, grown, tight
from .followed_motion import follow
from .upscale_pieces import Cutter, Piece
from .upscaler import Upscaler

THRESHOLD = 2.0
"""Grey levels: root of the mean square difference of a tile of 8x8 pixels, above which it is made anew."""
REFRESH = 240
"""Frames after which what has not changed is made anew too, another part of the frame each time."""
AT_ONCE = {"cpu": 2**17, "other": 2**22}
"""Pixels of small frames that are given to the upscaler together; less is no faster, more takes memory."""
_PER_PIECE = {"cpu": 2**8, "other": 2**17}  # pixels that take as long as what each piece takes besides them
_WHOLE = 0.9  # share of what the whole frame takes from which on it is made
_NEAR = 4  # pixels around a piece, or a third of the reach: what is further away changes it by a fraction of a level
_WHITE = 0.5  # share of the finest detail from which on a difference looks like noise; in motion it is a fifth
_MANY = 0.25  # share of the tiles that look like it, where there is noise
_ABOVE = 1.4  # times the noise that a tile may differ by, besides the threshold: chance makes some differ by more
_TRIED = 112  # pixels: side of the part of a frame on which it is tried whether pieces are exact
_BLOCK = 8  # tiles: the side of what is refreshed together

Check = Callable[[], None]


@dataclass
class UpscaleCost:
    """What upscaling took so far. Pixels are those of small frames: width times height."""

    frames: int = 0
    tiles: int = 0
    """Of all frames."""
    tiles_computed: int = 0
    pixels: int = 0
    computed: int = 0
    """What the upscaler was given, with what lies around the tiles."""
    seconds: float = 0.0
    """In the upscaler."""
    seconds_around: float = 0.0
    """Comparing frames, and putting them together."""
    whole_pixels: int = 0
    """What the upscaler would have been given for whole frames."""

    @property
    def computed_fraction(self) -> float:
        """Share of the tiles that were made by the upscaler; 0 when there was nothing to do."""
        return self.tiles_computed / self.tiles if self.tiles else 0.0

    @property
    def seconds_whole(self) -> float | None:
        """What whole frames would take, judging by the pixels that were computed; None when none were."""
        return self.seconds / self.computed * self.whole_pixels if self.computed else None


@dataclass
class _State:
    """What is kept of a clip."""

    cutter: Cutter
    """For pieces."""
    whole: list[Piece]
    whole_price: int
    turns: np.ndarray
    """int `[h/8, w/8]` of blocks of tiles: in which order they are refreshed."""
    ages: np.ndarray
    """int `[h, w]`: frames since each tile was made."""
    small: Tensor
    """uint8 `[H, W, 3]`: what each tile was made from."""
    large: Tensor
    """uint8 `[sH, sW, 3]`: what was made."""
    moved: np.ndarray
    """int `[h, w]`: how often in a row each tile was moved."""
    piecewise: bool = True
    """Whether pieces may be cut anywhere; otherwise they are those of `whole`."""
    shown: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    """The last frame, as it was given out."""
    carried: bool = False
    """Whether that has more than `large`."""


class ReusingUpscaler:
    """Frames of one size, in order, upscaled.

    `threshold` is in grey levels, see THRESHOLD; None has the whole of every frame computed, and 0 gives the same bits
    as that. `refresh`: in so many frames each part of the picture is made anew at least once; 0: never. `at_once` is
    how many pixels the upscaler is given together. `follow_motion`: tiles that moved as a whole are moved, up to five
    times in a row; not with threshold 0, which is exact. `changed`, bool `[ceil(H/8), ceil(W/8)]`, says which tiles of
    the last frame the upscaler made, and `cost` what all frames took.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        threshold: float | None = THRESHOLD,
        refresh: int = REFRESH,
        *,
        check: Check = lambda: None,
        at_once: int | None = None,
        follow_motion: bool = False,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 255:
            raise ValueError(f"Invalid threshold {threshold:g}. It is 0 to 255 grey levels.")
        if refresh < 0:
            raise ValueError(f"Invalid refresh {refresh}. It is a number of frames, or 0 for never.")
        self.upscaler, self.threshold, self.refresh, self.check = upscaler, threshold, refresh, check
        kind = "cpu" if upscaler.device.type == "cpu" else "other"
        self._at_once, self._per_piece = at_once or AT_ONCE[kind], _PER_PIECE[kind]
        self.follow_motion = follow_motion and bool(threshold)
        self.cost = UpscaleCost()
        self.changed = np.zeros((0, 0), bool)
        self._state: _State | None = None

    @property
    def scale(self) -> int:
        """Times of the size."""
        return self.upscaler.scale

    @torch.inference_mode()
    def frame(self, frame: np.ndarray, cut: bool = False) -> np.ndarray:
        """uint8 `[H, W, 3]` -> uint8 `[sH, sW, 3]`, not to be written into. `cut`: nothing of before is of use."""
        started, before = time.perf_counter(), self.cost.seconds
        seen = torch.from_numpy(np.ascontiguousarray(frame)).to(self.upscaler.device)
        state = self._state
        if state is None or state.small.shape != seen.shape:
            state = self._state = self._begin(seen)
            cut = True
        pieces, differs = state.whole, None
        if not cut and self.threshold is not None:
            energies, finest = _energies(state, seen)
            limit = self.threshold**2 + (_ABOVE * _noise(energies, finest) if self.threshold else 0)
            stale, differs = energies > limit, energies > 0
            if self.follow_motion and state.piecewise and stale.any():
                followed = follow(seen, state.small, state.large, stale, state.moved, limit)
                stale, state.moved = stale & ~followed.tiles, followed.times
            pieces = self._pieces(state, stale)
        self._compute(state, seen, pieces)
        self._count(state, pieces)
        carried = None if differs is None else differs & ~self.changed
        if pieces or state.carried or (carried is not None and carried.any()):
            large = state.large.clone()
            if carried is not None:
                _carry_on(state, seen, large, carried)
            state.shown, state.carried = large.cpu().numpy(), carried is not None and bool(carried.any())
        self.cost.seconds_around += time.perf_counter() - started - (self.cost.seconds - before)
        return state.shown

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

    def _begin(self, seen: Tensor) -> "_State":
        H, W, _ = seen.shape
        reach = self.upscaler.reach
        exact = Cutter(H, W, reach, self._at_once, self._per_piece)
        cutter = exact if not self.threshold else replace(exact, margin=min(reach, max(_NEAR, reach // 3)))
        h, w = -(-H // TILE), -(-W // TILE)
        blocks = -(-h // _BLOCK), -(-w // _BLOCK)
        turns = np.random.default_rng(0).permutation(blocks[0] * blocks[1]).reshape(blocks)
        whole, large = exact.whole(), seen.new_zeros(self.scale * H, self.scale * W, 3)
        ages, moved = np.zeros((2, h, w), np.int64)
        state = _State(cutter, whole, exact.price(whole), turns, ages, seen.clone(), large, moved)
        state.piecewise = self.threshold != 0 or self._cuts_exactly(seen)
        return state

    def _cuts_exactly(self, seen: Tensor) -> bool:
        """Whether pieces are, bit for bit, what they are in a larger picture, and beside others; tried on the frame.

        So it is for convolutions on a CPU. Other devices choose how to compute by the size, and networks may look at
        the whole picture.
        """
        if self.upscaler.device.type != "cpu":
            return False
        part = Box(0, 0, _TRIED, _TRIED).of(seen)
        cutter = Cutter(part.shape[0], part.shape[1], self.upscaler.reach, self._at_once, 0)
        whole = self._made([part])[0]
        for box in (Box(0, 0, 1, 1), Box(5, 3, 6, 4), Box(2, 5, 9, 8), Box(9, 1, 12, 12)):
            tiles = np.zeros((-(-part.shape[0] // TILE), -(-part.shape[1] // TILE)), bool)
            box.of(tiles)[...] = True
            for piece in cutter.around(tiles):
                inner = _scaled(piece.inner, self.scale).of(whole)
                for made in self._made([piece.outer.of(part)] * 2):
                    if not torch.equal(_scaled(piece.inner, self.scale, piece.outer).of(made), inner):
                        return False
        return True

    def _pieces(self, state: "_State", stale: np.ndarray) -> list[Piece]:
        """What is made anew of a frame."""
        if self.threshold == 0:
            stale = grown(stale, -(-self.upscaler.reach // TILE)) if stale.any() else stale
        stale |= self._due(state)
        if not state.piecewise:
            return [piece for piece in state.whole if _tiles(piece.inner).of(stale).any()]
        if stale.mean() > _WHOLE:
            return state.whole
        pieces = state.cutter.around(stale)
        return state.whole if state.cutter.price(pieces) > _WHOLE * state.whole_price else pieces

    def _due(self, state: "_State") -> np.ndarray:
        """bool tiles whose turn it is, if they have not been made for a while."""
        h, w = state.ages.shape
        due = np.zeros((h, w), bool)
        if self.refresh:
            turns = state.turns * self.refresh // state.turns.size
            blocks = turns == self.cost.frames % self.refresh
            if blocks.any():
                tiles = blocks.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[:h, :w]
                due = tiles & (2 * state.ages >= self.refresh)
        return due

    def _compute(self, state: "_State", seen: Tensor, pieces: list[Piece]) -> None:
        # one at a time where bits are compared: how many there are may decide how sums are rounded
        together = 1 if pieces is state.whole or not state.piecewise else self._at_once
        for batch in _batches(pieces, together):
            self.check()
            started = time.perf_counter()
            made = self._made([piece.outer.of(seen) for piece in batch]).mul(255).round_().clamp_(0, 255)
            large = made.to(torch.uint8)
            if large.is_cuda:
                torch.cuda.synchronize(large.device)
            self.cost.seconds += time.perf_counter() - started
            self.cost.computed += sum(piece.outer.area for piece in batch)
            for piece, each in zip(batch, large, strict=True):
                inside = _scaled(piece.inner, self.scale, piece.outer).of(each)
                _scaled(piece.inner, self.scale).of(state.large)[...] = inside
                piece.inner.of(state.small)[...] = piece.inner.of(seen)

    def _made(self, parts: list[Tensor]) -> Tensor:
        """uint8 `[h, w, 3]` of one size -> float32 `[B, sh, sw, 3]` in [0, 1], about."""
        small = torch.stack(parts).permute(0, 3, 1, 2)  # [B, 3, h, w]
        small = small.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return self.upscaler(small).permute(0, 2, 3, 1)

    def _count(self, state: "_State", pieces: list[Piece]) -> None:
        self.changed = np.zeros(state.ages.shape, bool)
        for piece in pieces:
            _tiles(piece.inner).of(self.changed)[...] = True
        state.ages += 1
        state.ages[self.changed] = state.moved[self.changed] = 0
        self.cost.frames += 1
        self.cost.tiles += self.changed.size
        self.cost.tiles_computed += int(self.changed.sum())
        self.cost.pixels += state.small.shape[0] * state.small.shape[1]
        self.cost.whole_pixels += sum(piece.outer.area for piece in state.whole)


def _batches(pieces: list[Piece], at_once: int) -> Iterator[list[Piece]]:
    """Pieces of one size together, as many as are given at once; at least one."""
    by_size: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        box = piece.outer
        by_size.setdefault((box.bottom - box.top, box.right - box.left), []).append(piece)
    for (height, width), alike in by_size.items():
        step = max(1, at_once // (height * width))
        yield from (alike[begin : begin + step] for begin in range(0, len(alike), step))


def _scaled(box: Box, scale: int, inside: Box | None = None) -> Box:
    """In pixels of the large frame, or of what was made of the box `inside`."""
    top, left = (inside.top, inside.left) if inside else (0, 0)
    return Box(*(scale * (at - by) for at, by in zip(_sides(box), (top, left, top, left), strict=True)))


def _tiles(box: Box) -> Box:
    """In tiles."""
    return Box(box.top // TILE, box.left // TILE, -(-box.bottom // TILE), -(-box.right // TILE))


def _sides(box: Box) -> tuple[int, int, int, int]:
    return box.top, box.left, box.bottom, box.right


def _energies(state: _State, seen: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both float32 `[h, w]`, of each tile: the mean square difference from what it was made from, in grey levels; and
    the part of that which is finest detail along both axes, so that both are the same for noise."""
    H, W, _ = seen.shape
    h, w = state.ages.shape
    found: tuple[list[Tensor], list[Tensor]] = [], []
    rows = TILE * state.cutter.rows
    for top in range(0, H, rows):
        bottom = min(H, top + rows)
        difference = seen[top:bottom].to(torch.int16).sub_(state.small[top:bottom])
        difference = F.pad(difference, (0, 0, 0, w * TILE - W, 0, -(bottom - top) % TILE)).float()
        found[0].append(difference.square().view(-1, TILE, w, 3 * TILE).sum((1, 3)))
        lines = difference[0::2] - difference[1::2]
        finest = (lines[:, 0::2] - lines[:, 1::2]).square_()
        found[1].append(finest.view(-1, TILE // 2, w, 3 * TILE // 2).sum((1, 3)))  # four values each, of a fourth
    heights, widths = (np.minimum(TILE, side - np.arange(n) * TILE) for side, n in ((H, h), (W, w)))
    values = (3 * np.outer(heights, widths)).astype(np.float32)
    energies, finest = (torch.cat(each).cpu().numpy() / values for each in found)
    return energies, finest


def _noise(energies: np.ndarray, finest: np.ndarray) -> float:
    """Mean square difference that noise makes, judging by the tiles that look like it; 0 where few of them do.

    Motion has little of the finest detail, and so has what coding leaves.
    """
    alike = energies[finest > _WHITE * energies]
    return float(np.median(alike)) if alike.size >= _MANY * energies.size else 0.0


def _carry_on(state: _State, seen: Tensor, large: Tensor, tiles: np.ndarray) -> None:
    """Adds to `large`, in and around these tiles, the interpolated difference from what they were made from."""
    H, W, _ = seen.shape
    tiles = grown(tiles)  # interpolation reaches a pixel further
    rows = state.cutter.rows
    for top in range(0, len(tiles), rows):
        band = tiles[top : top + rows]
        if not band.any():
            continue
        tight_box = tight(band)
        inner = Box(
            (top + tight_box.top) * TILE,
            tight_box.left * TILE,
            min(H, (top + tight_box.bottom) * TILE),
            min(W, tight_box.right * TILE),
        )
        outer = Box(max(0, inner.top - 1), max(0, inner.left - 1), min(H, inner.bottom + 1), min(W, inner.right + 1))
        difference = outer.of(seen).to(torch.int16).sub_(outer.of(state.small)).float()
        scale = large.shape[0] // H
        grown_up = F.interpolate(difference.permute(2, 0, 1)[None], scale_factor=scale, mode="bilinear")[0]
        added = _scaled(inner, scale, outer).of(grown_up.permute(1, 2, 0))
        part = _scaled(inner, scale).of(large)
        part.copy_((added + part).round_().clamp_(0, 255))
