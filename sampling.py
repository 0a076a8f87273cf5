"""The sampler as functions: what its nodes and commands call. One pass looks, another one writes; nothing holds a clip.

`check` is called often and may raise to cancel; `progress` is called with the number of frames done since it last was.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from .models.restoration import Thumbnails
from .models.selection import CHANGED, FORMS, Amount, Policy, Rounding, Shots, select_frames
from .models.shots import MotionMeter
from .stations import Advance, Check, Source, unwatched
from .tokens.video_tokens import grid_size
from .video.clips import Clip, VideoClip
from .video.frames import fit_size
from .video.packet_index import read_packets
from .video.timeline import GRADUAL, FrameTimeline
from .video.writer import VideoWriter


@dataclass(frozen=True)
class Look:
    """What one pass over a clip has seen. `timeline` keeps every frame; `pictures` are those of `Thumbnails`."""

    timeline: FrameTimeline
    meter: MotionMeter
    pictures: np.ndarray
    width: int
    height: int
    warnings: tuple[str, ...] = ()

    @property
    def times(self) -> list[float]:
        """Seconds of every frame, from 0."""
        first = self.timeline.source_pts[0]
        return [float((pts - first) * self.timeline.time_base) for pts in self.timeline.source_pts]

    @property
    def shots(self) -> Shots:
        """The shots of the timeline, each as strong as what changes where it begins."""
        strength, gradual = self.meter.scores.copy(), self.timeline.transitions
        for first, last, _ in gradual:
            total = float(self.meter.scores[first : last + 2].sum())
            strength[[max(0, first - 1), last + 1]] = total
        begins = self.timeline.shots[1:]
        slow = {last + 1 for _, last, _ in gradual}
        cuts = tuple(each for each in begins if each not in slow)
        ends = tuple(first - 1 for first, _, _ in gradual if first > 0)
        return Shots(begins=begins, cuts=cuts, ends=ends, strength=tuple(strength.tolist()))


def frames_in(source: Source, *, start: Fraction | float = 0, duration: Fraction | float | None = None) -> int | None:
    """How many frames there are to read, told by the packets without decoding; None where they do not tell."""
    index = read_packets(source)
    return index.count(start, duration) or None if index else None


def look_at(
    source: Source,
    *,
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> Look:
    """One pass over a file at low resolution: times, motion, shots. Keeps up to 4 KB a frame."""
    with VideoClip(source, start=start, duration=duration) as clip:
        look = look_over(clip, check=check, progress=progress)
    return replace(look, warnings=tuple(clip.reader.warnings))


def look_over(clip: Clip, *, check: Check = unwatched, progress: Advance = unwatched) -> Look:
    """`look_at` for a clip of any kind."""
    meter, thumbnails = MotionMeter(), Thumbnails()
    for chunk in clip.chunks():
        check()
        meter.update(chunk.frames)
        thumbnails.update(chunk.frames)
        progress(len(chunk.pts))
    shots, transitions = _shots_of(meter, len(clip.pts))
    timeline = FrameTimeline(
        time_base=clip.time_base,
        frame_rate=Fraction(clip.frame_rate),
        duration=clip.duration,
        source_pts=tuple(clip.pts),
        kept=tuple(range(len(clip.pts))),
        shots=shots,
        transitions=transitions,
    )
    return Look(timeline, meter, thumbnails.pictures, clip.width, clip.height)


def _shots_of(meter: MotionMeter, count: int) -> tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]:
    """First frames of shots, and the gradual transitions. What fades at the end of the clip leads to no shot."""
    begins, gradual, end = {0}, [], -1
    for each in meter.transitions:
        if each.begins >= count or each.first <= end:
            continue
        begins.add(each.begins)
        if each.kind in GRADUAL:
            gradual.append((each.first, each.last, str(each.kind)))
        end = each.last
    return tuple(sorted(begins)), tuple(gradual)


def tokens_per_frame(width: int, height: int, size: int | None = None) -> int:
    """Tokens of a key frame of `width` x `height` pixels, its short side scaled to `size` (None: as it is).

    One for each cell of 8x8 pixels of the frame, filled up to whole blocks of 16x16.
    """
    return math.prod(grid_size(*fit_size(width, height, size)))


def sample_frames(
    source: Source,
    *,
    policy: Policy = "motion",
    frames: int | None = None,
    fps: float | None = None,
    tokens_per_second: float | None = None,
    size: int | None = None,
    preset: str = "any",
    rounding: Rounding = "below",
    min_gap: int = 1,
    max_gap: int | None = None,
    threshold: float | None = None,
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> tuple[FrameTimeline, Look]:
    """Which frames to keep, in one pass at low resolution. Policies and what they promise: `selection.select_frames`.

    Give one of `frames` (how many), `fps` (how many a second on average) and `tokens_per_second` (as many as cost no
    more than that as key frames of short side `size`); "keyframes" and "dedupe" also do without. `preset` is one of
    FORMS, `rounding` how a number is brought to it; there are never more frames than the clip has.
    """
    given = [each for each in (frames, fps, tokens_per_second) if each is not None]
    if len(given) > 1 or (not given and policy not in CHANGED):
        asked = f"{frames} frames, {fps} per second, {tokens_per_second} tokens per second"
        raise ValueError(f"Give either a number of frames, a rate or a budget of tokens, and one of them: {asked}.")
    if given and not 0 < given[0] < math.inf:
        raise ValueError(f"Invalid amount of frames ({given[0]}). Supported are amounts above 0.")
    if preset not in FORMS:
        raise ValueError(f"Invalid preset {preset!r}. Supported presets are {', '.join(FORMS)}.")
    wanted = Amount(frames, FORMS[preset], rounding, min_gap, max_gap, threshold)
    look = look_at(source, start=start, duration=duration, check=check, progress=progress)
    seconds = float(look.timeline.duration)
    if fps is not None:
        wanted = replace(wanted, count=max(1, round(seconds * fps)))
    if tokens_per_second is not None:
        cost = tokens_per_frame(look.width, look.height, size)
        wanted = replace(wanted, count=_affordable(tokens_per_second, seconds, cost))
    kept = select_frames(look.pictures, look.shots, policy=policy, amount=wanted, times=look.times)
    return replace(look.timeline, kept=tuple(int(index) for index in kept)), look


def _affordable(tokens_per_second: float, seconds: float, cost: int) -> int:
    """How many frames of `cost` tokens a budget has room for."""
    count = int(tokens_per_second * seconds / cost + 1e-9)
    if count < 1:
        least = math.ceil(cost / seconds)
        raise ValueError(
            f"Invalid budget ({tokens_per_second:g} tokens/s). One frame takes {cost:,} tokens, which is {least:,} a "
            f"second for this clip of {seconds:.2f} s. Give at least that, or count the tokens at a smaller size."
        )
    return count


def detect_shots(
    source: Source,
    *,
    key_frames: str = "typical",
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> tuple[FrameTimeline, dict[str, Any], Look]:
    """The shots of a clip: a timeline that keeps one key frame of each, and a report as `tokenreel shots --json`.

    `key_frames` are "typical" (nearest to the mean picture of the shot) or "first". Times are seconds from the first
    frame. A shot lasts from its first frame of its own to the last one: mixtures of two shots belong to neither.
    """
    if key_frames not in KEY_FRAMES:
        raise ValueError(f"Invalid key frames {key_frames!r}. Supported are {', '.join(KEY_FRAMES)}.")
    look = look_at(source, start=start, duration=duration, check=check, progress=progress)
    found = _own_frames(look.timeline)
    times = [*look.times, float(look.timeline.duration)]
    listed, kept = [], []
    for kind, frames in found:
        pictures = look.pictures[frames.start : frames.stop]
        typical = int(np.square(pictures - pictures.mean(0, dtype=np.float32)).mean(1).argmin())
        kept.append(frames.start + (typical if key_frames == "typical" else 0))
        listed.append(
            {
                "start": times[frames.start],
                "end": times[frames.stop],
                "transition": kind,
                "first_frame": frames.start,
                "last_frame": frames.stop - 1,
                "key_frame": kept[-1],
            }
        )
    timeline = replace(look.timeline, kept=tuple(kept))
    report = {
        "frames": len(timeline.source_pts),
        "width": look.width,
        "height": look.height,
        "frame_rate": float(timeline.frame_rate),
        "duration": float(timeline.duration),
        "shots": listed,
        "flashes": [{"start": times[first], "end": times[last + 1]} for first, last in look.meter.flashes],
    }
    return timeline, report, look


KEY_FRAMES = ("typical", "first")


def _own_frames(timeline: FrameTimeline) -> list[tuple[str, range]]:
    """Of each shot how it begins, and the frames that are its own. A fade that opens the clip is no shot."""
    kinds = {last + 1: (first, kind) for first, last, kind in timeline.transitions}
    bounds = [*timeline.shots, len(timeline.source_pts)]
    found = []
    for begin, following in pairwise(bounds):
        end = kinds.get(following, (following, ""))[0]
        if end > begin:
            found.append((kinds[begin][1] if begin in kinds else "cut" if begin else "start", range(begin, end)))
    return found


def kept_frames(
    clip: VideoClip, timeline: FrameTimeline, *, check: Check = unwatched, progress: Advance = unwatched
) -> Iterator[tuple[np.ndarray, int]]:
    """The kept frames of a clip, each uint8 `[1, H, W, 3]`, with their time stamps."""
    kept, index = iter((*timeline.kept, -1)), 0
    wanted = next(kept)
    for chunk in clip.chunks():
        check()
        for i, pts in enumerate(chunk.pts):
            if index == wanted:
                yield chunk.frames[i : i + 1], pts
                wanted = next(kept)
            index += 1
        progress(len(chunk.pts))


def write_sample(
    source: Source,
    timeline: FrameTimeline,
    path: str | os.PathLike[str],
    *,
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    audio: bool = True,
    check: Check = unwatched,
    progress: Advance = unwatched,
    collect: Callable[[np.ndarray], None] | None = None,
) -> None:
    """Writes the kept frames as a video: each is shown until the next one, so that length and sound stay in step.

    `collect` is given every kept frame, uint8 `[1, H, W, 3]`.
    """
    with VideoClip(source, start=start, duration=duration) as clip:
        rate = Fraction(len(timeline.kept)) / timeline.duration
        writer = VideoWriter(
            path,
            width=clip.width,
            height=clip.height,
            frame_rate=rate.limit_denominator(100_000),
            time_base=timeline.time_base,
            audio_source=source if audio and clip.reader.info.has_audio else None,
            audio_start=clip.origin,
            audio_duration=timeline.duration,
        )
        with writer:
            for frame, pts in kept_frames(clip, timeline, check=check, progress=progress):
                writer.write(frame, [pts])
                if collect:
                    collect(frame.copy())  # the frame is a part of its chunk, which would stay in memory
            end = timeline.source_pts[0] + timeline.duration / timeline.time_base
            writer.close(max(1, round(end - timeline.source_pts[timeline.kept[-1]])))
