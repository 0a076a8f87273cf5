"""Eight frames made after known ones: by the generator, at its mean and drawn several times, and by simple ways."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..models.token_filling import TokenFiller
from ..models.token_guess import frames_after
from .generation_clips import CodedClip, Pictures, Runs, Tell
from .generation_quality import CEILING, DRAWN, OURS, Maker, made_by, measure_clips, pixels, planes, rounded, spread

AHEAD = 8  # frames that are made
SEEN = 4  # frames that are known before them, at the least; the generator is told of all
STARTS = 2  # places in a clip; one where less is measured
SEEDS = (0, 1, 2)
COPY = "copy last"
_HORIZONS = np.arange(1, AHEAD + 1).reshape(-1, 1, 1, 1)


def measure_after(args: argparse.Namespace, filler: TokenFiller, tell: Tell) -> dict[str, Any]:
    """As `measure_clips`, with figures of each of the frames; no shot changes among them or the last known ones."""
    pictures = Pictures(filler.image)

    def work(clip: CodedClip, fewer: bool) -> dict[str, Any] | None:
        every = range(SEEN - 1, len(clip.source) - AHEAD)
        places = spread([at for at in every if clip.whole(at - SEEN + 1, at + AHEAD)], 1 if fewer else STARTS)
        return measure_places(clip, places, filler, pictures, () if fewer else SEEDS) if places else None

    settings = {"ahead": AHEAD, "seen": SEEN, "starts": STARTS, "seeds": len(SEEDS)}
    return {**settings, **measure_clips(args, pictures, work, tell)}


def measure_places(
    clip: CodedClip, places: list[int], filler: TokenFiller, pictures: Pictures, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Figures of each method over continuations from all these last known frames, and the share of pixels that move.

    With `seeds`, frames that are drawn count twice: all of them, and those of the seed that came nearest to the source.
    """
    runs = Runs.of(clip, places, asked=AHEAD, closed=False)
    made, seconds = made_by(after_methods(filler, pictures), clip, places)
    judged = {name: _judged(runs, frames, seconds[name]) for name, frames in made.items()}
    if seeds:
        methods = {str(seed): carried_on(filler, pictures, temperature=DRAWN, seed=seed) for seed in seeds}
        each, seconds = made_by(methods, clip, places)
        drawn, spent = np.stack(list(each.values()), 1), sum(seconds.values())  # [N, S, F, H, W, 3]
        every, flat = runs.repeated(len(seeds)), drawn.reshape(-1, *drawn.shape[2:])
        judged[f"{OURS}, drawn, mean of {len(seeds)}"] = _judged(every, flat, spent / len(seeds))
        judged[f"{OURS}, drawn, best of {len(seeds)}"] = _judged(runs, best_of(runs, drawn), spent)
    return {"starts": len(places), "moving": float(runs.moving.mean()), "methods": judged}


def _judged(runs: Runs, made: np.ndarray, seconds: float) -> dict[str, Any]:
    return {**runs.judge(made), "frames": runs.judge_frames(made), "seconds": seconds}


def best_of(runs: Runs, drawn: np.ndarray) -> np.ndarray:
    """Of `[N, S, F, H, W, 3]`, S of each run, the one nearest to the source: `[N, F, H, W, 3]`."""
    truth = runs.source[:, None, runs.asked].astype(np.float32)
    errors = np.square(drawn - truth).mean((2, 3, 4, 5))
    return drawn[np.arange(len(drawn)), errors.argmin(1)]


def after_methods(filler: TokenFiller, pictures: Pictures) -> dict[str, Maker]:
    """By name, the generator first; all of them say one thing, whatever the seed."""
    return {
        OURS: carried_on(filler, pictures),
        COPY: copied,
        "motion carried on": moved_on,
        "pixels carried on": straight_on,
        CEILING: lambda clip, at: clip.decoded[at + 1 : at + 1 + AHEAD],
    }


def carried_on(filler: TokenFiller, pictures: Pictures, *, temperature: float = 0.0, seed: int = 0) -> Maker:
    """The generator's frames; drawn ones in four steps."""

    def make(clip: CodedClip, at: int) -> np.ndarray:
        made = filler.after(
            clip.tokens[: at + 1],
            AHEAD,
            steps=4,
            temperature=temperature,
            generator=torch.Generator().manual_seed(seed),
            check=resources.check_cancelled,
        )
        return pictures.decode(made)

    return make


def copied(clip: CodedClip, at: int) -> np.ndarray:
    """The last known frame, again and again."""
    return clip.decoded[at : at + 1].repeat(AHEAD, 0)


def straight_on(clip: CodedClip, at: int) -> np.ndarray:
    """Every pixel goes on as it went from the frame before the last known one."""
    before, last = clip.decoded[at - 1 : at + 1].astype(np.float64)
    return rounded(last + (last - before) * _HORIZONS)


def moved_on(clip: CodedClip, at: int) -> np.ndarray:
    """The last known frame, moved on as it moved before: what the generator is told as its guess."""
    with torch.inference_mode():
        return pixels(frames_after(planes(clip.decoded[max(0, at - 2) : at + 1]), AHEAD))
