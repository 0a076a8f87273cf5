"""The tokens benchmark over all clips: medians, means, extremes, and geometric means where both reach a quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

STREAM = "stream"
QUALITIES = (28, 30, 32, 34)
"""dB at which rates are compared."""
FIXED = ("every_frame", "groups")
"""What has a single rate, as far as it was measured."""


def summarize(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the figures of all clips, as `benchmarks.tokens.measure_clip` gives them."""
    codecs = list(clips[0]["bd_rate"])
    fixed = [name for name in FIXED if name in clips[0]]
    still = [clip for clip in clips if clip["static_camera"]]
    return {
        "clips": len(clips),
        "static_camera_clips": len(still),
        **{name: _columns([clip[name] for clip in clips], clips) for name in (*fixed, STREAM)},
        "ratio": spread([clip["ratio"] for clip in clips]),
        "ratio_static_camera": spread([clip["ratio"] for clip in still]),
        "psnr_difference": spread([clip[STREAM]["psnr"] - clip["every_frame"]["psnr"] for clip in clips]),
        "copy_last_frame_psnr": spread([clip["copy_last_frame_psnr"] for clip in clips]),
        "psnr_at_rate": {
            name: {codec: spread([clip["at_rate"][name][codec] for clip in clips]) for codec in codecs}
            for name in fixed
        },
        "at_quality": {
            asked: {
                STREAM: spread([clip["at_quality"][asked][STREAM] for clip in clips]),
                **{codec: _compared([clip["at_quality"][asked] for clip in clips], codec) for codec in codecs},
            }
            for asked in clips[0]["at_quality"]
        },
        "bd_rate": {codec: spread([clip["bd_rate"][codec] for clip in clips]) for codec in codecs},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Median, mean and extremes of the values that there are, and how many those are."""
    numbers = [value for value in values if value is not None]
    return {
        "clips": len(numbers),
        "median": float(np.median(numbers)) if numbers else None,
        "mean": float(np.mean(numbers)) if numbers else None,
        "min": min(numbers, default=None),
        "max": max(numbers, default=None),
    }


def usage(counts: np.ndarray) -> dict[str, Any]:
    """How much of a codebook the clips use."""
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes": int(counts.size),
        "tokens": int(counts.sum()),
        "used": int(shares.size),
        "usage": float(shares.size / counts.size),
        "perplexity": math.exp(float(-(shares * np.log(shares)).sum())),
    }


def _columns(rows: Sequence[dict[str, Any]], clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = {
        key: spread([row[key] for row in rows]) for key in ("psnr", "ssim", "bits_per_pixel", "file_bits_per_pixel")
    }
    seconds = [row["seconds"] / clip["frames"] for row, clip in zip(rows, clips, strict=True)]
    return {**columns, "seconds_per_frame": spread(seconds)}


def _compared(rates: Sequence[dict[str, Any]], codec: str) -> dict[str, Any]:
    """Geometric means of bits per pixel over the clips on which both reach a quality, and their ratio."""
    pairs = np.array(
        [(each[STREAM], each[codec]) for each in rates if each[STREAM] is not None and each[codec] is not None]
    ).reshape(-1, 2)
    if not len(pairs):
        return {"clips": 0, "stream": None, "codec": None, "ratio": None}
    ours, theirs = (float(mean) for mean in np.exp(np.log(pairs).mean(0)))
    return {"clips": len(pairs), "stream": ours, "codec": theirs, "ratio": ours / theirs}
