"""How long importing takes: the nodes, in a ComfyUI that has its own libraries loaded already."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

COMFYUI_LOADS = ("torch", "numpy", "av", "safetensors", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")
ROUNDS = 5


def measure_start(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds, the median of some rounds, each in a new process."""
    rounds = []
    for _ in range(ROUNDS):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rounds.append(pool.submit(seconds_to_import).result())
    medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    return {"rounds": ROUNDS, **medians}


def seconds_to_import() -> dict[str, float]:
    """Seconds for what ComfyUI loads anyway, and for the nodes after that."""
    package = __name__.rpartition(".benchmarks")[0]
    return {
        "before": _timed(lambda: [importlib.import_module(name) for name in COMFYUI_LOADS]),
        "nodes": _timed(lambda: importlib.import_module(f"{package}.nodes")),
    }


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
