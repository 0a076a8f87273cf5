"""Arguments of `tokenreel bench` and `python -m tokenreel.benchmarks`; `--help` comes here, which stays light."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

NAMES = {
    "tokens": "tokens, bits and quality on clips, beside MJPEG, x264 and copying the last frame",
    "speed": "frames a second of encoding and decoding, beside other tokenizers",
    "memory": "memory and time for encoding and decoding at several sizes",
    "video": "memory for reading and writing a long 720p clip",
    "start": "how long importing takes",
    "shots": "changes of shot in composed reels and in clips, beside PySceneDetect",
    "sampling": "quality after restoring all frames from few, chosen by motion and evenly",
    "interpolation": "quality and cost of frames in between, beside DIS flow; memory and time kept on drawn clips",
    "upscaling": "quality of upscaled stills, what reuse saves, interpolation in the same pass, memory, flicker",
    "generator": "frames made of tokens, between and after known ones; bits of tokens; attention of every kind; memory",
    "patching": "patched models: forwards of ComfyUI's own, and what a generator loses that was trained dense",
    "quantization": "models in int8 and fp8: sizes, speed, quality, files, memory; blocks left out of generators",
}
PARTS = {
    "interpolation": ("quality", "static", "memory", "drift"),
    "upscaling": ("stills", "reuse", "joint", "memory", "flicker"),
    "generator": ("between", "continue", "bits", "kinds", "memory", "layers"),
    "patching": ("exact", "forward", "fidelity", "merging", "attention"),
    "quantization": ("size", "speed", "quality", "mixed", "saved", "pruning", "memory", "gpu"),
}
"""Of benchmarks that can be measured by parts."""
NEED_CLIPS = ("tokens", "speed", "shots", "sampling")


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def _name(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NAMES)}")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, on what, and where the figures go."""
    listing = "; ".join(f"{name}: {text}" for name, text in NAMES.items())
    parser.add_argument("names", metavar="NAME", nargs="*", type=_name, help=f"{listing} (all)")
    parser.add_argument("--clips", metavar="DIR", help="folder of clips for all but 'memory', 'video', 'start'")
    parser.add_argument("--train", metavar="DIR", help="folder of clips that 'quantization' chooses by")
    parser.add_argument("--sets", metavar="DIR", help="pictures, frames and clips for 'interpolation' and 'upscaling'")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=sorted({part for parts in PARTS.values() for part in parts}),
        help=f"of {', '.join(map(repr, PARTS))} (all that have their folder); others are kept as they were",
    )
    parser.add_argument("--peers", metavar="DIR", help="folder with other people's weights for 'speed', 'upscaling'")
    parser.add_argument("--generator", metavar="FILE", help="weights that 'generator' measures (the shipped ones)")
    parser.add_argument("--json", metavar="FILE", help="write the figures of one benchmark here")
    parser.add_argument("--frames", type=_at_least(1), default=65, metavar="N", help="of each clip at most (65)")
    parser.add_argument("--size", type=_at_least(16), default=256, metavar="S", help="side of the centre square (256)")
    parser.add_argument(
        "--points", type=_at_least(0), default=3, metavar="N", help="lower qualities of the stream in 'tokens' (3)"
    )
    parser.add_argument("--limit", type=_at_least(1), metavar="N", help="only the first N clips")
    parser.add_argument(
        "--rounds", type=_at_least(1), metavar="N", help="times that 'patching' and 'quantization' are timed"
    )
    parser.add_argument(
        "--workers", type=_at_least(1), metavar="N", help="clips at a time, one thread each (as many as CPU cores)"
    )
    parser.add_argument("--long-frames", type=_at_least(2), default=5000, metavar="N", help="frames of 'video' (5000)")
    parser.add_argument("--reels", type=_at_least(1), default=30, metavar="N", help="composed for 'shots' (30)")


def run_benchmarks(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs them one after another. `table` has the figures as Markdown, `results` all of them by name.

    Raises ValueError for a missing or empty folder of clips, and for one file for several results.
    """
    from ..host import files
    from .results import measured, to_json
    from .tables import TABLES

    names = args.names or [name for name in NAMES if name not in NEED_CLIPS or args.clips]
    if args.json and len(names) != 1:
        raise ValueError(f"One file for {len(names)} results ({', '.join(names)}). Name one benchmark with --json.")
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        raise ValueError(f"Cannot write {args.json!r}: its folder does not exist. Create it first.")
    results = {}
    for name in names:
        tell(f"{name}: {NAMES[name]}")
        results[name] = measured(name, args, tell)
        if args.json:
            files.write_whole(args.json, to_json(results[name]))
    return {"results": results, "table": "\n\n".join(TABLES[name](results[name]) for name in names)}


def chosen_parts(name: str, args: argparse.Namespace, needs: Mapping[str, str]) -> list[str]:
    """The parts of benchmark `name` that `args.parts` names, or all for which there is what they need.

    `needs` maps a part to the argument with its folder. Raises ValueError for a part that is not one of this benchmark,
    or that lacks its folder.
    """
    parts = args.parts or [part for part in PARTS[name] if getattr(args, needs.get(part, ""), True)]
    for part in parts:
        if part not in PARTS[name]:
            raise ValueError(f"Benchmark {name!r} has no part {part!r}. Supported are {', '.join(PARTS[name])}.")
        if part in needs and not getattr(args, needs[part]):
            raise ValueError(f"Part {part!r} needs a folder. Name it with --{needs[part]} DIR.")
    return parts
