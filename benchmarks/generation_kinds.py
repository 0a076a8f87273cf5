"""Kinds of attention beside each other: generators of one size, trained for as long on the same, that differ in it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch

from ..models.checkpoint import load_generator, load_tokenizer
from ..models.generator import TokenGenerator
from ..models.image_tokenizer import ImageTokenizer
from ..models.token_filling import TokenFiller
from ..models.token_guess import EXTRA
from ..tokens.video_tokens import CELL
from .generation_between import BLEND, GAP, blended, filled, measure_gaps
from .generation_bits import TASKS, told_tokens
from .generation_clips import Pictures, Tell, coded_clips
from .generation_quality import SIDES, medians, spread
from .threads import one_thread
from .tokens import clips_in

NETS = {
    "full": "full",
    "linear": "linear",
    "performer": "performer",
    "window": "window",
    "small": "3 linear : 1 window",
}
"""Names of the weights, and what their attention is."""
RUNS = 2  # of a clip, for bits; one gap for decibels
TIMED = {256: 3, 512: 1}
"""Sides of frames in pixels, and how often a pass over them is timed."""


def measure_kinds(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Bits a token, dB of moving pixels between known frames, and CPU seconds, of each kind; on one thread."""
    image, nets = load_tokenizer().image, {name: load_generator(name) for name in NETS}
    told = told_tokens(args, nets, tell, runs=RUNS)
    quality = _between(args, nets, image, tell)
    rows = []
    for name, kind in NETS.items():
        seconds = {str(side): time_pass(nets[name], side, runs) for side, runs in TIMED.items()}
        tell(f"  {kind}: " + ", ".join(f"{each:.2f} s a frame of {side} pixels" for side, each in seconds.items()))
        rows.append(
            {
                "kind": kind,
                "parameters": sum(each.numel() for each in nets[name].parameters()),
                "bits": {task: told[task].means(told[task][name]) for task in TASKS},
                "moving": quality[name],
                "seconds": seconds,
            }
        )
    return {"runs": RUNS, "gap": GAP, "threads": 1, "blend": quality[BLEND], "rows": rows}


def _between(
    args: argparse.Namespace, nets: Mapping[str, TokenGenerator], image: ImageTokenizer, tell: Tell
) -> dict[str, float | None]:
    """Medians over clips of dB of moving pixels, by net; and those of the linear blend."""
    pictures = Pictures(image)
    methods = {name: filled(TokenFiller(net, image), pictures) for name, net in nets.items()}
    found: list[dict[str, Any]] = []
    with one_thread():
        clips = coded_clips(clips_in(args.clips)[: args.limit], pictures, [], side=SIDES[0], frames=args.frames)
        for clip in clips:
            every = range(0, len(clip.source) - GAP, GAP)
            gaps = spread([at for at in every if clip.whole(at, at + GAP)], 1)
            if gaps:
                judged = measure_gaps(clip, gaps, {**methods, BLEND: blended})["methods"]
                found.append({name: each["moving"] for name, each in judged.items()})
                tell(f"  {clip.name}: frames between known ones")
    names = [*methods, BLEND]
    return {name: medians(found, names)[name] for name in names}


@torch.inference_mode()
def time_pass(net: TokenGenerator, side: int, runs: int) -> float:
    """CPU seconds a frame of one pass over a known frame, seven that are asked for and a known one; least of `runs`.

    What guesses, and what turns tokens into pixels, is not counted: it is the same for all.
    """
    generator = torch.Generator().manual_seed(0)
    grid = (1, GAP + 1, side // CELL, side // CELL)
    tokens = torch.randint(net.fsq.codebook_size, grid, generator=generator)
    known = torch.zeros(grid, dtype=torch.bool)
    known[:, 0] = known[:, -1] = True
    told = torch.rand(*grid, len(net.config.levels) + EXTRA, generator=generator)
    spent = []
    with one_thread():
        net.look(tokens[:, :, :16, :16], known[:, :, :16, :16], told[:, :, :16, :16])  # once to warm up
        for _ in range(runs):
            started = time.process_time()
            net.logits(net.look(tokens, known, told))
            spent.append(time.process_time() - started)
    return min(spent) / (GAP - 1)
