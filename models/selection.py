"""Which frames of a clip to keep: evenly, where restoring the others would cost most, or where the picture changed.

    wanted = Amount(count=17, form=(4, "below"))
    kept = select_frames(pictures, shots, policy="motion", amount=wanted)

What is asked for is met exactly: see `select_frames` for what gives way where wishes contradict each other.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from .frame_path import cheapest_frames
from .restoration import NOISE, restored_errors

Policy = Literal["motion", "keyframes", "uniform", "dedupe"]
POLICIES: tuple[Policy, ...] = ("motion", "keyframes", "uniform", "dedupe")
FORMS = {"any": 1, "4n+1": 4, "6n+1": 6, "8n+1": 8}
"""Frame counts that video models take: any; Wan, HunyuanVideo; Mochi; LTX-Video, Cosmos."""
Rounding = Literal["below", "above", "nearest"]
ROUNDINGS: tuple[Rounding, ...] = ("below", "above", "nearest")
CHANGED = {"keyframes": 30.0, "dedupe": 4.0}
"""Thresholds in grey levels: of the root mean square difference, and of the largest one, of small grey pictures."""
_LEAST_ERROR = 0.02  # squared grey levels: in small pictures of a still camera errors that are seen are not much larger
_LEAST_GAIN = 1.0  # dB by which a plan must be ahead of even spacing to be taken; see `_by_cost`


@dataclass(frozen=True)
class Amount:
    """How many frames to keep, and what numbers of them may be.

    `count` None: as many as pass `threshold`, for the policies that have one ("keyframes", "dedupe"; None: CHANGED).
    `form` k stands for counts k n + 1; `rounding` says which one next to a number is taken.
    """

    count: int | None = None
    form: int = 1
    rounding: Rounding = "below"
    min_gap: int = 1
    max_gap: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"Invalid count {self.count}. At least one frame is kept.")
        if self.form < 1 or self.rounding not in ROUNDINGS:
            raise ValueError(f"Invalid form {self.form}n+1, rounded {self.rounding!r}. Supported are n of 1 and more.")
        if self.min_gap < 1 or (self.max_gap is not None and self.max_gap < self.min_gap):
            gaps = f"min_gap {self.min_gap}, max_gap {self.max_gap}"
            raise ValueError(f"Invalid gaps: {gaps}. They are 1 <= min_gap <= max_gap.")
        if self.threshold is not None and not 0 <= self.threshold < 256:
            raise ValueError(f"Invalid threshold {self.threshold}. It is from 0 to 255 grey levels.")

    def fitted(self, count: int, most: int) -> int:
        """`count` brought to the form: to the number below it, above it, or the nearer one (below if both are).

        Never more than `most`, the frames that there are: where the number above is, it is the one below.
        """
        count = min(count, most)
        below = (count - 1) // self.form * self.form + 1
        above = below if below == count else below + self.form
        up = self.rounding == "above" or (self.rounding == "nearest" and above - count < count - below)
        return above if up and above <= most else below


@dataclass(frozen=True)
class Shots:
    """Where shots begin: frames, increasing, without 0. `cuts` are those that begin at once, `strength` by frame.

    `ends` are the last frames before gradual changes: with them and the first frame after, a cross-fade restores it.
    """

    begins: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    strength: tuple[float, ...] = ()

    def strongest(self, room: int) -> list[int]:
        """At most `room` of the frames that should be kept: beginnings first, then ends, the strongest first."""
        order = sorted(self.begins, key=self._weakness) + sorted(set(self.ends) - {0, *self.begins}, key=self._weakness)
        return sorted(order[: max(0, room)])

    def _weakness(self, frame: int) -> float:
        return -self.strength[frame] if self.strength else 0.0

    def groups(self, count: int) -> np.ndarray:
        """int64 `[count]`: how many cuts lie at or before each frame."""
        return np.searchsorted(np.array(self.cuts, dtype=np.int64), np.arange(count), side="right")


def select_frames(
    pictures: np.ndarray,
    shots: Shots | None = None,
    *,
    policy: Policy = "motion",
    amount: Amount,
    times: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Indices of the frames to keep, increasing, the first always 0.

    `pictures` are small grey ones of all frames, uint8 `[N, P]`; `times` are their seconds (None: frame numbers).

    - "uniform" spaces frames evenly in time and takes no notice of shots.
    - "motion" keeps the frames without which restoring the others would be worst, and the first of every shot.
    - "keyframes" keeps the first of every shot, and frames that differ enough from the one kept before; `count` is a
      limit: the threshold rises until it holds.
    - "dedupe" drops frames that hardly differ from the one kept before; `count` is a limit as well.

    The number is `amount.fitted(count, N)` exactly, and for the last two at most that, or brought to the form where one
    is asked for. Two wishes may change it: with `max_gap`, so many are kept that no gap is longer; with `min_gap`, so
    few that none is shorter (except between frames that shots need). The form still holds then: for `max_gap` it is
    the number above, as far as the clip has it. With more shots than frames, the strongest changes win.
    """
    N = len(pictures)
    shots = shots or Shots()
    clock = _checked_clock(pictures, shots, policy, times)
    limit = N if amount.count is None else amount.fitted(amount.count, N)
    if policy == "uniform":
        kept = _fill_gaps(_place(clock, [0], limit, amount.min_gap), amount.max_gap, N)
    elif policy == "motion":
        kept = _by_cost(pictures, shots, clock, limit, amount)
    else:
        kept = _fill_gaps(_by_change(pictures, shots, policy, limit, amount), amount.max_gap, N)
        limit = amount.fitted(len(kept), limit)  # these policies keep what they need, and no more
    # More than was asked for is what max_gap needs: then the number of the form above it; min_gap may leave fewer.
    needed = amount.max_gap is not None and len(kept) > limit
    wanted = Amount(form=amount.form, rounding="above").fitted(len(kept), N) if needed else limit
    kept = _top_up(kept, clock, wanted, amount.min_gap)
    return tuple(_thinned(kept, clock, amount.fitted(len(kept), min(wanted, len(kept)))))


def _by_cost(pictures: np.ndarray, shots: Shots, clock: np.ndarray, count: int, amount: Amount) -> list[int]:
    """The plan of least restoration error, or even spacing within shots where that is as good.

    The error that counts is that of each frame in decibels, and half as much its share of the whole error: neither the
    frames that nothing can restore nor those that look alike anyway draw all frames to them. Both are told from a
    blend, which is worse at steady motion than a network; a plan that promises little more than even spacing is not
    worth that doubt.
    """
    N, gaps = len(pictures), {"min_gap": amount.min_gap, "max_gap": amount.max_gap}
    times, groups = clock[:-1], shots.groups(N)
    required = shots.strongest(count - 1)
    even = _fill_gaps(_place(clock, [0, *required], count, amount.min_gap), amount.max_gap, N)
    if count >= N and amount.min_gap == 1:
        return even
    errors = restored_errors(pictures, times, groups, np.array(even))
    typical = float(errors.mean()) + 0.1 * NOISE

    def loss(error: np.ndarray) -> np.ndarray:
        return np.log1p(error / _LEAST_ERROR) + 0.5 * error / typical

    plan = cheapest_frames(pictures, times, groups, required, loss=loss, count=count, **gaps)
    if plan is None:
        return even
    plan = _top_up(plan, clock, count, amount.min_gap)
    if len(plan) < len(even):  # where min_gap leaves room for them all only if none is moved
        return even
    planned = restored_errors(pictures, times, groups, np.array(plan))
    gain = 10 * np.log10((errors.mean() + 1e-3) / (planned.mean() + 1e-3))
    gain_of_frames = 10 * (np.log10(errors + NOISE) - np.log10(planned + NOISE)).mean()
    same = len(plan) == len(even)
    return even if same and (gain < _LEAST_GAIN or gain_of_frames < 0) else plan


def _by_change(pictures: np.ndarray, shots: Shots, policy: str, limit: int, amount: Amount) -> list[int]:
    """Beginnings of shots, and frames that differ from the last kept one by the threshold; at most `limit`.

    Where that are too many, the least threshold that gives few enough is taken.
    """
    begins = set(shots.begins)
    fixed = [0, *(each for each in shots.strongest(limit - 1) if each in begins)]
    low, high = CHANGED[policy] if amount.threshold is None else amount.threshold, 256.0
    kept = _walk(pictures, fixed, policy, low, amount.min_gap)
    if len(kept) <= limit:
        return kept
    kept = fixed
    while high - low > 0.02:
        middle = (low + high) / 2
        found = _walk(pictures, fixed, policy, middle, amount.min_gap)
        if len(found) <= limit:
            kept, high = found, middle
        else:
            low = middle
    return kept


def _walk(pictures: np.ndarray, fixed: list[int], policy: str, threshold: float, min_gap: int) -> list[int]:
    kept: list[int] = []
    for start, stop in zip(fixed, [*fixed[1:], len(pictures) + min_gap], strict=True):
        kept.append(start)
        last = pictures[start].astype(np.int16)
        for frame in range(start + min_gap, min(stop - min_gap + 1, len(pictures))):
            if frame - kept[-1] < min_gap:
                continue
            change = pictures[frame] - last  # int16
            root_mean = float(np.sqrt(np.square(change, dtype=np.float32).mean()))
            if (root_mean if policy == "keyframes" else float(np.abs(change).max())) > threshold:
                kept.append(frame)
                last = pictures[frame].astype(np.int16)
    return kept


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
        if nearest > start and (nearest == stop or target - progress[nearest - 1] < progress[nearest] - target):
            nearest -= 1
        kept.append(int(np.clip(nearest, lowest, highest)))
    return kept


def _fill_gaps(kept: list[int], max_gap: int | None, N: int) -> list[int]:
    if max_gap is None:
        return kept
    filled: list[int] = []
    for start, stop in zip(kept, [*kept[1:], N], strict=True):
        pieces = -(-(stop - start) // max_gap)
        filled.extend(start + (stop - start) * piece // pieces for piece in range(pieces))
    return filled


def _top_up(kept: list[int], clock: np.ndarray, count: int, min_gap: int) -> list[int]:
    """`kept` and frames in the middle of the longest gaps, until there are `count` or no gap has room."""
    N = len(clock) - 1
    waiting: list[tuple[float, int, int]] = []

    def offer(start: int, stop: int) -> None:
        end = stop if stop == N else stop - min_gap + 1  # the last gap has no frame at its end to stay away from
        if start + min_gap < end:
            heapq.heappush(waiting, (float(clock[start] - clock[stop]), start, stop))

    for start, stop in zip(kept, [*kept[1:], N], strict=True):
        offer(start, stop)
    filled = list(kept)
    while waiting and len(filled) < count:
        _, start, stop = heapq.heappop(waiting)
        highest = stop - 1 if stop == N else stop - min_gap
        middle = int(np.clip((start + stop) // 2, start + min_gap, highest))
        filled.append(middle)
        offer(start, middle)
        offer(middle, stop)
    return sorted(filled)


def _thinned(kept: list[int], clock: np.ndarray, count: int) -> list[int]:
    """`kept` without those whose neighbours are nearest to each other, until there are `count`; the first stays."""
    kept = list(kept)
    while len(kept) > count:
        places = clock[[*kept, len(clock) - 1]]
        del kept[1 + int(np.argmin(places[2:] - places[:-2]))]
    return kept


def _checked_clock(pictures: np.ndarray, shots: Shots, policy: str, times: Sequence[float] | None) -> np.ndarray:
    """float64 `[N + 1]`: when each frame begins, from 0, and when the last one ends."""
    N = len(pictures)
    if policy not in POLICIES:
        raise ValueError(f"Invalid policy {policy!r}. Supported policies are {', '.join(POLICIES)}.")
    if pictures.ndim != 2 or pictures.dtype != np.uint8 or N == 0:
        shape = tuple(pictures.shape)
        raise ValueError(f"Invalid pictures: {pictures.dtype} {shape}. They are uint8 [frames, pixels], one at least.")
    if any(not 0 <= frame < N for frame in (*shots.begins, *shots.cuts, *shots.ends)):
        raise ValueError(f"Invalid shots. They are indices of the {N} frames.")
    if shots.strength and len(shots.strength) != N:
        raise ValueError(f"Invalid strength of {len(shots.strength)} frames. It is one number for each of {N}.")
    if times is not None and (len(times) != N or (np.diff(times) <= 0).any()):
        raise ValueError(f"Invalid times. They are {N} increasing numbers of seconds.")
    clock = np.arange(N, dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    return np.append(clock, clock[-1] + (np.diff(clock).mean() if N > 1 else 1.0)) - clock[0]
