"""The arguments of the commands on other people's models. Nothing heavy is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from . import commands, model_commands
from .argument_types import AMOUNT, ANY_COUNT, SIDE

Add = Callable[..., argparse.ArgumentParser]

FAMILIES = (
    *("wan2.1", "wan2.1-1.3b", "wan2.2", "wan2.2-5b", "ltx-video", "ltx-2", "hunyuanvideo", "hunyuanvideo-1.5"),
    *("cosmos", "cosmos-predict2", "generic"),
)
"""Those of models/model_families.py, which is not loaded for `--help`."""
FORMATS = ("int8", "fp8", "mxfp8", "nvfp4")
"""Those of models/quantized_formats.py."""
PRESETS = ("wan", "ltx", "hunyuan", "cosmos", "any")
"""Those of models/quantizable_layers.py for models of others."""


def add_plan(add: Add) -> None:
    """`tokenreel plan`"""
    parser = add("plan", model_commands.plan, "say what a video costs a model before it is made, and how it costs less")
    parser.add_argument(
        "--family",
        choices=FAMILIES,
        metavar="NAME",
        required=True,
        help=f"what the model is: {', '.join(FAMILIES)} (a common shape)",
    )
    parser.add_argument(
        "--size", type=commands.frame_size, metavar="WxH", required=True, help="in the end, as 1280x720"
    )
    parser.add_argument("--seconds", type=AMOUNT, metavar="S", required=True, help="length of the video")
    parser.add_argument(
        "--fps", type=commands.frame_rate, metavar="R", required=True, help="in the end: 30, 29.97 or 30000/1001"
    )
    parser.add_argument(
        "--least-short-side", type=SIDE, metavar="S", help="the model makes no frames of a shorter side below (480)"
    )
    parser.add_argument(
        "--least-fps", type=commands.frame_rate, metavar="R", help="the model makes no fewer frames a second (12)"
    )
    parser.add_argument(
        "--share",
        type=AMOUNT,
        metavar="X",
        help="the best plan that costs at most X, as 0.5, of making the video directly (the cheapest)",
    )
    parser.add_argument("--plot", metavar="OUT.png", help="draw what every plan costs")


def _formats(text: str) -> tuple[str, ...]:
    """Names between commas."""
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(FORMATS)}, with commas between")
    return names


def add_quantize(add: Add) -> None:
    """`tokenreel quantize`"""
    parser = add(
        "quantize", model_commands.quantize, "write a video model's file in fewer bits, and say what that costs"
    )
    parser.set_defaults(wrong_usage=parser.error)
    parser.add_argument("model", metavar="MODEL.safetensors", help="in fp32, bf16 or fp16")
    parser.add_argument("output", metavar="OUT.safetensors", help="opens in ComfyUI's Load Diffusion Model")
    parser.add_argument(
        "--format",
        choices=(*FORMATS, "mixed"),
        required=True,
        help="int8: the most exact, fast on CPUs and on GPUs from 2018 on, needs a ComfyUI newer than 0.25 or our node "
        "Load Quantized Model; fp8: for newer GPUs; mxfp8, nvfp4: Blackwell, nvfp4 is smallest and loses most; mixed: "
        "for each layer what it can bear",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--size", type=AMOUNT, metavar="X", help="mixed: the model keeps at most that share, as 0.4")
    limit.add_argument("--error", type=AMOUNT, metavar="X", help="mixed: its layers err by at most that, as 0.03")
    parser.add_argument(
        "--formats", type=_formats, metavar="A,B", help="mixed: what may be chosen from, besides nothing (int8,nvfp4)"
    )
    kept = parser.add_argument_group("which layers are left alone")
    kept.add_argument(
        "--family",
        choices=PRESETS,
        metavar="NAME",
        help=f"what the model is: {', '.join(PRESETS)}; its embeddings, modulation and head stay (told by its layers)",
    )
    kept.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PART",
        help="layers with that in their name, as ffn.2; may be repeated",
    )
    for end in ("first", "last"):
        kept.add_argument(
            f"--{end}-blocks", type=ANY_COUNT, default=0, metavar="N", help=f"the {end} N blocks of each kind (0)"
        )
