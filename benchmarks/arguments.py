"""Arguments of `tokenreel bench` and `python -m tokenreel.benchmarks`; `--help` comes through here, so nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

NAMES = {
    "tokens": "tokens and quality on clips, beside MJPEG, x264 and copying the last frame",
    "video": "memory for reading and writing a long 720p clip",
    "start": "how long importing takes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, on what, and where the figures go."""
    listing = "; ".join(f"{name}: {text}" for name, text in NAMES.items())
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{listing} (all)")
    parser.add_argument("--clips", metavar="DIR", help="folder of clips for 'tokens'")
    parser.add_argument("--json", metavar="FILE", help="write the figures here; with several names, a file per name")
    parser.add_argument("--frames", type=int, default=65, metavar="N", help="frames of each clip at most (65)")
    parser.add_argument("--size", type=int, default=256, metavar="S", help="side of the centre square in pixels (256)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="clips measured at a time, one thread each (CPU cores)"
    )
    parser.add_argument("--long-frames", type=int, default=5000, metavar="N", help="frames of 'video' (5000)")
