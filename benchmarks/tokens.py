"""Tokens and quality on a folder of clips: every frame for itself, the stream at equal quality, and the baselines.

All on the same frames: the centre square, scaled to one size, the first frames of each clip. The stream is as good as
its key frames; where its mean PSNR is more than 0.05 dB below that of every frame for itself, it is asked for as much
more as is missing, and then for a quality in dB. It is encoded at lower qualities too, and all of its points make its
curve. Rates of H.264 and MJPEG are read off theirs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..host import resources
from ..models.checkpoint import (
    WEIGHTS,
    ClipTokenizer,
    VideoTokenizer,
    list_tokenizers,
    load_clip_tokenizer,
    load_tokenizer,
)
from ..models.rate_control import HIGHEST_QUALITY, LOWEST_QUALITY
from ..models.shots import MotionMeter
from ..rate_distortion import EVERY_FRAME, GROUPS, MATCH, TokenPoint, codec_curves, stream_curve, token_point
from ..tokens.video_tokens import PFrame, VideoTokens
from ..video.clips import HeldClip, VideoClip
from ..video.metrics import psnr
from ..video.opening import VideoError
from ..video.rate_curves import Point, bd_rate, frontier, psnr_at, rate_at
from .token_summary import QUALITIES, STREAM, summarize, usage

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".y4m", ".gif", ".m4v")
TOLERANCE = 0.05  # dB that a stream may stay below
ROUNDS = 3  # most encodings of a clip to get there
STILL = 0.9  # share of predicted frames without global motion, from which on the camera is taken as static

Tell = Callable[[str], None]
Job = tuple[str, int, int, int]
"""Path, frames, size, points."""


def measure_tokens(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Every clip of `args.clips` and the summary. ValueError where there are none; unreadable ones are listed."""
    paths = clips_in(args.clips)[: args.limit]
    workers = min(args.workers or os.cpu_count() or 1, len(paths))
    started, clips, refused, codes = time.monotonic(), [], [], {}
    jobs = [(str(path), args.frames, args.size, args.points) for path in paths]
    for path, outcome in zip(paths, _measured(jobs, workers), strict=True):
        resources.check_cancelled()
        if isinstance(outcome, str):
            refused.append({"clip": path.name, "reason": outcome})
            tell(f"  {path.name}: {outcome}")
            continue
        clip, used = outcome
        for name, counts in used.items():
            codes[name] = codes.get(name, 0) + counts
        clips.append(clip)
        tell(f"  {len(clips)}/{len(paths)} {_line(clip)}")
    if not clips:
        raise ValueError(f"None of the {len(paths)} clips in {args.clips!r} can be read. Give another folder.")
    return {
        "settings": {
            "frames": args.frames,
            "size": args.size,
            "points": args.points,
            "tolerance_db": TOLERANCE,
            "static_share": STILL,
            "workers": workers,
            "threads": 1,
        },
        "seconds": time.monotonic() - started,
        "weights_bytes": {path.name: path.stat().st_size for path in sorted(WEIGHTS.glob("*.safetensors"))},
        "summary": summarize(clips),
        "codebooks": {name: usage(counts) for name, counts in codes.items()},
        "clips": clips,
        "refused": refused,
    }


def clips_in(folder: str | None) -> list[Path]:
    """The videos of a folder. ValueError in one line where there is no such folder, or it has none."""
    if not folder:
        raise ValueError("This benchmark needs clips. Name a folder of videos with --clips DIR.")
    if not os.path.isdir(folder):
        raise ValueError(f"There is no folder {folder!r}. Name a folder of videos with --clips DIR.")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"The folder {folder!r} has no videos ({', '.join(SUFFIXES)}). Name another one.")
    return found


def _measured(jobs: Sequence[Job], workers: int) -> Iterator[Any]:
    """What `_outcome` gives for each clip, in order. Several workers are processes of their own."""
    if workers == 1:
        yield from map(_outcome, jobs)
        return
    # spawn: a forked copy of a process that has run torch may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_outcome, jobs)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _outcome(job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]] | str:
    """The figures of one clip and how often each code is used, or why it cannot be read."""
    path, frames, size, points = job
    try:
        with VideoClip(path, size=size, crop=True, max_frames=frames) as clip:
            held = HeldClip(clip)
    except VideoError as error:
        return str(error)
    clip_tokenizer = load_clip_tokenizer() if list_tokenizers(kinds=["video_tokenizer"]) else None
    figures, codes = measure_clip(held, load_tokenizer(), clip_tokenizer, points)
    return {"clip": Path(path).name, **figures}, codes


def measure_clip(
    clip: HeldClip, tokenizer: VideoTokenizer, clip_tokenizer: ClipTokenizer | None, points: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The figures of one clip; and how often each code is used at the fixed rates, int64 `[codes]` by tokenizer."""
    encode = partial(token_point, clip=clip, tokenizer=tokenizer, check=resources.check_cancelled)
    single = encode(EVERY_FRAME, mode="frames")
    fixed = {"every_frame": single}
    if clip_tokenizer:
        fixed["groups"] = token_point(GROUPS, clip, clip_tokenizer, mode="clip", check=resources.check_cancelled)
    knob, equal, tried = equal_quality(partial(encode, MATCH), single.psnr)
    lower = stream_curve(clip, tokenizer, single.psnr, points, check=resources.check_cancelled)
    stream = frontier([*tried, *lower])
    curves: dict[str, Sequence[Point]] = {STREAM: stream, **codec_curves(clip, check=resources.check_cancelled)}
    codecs, source = [name for name in curves if name != STREAM], clip.frames
    return {
        "frames": len(source),
        "static_camera": static_camera(equal.encoded.tokens, source),
        **{name: _kept(point) for name, point in fixed.items()},
        "stream": {
            **_kept(equal),
            "knob": knob,
            "rounds": len(tried),
            "tokens_by_kind": equal.encoded.report["tokens_by_kind"],
        },
        "ratio": equal.encoded.report["tokens"] / single.encoded.report["tokens"],
        "copy_last_frame_psnr": float(psnr(source[1:], source[:-1]).mean()) if len(source) > 1 else None,
        "at_rate": {
            name: {
                "bits_per_pixel": point.raw_bits_per_pixel,
                **{codec: psnr_at(curves[codec], point.raw_bits_per_pixel) for codec in codecs},
            }
            for name, point in fixed.items()
        },
        "at_quality": {
            "stream's": {"psnr": equal.psnr, **{name: rate_at(curve, equal.psnr) for name, curve in curves.items()}},
            **{
                f"{quality} dB": {"psnr": quality, **{name: rate_at(curve, quality) for name, curve in curves.items()}}
                for quality in QUALITIES
            },
        },
        "bd_rate": {codec: bd_rate(stream, curves[codec]) for codec in codecs},
        "curves": {name: [[point.bits_per_pixel, point.psnr] for point in curve] for name, curve in curves.items()},
    }, {point.encoded.tokens.tokenizer: _codes_used(point.encoded.tokens) for point in fixed.values()}


def equal_quality(
    encode: Callable[..., TokenPoint], quality: float
) -> tuple[dict[str, float], TokenPoint, list[TokenPoint]]:
    """(the knob, the stream it gave, all that were encoded): the first at most TOLERANCE below, or else the best."""
    knob: dict[str, float] = {"margin": 0.0}
    knobs, tried = [], []
    for _ in range(ROUNDS):
        knobs.append(knob)
        tried.append(encode(**knob))
        missing = quality - tried[-1].psnr
        if missing <= TOLERANCE:
            return knob, tried[-1], tried
        if len(tried) == 1:
            knob = {"margin": missing}
        else:
            asked = max(quality, knob.get("quality", 0.0)) + missing
            knob = {"quality": min(max(asked, LOWEST_QUALITY), HIGHEST_QUALITY)}
    best = max(range(len(tried)), key=lambda index: tried[index].psnr)
    return knobs[best], tried[best], tried


def static_camera(tokens: VideoTokens, frames: np.ndarray) -> bool:
    """Whether the picture as a whole stays where it is, in a single shot.

    So it is taken where the stream's global motion is zero in nine of ten predicted frames, and no cut is found.
    """
    still = [frame.global_motion == (0, 0) for frame in tokens.frames if isinstance(frame, PFrame)]
    if not still or sum(still) < STILL * len(still):
        return False
    meter = MotionMeter()
    meter.update(frames)
    return not meter.cuts


def _codes_used(tokens: VideoTokens) -> np.ndarray:
    codes = np.concatenate([frame.codes.ravel() for frame in tokens.frames if not isinstance(frame, PFrame)])
    return np.bincount(codes, minlength=int(np.prod(tokens.levels)))


def _kept(point: TokenPoint) -> dict[str, Any]:
    keys = ("tokens", "tokens_per_second", "bits", "bits_per_pixel", "psnr", "ssim", "seconds")
    figures = {key: point.encoded.report[key] for key in keys}
    return {**figures, "file_bytes": point.file_bytes, "file_bits_per_pixel": point.bits_per_pixel}


def _line(clip: dict[str, Any]) -> str:
    single, stream = clip["every_frame"], clip["stream"]
    return (
        f"{clip['clip']}: {single['psnr']:.2f} dB in {single['tokens']:,} tokens; "
        f"stream {stream['psnr']:.2f} dB in {stream['tokens']:,} ({clip['ratio']:.1%}), "
        f"{single['seconds'] + stream['seconds']:.0f} s"
    )
