"""Seven of eight frames, made between two known ones: by the generator, and by ways that need none."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..models.token_filling import TokenFiller
from ..models.token_guess import frames_between
from .generation_clips import CodedClip, Pictures, Runs, Tell
from .generation_quality import CEILING, DRAWN, OURS, Maker, made_by, measure_clips, pixels, planes, rounded, spread

GAP = 8  # frames from one known frame to the next
GAPS, FEWER = 4, 1  # of a clip, spread over it; where less is measured
HOLD, BLEND, FOLLOWED = "hold last", "linear blend", "motion followed"
_SHARES = np.arange(1, GAP).reshape(-1, 1, 1, 1) / GAP


def measure_between(args: argparse.Namespace, filler: TokenFiller, tell: Tell) -> dict[str, Any]:
    """As `measure_clips`; gaps in which a shot changes are left out."""
    pictures = Pictures(filler.image)
    methods = {fewer: between_methods(filler, pictures, fewer=fewer) for fewer in (False, True)}

    def work(clip: CodedClip, fewer: bool) -> dict[str, Any] | None:
        every = range(0, len(clip.source) - GAP, GAP)
        gaps = [at for at in every if clip.whole(at, at + GAP)]
        return measure_gaps(clip, spread(gaps, FEWER if fewer else GAPS), methods[fewer]) if gaps else None

    return {"gap": GAP, "gaps": GAPS, **measure_clips(args, pictures, work, tell)}


def measure_gaps(clip: CodedClip, gaps: list[int], methods: dict[str, Maker]) -> dict[str, Any]:
    """Figures of each method over all these gaps, and the share of pixels that move."""
    runs = Runs.of(clip, gaps, asked=GAP - 1, closed=True)
    made, seconds = made_by(methods, clip, gaps)
    judged = {name: {**runs.judge(frames), "seconds": seconds[name]} for name, frames in made.items()}
    return {"gaps": len(gaps), "moving": float(runs.moving.mean()), "methods": judged}


def between_methods(filler: TokenFiller, pictures: Pictures, *, fewer: bool) -> dict[str, Maker]:
    """By name, the generator's mean first; `fewer`: without those that are worth less than their time."""

    def followed_as_tokens(clip: CodedClip, at: int) -> np.ndarray:
        return pictures.decode(pictures.encode(followed(clip, at)))

    found: dict[str, Maker] = {
        OURS: filled(filler, pictures),
        f"{OURS}, drawn": filled(filler, pictures, temperature=DRAWN),
        HOLD: held,
        "nearest": nearest,
        BLEND: blended,
        FOLLOWED: followed,
        f"{FOLLOWED}, as tokens": followed_as_tokens,
        CEILING: lambda clip, at: clip.decoded[at + 1 : at + GAP],
    }
    left_out = (f"{OURS}, drawn", f"{FOLLOWED}, as tokens") if fewer else ()
    return {name: make for name, make in found.items() if name not in left_out}


def filled(filler: TokenFiller, pictures: Pictures, *, temperature: float = 0.0) -> Maker:
    """The generator's frames; drawn ones in four steps, always from the same seed."""

    def make(clip: CodedClip, at: int) -> np.ndarray:
        made = filler.between(
            clip.tokens[at],
            clip.tokens[at + GAP],
            GAP - 1,
            steps=4,
            temperature=temperature,
            generator=torch.Generator().manual_seed(0),
            check=resources.check_cancelled,
        )
        return pictures.decode(made)

    return make


def _ends(clip: CodedClip, at: int) -> tuple[np.ndarray, np.ndarray]:
    """The known frames, uint8 `[1, H, W, 3]` each."""
    return clip.decoded[at : at + 1], clip.decoded[at + GAP : at + GAP + 1]


def held(clip: CodedClip, at: int) -> np.ndarray:
    """The known frame before, until the next one comes."""
    return _ends(clip, at)[0].repeat(GAP - 1, 0)


def nearest(clip: CodedClip, at: int) -> np.ndarray:
    """The nearest known frame; the one before in the middle."""
    return np.where(_SHARES <= 0.5, *_ends(clip, at))


def blended(clip: CodedClip, at: int) -> np.ndarray:
    """One known frame fades into the other."""
    first, second = (each.astype(np.float64) for each in _ends(clip, at))
    return rounded(first + (second - first) * _SHARES)


def followed(clip: CodedClip, at: int) -> np.ndarray:
    """Both known frames moved along their motion, and blended: what the generator is told as its guess."""
    first, second = (planes(each) for each in _ends(clip, at))
    with torch.inference_mode():
        return pixels(frames_between(first, second, torch.arange(1, GAP) / GAP))
