"""The generator: how good its frames are, and what they cost. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .arguments import chosen_parts
from .generation_layers import measure_layers


def measure_generation(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """`args.parts` names the parts to measure; the others are taken from the result that is there."""
    from .results import kept_parts

    parts = chosen_parts("generator", args, {})
    found = kept_parts("generator")
    if "layers" in parts:
        found["layers"] = measure_layers(tell)
    weights = {path.stem: file_digest(path) for path in sorted(WEIGHTS.glob("generator*.safetensors"))}
    return {"weights": weights, **found}
