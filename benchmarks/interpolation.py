"""The interpolator: how good its frames are, and what they cost. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .interpolation_cost import measure_drift, measure_long, measure_static
from .interpolation_quality import measure_quality
from .tokens import clips_in

PARTS = ("quality", "static", "memory", "drift")


def measure_interpolation(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Quality on `args.sets`, cost on `args.clips`, each as far as it is given; memory and drift on drawn clips.

    `args.parts` names the parts to measure; the others are taken from the result that is there.
    """
    from .results import read_result

    parts = args.parts or [name for name in PARTS if getattr(args, _NEEDS.get(name, ""), True)]
    for name, option in _NEEDS.items():
        if name in parts and not getattr(args, option):
            raise ValueError(f"Part {name!r} needs a folder. Name it with --{option} DIR.")
    found = {name: value for name, value in (read_result("interpolation") or {}).items() if name in PARTS}
    if "quality" in parts:
        found["quality"] = measure_quality(Path(args.sets), tell)
    if "static" in parts:
        found["static"] = measure_static(clips_in(args.clips)[: args.limit], tell)
    if "memory" in parts:
        found["memory"] = measure_long(tell)
    if "drift" in parts:
        found["drift"] = measure_drift(tell)
    return {"weights": {"interpolator": file_digest(WEIGHTS / "interpolator.safetensors")}, **found}


_NEEDS = {"quality": "sets", "static": "clips"}
