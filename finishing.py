"""More frames and larger ones in one pass: what the upscaling node and command call when they interpolate too.

Interpolating first and upscaling then gives every frame to the upscaler. Here only frames of the source are upscaled,
each once and as far as it changed; those in between are blended from them (models/upscaled_betweens.py). Times, cuts
and sound are those of interpolation.py.
"""

import os
from fractions import Fraction
from typing import Any

import torch

from .interpolation import Sound, find_cuts, interpolate_clip
from .models.changed_tiles import THRESHOLD
from .models.interpolator import MotionInterpolator
from .models.network_checks import checked, networks_of
from .models.upscale_reuse import REFRESH, ReusingUpscaler
from .models.upscale_reuse import THRESHOLD as REUSE_THRESHOLD
from .models.upscaled_betweens import UpscaledBetweens
from .models.upscaler import Upscaler
from .stations import Advance, Check, Source, unwatched
from .video.clips import Clip, VideoClip
from .video.knots import AtCuts
from .video.retiming import Repeats, Retiming
from .video.target_size import TargetSize, visible
from .video.timeline import FrameTimeline

MARGIN = 64
"""Small pixels that the search for motion sees around what is not cut off."""


def finish(
    source: Source,
    path: str | os.PathLike[str],
    *,
    interpolator: MotionInterpolator,
    upscaler: Upscaler,
    target: TargetSize | None = None,
    threshold: float | None = REUSE_THRESHOLD,
    refresh: int = REFRESH,
    follow_motion: bool = False,
    timeline: FrameTimeline | None = None,
    rate: Fraction | None = None,
    times: int | None = None,
    loop: bool = False,
    at_cuts: AtCuts = "hold",
    repeats: Repeats = "keep",
    static_threshold: int | None = THRESHOLD,
    device: torch.device | str = "cpu",
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    audio: bool = True,
    check: Check = unwatched,
    progress: Advance = unwatched,
    **options: Any,
) -> dict[str, Any]:
    """Interpolates and upscales a file, or a part of it, into the video file `path`, with its sound.

    Arguments are those of `interpolate`; `upscaler`, `target`, `threshold`, `refresh` and `follow_motion` those of
    `upscale`; `options` and what is returned those of `finish_clip`. Without a timeline the file is read twice: once to
    find its cuts.
    """
    reusing = ReusingUpscaler(upscaler, threshold, refresh, check=check, follow_motion=follow_motion)
    target = target or TargetSize(scale=reusing.scale)
    wanted = Retiming(timeline, rate, times, loop, at_cuts, repeats)
    watchers = {"check": check, "progress": progress}
    cuts: tuple[int, ...] = ()
    if timeline is None:
        with VideoClip(source, start=start, duration=duration) as clip:
            visible(clip, target, reusing.scale, MARGIN)  # a size that cannot be is refused before all is read
            cuts = find_cuts(clip, loop=loop, repeats=repeats, **watchers)
    with VideoClip(source, start=start, duration=duration) as clip:
        sound = Sound(source, clip.origin, duration) if audio and clip.reader.info.has_audio else None
        options = {"static_threshold": static_threshold, "device": device, "cuts": cuts, "sound": sound, **options}
        report = finish_clip(clip, path, wanted, reusing, interpolator, target=target, **watchers, **options)
        return {**report, "notes": [*clip.reader.warnings, *report["notes"]]}


def finish_clip(
    clip: Clip,
    path: str | os.PathLike[str],
    wanted: Retiming,
    reusing: ReusingUpscaler,
    interpolator: MotionInterpolator,
    *,
    target: TargetSize | None = None,
    static_threshold: int | None = THRESHOLD,
    device: torch.device | str = "cpu",
    check: Check = unwatched,
    **options: Any,
) -> dict[str, Any]:
    """Interpolates and upscales a clip into the video file `path`; `options` are those of `interpolate_clip`.

    Returns what was done, by the keys of `tokenreel upscale --json`: with those of `upscale_clip` the ways in which
    frames came about, `frames_upscaled`, and `upscaled_fraction`, their share in all frames.
    """
    between = UpscaledBetweens(
        interpolator, static_threshold, check, device, upscale=reusing.frame, scale=reusing.scale
    )
    clip, size = visible(clip, target or TargetSize(scale=reusing.scale), reusing.scale, MARGIN)
    with checked(networks_of(reusing.upscaler), check):
        report = interpolate_clip(clip, path, wanted, between, size=size, check=check, **options)
    share = {"upscaled_fraction": round(between.upscaled / report["frames"], 6)}
    return {**report, **share, **reusing.report(), "notes": report["notes"]}
