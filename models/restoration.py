"""What it costs to leave frames out: the error that remains when they are restored from the frames that are kept.

It is told from small grey pictures of all frames, as if a frame were restored by blending the two kept ones around it.
That error takes nothing but products of pictures: of a blend a + t (b - a) against c it is a quadratic form in <a, a>,
<a, b>, ... So the errors of every frame between every two that are near each other follow from one band of products.
A network restores better than a blend does, most of all steady motion; where frames are missed most is the same.
"""

import numpy as np

from .thumbnails import block_sums

SIDE = 64  # pixels: the longer side of the pictures
GAP = 48  # the most steps of the band between two kept frames
NOISE = 1.0  # squared grey levels: errors well below this are not seen, and no reason to keep a frame
_BLOCK = 512  # pictures multiplied at a time


class Thumbnails:
    """Small grey pictures of all frames given, at most SIDE pixels wide and high: up to 4 KB a frame, mostly 2 KB."""

    def __init__(self) -> None:
        self._pictures: list[np.ndarray] = []
        self._size = (0, 0)

    def update(self, frames: np.ndarray) -> None:
        """Keep the next frames, uint8 `[T, H, W, 3]` RGB, all of one size."""
        for frame in frames:
            if self._pictures and frame.shape[:2] != self._size:
                raise ValueError("Frames of different sizes. Scale them to one size first.")
            self._size = frame.shape[:2]
            self._pictures.append(_thumbnail(frame))

    @property
    def pictures(self) -> np.ndarray:
        """uint8 `[N, P]`: luma, one row for each frame."""
        if not self._pictures:
            raise ValueError("No frames. At least one is needed.")
        return np.stack(self._pictures)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """uint8 `[h * w]`: luma, each pixel the mean of a block."""
    sums, pixels = block_sums(frame, SIDE)
    return np.rint(sums @ np.array([0.299, 0.587, 0.114]) / pixels).astype(np.uint8).ravel()


def products(pictures: np.ndarray, width: int) -> np.ndarray:
    """float32 `[width + 1, N]`: at (g, i) the mean product of pictures i and i + g; 0 where there is none.

    128 is taken off all pixels: it changes no difference and keeps rounding small.
    """
    N, P = pictures.shape
    band = np.zeros((width + 1, N), dtype=np.float32)
    for first in range(0, N, _BLOCK):
        near = pictures[first : first + _BLOCK + width].astype(np.float32) - 128
        table = near[:_BLOCK] @ near.T / P  # [rows, rows + width]
        rows = np.arange(len(table))
        for gap in range(min(width, table.shape[1] - 1) + 1):
            inside = rows[rows + gap < table.shape[1]]
            band[gap, first + inside] = table[inside, inside + gap]
    return band


class Costs:
    """Errors of restoring pictures from two of them, told at once for all pairs that lie equally far apart.

    pictures: uint8 `[N, P]`, shown from `times` on (seconds). A picture may stand for several equal frames, itself the
    first: `spans` says how many, `middles` the mean of their times. `groups` int `[N]` increases at cuts: a frame is
    restored from kept ones of its own group only, so beside a cut it is a copy of the nearest one, and where its group
    has none, of the one before.
    """

    def __init__(
        self, pictures: np.ndarray, times: np.ndarray, spans: np.ndarray, middles: np.ndarray, groups: np.ndarray
    ) -> None:
        self.times, self.spans, self.middles, self.groups = times, spans, middles, groups
        self.width = min(GAP, len(pictures))
        self._band = products(pictures, self.width)

    def between(self, gap: int) -> np.ndarray:
        """`[gap, N - gap]`: at (m, i) the squared error of picture i + m, restored from i and i + gap <= i + width.

        Of the frames that a picture stands for it is the error at their mean time; for m 0, the frames that i stands
        for besides itself, it is the mean of their errors.
        """
        count = len(self.times) - gap
        first, last, inner = slice(count), slice(gap, gap + count), np.arange(gap)[:, None]
        each = inner + np.arange(count)  # [gap, count]
        square, band = self._band[0], self._band
        t = (self.middles[each] - self.times[first]) / (self.times[last] - self.times[first])
        here, there = self.groups[first] == self.groups[each], self.groups[last] == self.groups[each]
        t = np.where(here & there, t, np.where(there, 1.0, 0.0))
        error = square[each] + (1 - t) ** 2 * square[first] + t**2 * square[last]
        error += 2 * t * (1 - t) * band[gap, first] - 2 * (1 - t) * band[:gap, first]
        error -= 2 * t * band[gap - inner, each]
        rest = np.maximum(self.spans[first] - 1, 1)  # at equal steps of time from i on
        squared_t = 4 * t[0] ** 2 * (rest + 1) * (2 * rest + 1) / (6 * rest**2)
        error[0] = squared_t * (square[first] + square[last] - 2 * band[gap, first])
        return np.maximum(error, 0)

    def held(self, inner: int) -> np.ndarray:
        """`[N - inner]`: squared error of frame i + inner as a copy of frame i; inner <= width."""
        count = len(self.times) - inner
        return np.maximum(self._band[0, inner:] + self._band[0, :count] - 2 * self._band[inner, :count], 0)


def restored_errors(pictures: np.ndarray, times: np.ndarray, groups: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """float64 `[N]`: squared error of each frame when only `kept` (indices, increasing, from 0) are; theirs is 0."""
    frames = np.arange(len(pictures))
    place = np.searchsorted(kept, frames, side="right") - 1
    before, after = kept[place], kept[np.minimum(place + 1, len(kept) - 1)]
    here = (groups[before] == groups) | (groups[after] != groups)
    there = (groups[after] == groups) & (after > frames)
    span = np.maximum(times[after] - times[before], 1e-9)
    t = np.where(here & there, (times - times[before]) / span, np.where(there, 1.0, 0.0))
    errors = np.empty(len(pictures))
    for first in range(0, len(pictures), _BLOCK):
        part = slice(first, first + _BLOCK)
        weight = t[part, None].astype(np.float32)
        blend = (1 - weight) * pictures[before[part]] + weight * pictures[after[part]]
        errors[part] = np.square(blend - pictures[part]).mean(1)
    return errors
