"""The sampler as functions: what its nodes and commands call. One pass looks, another one writes; nothing holds a clip.

`check` is called often and may raise to cancel; `progress` is called with the number of frames done since it last was.
"""

import os
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import numpy as np

from .models.selection import select_frames
from .models.shots import MotionMeter
from .stations import Advance, Check, Source, unwatched
from .video.clips import VideoClip
from .video.timeline import FrameTimeline
from .video.writer import VideoWriter


def sample_frames(
    source: Source,
    *,
    policy: Literal["motion", "uniform"] = "motion",
    frames: int | None = None,
    fps: float | None = None,
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    max_gap: int | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> tuple[FrameTimeline, MotionMeter]:
    """Which frames to keep, in one pass at low resolution.

    Give `frames` (how many) or `fps` (how many a second on average).
    """
    if (frames is None) == (fps is None):
        raise ValueError(f"Give either a number of frames ({frames}) or a rate ({fps}), not both and not neither.")
    if (frames is not None and frames < 1) or (fps is not None and fps <= 0):
        raise ValueError(f"Invalid amount of frames ({frames if fps is None else fps}). Supported are amounts above 0.")
    meter = MotionMeter()
    with VideoClip(source, start=start, duration=duration) as clip:
        for chunk in clip.chunks():
            check()
            meter.update(chunk.frames)
            progress(len(chunk.pts))
    times = [float((pts - clip.pts[0]) * clip.time_base) for pts in clip.pts]
    count = frames if frames is not None else max(1, round(float(clip.duration) * (fps or 0)))
    kept = select_frames(
        meter.energy, meter.cuts, policy=policy, count=min(count, len(clip.pts)), max_gap=max_gap, times=times
    )
    timeline = FrameTimeline(
        time_base=clip.time_base,
        frame_rate=Fraction(clip.frame_rate),
        duration=clip.duration,
        source_pts=tuple(clip.pts),
        kept=tuple(int(index) for index in kept),
        shots=tuple(sorted({0, *(int(cut) for cut in meter.cuts)})),
    )
    return timeline, meter


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
            kept, index = iter((*timeline.kept, -1)), 0
            wanted = next(kept)
            for chunk in clip.chunks():
                check()
                for i, pts in enumerate(chunk.pts):
                    if index == wanted:
                        writer.write(chunk.frames[i : i + 1], [pts])
                        if collect:
                            collect(chunk.frames[i : i + 1])
                        wanted = next(kept)
                    index += 1
                progress(len(chunk.pts))
            end = timeline.source_pts[0] + timeline.duration / timeline.time_base
            writer.close(max(1, round(end - timeline.source_pts[timeline.kept[-1]])))
