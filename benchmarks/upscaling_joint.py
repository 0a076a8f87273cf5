"""Interpolating and upscaling in one pass, beside interpolating first and upscaling then: PSNR of frames left out.

Frames of a clip are made smaller; every second or fourth of them is kept. The others are found again at full size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models.changed_regions import InBetweens
from ..models.checkpoint import load_interpolator, load_upscaler
from ..models.interpolator import MotionInterpolator
from ..models.shots import MotionMeter
from ..models.upscale_reuse import ReusingUpscaler
from ..models.upscaled_betweens import UpscaledBetweens
from ..models.upscaler import Upscaler
from ..video.frames import resize
from ..video.metrics import psnr
from .interpolation_quality import frames_of, sets_in

TIMES = (2, 4)
FRAMES = 33  # of a clip, from the first
FEWEST = 9  # frames: of less, two intervals of four cannot be made
AFTER, JOINT, BEFORE = "interpolate, upscale", "joint", "upscale, interpolate"

Tell = Callable[[str], None]


def measure_joint(sets: Path, tell: Tell) -> dict[str, Any]:
    """A row for each clip below a folder and each of TIMES, and the medians of what is gained, on one thread.

    Clips are sequences of frames in which no shot changes; what is left out is named. ValueError where there is none.
    """
    net, upscaler = load_interpolator(), load_upscaler("x2-m")
    threads, rows, others = torch.get_num_threads(), [], []
    torch.set_num_threads(1)
    try:
        for name, path in sequences_in(sets).items():
            frames = list(islice(frames_of(path), FRAMES))
            meter = MotionMeter()
            with torch.inference_mode():
                meter.update(np.stack(frames))
                changes = len(meter.cuts)
            if changes or len(frames) < FEWEST:
                reason = "a shot changes" if changes else f"{len(frames)} frames"
                others.append({"clip": name, "reason": reason})
                continue
            for times in TIMES:
                rows.append({"clip": name, "times": times, **measure_clip(frames, times, net, upscaler)})
                tell(f"  {name}, {times} times the frames: {rows[-1]['gain']:+.2f} dB")
    finally:
        torch.set_num_threads(threads)
    if not rows:
        raise ValueError(f"No clips in {sets}. Give a folder of videos or of numbered PNG files with --sets DIR.")
    return {"engine": "x2-m", "clips": rows, "others": others, "summary": [summary(rows, times) for times in TIMES]}


def sequences_in(folder: Path) -> dict[str, Path]:
    """The sets of a folder whose frames follow each other, by name: no triplets, no pairs of stills."""
    return {
        name: path
        for name, path in sets_in(folder).items()
        if path.is_file() or (any(path.glob("*.png")) and not any(path.glob("*_SRF_*")))
    }


def summary(rows: Sequence[dict[str, Any]], times: int) -> dict[str, Any]:
    """Medians over the clips."""
    those = [row for row in rows if row["times"] == times]
    shares = {
        key: statistics.median(row[key][JOINT] / row[key][AFTER] for row in those) for key in ("calls", "cpu_seconds")
    }
    return {"times": times, "clips": len(those), "gain": statistics.median(row["gain"] for row in those), **shares}


def measure_clip(
    frames: Sequence[np.ndarray], times: int, interpolator: MotionInterpolator, upscaler: Upscaler
) -> dict[str, Any]:
    """By method: mean dB of the frames left out, frames that the upscaler was given, CPU seconds. `gain`: of joint."""
    scale = upscaler.scale
    height, width = (side // scale * scale for side in frames[0].shape[:2])
    count = (len(frames) - 1) // times * times + 1
    large = np.stack([frame[:height, :width] for frame in frames[:count]])
    keys = list(resize(np.ascontiguousarray(large[::times]), width // scale, height // scale))
    missing = [index for index in range(count) if index % times]
    found: dict[str, dict[str, Any]] = {"psnr": {}, "calls": {}, "cpu_seconds": {}}
    for name, method in _METHODS.items():
        reusing = ReusingUpscaler(upscaler, None)
        started = time.process_time()
        with torch.inference_mode():
            made = list(method(keys, times, interpolator, reusing))
        found["cpu_seconds"][name] = time.process_time() - started
        found["calls"][name] = reusing.cost.frames
        levels = [float(psnr(large[index][None], made[index][None])[0]) for index in missing]
        found["psnr"][name] = statistics.fmean(levels)
    gain = found["psnr"][JOINT] - found["psnr"][AFTER]
    return {"size": [width, height], "frames": len(missing), "gain": gain, **found}


def _with_between(keys: Sequence[np.ndarray], times: int, between: InBetweens) -> Iterator[np.ndarray]:
    """As the interpolator's pipeline has them: `times` frames for each one, the last one held."""
    moments = [step / times for step in range(1, times)]
    for first, second in pairwise(keys):
        yield from chain([between.shown(first)], between.frames(first, second, moments))
    for _ in range(times):
        yield between.shown(keys[-1])


def _after(
    keys: Sequence[np.ndarray], times: int, interpolator: MotionInterpolator, reusing: ReusingUpscaler
) -> Iterator[np.ndarray]:
    for frame in _with_between(keys, times, InBetweens(interpolator)):
        yield reusing.frame(frame)


def _joint(
    keys: Sequence[np.ndarray], times: int, interpolator: MotionInterpolator, reusing: ReusingUpscaler
) -> Iterator[np.ndarray]:
    between = UpscaledBetweens(interpolator, upscale=reusing.frame, scale=reusing.scale)
    return _with_between(keys, times, between)


def _before(
    keys: Sequence[np.ndarray], times: int, interpolator: MotionInterpolator, reusing: ReusingUpscaler
) -> Iterator[np.ndarray]:
    return _with_between([reusing.frame(key) for key in keys], times, InBetweens(interpolator))


_METHODS = {AFTER: _after, JOINT: _joint, BEFORE: _before}
