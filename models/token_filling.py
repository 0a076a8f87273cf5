"""Filling in masked tokens with a generator: in parallel, in a few steps, the surest first (MaskGIT, arXiv 2202.04200).

Everything works on `[t, h, w]` grids of tokens of one clip, in the generator's own levels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .generator import TokenGenerator

CONTEXT = 12
"""Known frames that a continuation looks at; what lies before has no influence, so memory does not grow."""
AHEAD = 4
"""Frames that a continuation fills in at a time."""

Check = Callable[[], None]


@torch.inference_mode()
def fill(
    net: TokenGenerator,
    indices: Tensor,
    known: Tensor,
    *,
    steps: int = 4,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    check: Check = lambda: None,
) -> Tensor:
    """int64 `[t, h, w]`: `indices` where `known`, and what the generator puts elsewhere.

    With temperature 0 each digit becomes its mean, rounded: the frames nearest to what may be expected, all in one
    sense. Above, digits are drawn (1: as likely as the generator takes them to be), and those that are sure are kept
    first, over `steps` steps. Randomness is that of `generator` alone, which is on the CPU.
    """
    if not 1 <= steps <= 64 or not 0 <= temperature <= 10:
        raise ValueError(f"Invalid steps {steps} or temperature {temperature}. Supported are 1 to 64, and 0 to 10.")
    if indices.shape != known.shape or indices.ndim != 3:
        raise ValueError(f"Invalid tokens {tuple(indices.shape)}, known {tuple(known.shape)}. Both are [t, h, w].")
    made, done = torch.where(known, indices, 0), known.clone()
    total = int((~known).sum())
    for step in range(steps):
        left = int((~done).sum())
        if not left:
            break
        check()
        drawn, sure = _drawn(net, net(made[None], done[None]), temperature, generator)
        # a cosine: few at first, when little is known
        keep = left - math.floor(total * math.cos(math.pi / 2 * (step + 1) / steps)) if step + 1 < steps else left
        sure = torch.where(done, -math.inf, sure)
        chosen = sure.flatten().topk(max(1, min(left, keep))).indices
        made.view(-1)[chosen] = drawn.view(-1)[chosen]
        done.view(-1)[chosen] = True
    return made


def _drawn(
    net: TokenGenerator, logits: tuple[Tensor, ...], temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Tokens `[t, h, w]` of a batch of one, and how sure they are."""
    token, sure = torch.zeros(logits[0].shape[1:-1], dtype=torch.long, device=logits[0].device), torch.zeros(())
    radix = 1
    for digit in logits:
        chances = digit[0].float().log_softmax(-1)
        levels = torch.arange(digit.shape[-1], device=digit.device)
        if temperature == 0:
            picked = (chances.exp() * levels).sum(-1).round().long()
        else:
            picked = (chances + temperature * _gumbel(chances, generator)).argmax(-1)
        sure = sure.to(chances.device) + chances.gather(-1, picked[..., None])[..., 0]
        token, radix = token + radix * picked, radix * digit.shape[-1]
    if temperature:
        sure = sure + temperature * _gumbel(sure, generator)
    return token, sure


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.rand(like.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-noise.log()).log().to(like.device)


def continued(
    net: TokenGenerator,
    indices: Tensor,
    frames: int,
    *,
    check: Check = lambda: None,
    progress: Callable[[int], None] = lambda count: None,
    steps: int = 4,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The `frames` frames `[frames, h, w]` that follow `indices` `[t, h, w]`, a few at a time; memory does not grow."""
    if frames < 1 or not len(indices):
        raise ValueError(f"Invalid continuation: {frames} frames after {len(indices)}. Both are at least 1.")
    seen, made = indices[-CONTEXT:], []
    while frames > 0:
        count = min(AHEAD, frames)
        clip = torch.cat([seen, seen.new_zeros(count, *seen.shape[1:])])
        known = (torch.arange(len(clip), device=clip.device) < len(seen))[:, None, None].expand(clip.shape)
        clip = fill(net, clip, known, steps=steps, temperature=temperature, generator=generator, check=check)
        made.append(clip[-count:])
        seen, frames = clip[-CONTEXT:], frames - count
        progress(count)
    return torch.cat(made)
