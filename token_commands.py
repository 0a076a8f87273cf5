"""What the commands on tokens do: arguments in, facts out, by the keys of `--json`. Nothing is printed here.

All outputs are checked before any work begins, and appear when they are whole.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .commands import VIDEO_SUFFIXES, Facts, Tell, output_file, read_timeline

if TYPE_CHECKING:
    from .models.checkpoint import AnyTokenizer
    from .tokens.video_tokens import VideoTokens
    from .video.completion import Completion


def _tokenizer(path: str | None, mode: str = "stream") -> AnyTokenizer:
    """The tokenizer in the file at `path`, or the one that comes along for a mode of encoding."""
    from .host import resources
    from .models.checkpoint import load_any_tokenizer, load_clip_tokenizer, load_tokenizer

    if path:
        return load_any_tokenizer(Path(path)).to(resources.device())
    return (load_clip_tokenizer() if mode == "clip" else load_tokenizer()).to(resources.device())


def _tokenizer_of(tokens: VideoTokens, path: str | None) -> AnyTokenizer:
    """The tokenizer that made `tokens`: the file at `path`, or one of those that come along, found by its digest."""
    from .host import resources
    from .models.checkpoint import WEIGHTS, tokenizer_of

    if path:
        return _tokenizer(path)  # decoding refuses it where it does not match
    shipped = sorted(WEIGHTS.glob("*.safetensors"))
    return tokenizer_of(tokens, shipped, "Give its weights with --tokenizer FILE.").to(resources.device())


def encode(args: argparse.Namespace, tell: Tell) -> Facts:
    """A video to a token file."""
    from .host import resources
    from .stations import encode_clip
    from .tokens.bitstream import write_tokens
    from .video.clips import VideoClip

    target = output_file(args.output, (".tokens",), args.video)
    clip = VideoClip(os.path.abspath(args.video), size=args.size, crop=args.crop, max_frames=args.max_frames)
    with clip, resources.progress(clip.length, "encode") as bar:
        encoded = encode_clip(
            clip,
            _tokenizer(args.tokenizer, args.mode),
            mode=args.mode,
            quality=args.quality,
            budget=args.budget,
            max_gop=args.max_gop,
            check=resources.check_cancelled,
            progress=bar.update,
        )
    for warning in clip.reader.warnings:
        tell(f"note: {args.video}: {warning}")
    return {**encoded.report, "file_bytes": write_tokens(target, encoded.tokens, check=resources.check_cancelled)}


def decode(args: argparse.Namespace, tell: Tell) -> Facts:
    """A token file to a video, with the time stamps of the source."""
    from .host import resources
    from .stations import decode_to_file
    from .tokens.accounting import report
    from .tokens.bitstream import read_tokens

    target = output_file(args.output, VIDEO_SUFFIXES, args.tokens)
    tokens = read_tokens(os.path.abspath(args.tokens), check=resources.check_cancelled)
    tokenizer = _tokenizer_of(tokens, args.tokenizer)
    with resources.progress(len(tokens.pts), "decode") as bar:
        written = decode_to_file(
            tokens,
            tokenizer,
            target,
            lossless=args.lossless,
            check=resources.check_cancelled,
            progress=bar.update,
        )
    return {**report(tokens), **written, "file_bytes": os.path.getsize(target)}


def info(args: argparse.Namespace, tell: Tell) -> Facts:
    """What a token file holds. No weights are loaded."""
    from .tokens.accounting import report
    from .tokens.bitstream import read_tokens

    started = time.monotonic()
    tokens = read_tokens(os.path.abspath(args.tokens))
    return {
        **report(tokens, file_bytes=os.path.getsize(args.tokens)),
        "key_frames": len(tokens.gops),
        "tokenizer": tokens.tokenizer,
        "tokenizer_sha256": tokens.digest,
        "codec": tokens.codec,
        "codec_sha256": tokens.codec_digest,
        "levels": list(tokens.levels),
        "seconds": round(time.monotonic() - started, 3),
    }


def area(text: str) -> tuple[int, int, int, int]:
    """A rectangle like 8,16,64,32 as an argument: x, y, width, height in pixels; argparse prints the complaint."""
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a place and a size, as 8,16,64,32")
    x, y, width, height = map(int, numbers)
    return x, y, width, height


def generate(args: argparse.Namespace, tell: Tell) -> Facts:
    """A token file with more of the clip in it."""
    from .host import resources
    from .nodes.generating import generate_with_progress, load_generator
    from .tokens.bitstream import read_tokens, write_tokens

    given = [path for path in (args.tokens, args.timeline, args.mask, args.model) if path]
    target = output_file(args.output, (".tokens",), *given)
    tokens = read_tokens(os.path.abspath(args.tokens), check=resources.check_cancelled)
    wanted = _completion(args, tokens)
    wanted.result(len(tokens.pts))  # refused before any weights are loaded
    tokenizer = _tokenizer_of(tokens, args.tokenizer)
    net = load_generator(Path(args.model) if args.model else args.attention, args.precision)
    made = generate_with_progress(tokens, net, tokenizer, wanted)
    for note in made.report.pop("notes"):
        tell(f"note: {args.tokens}: {note}")
    engine = os.path.basename(args.model) if args.model else args.attention
    size = write_tokens(target, made.tokens, check=resources.check_cancelled)
    return {**made.report, "generator": engine, "file_bytes": size}


def _completion(args: argparse.Namespace, tokens: VideoTokens) -> Completion:
    """What the arguments ask for."""
    from .video.completion import Completion
    from .video.masks import area_mask, read_mask

    mask: Any = None
    if args.mask:
        mask = read_mask(args.mask)
    elif args.area:
        mask = area_mask(*args.area, frame=(tokens.width, tokens.height))
    knobs = {name: getattr(args, name) for name in ("task", "frames", "steps", "temperature", "seed")}
    return Completion(**knobs, mask=mask, timeline=read_timeline(args.timeline))
