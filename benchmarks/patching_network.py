"""A real network that was trained with dense attention: our small generator of that kind, on clips.

It is given what it was trained for: seven frames are asked for, one on each side is known.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import generator
from ..models.checkpoint import load_tokenizer
from ..models.generator import TokenGenerator, token_bits
from ..models.token_guess import guess
from .generation_between import GAP
from .generation_clips import CodedClip, Pictures, Tell, coded_clips
from .generation_quality import spread
from .tokens import clips_in

NET = "full"
"""Name of the weights: softmax over all tokens in every block."""
SIDE = 192
"""Pixels of the frames: 24 x 24 tokens each."""


class Asked(NamedTuple):
    """Nine frames of a clip, as a generator is given them: a batch of one."""

    name: str
    tokens: Tensor
    known: Tensor
    guess: Tensor


class Made(NamedTuple):
    """What the network makes of what is asked for: logits of all digits `[N, levels]`, and bits of the tokens `[N]`."""

    logits: Tensor
    bits: Tensor


class Attend(Protocol):
    """Attention as a generator calls it."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], **options: Any) -> Tensor: ...


def asked_of_clips(args: argparse.Namespace, tell: Tell, side: int = SIDE) -> Iterator[Asked]:
    """One gap of each clip of `args.clips` in which no shot changes, one clip after the other."""
    image = load_tokenizer().image
    paths, others = clips_in(args.clips)[: args.limit], []
    for clip in coded_clips(paths, Pictures(image), others, side=side, frames=args.frames):
        run = _gap(clip)
        if run is None:
            tell(f"  {clip.name}: left out, too few frames in a row without a change of shot")
            continue
        known = torch.zeros(run.shape, dtype=torch.bool)
        known[0] = known[-1] = True
        with torch.inference_mode():
            told = guess(image, torch.where(known, run, 0), known)
        yield Asked(clip.name, run[None], known[None], told[None])
    for each in others:
        tell(f"  {each['clip']}: left out, {each['reason']}")


def _gap(clip: CodedClip) -> Tensor | None:
    """Tokens `[GAP + 1, h, w]` of a gap in the middle."""
    places = [at for at in range(0, len(clip.tokens) - GAP, GAP) if clip.whole(at, at + GAP)]
    chosen = spread(places, 1)
    return clip.tokens[chosen[0] : chosen[0] + GAP + 1] if chosen else None


@torch.inference_mode()
def run_network(net: TokenGenerator, asked: Asked, attend: Attend | None = None) -> Made:
    """One pass, with its own attention or with that."""
    unknown = ~asked.known
    with attending(attend or generator.attention):
        logits = net(asked.tokens, asked.known, asked.guess, asked.tokens)[1]
    bits = token_bits(logits, net.fsq.digits(asked.tokens))
    return Made(torch.cat(logits, -1)[unknown], bits[unknown])


@contextmanager
def attending(function: Attend) -> Iterator[None]:
    """Networks of generators call that for attention."""
    before = generator.attention
    setattr(generator, "attention", function)  # noqa: B010 (its signature says less than that of what it replaces)
    try:
        yield
    finally:
        setattr(generator, "attention", before)  # noqa: B010


def dense(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], **options: Any) -> Tensor:
    """Attention to all, whatever the kind."""
    return F.scaled_dot_product_attention(q, k, v)


def comfyui_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """PyTorch's attention with ComfyUI's signature."""
    if not skip_reshape:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
    made = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return made if skip_output_reshape else made.transpose(1, 2).flatten(2)


def relative(exact: Tensor, near: Tensor) -> float:
    """The length of the difference, of that of what is exact."""
    return float((near.float() - exact.float()).norm() / exact.float().norm())


def mean(values: list[float]) -> float:
    """Of finite values. ValueError for others: a result must not hide them."""
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"Nothing can be said about {values}.")
    return sum(values) / len(values)


Work = Callable[[Asked], dict[str, Any]]
