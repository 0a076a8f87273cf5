"""The arguments of every command of `tokenreel`. Nothing heavy is loaded: neither torch nor PyAV."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from . import __version__, commands, model_arguments, token_commands, workflow_commands
from .argument_types import AMOUNT, ANY_AMOUNT, ANY_COUNT, COUNT, SIDE

Add = Callable[..., argparse.ArgumentParser]


def _add_run(add: Add) -> None:
    parser = add("run", workflow_commands.run, "run a workflow, here or on ComfyUI servers")
    parser.add_argument("workflow", metavar="WORKFLOW.json", help="a workflow, as the editor saves or exports it")
    parser.add_argument(
        "--set",
        metavar="NODE.INPUT=VALUE",
        action="append",
        default=[],
        help="override an input; NODE is an id, or a title or class that only one node has; may be repeated",
    )
    parser.add_argument("--input", metavar="DIR", default=".", help="where the workflow's files are (here)")
    parser.add_argument("--output", metavar="DIR", default="output", help="where results go (output)")
    parser.add_argument(
        "--on",
        metavar="TARGET",
        nargs="+",
        default=["standalone"],
        help="standalone: in this process (default); comfyui: the ComfyUI on this machine; or http://HOST:PORT. "
        "With several, each one runs it and has its own folder below the output, or they share the clips",
    )
    parser.add_argument(
        "--clips",
        metavar="PATH",
        nargs="+",
        help="run it on each of these videos, and on all in these folders; each has its own folder below the output, "
        "with a report, job.json. A clip goes to whichever target is free, and to another one if it fails there",
    )
    parser.add_argument(
        "--clip-input", metavar="NODE.INPUT", help="the input that takes the clip (that of the only LoadVideo)"
    )
    parser.add_argument("--resume", action="store_true", help="skip clips whose results are there already, and whole")
    parser.add_argument("--tries", type=COUNT, metavar="N", help="how often a clip is tried at most (3)")
    parser.set_defaults(wrong_usage=parser.error)


def _add_export(add: Add) -> None:
    parser = add(
        "export", workflow_commands.export, "write a workflow of the editor in the API format, which scripts can use"
    )
    parser.add_argument("workflow", metavar="WORKFLOW.json", help="a workflow as the editor saves it")
    parser.add_argument("output", metavar="OUT.json")
    parser.add_argument(
        "--on",
        metavar="TARGET",
        default="standalone",
        help="who knows the nodes: standalone: this pack (default), which knows its own and a few of ComfyUI's; "
        "comfyui: the ComfyUI on this machine; or http://HOST:PORT",
    )


def _add_demo(add: Add) -> None:
    parser = add("demo", commands.demo, "run a clip through the pack and write a report about it")
    parser.add_argument("video", metavar="VIDEO", nargs="?", help="a clip of yours (default: a reel drawn by numbers)")
    parser.add_argument("--output", metavar="DIR", default="demo_output", help="folder for the results (demo_output)")
    parser.add_argument("--seconds", type=AMOUNT, default=4.0, metavar="N", help="use at most so much of VIDEO (4)")


def _add_shots(add: Add) -> None:
    parser = add("shots", commands.shots, "say where the shots of a video begin: cuts, dissolves and fades")
    parser.add_argument("video", metavar="VIDEO")


def _add_sample(add: Add) -> None:
    parser = add("sample", commands.sample, "keep the frames that matter, and the timeline to bring the rest back")
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("output", metavar="OUT.mp4")
    parser.add_argument(
        "--policy",
        choices=("motion", "keyframes", "uniform", "dedupe"),
        default="motion",
        help="motion: what interpolation would miss most (default); keyframes: shots and great changes; uniform: equal "
        "times; dedupe: all but near-duplicates. For keyframes and dedupe the amount is a limit, and may be left out",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--frames", type=COUNT, metavar="N", help="how many frames to keep")
    amount.add_argument("--fps", type=AMOUNT, metavar="R", help="how many to keep per second, on average")
    amount.add_argument(
        "--tokens-per-second",
        type=AMOUNT,
        metavar="T",
        help="as many as cost at most T as key frames: 1 per 8x8 pixels",
    )
    parser.add_argument("--size", type=SIDE, metavar="S", help="count tokens at a short side of S pixels (the video's)")
    parser.add_argument(
        "--preset",
        choices=("any", "4n+1", "6n+1", "8n+1"),
        default="any",
        help="numbers that a video model takes (any)",
    )
    parser.add_argument(
        "--rounding",
        choices=("below", "above", "nearest"),
        default="below",
        help="which number of the preset: that below the amount (default), above it, or the nearer one",
    )
    parser.add_argument("--min-gap", type=COUNT, default=1, metavar="N", help="least frames between kept ones (1)")
    parser.add_argument("--max-gap", type=COUNT, metavar="N", help="most frames between kept ones, and to the end")
    parser.add_argument(
        "--threshold", type=AMOUNT, metavar="LEVELS", help="grey levels that keyframes (30) and dedupe (4) differ by"
    )
    parser.set_defaults(wrong_usage=parser.error)
    parser.add_argument("--timeline", metavar="T.json", help="write the timeline of the kept frames here")


def _add_interpolate(add: Add) -> None:
    parser = add("interpolate", commands.interpolate, "add frames between frames, or bring back those left out")
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("output", metavar="OUT.mp4")
    timing = parser.add_mutually_exclusive_group(required=True)
    timing.add_argument("--timeline", metavar="T.json", help="what 'sample --timeline' wrote beside VIDEO")
    timing.add_argument("--fps", type=commands.frame_rate, metavar="R", help="an even rate: 60, 23.976 or 60000/1001")
    timing.add_argument("--times", type=COUNT, metavar="N", help="so many frames for each one; uneven times stay")
    parser.add_argument("--loop", action="store_true", help="move on from the last frame to the first")
    parser.add_argument(
        "--at-cuts",
        choices=("hold", "crossfade"),
        default="hold",
        help="hold the old shot until the new one begins, or cross-fade for a fifth of a second (hold)",
    )
    parser.add_argument(
        "--repeats",
        choices=("keep", "retime"),
        default="keep",
        help="keep frames that show the same as the one before, or spread motion over them (keep)",
    )
    parser.add_argument(
        "--engine",
        choices=("net", "flow", "blend"),
        default="net",
        help="net: the network that comes along; flow: without a network; blend: plain mixing (net)",
    )
    parser.add_argument(
        "--static-threshold",
        type=ANY_COUNT,
        metavar="LEVELS",
        help="copy places that change less than this, of 255 (2); 0: only what is equal",
    )
    parser.add_argument("--whole", action="store_true", help="compute whole frames, also what does not move")
    parser.add_argument("--lossless", action="store_true", help="keep the frames' RGB exactly, for measuring")


def _add_upscale(add: Add) -> None:
    parser = add("upscale", commands.upscale, "make a video larger, computing only what changed")
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("output", metavar="OUT.mp4")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=AMOUNT, metavar="N", help="so many times the size, as 2 or 1.5 (the model's)")
    size.add_argument("--short-side", type=SIDE, metavar="S", help="a short side of S pixels, aspect kept")
    size.add_argument("--size", type=commands.frame_size, metavar="WxH", help="exactly so many pixels, as 1920x1080")
    parser.add_argument(
        "--fit",
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="where the shape differs: cut what is over, add black bars, or squeeze (crop)",
    )
    parser.add_argument("--multiple-of", type=COUNT, default=1, metavar="N", help="both sides are multiples of N (1)")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="FILE", help="an upscale model (.safetensors) in place of those of the pack")
    model.add_argument(
        "--engine",
        choices=("auto", "x2-m", "x2-s", "x4-m", "bicubic"),
        default="auto",
        help="a network of the pack; auto: x4-m for more than twice the size, else x2-m; bicubic: none (auto)",
    )
    parser.add_argument(
        "--reuse",
        type=ANY_AMOUNT,
        metavar="LEVELS",
        help="reuse places that change less than this, of 255 (2); 0: only what is equal",
    )
    parser.add_argument(
        "--follow-motion", action="store_true", help="reuse also what moves as a whole, as a page that scrolls"
    )
    parser.add_argument("--whole", action="store_true", help="compute whole frames, also what stands")
    parser.add_argument(
        "--refresh",
        type=ANY_COUNT,
        metavar="K",
        help="compute every place again within K frames (240); 0: never",
    )
    retime = parser.add_mutually_exclusive_group()
    retime.add_argument("--times", type=COUNT, metavar="N", help="interpolate in the same pass: N frames for each one")
    retime.add_argument("--timeline", metavar="T.json", help="bring back in the same pass what 'sample' left out")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="what networks compute in; auto: fp16 where the device is faster with it (auto)",
    )
    parser.add_argument("--lossless", action="store_true", help="keep the frames' RGB exactly, for measuring")


def _add_encode(add: Add) -> None:
    parser = add("encode", token_commands.encode, "encode a video to tokens")
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("output", metavar="OUT.tokens")
    parser.add_argument(
        "--mode",
        choices=("stream", "frames", "clip"),
        default="stream",
        help="stream: key frames, then motion and residual where the picture changed (default); "
        "frames: every frame for itself; clip: four frames at a time, at a quarter of the tokens of that",
    )
    knob = parser.add_mutually_exclusive_group()
    knob.add_argument("--quality", type=AMOUNT, metavar="DB", help="PSNR that every frame of a stream should reach")
    knob.add_argument("--budget", type=AMOUNT, metavar="TOKENS_PER_SECOND", help="what a stream may spend")
    parser.add_argument("--size", type=SIDE, metavar="S", help="scale the short side to S pixels")
    parser.add_argument("--crop", action="store_true", help="cut to the centre square")
    parser.add_argument("--max-frames", type=COUNT, metavar="N", help="encode the first N frames only")
    parser.add_argument("--max-gop", type=COUNT, default=48, metavar="N", help="frames between key frames at most (48)")
    _add_tokenizer(parser)


def _add_decode(add: Add) -> None:
    parser = add("decode", token_commands.decode, "decode tokens to a video")
    parser.add_argument("tokens", metavar="FILE.tokens")
    parser.add_argument("output", metavar="OUT.mp4")
    parser.add_argument("--lossless", action="store_true", help="keep the decoded RGB exactly, for measuring")
    _add_tokenizer(parser)


def _add_generate(add: Add) -> None:
    parser = add(
        "generate", token_commands.generate, "make tokens from tokens: frames after, between, or what is masked"
    )
    parser.add_argument("tokens", metavar="FILE.tokens")
    parser.add_argument("output", metavar="OUT.tokens")
    parser.add_argument(
        "--task",
        choices=("continue", "between", "fill"),
        required=True,
        help="continue: frames that follow the last one; between: frames in each gap, never across a cut; "
        "fill: what a mask covers",
    )
    parser.add_argument("--frames", type=COUNT, metavar="N", help="how many follow (8), or go into each gap (7)")
    parser.add_argument("--timeline", metavar="T.json", help="between: every frame that 'sample --timeline' left out")
    mask = parser.add_mutually_exclusive_group()
    mask.add_argument("--mask", metavar="PNG", help="fill: a picture, white where tokens are to be made anew")
    mask.add_argument(
        "--area", type=token_commands.area, metavar="X,Y,W,H", help="fill: a rectangle of pixels, in all frames"
    )
    parser.add_argument("--steps", type=COUNT, default=4, metavar="K", help="in how many steps tokens are drawn (4)")
    parser.add_argument(
        "--temperature",
        type=ANY_AMOUNT,
        default=0.0,
        metavar="T",
        help="0: what may be expected, all at once; 1: drawn as likely as it is (0)",
    )
    parser.add_argument("--seed", type=ANY_COUNT, default=0, metavar="S", help="(0)")
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--attention",
        choices=("hybrid", "full", "linear", "performer", "window"),
        default="hybrid",
        help="which generator of the pack: the large one, or a small one of one kind of attention (hybrid)",
    )
    model.add_argument("--model", metavar="FILE", help="a generator (.safetensors) in place of those of the pack")
    parser.add_argument(
        "--precision",
        choices=("float", "fast"),
        default="float",
        help="fast: bfloat16 or int8 where a trial is faster on this machine; tokens may differ by rounding (float)",
    )
    _add_tokenizer(parser)


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", metavar="FILE", help="weights (.safetensors) in place of those that come along")


def _add_info(add: Add) -> None:
    add("info", token_commands.info, "say what a token file holds").add_argument("tokens", metavar="FILE.tokens")


def _add_measure(add: Add) -> None:
    parser = add("measure", commands.measure, "PSNR and SSIM of a video against a reference")
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("video", metavar="VIDEO")


def _add_bench(add: Add) -> None:
    try:
        from .benchmarks.arguments import add_arguments
    except ModuleNotFoundError:  # the registry's archive comes without them
        return
    parser = add("bench", commands.bench, "measure the pack on clips of yours")
    add_arguments(parser)


def build_parser() -> argparse.ArgumentParser:
    """The arguments of all commands. Loads neither torch nor PyAV."""
    parser = argparse.ArgumentParser(
        prog="tokenreel", description="Token-efficient video: spend tokens where the video changes, nowhere else."
    )
    parser.add_argument("--version", action="version", version=f"tokenreel {__version__}")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, function: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        command = group.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if name != "bench":  # there it takes a file
            command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        command.set_defaults(function=function)
        return command

    for add_command in (
        _add_run,
        _add_export,
        _add_demo,
        _add_shots,
        _add_sample,
        _add_interpolate,
        _add_upscale,
        _add_encode,
        _add_decode,
        _add_generate,
        model_arguments.add_plan,
        model_arguments.add_quantize,
        _add_info,
        _add_measure,
        _add_bench,
    ):
        add_command(add)
    return parser
