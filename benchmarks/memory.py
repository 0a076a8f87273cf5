"""Memory and time for encoding and decoding at several frame sizes, each in a process of its own."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

SIZES = ((256, 256), (512, 512), (854, 480), (1280, 720))
FRAMES_PER_SCENE = 2  # of the reel's four: key frames at the cuts, and predicted frames after them


def measure_memory(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Peak memory and seconds a frame for each size."""
    rows = []
    for width, height in SIZES:
        tell(f"  {width}x{height}")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(encode_and_decode, (width, height)).result())
    return {"sizes": rows}


def encode_and_decode(size: Sequence[int]) -> dict[str, Any]:
    """Draws a short reel of `size` = (width, height), encodes it as a stream, and decodes that."""
    import torch

    from ..host import resources
    from ..models.checkpoint import load_tokenizer
    from ..stations import decode_to_file, encode_clip
    from ..video.clips import VideoClip
    from ..video.reel import render
    from ..video.writer import VideoWriter

    width, height = size
    tokenizer = load_tokenizer().to(resources.device())
    loaded = resources.peak_memory() or 0
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        path = Path(folder) / "reel.mp4"
        reel = render(width, height, 24, FRAMES_PER_SCENE / 24, dissolve_seconds=0.04)
        with VideoWriter(path, width=width, height=height, frame_rate=Fraction(24)) as writer:
            for frames in reel.chunks(1):
                writer.write(frames)
        with VideoClip(path) as clip:
            encoded = encode_clip(clip, tokenizer, with_ssim=False)
        after_encoding, started = resources.peak_memory() or 0, time.monotonic()
        decode_to_file(encoded.tokens, tokenizer, Path(folder) / "decoded.mp4")
        seconds = time.monotonic() - started
    return {
        "width": width,
        "height": height,
        "frames": reel.frame_count,
        "device": str(tokenizer.device),
        "threads": torch.get_num_threads(),
        "peak_rss_bytes_loaded": loaded,
        "peak_rss_bytes_encoded": after_encoding,
        "peak_rss_bytes": resources.peak_memory() or 0,
        "encode_seconds_per_frame": encoded.seconds / reel.frame_count,
        "decode_seconds_per_frame": seconds / reel.frame_count,
    }
