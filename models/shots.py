"""Where a clip changes: motion energy and changes of shot.

Motion energy of a frame is the mean |difference| of luma to the frame before, at low resolution, above what noise
alone gives at each pixel. Changes of shot are found in two ways that check each other. The first follows
PySceneDetect's adaptive detector: the change of a frame is compared with that of its neighbours, so that steady fast
motion is no cut. Three things differ. Change is measured in luma and opponent colours instead of hue, saturation and
value, whose noise in dark and grey pictures looks like cuts. A jolt of the camera that a shift explains, and a flash
after which the picture before it returns, are no cuts. The second is a small net, see shot_net.py, which also finds
dissolves and fades. Without it there are cuts only.
"""

from typing import Literal

import numpy as np

from .shot_judge import ShotJudge, Transition, TransitionKind, changes_of, flashes_of, settled
from .shot_net import ShotNet
from .thumbnails import block_sums

__all__ = ["MotionMeter", "Transition", "TransitionKind"]

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

    def __init__(self, detector: ShotNet | Literal["shipped"] | None = "shipped") -> None:
        """detector: the net that finds changes of shot beside the classical score; None for that score alone."""
        self._energy: list[float] = []
        self._scores: list[float] = []
        self._returns: list[tuple[float, ...]] = []  # change against the frames 2, 3 back: small where a flash ended
        self._recent: list[np.ndarray] = []  # opponent-colour thumbnails, newest last
        self._detector, self._judge = detector, None if isinstance(detector, str | None) else ShotJudge(detector)

    def update(self, frames: np.ndarray) -> None:
        """Measure the next frames, uint8 `[T, H, W, 3]` RGB."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            shape = tuple(frames.shape)
            raise ValueError(f"Invalid frames: {frames.dtype} {shape}. They are uint8 [frames, height, width, 3].")
        if self._judge is None and self._detector is not None:
            from .checkpoint import load_shot_net

            self._judge = ShotJudge(load_shot_net())
        for frame in frames:
            picture = _thumbnail(frame)
            self._add(picture)
            if self._judge is not None:
                self._judge.add(picture)

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
        return tuple(each.first for each in self.transitions if each.kind == "cut")

    @property
    def score_cuts(self) -> tuple[int, ...]:
        """`cuts` as the classical score alone finds them, with or without a net."""
        return tuple(self._cuts_among(self._candidates()))

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """Changes of shot in order, as if the clip ended with the last frame given."""
        return self._verdict(len(self._scores))

    @property
    def flashes(self) -> tuple[tuple[int, int], ...]:
        """First and last frame of each flash: light, dark or a strange picture that comes and goes within a shot."""
        if self._judge is not None:
            return flashes_of(self._judge.probabilities)
        lengths = {index: self._flash_length(index) for index in self._candidates()}
        return tuple((index, index + length - 1) for index, length in lengths.items() if length)

    @property
    def settled(self) -> int:
        """Number of leading frames whose verdict stands, whatever follows.

        About 50 frames behind those given; behind a dissolve that is under way, its beginning, at most 64 frames more.
        """
        if self._judge is not None:
            return settled(self._judge.judged)
        return max(0, len(self._scores) - 2 * _RADIUS - _MIN_SHOT)

    @property
    def settled_transitions(self) -> tuple[Transition, ...]:
        """Those of `transitions` that begin in the settled frames, at less cost: for acting while frames come in."""
        stands = self.settled
        return tuple(each for each in self._verdict(stands) if each.first < stands)

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

    def _verdict(self, frames: int) -> tuple[Transition, ...]:
        """Changes of shot; that of the first `frames` frames is needed, more may come too."""
        candidates = self._candidates()
        if self._judge is not None:
            judged = self._judge.judged
            judged = judged if frames <= len(judged) else self._judge.probabilities
            seen = np.zeros(len(self._scores), dtype=bool)
            seen[candidates] = True
            return changes_of(judged, seen[: len(judged)])
        return tuple(Transition(cut, cut - 1, "cut") for cut in self._cuts_among(candidates))

    def _candidates(self) -> list[int]:
        """Frames that change far more than those around them."""
        scores = self.scores
        strong = np.flatnonzero(scores >= MIN_SCORE).tolist()
        return [index for index in strong if scores[index] >= ADAPTIVE_RATIO * _neighbours(scores, index)]

    def _cuts_among(self, candidates: list[int]) -> list[int]:
        """Those that neither begin nor end a flash, nor follow another one at once."""
        cuts: list[int] = []
        for index in candidates:
            if not self._is_flash(index) and not (cuts and index - cuts[-1] < _MIN_SHOT):
                cuts.append(index)
        return cuts

    def _is_flash(self, index: int) -> bool:
        """Whether the change at `index` begins or ends a flash."""
        ends = min(self._returns[index], default=np.inf) < _RETURN * self._scores[index]
        return ends or self._flash_length(index) > 0

    def _flash_length(self, index: int) -> int:
        """Frames of the flash that begins at `index`, one or two, until the earlier picture returns; 0 if none does."""
        for length in range(1, _RADIUS + 1):
            returns = self._returns[index + length] if index + length < len(self._scores) else ()
            if length <= len(returns) and returns[length - 1] < _RETURN * self._scores[index]:
                return length
        return 0


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """float32 `[h, w, 3]`, the longer side at most LOW_SIDE, every thumbnail pixel the mean of a block."""
    sums, pixels = block_sums(frame, LOW_SIDE)
    return sums.astype(np.float32) / pixels


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
