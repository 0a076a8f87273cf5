"""Blocks left out of our generators: bits of a token by which blocks, and by what stands in their place.

Which blocks go and what stands for them is decided on the clips of one folder, and told on those of another. Beside the
blocks that are worth least as measured go the last ones, and some drawn by chance; each with nothing in its place, and
with what is fitted to it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.block_shortcuts import Correction
from ..models.checkpoint import GENERATORS, load_generator, load_tokenizer
from ..models.feed_forward_pruning import narrow_generator
from ..models.generator import TokenGenerator
from ..models.pruning import DepthPlan, DepthSettings, GeneratorCalibration, fit_blocks, plan_depth
from ..models.token_filling import CONTEXT
from ..models.token_guess import guess
from .generation_between import GAP
from .generation_clips import CodedClip, Pictures, Tell, coded_clips
from .generation_quality import SIDES, spread
from .threads import one_thread
from .tokens import clips_in

SHARE = 0.2  # of the blocks; one of six, one of four
DRAWS = 6  # sets of blocks by chance, or all there are
RUNS = 1  # of a clip, for each task
FRAMES = 18  # of a clip
ROWS = 100  # tokens of a layer of one run, to narrow layers by
WIDEN = {"hybrid": 2, "small": 1}
WHICH = ("chosen", "random", "last")
_FORMS: dict[str, Correction] = {"plain": "none", "corrected": "low-rank"}

Inputs = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def measure_depth(
    calibration: str, clips: str, tell: Tell, *, limit: int | None = None, names: Sequence[str] = GENERATORS
) -> dict[str, Any]:
    """By generator: bits of a token whole, and what is lost by blocks that are chosen, by chance, and last.

    calibration, clips: folders; the first `limit` clips of each. ValueError for a folder without clips.
    """
    with one_thread():
        fitted, judged = (asked_of(clips_in(each)[:limit]) for each in (calibration, clips))
        found: dict[str, Any] = {"share": SHARE, "clips": [len(fitted), len(judged)]}
        with torch.inference_mode():
            for name in names:
                net = load_generator(name)
                found[name] = compared(net, fitted, judged)
                if name in WIDEN:
                    found[name]["narrower"] = measure_width(net, WIDEN[name], fitted, judged)
                for form in _FORMS:
                    said = ", ".join(f"{which} {found[name][form][which]:+.3f}" for which in WHICH)
                    tell(f"  {name}, {form}: bits lost by blocks {said}")
    return found


def asked_of(paths: Sequence[Path]) -> list[Inputs]:
    """Of each clip, tokens of which some frames are asked for: the next one, and those between two."""
    made: list[Inputs] = []
    image = load_tokenizer().image
    for clip in coded_clips(paths, Pictures(image), [], side=SIDES[0], frames=FRAMES):
        made.append([])
        for tokens, known in _runs(clip):
            with torch.inference_mode():
                guessed = guess(image, torch.where(known, tokens, 0), known)
            made[-1].append((tokens[None], known[None], guessed[None]))
    return made


def _flat(clips: Sequence[Inputs]) -> Inputs:
    """Clip after clip, again and again.

    One input in four, by which forms of shortcuts are chosen, is then of clips to which none was fitted.
    """
    several = clips[: len(clips) // 4 * 4] or clips
    return [each for inputs in itertools.zip_longest(*several) for each in inputs if each is not None]


def _runs(clip: CodedClip) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for at in spread(range(CONTEXT, len(clip.tokens)), RUNS):
        run = clip.tokens[at - CONTEXT : at + 1]
        found.append((run, torch.arange(len(run)) < len(run) - 1))
    for at in spread(range(0, len(clip.tokens) - GAP, GAP), RUNS):
        run = clip.tokens[at : at + GAP + 1]
        found.append((run, torch.arange(len(run)) % GAP == 0))
    return [(run, known[:, None, None].expand(run.shape)) for run, known in found]


def compared(net: TokenGenerator, fitted: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
    """Bits lost by which blocks, with nothing in their place, and with shortcuts.

    Shortcuts are fitted to one half of the clips, blocks are chosen by the other; all is told of clips apart.
    """
    first, second = (GeneratorCalibration(net, _flat(fitted[part::2])) for part in (0, 1))
    judge, blocks = GeneratorCalibration(net, [each for clip in judged for each in clip]), first.blocks
    count, whole = DepthSettings(SHARE).count(blocks), judge.cost(DepthPlan(blocks, {}))
    others = {"random": drawn(blocks, count), "last": [tuple(range(blocks - count, blocks))]}
    found: dict[str, Any] = {"blocks": blocks, "bits": whole}
    for form, correction in _FORMS.items():
        plan = plan_depth(first, DepthSettings(SHARE, correction=correction), second)
        loss = {"chosen": judge.cost(plan) - whole}
        for which, sets in others.items():
            losses = [judge.cost(_plan(first, numbers, correction)) - whole for numbers in sets]
            loss[which] = sum(losses) / len(losses)
        worth = [plan.worth[number] for number in range(blocks)]
        forms = [each[0].form if each else "none" for each in plan.shortcuts.values()]
        said = {"left_out": list(plan.left_out), "forms": forms, "worth": worth, "parameters": list(plan.parameters)}
        found[form] = said | loss
    return found


def measure_width(
    net: TokenGenerator, widen: int, fitted: Sequence[Inputs], judged: Sequence[Inputs]
) -> dict[str, Any]:
    """Bits lost where channels are widened less: units chosen by weights alone, and by tokens, which make up for it."""
    judge, whole = (GeneratorCalibration(net, [each for clip in clips for each in clip]) for clips in (judged, fitted))
    nothing, hidden = DepthPlan(judge.blocks, {}), [[] for _ in range(judge.blocks)]
    handles = [
        block.get_submodule("parts.2.narrow").register_forward_pre_hook(_keep(seen))
        for block, seen in zip(net.blocks, hidden, strict=True)
    ]
    try:
        whole.cost(nothing)
    finally:
        for handle in handles:
            handle.remove()
    bits, seen = judge.cost(nothing), [torch.cat(each) for each in hidden]
    made = {"weights": narrow_generator(net, widen), "tokens": narrow_generator(net, widen, seen)}
    loss = {name: GeneratorCalibration(each, judge.inputs).cost(nothing) - bits for name, each in made.items()}
    sizes = [sum(each.numel() for each in one.parameters()) for one in (net, made["tokens"])]
    return {"widen": [net.config.widen, widen], "parameters": sizes, "bits": bits, "loss": loss}


def _keep(seen: list[torch.Tensor]) -> Any:
    """A hook that adds some of what a layer is given."""
    chance = torch.Generator().manual_seed(0)

    def before(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows = given[0].flatten(0, -2)
        seen.append(rows[torch.randperm(len(rows), generator=chance)[:ROWS]])

    return before


def drawn(blocks: int, count: int) -> list[tuple[int, ...]]:
    """Sets of so many blocks by chance, the same each time."""
    every = list(itertools.combinations(range(blocks), count))
    return every if len(every) <= DRAWS else random.Random(0).sample(every, DRAWS)


def _plan(calibration: GeneratorCalibration, numbers: Sequence[int], correction: Any) -> DepthPlan:
    settings, made = DepthSettings(correction=correction), {}
    for number in numbers:
        made |= fit_blocks(calibration, settings, [number], made)
    return DepthPlan(calibration.blocks, made)
