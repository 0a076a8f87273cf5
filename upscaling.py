"""The upscaler as functions: what its node and command call. Frames stream through; nothing holds a whole clip.

`check` is called often and may raise to cancel; `progress` with the number of source frames done since it last was.
"""

import os
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .interpolation import Sound
from .models.network_checks import checked, networks_of
from .models.upscale_reuse import REFRESH, THRESHOLD, ReusingUpscaler
from .models.upscaler import Upscaler
from .stations import Advance, Check, Source, unwatched
from .video.clips import Clip, VideoClip
from .video.target_size import TargetSize, visible
from .video.writer import VideoWriter

MARGIN = 8
"""Small pixels kept around what is seen in the end, besides those that the upscaler looks at."""


def upscale(
    source: Source,
    path: str | os.PathLike[str],
    *,
    upscaler: Upscaler,
    target: TargetSize | None = None,
    threshold: float | None = THRESHOLD,
    refresh: int = REFRESH,
    follow_motion: bool = False,
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    audio: bool = True,
    check: Check = unwatched,
    progress: Advance = unwatched,
    **options: Any,
) -> dict[str, Any]:
    """Upscales a file, or a part of it, into the video file `path`, with its sound.

    For `target` see TargetSize (None: as large as the upscaler makes frames), for `threshold`, `refresh` and
    `follow_motion` ReusingUpscaler; `options` and what is returned are those of `upscale_clip`.
    """
    reusing = ReusingUpscaler(upscaler, threshold, refresh, check=check, follow_motion=follow_motion)
    with VideoClip(source, start=start, duration=duration) as clip:
        sound = Sound(source, clip.origin, duration) if audio and clip.reader.info.has_audio else None
        report = upscale_clip(
            clip, path, reusing, target=target, sound=sound, check=check, progress=progress, **options
        )
        return {**report, "notes": [*clip.reader.warnings, *report["notes"]]}


def upscale_clip(
    clip: Clip,
    path: str | os.PathLike[str],
    reusing: ReusingUpscaler,
    *,
    target: TargetSize | None = None,
    lossless: bool = False,
    sound: Sound | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
    collect: Callable[[np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Upscales a clip into the video file `path`, with the same times.

    `collect` is given every frame, uint8 `[1, H, W, 3]`. Returns what was done, by the keys of `tokenreel upscale
    --json`.
    """
    started = time.monotonic()
    target = target or TargetSize(scale=reusing.scale)
    clip, size = visible(clip, target, reusing.scale, reusing.upscaler.reach + MARGIN)
    writer = VideoWriter(
        path,
        width=size.width,
        height=size.height,
        frame_rate=clip.frame_rate,
        time_base=clip.time_base,
        lossless=lossless,
        audio_source=sound.source if sound else None,
        audio_start=sound.start if sound else 0,
        audio_duration=sound.length if sound else None,
    )
    last = made = np.zeros((0, 0, 3), np.uint8)
    with torch.inference_mode(), checked(networks_of(reusing.upscaler), check), writer:
        for chunk in clip.chunks():
            check()
            for frame, tick in zip(chunk.frames, chunk.pts, strict=True):
                large = reusing.frame(frame)
                if large is not last:  # in a still it is
                    last, made = large, size.finish(large)
                writer.write(made[np.newaxis], [tick])
                if collect:
                    collect(made[np.newaxis])
            progress(len(chunk.pts))
        if not clip.pts:
            raise ValueError(
                "The clip has 0 frames in the part that was chosen. Choose a part with at least one frame."
            )
        writer.close(max(1, round(clip.duration / clip.time_base) - (clip.pts[-1] - clip.pts[0])))
    return {
        "frames": len(clip.pts),
        "width": size.width,
        "height": size.height,
        "frame_rate": float(clip.frame_rate),
        "duration": float(clip.duration),
        **reusing.report(),
        "seconds": round(time.monotonic() - started, 3),
        "notes": writer.warnings,
    }
