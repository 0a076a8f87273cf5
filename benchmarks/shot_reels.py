"""Reels composed of real shots, with every change known, and things in between that are none.

The material is what no net was trained on, the composition has its own ranges and draws, and the reels are written as
H.264 before anybody looks at them. Changes are cuts, dissolves, and fades through black or white.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..models.shots import Transition, TransitionKind
from ..video.frames import resize
from ..video.reader import VideoReader
from ..video.writer import VideoWriter
from .shot_labels import LABELS, Labels

SIZE = (256, 144)
"""Width and height of reels."""
_SOURCE = (320, 180)  # of the shots: the camera has room to move
_MOST = 150  # frames of a shot that are used
_LEAST = 20
SHOTS = 13  # of a reel
RATE = Fraction(25)
NEGATIVES = ("flash", "jolt", "pan", "exposure")


@dataclass
class Reel:
    """A file, its changes of shot, and what is no change: first and last frame, and its kind."""

    path: Path
    changes: list[Transition] = field(default_factory=list)
    negatives: list[tuple[int, int, str]] = field(default_factory=list)
    frames: int = 0


def load_shots(paths: list[Path]) -> list[np.ndarray]:
    """Single shots, uint8 `[T, 180, 320, 3]`, of the clips that may be composed from: the beginning of each."""
    shots = []
    for path in paths:
        labels = LABELS.get(path.name, Labels())
        if labels.composed:
            shots += [np.concatenate(shot) for shot in _beginnings(path, labels) if len(shot) >= 2 * _LEAST]
    if len(shots) < 2:
        raise ValueError(f"{len(shots)} shots of {2 * _LEAST} frames in {len(paths)} clips. At least two are needed.")
    return shots


def _beginnings(path: Path, labels: Labels) -> Iterator[list[np.ndarray]]:
    """Of each shot of a clip the frames that are used, one by one; the outermost ones of a shot are not."""
    spans = labels.shots(sys.maxsize)
    kept: list[list[np.ndarray]] = [[] for _ in spans]
    index = 0
    with VideoReader(path, strict=False) as reader:
        for chunk in reader.chunks(16):
            for frame in chunk.frames:
                for (begin, end), shot in zip(spans, kept, strict=True):
                    if begin < index < min(end - 1, begin + 1 + _MOST):
                        shot.append(resize(frame[np.newaxis], *_SOURCE))
                index += 1
            if index > spans[-1][0] + _MOST:
                break
    yield from kept


def write_copy(source: Path, path: Path) -> Path:
    """All frames of a clip at a constant rate, hardly compressed, at most 640 pixels on the long side; gives `path`."""
    with VideoReader(source, strict=False) as reader:
        scale = min(1.0, 640 / max(reader.info.width, reader.info.height))
        width, height = (max(2, round(side * scale / 2) * 2) for side in (reader.info.width, reader.info.height))
        with VideoWriter(path, width=width, height=height, frame_rate=reader.info.frame_rate, crf=6) as writer:
            for chunk in reader.chunks():
                writer.write(resize(chunk.frames, width, height))
    return path


def write_reel(path: Path, shots: list[np.ndarray], seed: int, count: int = SHOTS) -> Reel:
    """Composes `count` shots into a file."""
    rng = np.random.default_rng([2024, seed])
    reel = Reel(path)
    with VideoWriter(path, width=SIZE[0], height=SIZE[1], frame_rate=RATE, crf=int(rng.integers(18, 31))) as writer:
        for frame in _frames(reel, shots, rng, count):
            writer.write(frame[np.newaxis])
            reel.frames += 1
    return reel


def _frames(reel: Reel, shots: list[np.ndarray], rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """The reel's frames, uint8 `[144, 256, 3]`; fills in what happens in them."""
    now = 0  # frames yielded
    beneath: list[np.ndarray] = []  # what the next shot comes in over, a frame each
    previous: tuple[int, int] | None = None
    last_seen: np.ndarray | None = None
    for number in range(count):
        kind, leaving, hold, coming, level = _change(rng)
        entering, body = len(beneath), int(rng.integers(_LEAST, 56))
        previous, take = _pick(shots, rng, entering + body + leaving, previous, last_seen)
        take = _happening(take, rng, now, (entering + 4, entering + body - 4), reel)
        yield from (_mixed(old, take[i], (i + 1) / (entering + 1)) for i, old in enumerate(beneath))
        yield from (_whole(frame) for frame in take[entering : entering + body])
        now += entering + body
        last_seen, tail = take[entering + body - 1], list(take[entering + body :])
        if number == count - 1:
            return
        flat = np.full_like(last_seen, level)
        if kind == "fade":
            yield from (_mixed(old, flat, (i + 1) / (leaving + 1)) for i, old in enumerate(tail))
            yield from [_whole(flat)] * hold
        reel.changes.append(Transition(now, now + leaving + hold + coming - 1, kind))
        now += leaving + hold if kind == "fade" else 0
        beneath = [flat] * coming if kind == "fade" else tail


def _mixed(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    return _whole(old + (new - old) * np.float32(share))


def _change(rng: np.random.Generator) -> tuple[TransitionKind, int, int, int, float]:
    """(kind, frames of the old shot in it, frames of nothing, frames of the new shot in a fade, grey level of that)."""
    draw = rng.random()
    if draw < 0.55:
        return "cut", 0, 0, 0, 0.0
    if draw < 0.83:
        return "dissolve", int(rng.integers(4, 31)), 0, 0, 0.0
    level = 0.0 if rng.random() < 0.75 else 255.0
    return "fade", int(rng.integers(4, 15)), int(rng.integers(1, 6)), int(rng.integers(4, 15)), level


def _pick(
    shots: list[np.ndarray],
    rng: np.random.Generator,
    need: int,
    previous: tuple[int, int] | None,
    last_seen: np.ndarray | None,
) -> tuple[tuple[int, int], np.ndarray]:
    """The next shot (its number and where it ends) and its frames, float32 `[need, 144, 256, 3]`.

    A fifth of the time it is another moment of the same shot. It always differs visibly from the last frame seen.
    """
    for _ in range(200):
        again = previous is not None and rng.random() < 0.2
        number = previous[0] if previous and again else int(rng.integers(len(shots)))
        shot = shots[number]
        if not again and previous and number == previous[0]:
            continue
        length = len(shot)
        begin = int(rng.integers(0, max(1, length - need)))
        if again and previous and abs(begin - previous[1]) < 40:
            continue
        index = begin + np.arange(need)
        index = length - 1 - np.abs(index % (2 * length - 2) - (length - 1))  # to and fro where it is too short
        top, left = (int(rng.integers(0, _SOURCE[k] - SIZE[k] + 1)) for k in (1, 0))
        take = np.empty((need, SIZE[1], SIZE[0], 3), np.float32)
        for i, source in enumerate(index):
            take[i] = shot[source, top : top + SIZE[1], left : left + SIZE[0]]
        motion = np.abs(np.diff(take[:12], axis=0)).mean((1, 2, 3)).max() if need > 1 else 0.0
        if last_seen is None or np.abs(take[0] - last_seen).mean() > max(10.0, 2.5 * motion):
            return (number, int(index[-1])), take
    raise ValueError("No two of these shots look different. Give more clips.")


def _happening(take: np.ndarray, rng: np.random.Generator, now: int, room: tuple[int, int], reel: Reel) -> np.ndarray:
    """Something that is no change of shot, in half of the takes, between the frames of `room`."""
    begin, end = room
    if rng.random() < 0.5 or end - begin < 8:
        return take
    kind = NEGATIVES[rng.integers(len(NEGATIVES))]
    at = int(rng.integers(begin, end - 6))
    if kind == "flash":
        last = at + int(rng.integers(0, 3))
        take[at : last + 1] += (255 - take[at : last + 1]) * rng.uniform(0.4, 0.95)
    elif kind == "exposure":
        last = at + int(rng.integers(0, 3))
        gain = rng.choice([rng.uniform(0.5, 0.75), rng.uniform(1.3, 1.7)])
        course = np.clip((np.arange(len(take)) - at + 1) / (last - at + 1), 0, 1).astype(np.float32)
        take = take * (1 + (gain - 1) * course)[:, None, None, None]
    else:
        last = at if kind == "jolt" else at + 5
        step = rng.uniform(0.08, 0.16) if kind == "jolt" else rng.uniform(0.025, 0.05)
        way = rng.choice([-1, 1])
        course = np.clip((np.arange(len(take)) - at + 1), 0, last - at + 1) * step
        take = np.stack([_moved(frame, int(way * part * SIZE[0])) for frame, part in zip(take, course, strict=True)])
    reel.negatives.append((now + at, now + last, kind))
    return take


def _moved(frame: np.ndarray, shift: int) -> np.ndarray:
    """A picture moved sideways, going on mirrored beyond its edge."""
    if not shift:
        return frame
    wide = np.concatenate([frame[:, ::-1], frame, frame[:, ::-1]], axis=1)
    begin = SIZE[0] + shift % (2 * SIZE[0]) if abs(shift) > SIZE[0] else SIZE[0] + shift
    return wide[:, begin : begin + SIZE[0]]


def _whole(frame: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
