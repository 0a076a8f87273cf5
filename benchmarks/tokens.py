"""Tokens and quality on a folder of clips: every frame for itself, the stream at equal quality, and the baselines.

All on the same frames: the centre square, scaled to one size, the first frames of each clip. The stream is as good as
its key frames; where its mean PSNR is more than 0.05 dB below that of every frame for itself, it is asked for as much
more as is missing, and then for a quality in dB. Rates of H.264 and MJPEG are read off their curves.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..host import resources
from ..models.checkpoint import VideoTokenizer, load_tokenizer
from ..models.rate_control import HIGHEST_QUALITY, LOWEST_QUALITY
from ..stations import Encoded, encode_clip
from ..tokens.bitstream import tokens_to_bytes
from ..tokens.video_tokens import IFrame
from ..video.clips import VideoClip
from ..video.metrics import psnr
from ..video.opening import VideoError
from ..video.rate_curves import psnr_at, rate_at
from ..video.reference_codecs import REFERENCE_CODECS, rate_curve

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".y4m", ".gif", ".m4v")
TOLERANCE = 0.05  # dB that a stream may stay below
ROUNDS = 3  # most encodings of a clip to get there

Tell = Callable[[str], None]


def measure_tokens(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Every clip of `args.clips` and the summary. ValueError where there are none; unreadable ones are listed."""
    paths = _clips(args.clips)[: args.limit]
    workers = min(args.workers or os.cpu_count() or 1, len(paths))
    started, clips, refused, used = time.monotonic(), [], [], np.zeros(load_tokenizer().codebook_size, np.int64)
    for path, outcome in zip(paths, _measured(paths, args.frames, args.size, workers), strict=True):
        resources.check_cancelled()
        if isinstance(outcome, str):
            refused.append({"clip": path.name, "reason": outcome})
            tell(f"  {path.name}: {outcome}")
            continue
        clip, codes = outcome
        np.add.at(used, codes, 1)
        clips.append(clip)
        tell(f"  {len(clips)}/{len(paths)} {_line(clip)}")
    if not clips:
        raise ValueError(f"None of the {len(paths)} clips in {args.clips!r} can be read. Give another folder.")
    return {
        "settings": {
            "frames": args.frames,
            "size": args.size,
            "tolerance_db": TOLERANCE,
            "workers": workers,
            "threads": 1,
        },
        "seconds": time.monotonic() - started,
        "summary": _summary(clips),
        "codebook": _usage(used),
        "clips": clips,
        "refused": refused,
    }


def _clips(folder: str | None) -> list[Path]:
    if not folder:
        raise ValueError("The benchmark 'tokens' needs clips. Name a folder of videos with --clips DIR.")
    if not os.path.isdir(folder):
        raise ValueError(f"There is no folder {folder!r}. Name a folder of videos with --clips DIR.")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"The folder {folder!r} has no videos ({', '.join(SUFFIXES)}). Name another one.")
    return found


def _measured(paths: Sequence[Path], frames: int, size: int, workers: int) -> Iterator[Any]:
    """What `_outcome` gives for each clip, in order. Several workers are processes of their own."""
    jobs = [(str(path), frames, size) for path in paths]
    if workers == 1:
        yield from map(_outcome, jobs)
        return
    # spawn: a forked copy of a process that has run torch may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_outcome, jobs)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _outcome(job: tuple[str, int, int]) -> tuple[dict[str, Any], np.ndarray] | str:
    """The figures of one clip and the codes of its key frames, or why it cannot be read."""
    try:
        return measure_clip(*job, tokenizer=load_tokenizer())
    except VideoError as error:
        return str(error)


def measure_clip(path: str, frames: int, size: int, *, tokenizer: VideoTokenizer) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of one clip, and int64 `[n]`: all codes with every frame coded for itself."""
    options = {"size": size, "crop": True, "max_frames": frames}

    def encode(**knobs: Any) -> Encoded:
        with VideoClip(path, **options) as clip:
            return encode_clip(clip, tokenizer, check=resources.check_cancelled, **knobs)

    with VideoClip(path, **options) as clip:
        source, rate = np.concatenate([chunk.frames for chunk in clip.chunks()]), clip.frame_rate
    single = encode(mode="frames")
    asked, stream, rounds = _equal_quality(encode, single.report["psnr"])
    curves = {name: rate_curve(codec, source, rate) for name, codec in REFERENCE_CODECS.items()}
    wanted, ours = single.report["bits_per_pixel"], stream.report
    codes = np.concatenate([frame.codes.ravel() for frame in single.tokens.frames if isinstance(frame, IFrame)])
    return {
        "clip": Path(path).name,
        "frames": len(source),
        "every_frame": _kept(single),
        "stream": {**_kept(stream), "knob": asked, "rounds": rounds, "tokens_by_kind": ours["tokens_by_kind"]},
        "ratio": ours["tokens"] / single.report["tokens"],
        "copy_last_frame_psnr": float(psnr(source[1:], source[:-1]).mean()) if len(source) > 1 else None,
        "psnr_at_rate": {"bits_per_pixel": wanted, **{name: psnr_at(curve, wanted) for name, curve in curves.items()}},
        "bits_per_pixel_at_quality": {
            "psnr": ours["psnr"],
            **{name: rate_at(curve, ours["psnr"]) for name, curve in curves.items()},
        },
        "lowest_bits_per_pixel": {name: curve[0].bits_per_pixel for name, curve in curves.items()},
    }, codes.astype(np.int64)


def _equal_quality(encode: Callable[..., Encoded], quality: float) -> tuple[dict[str, float], Encoded, int]:
    """(the knob, the stream, how often it was encoded): the first at most TOLERANCE below `quality`, or the best."""
    knob: dict[str, float] = {"margin": 0.0}
    tried: list[tuple[dict[str, float], Encoded]] = []
    for _ in range(ROUNDS):
        tried.append((knob, encode(**knob)))
        missing = quality - tried[-1][1].report["psnr"]
        if missing <= TOLERANCE:
            return *tried[-1], len(tried)
        if len(tried) == 1:
            knob = {"margin": missing}
        else:
            asked = max(quality, tried[-1][0].get("quality", 0.0)) + missing
            knob = {"quality": min(max(asked, LOWEST_QUALITY), HIGHEST_QUALITY)}
    return *max(tried, key=lambda each: each[1].report["psnr"]), len(tried)


def _kept(encoded: Encoded) -> dict[str, Any]:
    keys = ("tokens", "tokens_per_second", "bits", "bits_per_pixel", "psnr", "ssim", "seconds")
    return {**{key: encoded.report[key] for key in keys}, "file_bytes": len(tokens_to_bytes(encoded.tokens))}


def _summary(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and mean over clips of what the tables show; worst and best ratio."""
    columns: dict[str, list[Any]] = {
        "every_frame_psnr": [clip["every_frame"]["psnr"] for clip in clips],
        "every_frame_ssim": [clip["every_frame"]["ssim"] for clip in clips],
        "every_frame_bits_per_pixel": [clip["every_frame"]["bits_per_pixel"] for clip in clips],
        "stream_psnr": [clip["stream"]["psnr"] for clip in clips],
        "stream_ssim": [clip["stream"]["ssim"] for clip in clips],
        "stream_bits_per_pixel": [clip["stream"]["bits_per_pixel"] for clip in clips],
        "ratio": [clip["ratio"] for clip in clips],
        "psnr_difference": [clip["stream"]["psnr"] - clip["every_frame"]["psnr"] for clip in clips],
        "copy_last_frame_psnr": [clip["copy_last_frame_psnr"] for clip in clips],
        "every_frame_seconds_per_frame": [clip["every_frame"]["seconds"] / clip["frames"] for clip in clips],
        "stream_seconds_per_frame": [clip["stream"]["seconds"] / clip["frames"] for clip in clips],
    }
    for name in REFERENCE_CODECS:
        columns[f"psnr_at_rate {name}"] = [clip["psnr_at_rate"][name] for clip in clips]
        columns[f"bits_per_pixel_at_quality {name}"] = [clip["bits_per_pixel_at_quality"][name] for clip in clips]
    summary: dict[str, Any] = {"clips": len(clips)}
    for name, values in columns.items():
        numbers = [value for value in values if value is not None]
        summary[name] = {
            "clips": len(numbers),
            "median": float(np.median(numbers)) if numbers else None,
            "mean": float(np.mean(numbers)) if numbers else None,
            "min": min(numbers, default=None),
            "max": max(numbers, default=None),
        }
    return summary


def _usage(counts: np.ndarray) -> dict[str, Any]:
    """How much of the codebook the clips use, with every frame coded for itself."""
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes": int(counts.size),
        "tokens": int(counts.sum()),
        "used": int(shares.size),
        "usage": float(shares.size / counts.size),
        "perplexity": math.exp(float(-(shares * np.log(shares)).sum())),
    }


def _line(clip: dict[str, Any]) -> str:
    single, stream = clip["every_frame"], clip["stream"]
    return (
        f"{clip['clip']}: {single['psnr']:.2f} dB in {single['tokens']:,} tokens; "
        f"stream {stream['psnr']:.2f} dB in {stream['tokens']:,} ({clip['ratio']:.1%}), "
        f"{single['seconds'] + stream['seconds']:.0f} s"
    )
