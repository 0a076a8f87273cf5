"""Blocks, or parts of blocks, left out of our generators: bits of a token by which, and by what stands in their place.

Which go and what stands for them is decided on the clips of one folder, and told on those of another. Beside those that
are worth least as measured go the last blocks, and some drawn by chance; each with nothing in its place, and with what
is fitted to it. Parts that go take at least as much time as the last blocks.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.block_shortcuts import Correction
from ..models.checkpoint import GENERATORS, load_generator, load_tokenizer
from ..models.feed_forward_pruning import narrow_generator
from ..models.generator import TokenGenerator
from ..models.generator_pruning import PARTS, GeneratorCalibration, prune_generator
from ..models.pruning import DepthPlan, DepthSettings, fit_blocks, plan_amount, plan_depth
from ..models.token_filling import CONTEXT
from ..models.token_guess import guess
from .generation_between import GAP
from .generation_clips import CodedClip, Pictures, Tell, coded_clips
from .generation_quality import SIDES, spread
from .rounds import in_turn
from .threads import one_thread
from .tokens import clips_in

SHARE = 0.2  # of the blocks; one of six, one of four
DRAWS = 6  # sets by chance, or all there are
CLIPS = 32  # to fit and to choose by, from all over their folder
RANK = 8  # of shortcuts, for tokens of 96 and 256 channels
ROUNDS = 7  # of timing
RUNS = 1  # of a clip, for each task
FRAMES = 18  # of a clip
ROWS = 100  # tokens of a layer of one run, to narrow layers by
WIDEN = {"hybrid": 2, "small": 1}
UNITS = ("blocks", "parts")
WHICH = ("chosen", "random", "last")
_FORMS: dict[str, Correction] = {"plain": "none", "corrected": "low-rank"}

Inputs = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def measure_depth(
    calibration: str, clips: str, tell: Tell, *, limit: int | None = None, names: Sequence[str] = GENERATORS
) -> dict[str, Any]:
    """By generator: bits of a token whole, and what is lost by blocks that are chosen, by chance, and last.

    calibration, clips: folders; at most `limit` clips of each. ValueError for a folder without clips.
    """
    with one_thread():
        paths = clips_in(calibration), clips_in(clips)
        fitted = asked_of(spread(paths[0], min(limit or CLIPS, CLIPS)))
        judged = asked_of(paths[1][:limit])
        found: dict[str, Any] = {"share": SHARE, "clips": [len(fitted), len(judged)]}
        with torch.inference_mode():
            for name in names:
                net = load_generator(name)
                found[name] = compared(net, fitted, judged, lambda line, name=name: tell(f"  {name}, {line}"))
                if name in WIDEN:
                    found[name]["narrower"] = measure_width(net, WIDEN[name], fitted, judged)
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


def compared(
    net: TokenGenerator, fitted: Sequence[Inputs], judged: Sequence[Inputs], tell: Tell = lambda line: None
) -> dict[str, Any]:
    """Bits lost by which blocks and by which parts, with nothing in their place and with shortcuts; and time.

    Shortcuts are fitted to one half of the clips, what goes is chosen by the other; all is told of clips apart.
    """
    sizes = sum(each.numel() for each in net.parameters())
    found: dict[str, Any] = {"count": len(net.blocks), "parameters": sizes}
    plans: dict[str, DepthPlan] = {}
    last: dict[str, float] = {}
    for unit in UNITS:
        parts = unit == "parts"
        first, second = (GeneratorCalibration(net, _flat(fitted[half::2]), parts=parts) for half in (0, 1))
        judge = GeneratorCalibration(net, [each for clip in judged for each in clip], parts=parts)
        found["bits"] = whole = judge.cost(DepthPlan(judge.blocks, {}))
        found[unit], seconds = {}, first.seconds()
        for form, correction in _FORMS.items():
            settings = DepthSettings(SHARE, correction=correction, rank=RANK)
            plan, sets = _chosen(first, second, settings, seconds)
            plans[f"{unit}, {form}"] = plan
            row = _described(plan) | {"chosen": judge.cost(plan) - whole}
            losses = [judge.cost(_plan(first, numbers, settings)) - whole for numbers in sets]
            row["random"] = sum(losses) / len(losses)
            if not parts:
                count = settings.count(judge.blocks)
                numbers = range(judge.blocks - count, judge.blocks)
                last[form] = judge.cost(_plan(first, numbers, settings)) - whole
            row["last"] = last[form]
            found[unit][form] = row
            tell(f"{unit}, {form}: bits lost by " + ", ".join(f"{which} {row[which]:+.3f}" for which in WHICH))
    return found | {"speed": _speed(net, plans, max((each for clip in judged for each in clip), key=_tokens))}


def _chosen(
    first: GeneratorCalibration, second: GeneratorCalibration, settings: DepthSettings, seconds: Sequence[float]
) -> tuple[DepthPlan, list[tuple[int, ...]]]:
    """What goes by what it is worth, and what goes by chance."""
    if not first.parts:
        return plan_depth(first, settings, second), drawn(first.blocks, settings.count(first.blocks))
    amount = sum(seconds[-PARTS * settings.count(len(first.net.blocks)) :])
    return plan_amount(first, amount, settings, second, seconds), drawn_parts(seconds, amount)


def _described(plan: DepthPlan) -> dict[str, Any]:
    worth = [plan.worth[number] for number in range(plan.blocks)]
    forms = [plan.shortcuts[number][0].form if plan.shortcuts[number] else "none" for number in plan.left_out]
    return {"left_out": list(plan.left_out), "forms": forms, "worth": worth, "parameters": list(plan.parameters)}


def _speed(net: TokenGenerator, plans: Mapping[str, DepthPlan], given: Any) -> dict[str, float]:
    """How many times as fast a forward is without what each plan leaves out, on the largest of the inputs."""
    nets = {"whole": net, **{name: prune_generator(net, plan) for name, plan in plans.items()}}
    ways = {name: lambda each=each: each.bits(*given) for name, each in nets.items()}
    seconds = {name: statistics.median(each) for name, each in in_turn(ways, ROUNDS).items()}
    return {name: seconds["whole"] / seconds[name] for name in plans}


def _tokens(given: tuple[torch.Tensor, ...]) -> int:
    return given[0].numel()


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


def drawn_parts(seconds: Sequence[float], amount: float) -> list[tuple[int, ...]]:
    """Sets of parts by chance that take at least this time."""
    chance, made = random.Random(0), []
    for _ in range(DRAWS):
        order = chance.sample(range(len(seconds)), len(seconds))
        held = list(itertools.accumulate(seconds[each] for each in order))
        made.append(tuple(sorted(order[: next(n for n, each in enumerate(held, 1) if each >= amount)])))
    return made


def _plan(calibration: GeneratorCalibration, numbers: Iterable[int], settings: DepthSettings) -> DepthPlan:
    made: dict[int, Any] = {}
    for number in numbers:
        made |= fit_blocks(calibration, settings, [number], made)
    return DepthPlan(calibration.blocks, made)
