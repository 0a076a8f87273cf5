"""Where a clip changes: motion energy, hard cuts, and the choice of frames to keep.

Motion energy of a frame is the mean |difference| of luma to the frame before, at low resolution, above what noise
alone gives at each pixel. Hard cuts follow PySceneDetect's adaptive detector: the change of a frame is compared with
that of its neighbours, so that steady fast motion is no cut. Three things differ. Change is measured in luma and
opponent colours instead of hue, saturation and value, whose noise in dark and grey pictures looks like cuts. A jolt of
the camera that a shift explains, and a flash after which the picture before it returns, are no cuts. Dissolves and
fades are not found.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

Policy = Literal["uniform", "motion"]

LOW_SIDE = 96  # pixels: the longer side that motion is measured at
NOISE_FLOOR = 3.0  # grey levels at a low-resolution pixel: grain and coding noise; a small moving part is well above
ADAPTIVE_RATIO = 3.0  # PySceneDetect's default: score over the mean of its neighbours
MIN_SCORE = 10.0  # ... and the least score that can be a cut: on our measure a flat, washed-out cut gives about 15
_RADIUS = 2  # neighbours on each side that a score is compared with
_MIN_SHOT = 3  # frames: cuts closer together than this are one change
_RETURN = 0.5  # a flash is over when the picture is this much closer to the one before it than the flash was


class MotionMeter:
    """Measures a clip given chunk by chunk; keeps a few numbers per frame and thumbnails of the last few frames.

        meter = MotionMeter()
        for chunk in reader.chunks():
            meter.update(chunk.frames)
        meter.energy, meter.cuts

    All chunkings give the same result.
    """

    def __init__(self) -> None:
        self._energy: list[float] = []
        self._scores: list[float] = []
        self._returns: list[tuple[float, ...]] = []  # change against the frames 2, 3 back: small where a flash ended
        self._recent: list[np.ndarray] = []  # opponent-colour thumbnails, newest last

    def update(self, frames: np.ndarray) -> None:
        """Measure the next frames, uint8 `[T, H, W, 3]` RGB."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            shape = tuple(frames.shape)
            raise ValueError(f"Invalid frames: {frames.dtype} {shape}. They are uint8 [frames, height, width, 3].")
        for frame in frames:
            self._add(_thumbnail(frame))

    @property
    def energy(self) -> np.ndarray:
        """float64 `[N]`: motion energy of every frame against the one before, in grey levels; 0 for the first."""
        return np.array(self._energy, dtype=np.float64)

    @property
    def scores(self) -> np.ndarray:
        """float64 `[N]`: change of luma and colour against the frame before, about 0..255; 0 for the first."""
        return np.array(self._scores, dtype=np.float64)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Indices of the frames that begin a new shot by a hard cut; frame 0 is not among them."""
        scores = self.scores
        cuts: list[int] = []
        for index in np.flatnonzero(scores >= MIN_SCORE).tolist():
            if scores[index] >= ADAPTIVE_RATIO * _neighbours(scores, index) and not self._is_flash(index):
                if cuts and index - cuts[-1] < _MIN_SHOT:
                    continue
                cuts.append(index)
        return tuple(cuts)

    def _add(self, rgb: np.ndarray) -> None:
        current = _opponents(rgb)
        if not self._recent:
            self._energy.append(0.0)
            self._scores.append(0.0)
            self._returns.append(())
        else:
            if self._recent[-1].shape != current.shape:
                raise ValueError("Frames of different sizes. Scale them to one size first.")
            difference = np.abs(current[..., 0] - self._recent[-1][..., 0])
            self._energy.append(float(np.maximum(difference - NOISE_FLOOR, 0).mean()))
            self._scores.append(_unexplained_change(current, self._recent[-1]))
            self._returns.append(tuple(_change(current, old) for old in self._recent[-2::-1]))
        self._recent = [*self._recent, current][-_RADIUS - 1 :]

    def _is_flash(self, index: int) -> bool:
        """Whether the change at `index` begins or ends a flash: one or two frames, then the earlier picture again."""
        limit = _RETURN * self._scores[index]
        later = range(_RADIUS)
        begins = any(
            index + k + 1 < len(self._scores)
            and k < len(self._returns[index + k + 1])
            and self._returns[index + k + 1][k] < limit
            for k in later
        )
        return begins or min(self._returns[index], default=np.inf) < limit


def select_frames(
    energy: np.ndarray,
    cuts: Sequence[int] = (),
    *,
    policy: Policy = "motion",
    count: int,
    min_gap: int = 1,
    max_gap: int | None = None,
    times: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Indices of the `count` frames to keep, increasing; the first frame and every frame in `cuts` are always kept.

    `energy` is `[N]`, of every frame against the one before. "uniform" spaces the frames evenly in `times` (seconds of
    each frame; the frame number if None) and takes no notice of cuts; "motion" puts equal energy between kept frames,
    and falls back to even spacing where nothing moves. With more cuts than `count` the strongest are kept. `min_gap`
    and `max_gap` bound the frames between kept ones: `max_gap` wins over `count` (then more are kept), `min_gap` does
    not hold between cuts, and less are kept where it leaves no room. `count` of N or more keeps every frame.
    """
    energy = np.asarray(energy, dtype=np.float64)
    N = len(energy)
    _check_selection(energy, cuts, policy, count, min_gap, max_gap, times)
    if count >= N and min_gap == 1:
        return tuple(range(N))
    clock = np.arange(N, dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    clock = np.append(clock, clock[-1] + (np.diff(clock).mean() if N > 1 else 1.0)) - clock[0]
    if policy == "uniform":
        return _fill_gaps(_place(clock, [0], count, min_gap), max_gap, N)
    strongest = sorted(sorted(sorted(set(cuts) - {0}), key=lambda cut: -energy[cut])[: max(0, count - 1)])
    inside = energy.copy()
    inside[[0, *cuts]] = 0.0  # the change of a cut is not motion: the kept shot start shows it entirely
    total = inside.sum()
    # A little even spacing: it breaks ties where nothing moves, and alone decides for a static clip.
    even = clock / clock[-1]
    # Frame i begins at the energy spent up to it; the last entry is the end of the last frame.
    progress = np.append(np.cumsum(inside), total) + even * (0.05 * total if total > 0 else 1.0)
    return _fill_gaps(_place(progress, [0, *strongest], count, min_gap), max_gap, N)


def _place(progress: np.ndarray, fixed: list[int], count: int, min_gap: int) -> list[int]:
    """Add frames to `fixed` until there are `count`, so that the largest step of `progress` is as small as it can be.

    `progress` is `[N + 1]`: where each frame begins, and where the last one ends.
    """
    bounds = [*fixed, len(progress) - 1]
    # A segment split k times has steps of extent / (k + 1).
    extents = np.array([progress[stop] - progress[start] for start, stop in pairwise(bounds)])
    room = np.array([(stop - 1 - start) // min_gap for start, stop in pairwise(bounds)])
    splits = np.zeros(len(fixed), dtype=np.int64)
    for _ in range(count - len(fixed)):
        gain = np.where(splits < room, extents / (splits + 1), -1.0)
        best = int(np.argmax(gain))
        if gain[best] < 0:
            break
        splits[best] += 1
    kept: list[int] = []
    for (start, stop), inner in zip(pairwise(bounds), splits, strict=True):
        kept.extend(_spread(progress, start, stop, int(inner), min_gap))
    return kept


def _spread(progress: np.ndarray, start: int, stop: int, inner: int, min_gap: int) -> list[int]:
    """`start` and `inner` frames after it, before `stop`, at equal steps of progress and at least `min_gap` apart."""
    span = progress[stop] - progress[start]
    targets = progress[start] + span * np.arange(1, inner + 1) / (inner + 1)
    kept = [start]
    for order, target in enumerate(targets):
        lowest = kept[-1] + min_gap
        highest = stop - 1 - (inner - 1 - order) * min_gap
        nearest = start + int(np.searchsorted(progress[start:stop], target))
        if nearest > start and nearest < stop and target - progress[nearest - 1] < progress[nearest] - target:
            nearest -= 1
        kept.append(int(np.clip(nearest, lowest, highest)))
    return kept


def _fill_gaps(kept: list[int], max_gap: int | None, N: int) -> tuple[int, ...]:
    if max_gap is None:
        return tuple(kept)
    filled: list[int] = []
    for start, stop in zip(kept, [*kept[1:], N], strict=True):
        pieces = -(-(stop - start) // max_gap)
        filled.extend(start + (stop - start) * piece // pieces for piece in range(pieces))
    return tuple(filled)


def _check_selection(
    energy: np.ndarray,
    cuts: Sequence[int],
    policy: str,
    count: int,
    min_gap: int,
    max_gap: int | None,
    times: Sequence[float] | None,
) -> None:
    N = len(energy)
    if policy not in ("uniform", "motion"):
        raise ValueError(f"Invalid policy {policy!r}. Supported policies are 'uniform' and 'motion'.")
    if energy.ndim != 1 or N == 0 or not np.isfinite(energy).all() or (energy < 0).any():
        raise ValueError("Invalid energy. It is one finite number of at least 0 for each frame.")
    if count < 1:
        raise ValueError(f"Invalid count {count}. At least one frame is kept.")
    if min_gap < 1 or (max_gap is not None and max_gap < min_gap):
        raise ValueError(f"Invalid gaps: min_gap {min_gap}, max_gap {max_gap}. They are 1 <= min_gap <= max_gap.")
    if any(not 0 <= cut < N for cut in cuts):
        raise ValueError(f"Invalid cuts {list(cuts)[:8]}. They are indices of the {N} frames.")
    if times is not None and (len(times) != N or (np.diff(times) <= 0).any()):
        raise ValueError(f"Invalid times. They are {N} increasing numbers of seconds.")


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """float32 `[h, w, 3]`, the longer side at most LOW_SIDE, every thumbnail pixel the mean of a block."""
    H, W, _ = frame.shape
    step = -(-max(H, W) // LOW_SIDE)
    if step == 1:
        return frame.astype(np.float32)
    h, w = max(1, H // step), max(1, W // step)
    frame = frame[: h * step, : w * step]
    # Rows are summed in integers before floats appear: twice as fast as a mean over two axes.
    rows = np.add.reduceat(frame, np.arange(0, frame.shape[0], step), axis=0, dtype=np.uint32)
    blocks = np.add.reduceat(rows, np.arange(0, rows.shape[1], step), axis=1)
    return blocks.astype(np.float32) / (min(step, H) * min(step, W))


def _opponents(rgb: np.ndarray) -> np.ndarray:
    """float32 `[h, w, 3]`: luma, red against green, yellow against blue, each with a range of 255 or 510."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.stack([luma, red - green, (red + green) / 2 - blue], -1)


def _change(a: np.ndarray, b: np.ndarray) -> float:
    """Mean |difference| of luma and colour, about 0..255."""
    luma, red_green, yellow_blue = np.abs(a - b).mean((0, 1))
    return float(luma + (red_green + yellow_blue) / 2) / 2


def _unexplained_change(current: np.ndarray, previous: np.ndarray) -> float:
    """`_change`, or what is left of it after the best whole-picture shift: a jolt of the camera is no cut."""
    change = _change(current, previous)
    H, W = current.shape[:2]
    if change < MIN_SCORE or min(H, W) < 8:
        return change
    # Phase correlation finds the shift in one step; more than a quarter of the picture is chance, not motion.
    cross = np.fft.rfft2(current[..., 0]) * np.conj(np.fft.rfft2(previous[..., 0]))
    peak = int(np.argmax(np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-6), (H, W))))
    dy, dx = (peak // W + H // 2) % H - H // 2, (peak % W + W // 2) % W - W // 2
    if abs(dy) > H // 4 or abs(dx) > W // 4:
        return change
    here = current[max(0, dy) : H + min(0, dy), max(0, dx) : W + min(0, dx)]
    there = previous[max(0, -dy) : H + min(0, -dy), max(0, -dx) : W + min(0, -dx)]
    return min(change, _change(here, there))


def _neighbours(scores: np.ndarray, index: int) -> float:
    """Mean score of the frames around `index` (without it), at least a tenth so that stills can be left."""
    around = np.r_[scores[max(1, index - _RADIUS) : index], scores[index + 1 : index + 1 + _RADIUS]]
    return max(0.1, float(around.mean())) if len(around) else 0.1
