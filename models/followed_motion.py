"""Upscaled tiles that move as a whole are moved, not made anew: a page that scrolls, a pan by whole pixels.

A few shifts of the picture are found by phase correlation. A tile that changed is taken from where a shift says it was,
if the small picture there is the same, more strictly than for tiles that stand still. What is moved is
moved on in the next frame, and every time the surroundings that the network saw are a little further from those it has
now: after a few times it is made anew.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .changed_tiles import TILE

MOST = 5
"""Times in a row that a tile is moved."""
_SHIFTS = 3
"""That are tried in a frame."""
_SAME = 0.25
"""Of the mean square difference up to which a tile that stands is the same: half the grey levels. What moves by parts
of a pixel looks alike when it is small, and is not when it is large."""
_FURTHEST = 0.25  # of a side: what moves further is not looked for
_LEAST_PEAK = 0.02  # of the correlation of a picture with itself: below, a peak is chance


@dataclass(frozen=True)
class Followed:
    """What was moved, as bool `[h, w]` of tiles, and how often in a row each tile now was, int `[h, w]`."""

    tiles: np.ndarray
    times: np.ndarray


def shifts(seen: Tensor, known: Tensor) -> list[tuple[int, int]]:
    """The likeliest shifts (down, right) from uint8 `[H, W, 3]` `known` to `seen`, none of them zero."""
    H, W, _ = seen.shape
    if min(H, W) < 2 * TILE:
        return []
    # what stands still is no part of it: it would be the strongest peak and hide the others
    moved = (seen != known).any(-1)
    window = torch.outer(torch.hann_window(H, periodic=False), torch.hann_window(W, periodic=False)).to(seen.device)
    one, two = ((each.float().mean(-1) - each.float().mean()) * window for each in (known, seen * moved[..., None]))
    cross = torch.fft.rfft2(two) * torch.fft.rfft2(one).conj()
    surface = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-6), (H, W))
    found = []
    for place in surface.flatten().topk(_SHIFTS + 1).indices.tolist():
        down, right = place // W, place % W
        down, right = down - H * (down > H // 2), right - W * (right > W // 2)
        near = abs(down) <= _FURTHEST * H and abs(right) <= _FURTHEST * W
        if near and (down, right) != (0, 0) and float(surface.flatten()[place]) > _LEAST_PEAK:
            found.append((down, right))
    return found[:_SHIFTS]


def follow(seen: Tensor, small: Tensor, large: Tensor, stale: np.ndarray, times: np.ndarray, limit: float) -> Followed:
    """Moves in `small` `[H, W, 3]` and `large` `[sH, sW, 3]`, both uint8, the tiles of `stale` that moved as a whole.

    Afterwards `small` is, there too, what the pixels of `large` were made from. `times` is how often each tile was
    moved in a row before, and `limit` the mean square difference up to which a tile that stands is the same.
    """
    H, W, _ = seen.shape
    best = np.where(stale, np.float32(_SAME * limit), np.float32(-1))
    chosen, after = np.full(stale.shape, -1), times.copy()
    candidates = shifts(seen, small)
    for number, (down, right) in enumerate(candidates):
        energies = _energies(seen, small, down, right)
        before = _sources(times, H, W, down, right)
        better = (energies <= best) & (before < MOST)
        best[better], chosen[better], after[better] = energies[better], number, before[better] + 1
    if (chosen >= 0).any():
        scale, old = large.shape[0] // H, (small.clone(), large.clone())
        for number, (down, right) in enumerate(candidates):
            _move(small, old[0], chosen == number, down, right, TILE)
            _move(large, old[1], chosen == number, scale * down, scale * right, scale * TILE)
    return Followed(chosen >= 0, after)


def _energies(seen: Tensor, small: Tensor, down: int, right: int) -> np.ndarray:
    """float32 `[h, w]`: of each tile the mean square difference from what was at that shift; inf beyond the edge."""
    H, W, _ = seen.shape
    difference = torch.full((H, W), torch.inf, device=seen.device)
    here = slice(max(0, down), H + min(0, down)), slice(max(0, right), W + min(0, right))
    there = slice(max(0, -down), H + min(0, -down)), slice(max(0, -right), W + min(0, -right))
    difference[here] = (seen[here].float() - small[there].float()).square_().mean(-1)
    padded = F.pad(difference[None, None], (0, -W % TILE, 0, -H % TILE), mode="replicate")
    return F.avg_pool2d(padded, TILE)[0, 0].cpu().numpy()


def _sources(times: np.ndarray, H: int, W: int, down: int, right: int) -> np.ndarray:
    """int like `times`: the most among the tiles that a tile is taken from at that shift."""
    spans = []
    for count, side, by in ((times.shape[0], H, down), (times.shape[1], W, right)):
        starts = np.arange(count) * TILE
        last = np.minimum(starts + TILE, side) - 1
        spans.append([np.clip((each - by) // TILE, 0, count - 1) for each in (starts, last)])
    return np.maximum.reduce([times[np.ix_(rows, columns)] for rows in spans[0] for columns in spans[1]])


def _move(target: Tensor, source: Tensor, tiles: np.ndarray, down: int, right: int, side: int) -> None:
    """Takes the tiles that are True, of `side` pixels, from where they were before the shift."""
    H, W, _ = target.shape
    for row, column in zip(*np.nonzero(tiles), strict=True):
        top, left = row * side, column * side
        bottom, end = min(H, top + side), min(W, left + side)
        target[top:bottom, left:end] = source[top - down : bottom - down, left - right : end - right]
