"""Bits of tokens that a generator was not trained on, beside what simple models of them take that were fitted on them.

All tokens of what is asked for are told at once, from known frames alone: the next frame from those before it, seven
frames from the two around them. A simple model's bits are those of frequencies counted on the very tokens that it is
asked for, which no model has beforehand; what its tables would take is not counted either.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.checkpoint import load_tokenizer
from ..models.generator import TokenGenerator
from ..models.image_tokenizer import ImageTokenizer
from ..models.token_filling import CONTEXT
from ..models.token_guess import guess
from .generation_between import GAP
from .generation_clips import CodedClip, Pictures, Tell, coded_clips
from .generation_quality import SIDES, spread
from .threads import one_thread
from .tokens import clips_in

RUNS = 8  # of a clip, for each task, spread over it
TASKS = ("next", "between")


def measure_bits(args: argparse.Namespace, net: TokenGenerator, tell: Tell) -> dict[str, Any]:
    """By task: bits a token of the generator and of the simple models, of all tokens and of those that changed."""
    told = told_tokens(args, {"generator": net}, tell)
    settings = {"raw": math.log2(net.fsq.codebook_size), "runs": RUNS, "before": CONTEXT, "gap": GAP}
    return {**settings, **{task: told[task].table(net) for task in TASKS}}


class Told:
    """Tokens that were asked for, the ones they are compared with, and what networks take for them; grows by runs."""

    def __init__(self) -> None:
        self._parts: list[dict[str, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(part["tokens"]) for part in self._parts)

    def add(self, clip: int, tokens: Tensor, beside: Tensor, away: Tensor, bits: Mapping[str, Tensor]) -> None:
        """tokens, beside: int64 `[F, h, w]`, of a clip of that number; away: `[F]`, how many frames lie between them.

        bits: of each network, `[F, h, w]`.
        """
        part = {
            "clip": np.full(tokens.numel(), clip),
            "tokens": tokens.flatten().numpy(),
            "beside": beside.flatten().numpy(),
            "away": away[:, None, None].expand(tokens.shape).flatten().numpy(),
        }
        self._parts.append(part | {name: each.flatten().double().numpy() for name, each in bits.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        """`[N]`: `clip`, `tokens`, `beside`, `away`, or the bits of a network."""
        return np.concatenate([part[name] for part in self._parts])

    def means(self, bits: np.ndarray) -> dict[str, float | None]:
        """Mean bits of all tokens, and of those that differ from the one they are compared with."""
        changed = self["tokens"] != self["beside"]
        return {"all": float(bits.mean()), "changed": float(bits[changed].mean()) if changed.any() else None}

    def table(self, net: TokenGenerator) -> dict[str, Any]:
        """The means of the network `generator` and of the simple models, and how many clips it is below them on."""
        tokens, beside, away = (self[name] for name in ("tokens", "beside", "away"))
        forms = conditional_bits(net, tokens, beside, away)
        form = min(forms, key=lambda name: forms[name].mean())
        bits = {"generator": self["generator"], "unigram": unigram_bits(tokens), "conditional": forms[form]}
        of_clip = np.unique(self["clip"], return_inverse=True)[1]
        by_clip = {name: np.bincount(of_clip, each) / np.bincount(of_clip) for name, each in bits.items()}
        return {
            "tokens": len(tokens),
            "changed": float((tokens != beside).mean()),
            "form": form,
            **{name: self.means(each) for name, each in bits.items()},
            "clips": len(by_clip["generator"]),
            "below": {name: int((by_clip["generator"] < by_clip[name]).sum()) for name in ("unigram", "conditional")},
        }


def told_tokens(
    args: argparse.Namespace, nets: Mapping[str, TokenGenerator], tell: Tell, *, runs: int = RUNS
) -> dict[str, Told]:
    """By task what the networks take for tokens of the clips of `args.clips`; at most so many runs of each.

    All networks are asked for the same, with the same guess. Changes of shot are not left out. ValueError for no clips.
    """
    paths, image = clips_in(args.clips)[: args.limit], load_tokenizer().image
    found = {task: Told() for task in TASKS}
    with one_thread():
        clips = coded_clips(paths, Pictures(image), [], side=SIDES[0], frames=args.frames)
        for number, clip in enumerate(clips):
            add_clip(found, number, clip, image, nets, runs)
            tell(f"  {clip.name}: tokens of {len(clip.tokens)} frames")
    if not all(map(len, found.values())):
        raise ValueError(f"None of the {len(paths)} clips has more than {GAP} frames. Give others with --clips DIR.")
    return found


def add_clip(
    found: Mapping[str, Told],
    number: int,
    clip: CodedClip,
    image: ImageTokenizer,
    nets: Mapping[str, TokenGenerator],
    runs: int,
) -> None:
    """Adds the runs of a clip to what was found."""
    frames = len(clip.tokens)
    for at in spread(range(CONTEXT, frames), runs):
        run = clip.tokens[at - CONTEXT : at + 1]
        last = torch.arange(len(run)) == len(run) - 1
        bits = _asked(run, last, image, nets)
        found["next"].add(number, run[-1:], run[-2:-1], torch.ones(1, dtype=torch.long), bits)
    for at in spread(range(0, frames - GAP, GAP), runs):
        run = clip.tokens[at : at + GAP + 1]
        place = torch.arange(1, GAP)
        later = place > GAP // 2
        beside = torch.where(later[:, None, None], run[-1], run[0])
        asked = torch.zeros(GAP + 1, dtype=torch.bool).index_fill(0, place, True)
        bits = _asked(run, asked, image, nets)
        found["between"].add(number, run[1:-1], beside, torch.minimum(place, GAP - place), bits)


@torch.inference_mode()
def _asked(run: Tensor, asked: Tensor, image: ImageTokenizer, nets: Mapping[str, TokenGenerator]) -> dict[str, Tensor]:
    """Bits `[F, h, w]` of the frames `asked` `[t]` of a run `[t, h, w]`, of which the others are known."""
    known = ~asked[:, None, None].expand(run.shape)
    guessed = guess(image, torch.where(known, run, 0), known)
    return {name: net.bits(run[None], known[None], guessed[None])[0][asked] for name, net in nets.items()}


def counted_bits(values: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Bits `[N]` of each value after its context, by how often it comes after that among these very values."""
    value, context = (np.unique(each, return_inverse=True)[1] for each in (values, contexts))
    pair = np.unique(context * len(values) + value, return_inverse=True)[1]
    return np.log2(np.bincount(context)[context] / np.bincount(pair)[pair])


def unigram_bits(tokens: np.ndarray) -> np.ndarray:
    """Bits `[N]` by how often each token occurs among them."""
    return counted_bits(tokens, np.zeros_like(tokens))


def conditional_bits(
    net: TokenGenerator, tokens: np.ndarray, beside: np.ndarray, away: np.ndarray
) -> dict[str, np.ndarray]:
    """Bits `[N]` of tokens after those `beside` them, `away` frames off, by two forms; each distance has its tables.

    Tables of whole tokens after whole tokens would know nearly every pair by heart, so they are of digits: each after
    the digit in its place beside it, the one drawn before it, and whether all were the same so far.
    """
    now, then = (net.fsq.digits(torch.from_numpy(each)).numpy() for each in (tokens, beside))
    same = tokens == beside
    other = ~same
    first = counted_bits(same, away)
    first[other] += _digit_bits(now[other], then[other], away[other])
    return {"digit after digit": _digit_bits(now, then, away), "the same or not, then digit after digit": first}


def _digit_bits(now: np.ndarray, then: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Of digits `[N, d]`, in the order in which a token is written."""
    bits, drawn, same = np.zeros(len(now)), np.zeros(len(now), np.int64), np.ones(len(now), bool)
    base = 1 + max(now.max(initial=0), then.max(initial=0), away.max(initial=0))
    for digit, before in zip(now.T, then.T, strict=True):
        bits += counted_bits(digit, ((away * base + before) * base + drawn) * 2 + same)
        drawn, same = digit, same & (digit == before)
    return bits
