"""Stretches of video composed from single takes, with every change of shot known: what the shot net is trained on.

Each is a run of shots joined by cuts, dissolves, wipes and fades, some of them between two moments of one take. Within
shots happens what must not be taken for a change: flashes, jolts and fast moves of the camera, jumps of exposure,
things that pass close to it. Over all lie grain, bars, logos, and repeated or missing frames.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from ..models.shot_net import CLASSES, THUMBNAIL
from .shot_clips import ThumbnailPack

_CUT, _DISSOLVE, _FADE, _FLASH = range(len(CLASSES))
_VISIBLE = 3.0  # grey levels that the picture must change by: whatever changes less is not asked for


@dataclass
class Composition:
    """Thumbnails float32 `[T, 27, 48, 3]` in 0..255, what each frame is `[T, 4]`, and how much that counts `[T, 4]`."""

    frames: np.ndarray
    labels: np.ndarray = field(init=False)
    weights: np.ndarray = field(init=False)
    changes: list[tuple[int, int, int]] = field(default_factory=list)
    """First and last frame of each change of shot, and its class; a cut's last frame is before its first."""

    def __post_init__(self) -> None:
        self.labels = np.zeros((len(self.frames), len(CLASSES)), np.float32)
        self.weights = np.ones_like(self.labels)


def compose(pack: ThumbnailPack, rng: np.random.Generator, length: int) -> Composition:
    """A random stretch of `length` frames; equal generators give equal ones."""
    index = _frame_map(rng, length)
    source = _joined(pack, rng, int(index[-1]) + 1)
    composed = Composition(source.frames[index])
    composed.labels[:, _FLASH] = source.labels[index, _FLASH]
    for first, last, kind in source.changes:
        begin, end = np.searchsorted(index, [first, last + 1])
        composed.changes.append((int(begin), int(end) - 1, kind if end > begin else _CUT))
    _overlay(composed.frames, rng)
    _mark(composed)
    composed.frames = np.clip(np.rint(composed.frames), 0, 255)
    if rng.random() < 0.3:
        _end_early(composed, rng)
    return composed


def _frame_map(rng: np.random.Generator, length: int) -> np.ndarray:
    """Which source frame is shown when, `[length]`: each once, some twice, each twice, or only every so many."""
    steps = np.ones(length, np.int64)
    draw = rng.random()
    if draw < 0.1:
        steps[:: rng.integers(4, 7)] = 0
    elif draw < 0.16:
        steps[::2] = 0
    elif draw < 0.24:
        steps[rng.random(length) < 0.25] = 0
    elif draw < 0.36:
        steps *= rng.integers(2, 4)
    elif draw < 0.42:
        steps[rng.random(length) < 0.2] = 2
    return np.cumsum(steps) - steps[0]


def _joined(pack: ThumbnailPack, rng: np.random.Generator, length: int) -> Composition:
    """Shots and what joins them."""
    composed = Composition(np.zeros((length, *THUMBNAIL, 3), np.float32))
    begin, name = 0, ""
    entry = np.ones(0)  # how visible the shot is in its first frames, while it comes in
    wipe: np.ndarray | None = None
    while begin < length:
        name = name if name and rng.random() < 0.3 else pack.names[rng.integers(len(pack.names))]
        stay = int(np.exp(rng.uniform(np.log(6), np.log(100))))
        kind, leaving, hold, coming = _next_change(rng)
        count = len(entry) + stay + leaving
        count = min(count, length - begin)
        shot, flashes = _shot(pack, name, rng, count)
        frames = composed.frames[begin : begin + count]
        share = np.ones(count)
        share[: len(entry)] = entry[:count]
        if wipe is not None:
            mask = wipe[:count]
            frames[: len(mask)] = np.where(mask, shot[: len(mask)], frames[: len(mask)])
            frames[len(mask) :] = shot[len(mask) :]
        else:
            frames[:] = frames * (1 - share[:, None, None, None]) + shot * share[:, None, None, None]
        composed.labels[begin : begin + count, _FLASH] = flashes
        first = begin + len(entry) + stay
        last = first + leaving + hold + coming - 1 if kind == _FADE else first + leaving - 1
        if first < length:
            composed.changes.append((first, last, kind))
        wipe, entry = None, np.ones(0)
        begin = first
        if kind == _DISSOLVE:
            entry = _course(leaving, rng)
            wipe = _wipe(leaving, rng) if rng.random() < 0.2 else None
        elif kind == _FADE:
            colour = _fade_colour(rng)
            until = composed.frames[first : first + leaving]
            out = (1 - _course(leaving, rng))[: len(until), None, None, None]
            until[:] = until * out + colour * (1 - out)
            composed.frames[first + leaving : last + 1] = colour
            entry, begin = _course(coming, rng), first + leaving + hold
    return composed


def _next_change(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(class, frames that the old shot goes in, frames of nothing, frames that the new one comes in)."""
    draw = rng.random()
    if draw < 0.5:
        return _CUT, 0, 0, 0
    if draw < 0.83:
        return _DISSOLVE, int(np.exp(rng.uniform(np.log(1.5), np.log(44)))), 0, 0
    going, coming = (int(np.exp(rng.uniform(np.log(2), np.log(26)))) for _ in range(2))
    draw = rng.random()
    going, coming = (0, coming) if draw < 0.12 else (going, 0) if draw < 0.24 else (going, coming)
    return _FADE, going, int(rng.integers(1, 9)), coming


def _course(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Share of the new picture over the frames of a change, within 0..1: even, soft at both ends, or bent."""
    even = np.arange(1, frames + 1) / (frames + 1)
    draw = rng.random()
    if draw < 0.25:
        return even * even * (3 - 2 * even)
    return even ** rng.uniform(0.6, 1.6) if draw < 0.5 else even


def _wipe(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where the new picture is already seen, bool `[frames, 27, 48, 1]`: from a side, a corner or the middle."""
    y, x = np.mgrid[-1 : 1 : THUMBNAIL[0] * 1j, -1 : 1 : THUMBNAIL[1] * 1j]
    angle = rng.choice([0, 90, 180, 270, rng.uniform(0, 360)]) * np.pi / 180
    ramp = x * np.cos(angle) + y * np.sin(angle) if rng.random() < 0.8 else np.hypot(x, y)
    order = ramp.ravel().argsort().argsort().reshape(ramp.shape) / ramp.size
    return (order[None] < (np.arange(1, frames + 1) / (frames + 1))[:, None, None])[..., None]


def _fade_colour(rng: np.random.Generator) -> np.ndarray:
    draw = rng.random()
    level = rng.uniform(0, 20) if draw < 0.65 else rng.uniform(235, 255) if draw < 0.9 else rng.uniform(0, 255, 3)
    return np.broadcast_to(np.float32(level), 3)


def _shot(pack: ThumbnailPack, name: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` frames of a take as a camera of its own saw it, and which of them are flashes."""
    take = pack.clips[name]
    speed = int(rng.choice([1, 2, 3, 4], p=[0.7, 0.14, 0.08, 0.08]))
    path = int(rng.integers(len(take))) + speed * np.arange(count)
    path = len(take) - 1 - np.abs(path % max(1, 2 * len(take) - 2) - (len(take) - 1))  # to and fro
    if rng.random() < 0.5:
        path = len(take) - 1 - path
    if rng.random() < 0.1:
        path[:] = path[0]
    frames = _seen(take[path], _camera(count, rng), bool(rng.integers(2)))
    if rng.random() < 0.15:
        frames = _blurred(frames, int(rng.integers(2, 5)))
    gain = rng.uniform(0.8, 1.2, 3) * (rng.uniform(0.15, 0.5) if rng.random() < 0.12 else 1)
    frames = 255 * (np.clip(frames / 255, 0, 1) ** rng.uniform(0.75, 1.35)) * gain.astype(np.float32)
    if rng.random() < 0.1:
        frames = frames * rng.uniform(0.2, 0.5) + rng.uniform(0, 120)
    if rng.random() < 0.15:
        frames = frames * _exposure(count, rng)[:, None, None, None]
    if rng.random() < 0.22 and count > 4:
        other = pack.clips[pack.names[rng.integers(len(pack.names))]]
        _pass_by(frames, other[rng.integers(len(other))], rng)
    if rng.random() < 0.15 and count > 8:
        _title(frames, rng)
    frames = np.clip(frames, 0, 255).astype(np.float32)
    flashes = np.zeros(count, np.float32)
    while rng.random() < 0.2 and count > 10:
        _flash(frames, flashes, pack, rng)
    return frames, flashes


def _blurred(frames: np.ndarray, shutter: int) -> np.ndarray:
    """Each frame as the mean of `shutter` of them, as where the shutter is open for long."""
    total = sum(np.roll(frames, step, axis=0) for step in range(shutter)) / np.float32(shutter)
    total[: shutter - 1] = frames[: shutter - 1]
    return total


def _camera(count: int, rng: np.random.Generator) -> np.ndarray:
    """Centre x, y and size of what is seen, `[count, 3]`, in parts of the take's picture."""
    size = np.full(count, rng.uniform(0.6, 1.0) if rng.random() < 0.7 else 1.0)
    centre = np.tile(rng.uniform(size[0] / 2, 1 - size[0] / 2, 2), (count, 1))
    draw, time = rng.random(), np.arange(count)[:, None]
    way = rng.normal(size=2)
    way /= np.hypot(*way)
    if draw < 0.2:
        centre = centre + way * rng.uniform(0, 0.01) * time
    elif draw < 0.32:  # a fast pan, perhaps only for a while
        begin, frames = rng.integers(count), rng.integers(4, 30)
        centre = centre + way * rng.uniform(0.02, 0.12) * np.clip(time - begin, 0, frames)
    elif draw < 0.45:  # jolts
        jolts = (rng.random((count, 1)) < 0.06) * rng.normal(0, 0.12, (count, 2))
        centre = centre + (jolts if rng.random() < 0.4 else np.cumsum(jolts, 0))
    elif draw < 0.53:
        shake = rng.normal(0, rng.uniform(0.003, 0.03), (count, 2))  # a hand-held camera
        centre = centre + (shake if rng.random() < 0.5 else np.cumsum(shake, 0))
    elif draw < 0.62:
        begin, frames = rng.integers(count), rng.integers(8, 40)
        size = size * np.exp(rng.uniform(-0.06, 0.06) * np.clip(np.arange(count) - begin, 0, frames))
    return np.concatenate([centre, size[:, None]], 1)


def _seen(frames: np.ndarray, camera: np.ndarray, mirrored: bool) -> np.ndarray:
    """uint8 `[T, h, w, 3]` -> float32 `[T, 27, 48, 3]`: what the camera sees; the picture goes on mirrored outside."""
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    x, y, size = torch.from_numpy(camera).float().T[..., None, None]
    across = (torch.arange(THUMBNAIL[1]) + 0.5) / THUMBNAIL[1] - 0.5
    down = (torch.arange(THUMBNAIL[0]) + 0.5) / THUMBNAIL[0] - 0.5
    grid_x = (2 * (x + size * (-across if mirrored else across)) - 1).expand(-1, len(down), -1)
    grid_y = (2 * (y + size * down[:, None]) - 1).expand(-1, -1, len(across))
    grid = torch.stack([grid_x, grid_y], -1)
    seen = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return seen.permute(0, 2, 3, 1).numpy()


def _exposure(count: int, rng: np.random.Generator) -> np.ndarray:
    """A gain that changes once, at a jump or over a second, float32 `[count]`."""
    begin, frames = rng.integers(-5, max(1, count)), rng.choice([1, 2, 4, 10, 30])
    course = np.clip((np.arange(count) - begin) / frames, 0, 1)
    return np.exp(rng.uniform(-0.8, 0.8) * course).astype(np.float32)


def _pass_by(frames: np.ndarray, texture: np.ndarray, rng: np.random.Generator) -> None:
    """Something large crosses the picture, or comes, stays a while and leaves, in place."""
    count, (H, W) = len(frames), THUMBNAIL
    begin, takes = rng.integers(0, count), rng.integers(4, 24)
    stays = 0 if rng.random() < 0.5 else int(rng.integers(5, 60))
    picture = texture[:H, :W].astype(np.float32) if rng.random() < 0.6 else rng.uniform(0, 255, 3).astype(np.float32)
    y, x = np.mgrid[0 : 1 : H * 1j, 0 : 1 : W * 1j]
    way, back, half = rng.choice([-1, 1]), rng.choice([-1, 1]), rng.uniform(0.15, 0.5, 2)
    middle = rng.uniform(0.2, 0.8) if half.max() < 0.4 else rng.uniform(0.4, 0.6)
    upright, round_shape = rng.random() < 0.3, rng.random() < 0.5
    for i in range(begin, min(count, begin + takes + stays)):
        time = (i - begin + 0.5) / takes - 0.5  # -0.5 to 0.5 while it moves
        time = time if time < 0 else back * max(0.0, time - stays / takes)
        at = 0.5 + way * (1.0 + 2 * half[0]) * time
        u, v = (x - at) / half[0], (y - middle) / half[1]
        if upright:
            u, v = (y - at) / half[0], (x - middle) / half[1]
        inside = u * u + v * v < 1 if round_shape else (np.abs(u) < 1) & (np.abs(v) < 1)
        frames[i] = np.where(inside[..., None], picture, frames[i])


def _title(frames: np.ndarray, rng: np.random.Generator) -> None:
    """Letters that come up over the picture and go again, in place: no change of shot."""
    H, W = THUMBNAIL
    h, w = rng.integers(3, H - 2), rng.integers(8, W - 2)
    top, left = rng.integers(0, H - h), rng.integers(0, W - w)
    words = (rng.random((h, w, 1)) < rng.uniform(0.2, 0.7)) * rng.uniform(0.4, 1.0)
    begin, comes, stays = rng.integers(-10, len(frames)), rng.integers(1, 40), rng.integers(5, 80)
    time = np.arange(len(frames)) - begin
    share = np.clip(np.minimum(time / comes, (comes + stays - time) / comes), 0, 1)[:, None, None, None]
    area = frames[:, top : top + h, left : left + w]
    area += (rng.choice([0.0, 255.0], p=[0.2, 0.8]) - area) * (words * share)


def _flash(frames: np.ndarray, flashes: np.ndarray, pack: ThumbnailPack, rng: np.random.Generator) -> None:
    """One to four frames of light, of darkness or of another picture, in place; marked where they can be seen."""
    begin = int(rng.integers(3, len(frames) - 6))
    strength = rng.uniform(0.25, 1.0)
    draw = rng.random()
    y, x = np.mgrid[-1 : 1 : THUMBNAIL[0] * 1j, -1 : 1 : THUMBNAIL[1] * 1j]
    spot = np.exp(-((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2) / rng.uniform(0.3, 3))[..., None]
    take = pack.clips[pack.names[rng.integers(len(pack.names))]]
    foreign = _seen(take[:1], np.array([[0.5, 0.5, 1.0]]), False)[0]
    for i in range(begin, begin + int(rng.integers(1, 5))):
        before = frames[i].copy()
        if draw < 0.4:
            frames[i] += (255 - frames[i]) * strength
        elif draw < 0.6:
            frames[i] = np.clip(frames[i] + 255 * strength * spot, 0, 255)
        elif draw < 0.75:
            frames[i] = np.clip(frames[i] * (1 + 2 * strength), 0, 255)
        elif draw < 0.87:
            frames[i] *= 1 - strength
        else:
            frames[i] = foreign
        flashes[i] = np.abs(frames[i] - before).mean() > 2 * _VISIBLE
        if rng.random() < 0.3:
            strength *= 0.6


def _overlay(frames: np.ndarray, rng: np.random.Generator) -> None:
    """What lies over shots and changes alike, in place: no colour, bars, something that stays, captions, grain."""
    H, W = THUMBNAIL
    if rng.random() < 0.1:
        frames[:] = frames.mean(-1, keepdims=True)
    if rng.random() < 0.15:
        bars = rng.integers(1, 6)
        frames[:, :bars] = frames[:, H - bars :] = 0
    elif rng.random() < 0.1:
        bars = rng.integers(2, 14)
        frames[:, :, :bars] = frames[:, :, W - bars :] = rng.uniform(0, 30)
    if rng.random() < 0.15:
        h, w = rng.integers(2, H), rng.integers(2, W // 2)
        top, left = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
        frames[:, top : top + h, left : left + w] = rng.uniform(0, 255, (1, h, w, 3))
    if rng.random() < 0.12:
        for begin in range(int(rng.integers(20)), len(frames), int(rng.integers(15, 60))):
            w = rng.integers(8, 40)
            left = (W - w) // 2
            words = np.where(rng.random((2, w, 1)) < 0.5, 235, 20)
            frames[begin : begin + rng.integers(10, 50), H - 5 : H - 3, left : left + w] = words
    grain = rng.uniform(0, 3) if rng.random() < 0.5 else 0.4
    frames += grain * rng.standard_normal(frames.shape, dtype=np.float32)


def _mark(composed: Composition) -> None:
    """Writes labels and weights of the changes; what hardly shows counts nothing."""
    frames = composed.frames
    T = len(frames)
    motion = np.r_[0, np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))]
    for first, last, kind in composed.changes:
        if first <= 0 or first >= T:
            if kind != _CUT:
                composed.labels[max(0, first) : last + 1, kind] = 1
            continue
        before, after = frames[first - 1], frames[min(last + 1, T - 1)]
        usual = np.r_[motion[max(0, first - 4) : first], motion[last + 2 : last + 6], 0].max()
        shows = np.abs(after - before).mean() > max(_VISIBLE, 1.5 * usual) or kind == _FADE
        if kind == _CUT:
            composed.labels[first, kind] = 1
        else:
            composed.labels[first : last + 1, kind] = 1
        if not shows:
            composed.weights[max(0, first - 3) : last + 5] = 0
    composed.labels[:, _FLASH] *= composed.labels[:, :_FLASH].max(-1) == 0


def _end_early(composed: Composition, rng: np.random.Generator) -> None:
    """The clip begins or ends within the stretch: frames beyond repeat the outermost one, as they do in use."""
    T = len(composed.frames)
    if rng.random() < 0.5:
        at = int(rng.integers(T // 4, 2 * T // 3))
        beyond = slice(0, at)
        composed.labels[at, _CUT] = 0
    else:
        at = int(rng.integers(T // 3, 3 * T // 4))
        beyond = slice(at + 1, T)
    composed.frames[beyond] = composed.frames[at]
    composed.weights[beyond] = 0
    composed.labels[beyond] = 0
