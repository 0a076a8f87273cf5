"""Frames that were made, held against the source, over a folder of clips; what is made is said by those who call.

Known frames are given as tokens, to all: pixels of the simple ways are those that the tokens decode to. The ceiling is
what the tokenizer makes of the very frames that are asked for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..models.token_guess import Guessed
from ..video.frames import uint8_to_image
from .generation_clips import CodedClip, Pictures, Tell, coded_clips
from .threads import one_thread
from .tokens import clips_in

Place = TypeVar("Place")
SIDES = (128, 256)
"""Pixels: at the first all is measured, at the second less of each clip, by fewer methods."""
OURS, CEILING = "generator", "ceiling"
DRAWN = 0.5
"""The temperature of drawn frames, chosen on training crops: they moved about as much as real ones there."""
KEYS = ("all", "moving", "energy")
Maker = Callable[[CodedClip, int], np.ndarray]
"""From a clip and the known frame before them to the frames asked for, uint8 `[F, H, W, 3]`."""
Work = Callable[[CodedClip, bool], dict[str, Any] | None]
"""The figures of a clip, `methods` by name; None where it is too short. With True, less is measured."""


def measure_clips(args: argparse.Namespace, pictures: Pictures, work: Work, tell: Tell) -> dict[str, Any]:
    """By side medians over the clips of `args.clips`, and which could not be used; at the first side also each clip's.

    On one thread.
    """
    paths, found = clips_in(args.clips)[: args.limit], {}
    with one_thread():
        for side in SIDES:
            rows, others = _one_side(paths, args.frames, pictures, side, work, tell)
            kept = {"clips": [_kept(row) for row in rows]} if side == SIDES[0] else {}
            found[str(side)] = {"summary": summarize(rows), **kept, "others": others}
    return {"frames": args.frames, "drawn_at": DRAWN, "threads": 1, "sides": found}


def _one_side(
    paths: Sequence[Path], frames: int, pictures: Pictures, side: int, work: Work, tell: Tell
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    rows: list[dict[str, Any]] = []
    others: list[dict[str, str]] = []
    for clip in coded_clips(paths, pictures, others, side=side, frames=frames):
        row = work(clip, side != SIDES[0])
        if row is None:
            others.append({"clip": clip.name, "reason": "too few frames in a row without a change of shot"})
            continue
        rows.append({"clip": clip.name, "size": list(clip.source.shape[2:0:-1]), **row})
        tell(f"  {clip.name}, {side} pixels: {_line(row)}")
    if not rows:
        raise ValueError(f"None of the {len(paths)} clips can be used. Give others with --clips DIR.")
    return rows, others


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """Of a clip and a method what is over all frames; the rest goes into the summary."""
    methods = {name: {key: each[key] for key in KEYS} for name, each in row["methods"].items()}
    return {**row, "methods": methods}


def made_by(
    methods: Mapping[str, Maker], clip: CodedClip, places: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """By method the frames at all places, uint8 `[N, F, H, W, 3]`, and CPU seconds a frame."""
    frames, seconds = {}, {}
    for name, make in methods.items():
        started = time.process_time()
        frames[name] = np.stack([make(clip, at) for at in places])
        seconds[name] = (time.process_time() - started) / (len(places) * frames[name].shape[1])
    return frames, seconds


def spread(places: Sequence[Place], count: int) -> list[Place]:
    """`count` of them, the middles of as many equal parts; all if they are no more."""
    if len(places) <= count:
        return list(places)
    return [places[int((part + 0.5) * len(places) / count)] for part in range(count)]


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over clips of each method, and by how much the first one is ahead of each other on moving pixels."""
    methods = list(rows[0]["methods"])
    return {
        "clips": len(rows),
        "methods": {name: _over_clips([row["methods"][name] for row in rows]) for name in methods},
        "ahead": {name: _ahead(rows, methods[0], name) for name in methods[1:]},
    }


def _over_clips(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = medians(each, [*KEYS, "seconds"] if "seconds" in each[0] else KEYS)
    if "frames" in each[0]:
        count = len(each[0]["frames"]["all"])
        by_frame = [[{key: one["frames"][key][index] for key in KEYS} for one in each] for index in range(count)]
        found["frames"] = [medians(those, KEYS) for those in by_frame]
    return found


def medians(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Of each key the median of what is there, and under `clips` of how many rows that is."""
    there = {key: [row[key] for row in rows if row[key] is not None] for key in keys}
    found = {key: statistics.median(values) if values else None for key, values in there.items()}
    return {**found, "clips": {key: len(values) for key, values in there.items()}}


def _ahead(rows: Sequence[dict[str, Any]], ours: str, other: str) -> dict[str, Any]:
    pairs = [[row["methods"][name]["moving"] for name in (ours, other)] for row in rows]
    gains = [one - two for one, two in pairs if one is not None]
    return {"median": statistics.median(gains) if gains else None, "better": sum(gain > 0 for gain in gains)}


def _line(row: dict[str, Any]) -> str:
    moving = {name: each["moving"] for name, each in row["methods"].items() if each["moving"] is not None}
    return ", ".join(f"{name} {value:.2f}" for name, value in moving.items()) or "hardly anything moves"


def planes(frames: np.ndarray) -> Tensor:
    """uint8 `[T, H, W, 3]` -> float32 `[T, 3, H, W]` in [0, 1]."""
    return uint8_to_image(frames).permute(0, 3, 1, 2)


def pixels(guessed: Guessed) -> np.ndarray:
    """The frames of a guess, uint8 `[T, H, W, 3]`."""
    return guessed.frames.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def rounded(frames: np.ndarray) -> np.ndarray:
    """Floats in grey levels -> uint8, clipped."""
    return np.rint(frames).clip(0, 255).astype(np.uint8)
