"""Time of several ways to do the same, one after the other in each round, so that what else runs falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

CPU = torch.device("cpu")


def in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Seconds of each way in each round, until `device` is done; a round before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            spent = _spent(way, device)
            if number:
                seconds[name].append(spent)
    return seconds


def _spent(way: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
