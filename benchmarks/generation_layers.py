"""Time of one attention layer against the number of tokens, of every kind, beside torch's own dense attention."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from ..models.attention import KINDS, TILE, WINDOW, attention
from .threads import one_thread

SIDE = 32
"""Rows and columns of tokens: those of 256-pixel frames."""
FRAMES = (1, 2, 4, 8, 16, 32, 64)
SIZE = 64
"""Channels of a head; one head, on one thread."""
_LONG = 2.0  # seconds from which on one run is enough


def measure_layers(tell: Callable[[str], None], frames: tuple[int, ...] = FRAMES) -> dict[str, Any]:
    """Seconds by kind and number of tokens, exponents, and from which number of tokens on a kind beats dense."""
    with one_thread():
        rows = [_row(count, tell) for count in frames]
    kinds = {}
    for kind in KINDS:
        seconds = [row["seconds"][kind] for row in rows]
        faster = [row["tokens"] for row in rows if row["seconds"][kind] < row["seconds"]["full"]]
        kinds[kind] = {
            "exponent": _slope([row["tokens"] for row in rows], seconds),
            "crossover_tokens": min(faster, default=None),
            "speedup_at_most_tokens": rows[-1]["seconds"]["full"] / seconds[-1],
        }
    return {
        "heads": 1,
        "head_size": SIZE,
        "side": SIDE,
        "window": list(WINDOW),
        "tile": list(TILE),
        "performer_features": 2 * SIZE,
        "threads": 1,
        "rows": rows,
        "kinds": kinds,
    }


@torch.inference_mode()
def _row(frames: int, tell: Callable[[str], None]) -> dict[str, Any]:
    grid = (frames, SIDE, SIDE)
    tokens = math.prod(grid)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, tokens, SIZE, generator=generator) for _ in range(3))
    seconds = {}
    for kind in KINDS:
        runs = []
        # the first run warms up; kinds of a few seconds are run once more, not five times
        for _ in range(6):
            started = time.perf_counter()
            attention(q, k, v, grid, kind=kind)  # type: ignore[arg-type]
            runs.append(time.perf_counter() - started)
            if len(runs) > 1 and runs[0] > _LONG:
                break
        seconds[kind] = min(runs[1:])
    tell(f"{tokens} tokens: " + ", ".join(f"{kind} {value * 1000:.1f} ms" for kind, value in seconds.items()))
    window = min(frames, WINDOW[0]) * min(SIDE, WINDOW[1]) * min(SIDE, WINDOW[2])
    return {"tokens": tokens, "grid": list(grid), "seconds": seconds, "window_density": window / tokens}


def _slope(tokens: list[int], seconds: list[float]) -> float:
    """Of the straight line through the logarithms of the later half, where what a call takes by itself is gone."""
    points = [(math.log(n), math.log(s)) for n, s in zip(tokens, seconds, strict=True)][len(tokens) // 2 - 1 :]
    x, y = (sum(each) / len(points) for each in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
