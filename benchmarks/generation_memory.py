"""Memory for continuing a clip by a few frames and by many, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..host import resources
from ..models.checkpoint import load_generator, load_tokenizer
from ..models.token_filling import TokenFiller
from ..video.reel import render
from .generation_clips import Pictures, Tell

FRAMES = (32, 256)
SIDE = 128  # pixels
SEEN = 8  # frames that are known; of the reel
WARM_UP = 8  # frames that are made before


def measure_memory(weights: Path | str, tell: Tell, frames: Sequence[int] = FRAMES) -> dict[str, Any]:
    """Peak memory of each continuation, and what the longest takes of the shortest's. weights: a name or a file."""
    runs = []
    for count in frames:
        tell(f"  {count} frames of {SIDE}x{SIDE}")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            runs.append(pool.submit(continue_reel, weights, count).result())
    return {"size": [SIDE, SIDE], "runs": runs, "growth": runs[-1]["peak_rss_bytes"] / runs[0]["peak_rss_bytes"]}


def continue_reel(weights: Path | str, frames: int) -> dict[str, Any]:
    """Peak memory, before and after, and seconds, of `frames` frames after the first ones of the reel."""
    torch.set_num_threads(1)
    image = load_tokenizer().image
    filler, reel = TokenFiller(load_generator(weights), image), render(SIDE, SIDE)
    seen = Pictures(image).encode(next(reel.chunks(SEEN)))
    filler.after(seen, WARM_UP)
    warmed_up, started = resources.peak_memory() or 0, time.monotonic()
    filler.after(seen, frames)
    return {
        "frames": frames,
        "peak_rss_bytes_warmed_up": warmed_up,
        "peak_rss_bytes": resources.peak_memory() or 0,
        "seconds": time.monotonic() - started,
    }
