"""Memory for a long clip: 720p frames are drawn, written and read back, with the peak after each step."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 1280, 720
CHUNK = 8


def measure_video(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Writes and reads `args.long_frames` frames in a process of its own, so that its peak is that of the work."""
    tell(f"  {args.long_frames} frames of {WIDTH}x{HEIGHT}")
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        path = str(Path(folder) / "long.mp4")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(write_and_read, path, args.long_frames).result()


def write_and_read(path: str, frames: int) -> dict[str, Any]:
    """Bytes of peak memory after importing, after writing and after reading, and frames per second of both."""
    from ..host.resources import peak_memory
    from ..video.reader import VideoReader
    from ..video.writer import VideoWriter

    picture = _texture()
    before, started = peak_memory() or 0, time.monotonic()
    with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=Fraction(30)) as writer:
        for first in range(0, frames, CHUNK):
            count = min(CHUNK, frames - first)
            writer.write(np.stack([np.roll(picture, 4 * (first + i), axis=1) for i in range(count)]))
    written, wrote = peak_memory() or 0, time.monotonic()
    with VideoReader(path) as reader:
        read = sum(len(chunk.pts) for chunk in reader.chunks(CHUNK))
    if read != frames:
        raise ValueError(f"{frames} frames were written, but {read} were read back. Report this as a fault.")
    return {
        "frames": frames,
        "width": WIDTH,
        "height": HEIGHT,
        "file_bytes": os.path.getsize(path),
        "peak_rss_bytes_imported": before,
        "peak_rss_bytes_written": written,
        "peak_rss_bytes": peak_memory() or 0,
        "peak_rss_bytes_more_than_import": (peak_memory() or 0) - before,
        "frames_per_second_write": frames / (wrote - started),
        "frames_per_second_read": frames / (time.monotonic() - wrote),
    }


def _texture() -> np.ndarray:
    """uint8 `[720, 1280, 3]`: smooth shapes that a codec has some work with."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    waves = [np.sin(x / a + y / b) + np.sin(y / a - x / c) for a, b, c in ((9, 23, 31), (14, 40, 17), (25, 11, 60))]
    return np.stack([127.5 + 55 * wave for wave in waves], axis=-1).astype(np.uint8)
