"""What the commands do: arguments in, facts out, by the keys of `--json`. Nothing is printed here.

All outputs are checked before any work begins, and appear when they are whole.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .video.timeline import FrameTimeline

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")  # what VideoWriter writes; repeated, so that --help loads no PyAV

Facts = dict[str, Any]
Tell = Callable[[str], None]
"""Takes a line for the person at the screen."""


def output_file(path: str, suffixes: Sequence[str], *inputs: str) -> str:
    """The absolute path of an output, after everything that can be known beforehand has been checked."""
    target = os.path.abspath(path)
    if not target.lower().endswith(tuple(suffixes)):
        raise ValueError(f"Cannot write {path!r}: its suffix is none of {', '.join(suffixes)}. Give it one of them.")
    check_parent(path)
    if os.path.isdir(target):
        raise ValueError(f"Cannot write {path!r}: it is a folder. Give a file name inside it.")
    for source in inputs:
        if os.path.realpath(source) == os.path.realpath(target) or (
            os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)
        ):
            raise ValueError(f"Cannot write {path!r}: it is the input. Give the output another name.")
    return target


def check_parent(path: str) -> None:
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise ValueError(f"Cannot write {path!r}: the folder {parent!r} does not exist. Create it first.")


# -- commands


def measure(args: argparse.Namespace, tell: Tell) -> Facts:
    """How close a video is to a reference, which is brought to its size."""
    from .host import resources
    from .stations import measure_files

    with resources.progress(None, "measure") as bar:
        facts = measure_files(
            os.path.abspath(args.reference),
            os.path.abspath(args.video),
            check=resources.check_cancelled,
            progress=bar.update,
        )
    if facts["reference_scaled"]:
        before, after = "x".join(map(str, facts["reference_size"])), f"{facts['width']}x{facts['height']}"
        tell(f"note: {args.reference}: scaled from {before} to {after}, the size of the other")
    if facts["frames_left_out"]:
        tell(f"note: one of the videos has {facts['frames_left_out']} more frames; they are left out")
    return facts


def shots(args: argparse.Namespace, tell: Tell) -> Facts:
    """Where the shots of a video begin, and how."""
    from .host import resources
    from .sampling import detect_shots, frames_in

    started, source = time.monotonic(), os.path.abspath(args.video)
    with resources.progress(frames_in(source), "look") as bar:
        _, report, look = detect_shots(source, check=resources.check_cancelled, progress=bar.update)
    _warn(args.video, look.warnings, tell)
    return {**report, "seconds": round(time.monotonic() - started, 3)}


def shots_in_words(facts: Facts) -> str:
    """What `shots` found, a line for each."""
    from .nodes.reports import describe_shots

    return describe_shots(facts)


def read_timeline(path: str | None) -> FrameTimeline | None:
    """The timeline in a file; None where none is given."""
    from .video.timeline import FrameTimeline

    return FrameTimeline.from_json(Path(path).read_text(encoding="utf-8", errors="replace")) if path else None


def _warn(video: str, warnings: Sequence[str], tell: Tell) -> None:
    for warning in warnings:
        tell(f"note: {video}: {warning}")


def sample(args: argparse.Namespace, tell: Tell) -> Facts:
    """A video of the kept frames only, each shown until the next one."""
    from .host import files, resources
    from .sampling import frames_in, sample_frames, tokens_per_frame, write_sample

    if args.policy in ("motion", "uniform") and not (args.frames or args.fps or args.tokens_per_second):
        args.wrong_usage(f"--policy {args.policy} needs --frames, --fps or --tokens-per-second")
    started = time.monotonic()
    target = output_file(args.output, VIDEO_SUFFIXES, args.video)
    listing = output_file(args.timeline, (".json",), args.video, target) if args.timeline else None
    source, check = os.path.abspath(args.video), resources.check_cancelled
    with resources.progress(frames_in(source), "look") as bar:
        names = ("policy", "frames", "fps", "tokens_per_second", "size", "preset", "rounding", "min_gap", "max_gap")
        wanted = {name: getattr(args, name) for name in (*names, "threshold")}
        timeline, look = sample_frames(source, **wanted, check=check, progress=bar.update)
    _warn(args.video, look.warnings, tell)
    with resources.progress(len(timeline.source_pts), "write") as bar:
        write_sample(source, timeline, target, check=check, progress=bar.update)
    if listing:
        files.write_whole(listing, f"{timeline.to_json()}\n".encode())
    rate = float(len(timeline.kept) / timeline.duration)
    return {
        "frames": len(timeline.kept),
        "source_frames": len(timeline.source_pts),
        "width": look.width,
        "height": look.height,
        "frame_rate": rate,
        "duration": float(timeline.duration),
        "kept": list(timeline.kept),
        "tokens_per_second": rate * tokens_per_frame(look.width, look.height, args.size),
        "file_bytes": os.path.getsize(target),
        "seconds": round(time.monotonic() - started, 3),
    }


def frame_rate(text: str) -> Fraction:
    """A frame rate as an argument; argparse prints the complaint."""
    from .video.frame_rates import parse_frame_rate

    try:
        return parse_frame_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def interpolate(args: argparse.Namespace, tell: Tell) -> Facts:
    """A video with more frames, or others, that lasts as long."""
    from .host import resources
    from .interpolation import interpolate as interpolated
    from .models.changed_tiles import THRESHOLD
    from .nodes.interpolating import load_engine

    target = output_file(args.output, VIDEO_SUFFIXES, args.video, *filter(None, [args.timeline]))
    timeline = read_timeline(args.timeline)
    threshold = THRESHOLD if args.static_threshold is None else args.static_threshold
    with resources.progress(None, "interpolate") as bar:
        facts = interpolated(
            os.path.abspath(args.video),
            target,
            interpolator=load_engine(args.engine),
            timeline=timeline,
            rate=args.fps,
            times=args.times,
            loop=args.loop,
            at_cuts=args.at_cuts,
            repeats=args.repeats,
            static_threshold=None if args.whole else threshold,
            device=resources.device(),
            lossless=args.lossless,
            check=resources.check_cancelled,
            progress=bar.update,
        )
    for note in facts.pop("notes"):
        tell(f"note: {args.video}: {note}")
    return {**facts, "engine": args.engine, "file_bytes": os.path.getsize(target)}


def frame_size(text: str) -> tuple[int, int]:
    """A size like 1920x1080 as an argument: (width, height); argparse prints the complaint."""
    width, times, height = text.lower().partition("x")
    if not times or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, as 1920x1080")
    return int(width), int(height)


def upscale(args: argparse.Namespace, tell: Tell) -> Facts:
    """A larger video, with more frames where that is asked for."""
    from .finishing import finish
    from .host import resources
    from .models.upscale_reuse import REFRESH, THRESHOLD
    from .nodes.interpolating import load_engine as load_interpolator
    from .upscaling import upscale as upscaled

    target = output_file(args.output, VIDEO_SUFFIXES, args.video, *filter(None, [args.timeline, args.model]))
    timeline = read_timeline(args.timeline)
    upscaler, size, engine = _upscaler(args)
    options: dict[str, Any] = {
        "upscaler": upscaler,
        "target": size,
        "threshold": None if args.whole else THRESHOLD if args.reuse is None else args.reuse,
        "refresh": REFRESH if args.refresh is None else args.refresh,
        "follow_motion": args.follow_motion,
        "lossless": args.lossless,
        "check": resources.check_cancelled,
    }
    if timeline or args.times not in (None, 1):
        options |= {"interpolator": load_interpolator("net"), "device": resources.device()}
        options |= {"timeline": timeline} if timeline else {"times": args.times}
    with resources.progress(None, "upscale") as bar:
        make = finish if "interpolator" in options else upscaled
        facts = make(os.path.abspath(args.video), target, **options, progress=bar.update)
    for note in facts.pop("notes"):
        tell(f"note: {args.video}: {note}")
    return {**facts, "engine": engine, "file_bytes": os.path.getsize(target)}


def _upscaler(args: argparse.Namespace) -> tuple[Any, Any, str]:
    """The upscaler that is asked for, the size that it is for, and its name."""
    from .nodes.upscale_engines import chosen_engine, from_file, load_engine, scale_of
    from .video.clips import VideoClip
    from .video.target_size import TargetSize

    shape: dict[str, Any] = {"fit": args.fit, "multiple_of": args.multiple_of}
    upscaler = from_file(Path(args.model), precision=args.precision) if args.model else None
    if args.size:
        size = TargetSize(width=args.size[0], height=args.size[1], **shape)
    elif args.short_side:
        size = TargetSize(short_side=args.short_side, **shape)
    else:
        size = TargetSize(scale=args.scale or (upscaler.scale if upscaler else scale_of(args.engine)), **shape)
    with VideoClip(os.path.abspath(args.video)) as clip:
        size.plan(clip.width, clip.height, 1)  # refused before any weights are loaded
        if upscaler:
            return upscaler, size, os.path.basename(args.model)
        wanted = (args.engine, size, clip.width, clip.height)
        return load_engine(*wanted, precision=args.precision), size, chosen_engine(*wanted)


def demo(args: argparse.Namespace, tell: Tell) -> Facts:
    """A clip through the pack, and a report about it."""
    from .demo import run_demo

    check_parent(args.output)
    return run_demo(args.output, args.video, seconds=args.seconds, tell=tell)


def bench(args: argparse.Namespace, tell: Tell) -> Facts:
    """Benchmarks by name; results go to the JSON file that is named, as far as one is."""
    from .benchmarks.arguments import run_benchmarks

    return run_benchmarks(args, tell)
