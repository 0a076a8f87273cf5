"""Models in few bits, or with blocks left out: what is saved and lost. Parts not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .arguments import chosen_parts
from .patching_models import measured_parts
from .pruning import measure_depth
from .quantization_gpu import measure_gpu
from .quantization_quality import measure_mixed, measure_quality
from .quantization_saved import measure_saved
from .quantization_size import measure_memory, measure_size
from .quantization_speed import measure_speed

PRUNED = ("hybrid", "full")
"""Generators whose blocks are left out: the shipped one, and one with attention to all tokens."""


def measure_quantization(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """What needs clips chooses by those of `args.train` and is told of those of `args.clips`.

    `args.parts` names the parts to measure; the others are taken from the result that is there.
    """
    from .results import kept_parts

    parts = chosen_parts("quantization", args, _NEEDS)
    makers: dict[str, Callable[[], dict[str, Any] | None]] = {
        "size": lambda: measure_size(tell),
        "speed": lambda: measure_speed(args.rounds, tell),
        "quality": lambda: measure_quality(_with_train(args), tell),
        "mixed": lambda: measure_mixed(_with_train(args), tell),
        "saved": lambda: measure_saved(tell),
        "pruning": lambda: measure_depth(_with_train(args).train, args.clips, tell, limit=args.limit, names=PRUNED),
        "memory": lambda: measure_memory(tell),
        "gpu": lambda: measure_gpu(args.rounds, tell),
    }
    found = measured_parts(parts, makers, tell)
    files = [WEIGHTS / "generator.safetensors"]
    # what others measured meanwhile is kept too: it is read last
    return {"weights": {path.stem: file_digest(path) for path in files}, **kept_parts("quantization"), **found}


def _with_train(args: argparse.Namespace) -> argparse.Namespace:
    if not args.train:
        raise ValueError("This part chooses by other clips than it is measured on. Name their folder with --train DIR.")
    return args


_NEEDS = {"quality": "clips", "mixed": "clips", "pruning": "clips"}
