"""The interpolator: how good its frames are, and what they cost. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .arguments import chosen_parts
from .interpolation_cost import measure_drift, measure_long, measure_static
from .interpolation_quality import measure_quality
from .tokens import clips_in


def measure_interpolation(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Quality on `args.sets`, cost on `args.clips`, each as far as it is given; memory and drift on drawn clips.

    `args.parts` names the parts to measure; the others are taken from the result that is there.
    """
    from .results import kept_parts

    parts = chosen_parts("interpolation", args, _NEEDS)
    found = kept_parts("interpolation")
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
