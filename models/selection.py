"""Which frames of a clip to keep: evenly in time, or evenly in motion with every shot begun anew."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

Policy = Literal["uniform", "motion"]


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
