"""Patches of ComfyUI's models: what they save, and what they change. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from .arguments import chosen_parts
from .patching_attention import measure_attention
from .patching_exact import measure_exact
from .patching_fidelity import measure_fidelity
from .patching_forward import measure_forward
from .patching_merging import measure_merging
from .patching_models import measured_parts
from .patching_network import NET


def measure_patching(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """What ComfyUI's own models take and give, where ComfyUI can be imported; quality on `args.clips`, where given.

    `args.parts` names the parts to measure; the others are taken from the result that is there.
    """
    from .results import kept_parts

    parts = chosen_parts("patching", args, _NEEDS)
    makers: dict[str, Callable[[], dict[str, Any] | None]] = {
        "exact": lambda: measure_exact(args.limit, tell),
        "forward": lambda: measure_forward(args.rounds, args.limit, tell),
        "fidelity": lambda: measure_fidelity(args, tell),
        "merging": lambda: measure_merging(args, tell),
        "attention": lambda: measure_attention(args.rounds, tell),
    }
    found = measured_parts(parts, makers, tell)
    # what others measured meanwhile is kept too: it is read last
    digest = file_digest(WEIGHTS / f"generator_{NET}.safetensors")
    return {"weights": {f"generator_{NET}": digest}, **kept_parts("patching"), **found}


_NEEDS = {"fidelity": "clips", "merging": "clips"}
