"""The generator: how good its frames are, and what they cost. Parts that are not measured stay as they were."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest, load_generator, load_tokenizer
from ..models.token_filling import TokenFiller
from .arguments import chosen_parts
from .generation_after import measure_after
from .generation_between import measure_between
from .generation_bits import measure_bits
from .generation_kinds import measure_kinds
from .generation_layers import measure_layers
from .generation_memory import measure_memory


def measure_generation(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Quality, bits and kinds of attention on `args.clips`, as far as it is given; memory and single layers without.

    `args.parts` names the parts to measure; the others are taken from the result that is there. With other weights,
    `args.generator`, there are no others.
    """
    from .results import kept_parts

    parts, found = chosen_parts("generator", args, _NEEDS), {}
    weights = Path(args.generator) if args.generator else "hybrid"
    if "between" in parts or "continue" in parts:
        filler = TokenFiller(load_generator(weights), load_tokenizer().image)
        if "between" in parts:
            found["between"] = measure_between(args, filler, tell)
        if "continue" in parts:
            found["continue"] = measure_after(args, filler, tell)
    if "bits" in parts:
        found["bits"] = measure_bits(args, load_generator(weights), tell)
    if "kinds" in parts:
        found["kinds"] = measure_kinds(args, tell)
    if "memory" in parts:
        found["memory"] = measure_memory(weights, tell)
    if "layers" in parts:
        found["layers"] = measure_layers(tell)
    files = [Path(args.generator)] if args.generator else sorted(WEIGHTS.glob("generator*.safetensors"))
    # what others measured meanwhile is kept too: it is read last
    kept = {} if args.generator else kept_parts("generator")
    return {"weights": {path.stem: file_digest(path) for path in files}, **kept, **found}


_NEEDS = {"between": "clips", "continue": "clips", "bits": "clips", "kinds": "clips"}
