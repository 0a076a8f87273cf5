"""The upscaler: how good its frames are, and what they cost. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .arguments import chosen_parts
from .tokens import clips_in
from .upscaling_joint import measure_joint
from .upscaling_reuse import measure_flicker, measure_memory, measure_reuse
from .upscaling_stills import measure_stills


def measure_upscaling(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Stills and both in one pass on `args.sets`; reuse and flicker on `args.clips`, each as far as it is given.

    `args.parts` names the parts to measure; the others are taken from the result that is there.
    """
    from .results import kept_parts

    parts = chosen_parts("upscaling", args, _NEEDS)
    found = kept_parts("upscaling")
    if "stills" in parts:
        found["stills"] = measure_stills(Path(args.sets), Path(args.peers) if args.peers else None, tell)
    if "reuse" in parts:
        found["reuse"] = measure_reuse(clips_in(args.clips)[: args.limit], tell)
    if "joint" in parts:
        found["joint"] = measure_joint(Path(args.sets), tell)
    if "memory" in parts:
        found["memory"] = measure_memory(tell)
    if "flicker" in parts:
        found["flicker"] = measure_flicker(clips_in(args.clips)[: args.limit], tell)
    weights = {path.stem: file_digest(path) for path in sorted(WEIGHTS.glob("upscaler_*.safetensors"))}
    return {"weights": weights, **found}


_NEEDS = {"stills": "sets", "reuse": "clips", "joint": "sets", "flicker": "clips"}
