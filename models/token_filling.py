"""Filling in masked tokens with a generator: in parallel, in a few steps, the surest first (MaskGIT, arXiv 2202.04200).

Grids of tokens are int64 `[t, h, w]` on the CPU, of one clip, h and w even. Long clips are filled in some frames at a
time, each time from what is known or made around them, so that memory does not grow with the clip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .generator import Seen, TokenGenerator
from .image_tokenizer import ImageTokenizer
from .token_guess import guess

CONTEXT = 3
"""Frames before that are looked at."""
AHEAD = 8
"""Frames that are filled in at a time where no later frame is known."""
MOST_BETWEEN = 63
"""Frames that are filled in at a time between known ones."""

Check = Callable[[], None]
Advance = Callable[[int], None]


def _unwatched(*_: int) -> None:
    """Neither cancelled nor watched."""


@dataclass(frozen=True)
class Knobs:
    """How tokens are made.

    With temperature 0 they are those whose pixels are nearest to what may be expected, all at once: more steps change
    nothing that can be measured. Above, digits are drawn (1: as likely as the generator takes them to be), over `steps`
    steps, those that are sure first. Randomness is that of `generator` alone, which is on the CPU. `check` may raise to
    cancel.
    """

    steps: int = 4
    temperature: float = 0.0
    generator: torch.Generator | None = None
    check: Check = _unwatched

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 64 or not 0 <= self.temperature <= 10:
            raise ValueError(
                f"Invalid steps {self.steps} or temperature {self.temperature}. Supported are 1 to 64, and 0 to 10."
            )

    @property
    def rounds(self) -> int:
        """How often the network looks at what is asked for."""
        return self.steps if self.temperature else 1


class TokenFiller:
    """A generator, and the tokenizer's networks that it needs to follow motion."""

    def __init__(self, net: TokenGenerator, image: ImageTokenizer):
        if net.config.levels != image.config.levels:
            raise ValueError(
                f"A generator for levels {net.config.levels} cannot fill in tokens of levels {image.config.levels}. "
                "Use the generator that was trained for this tokenizer."
            )
        self.net, self.image = net, image
        self.calls = 0
        """How often the network has run."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.net.masked.device

    def between(self, first: Tensor, second: Tensor, count: int, *, progress: Advance = _unwatched, **knobs) -> Tensor:
        """`[count, h, w]`, evenly spaced in time between two known frames `[h, w]`; count is 1 to 63."""
        if not 1 <= count <= MOST_BETWEEN:
            raise ValueError(f"Invalid count ({count}). Supported are 1 to {MOST_BETWEEN} frames between two.")
        clip = torch.cat([first[None], first.new_zeros(count, *first.shape), second[None]])
        known = torch.zeros(clip.shape, dtype=torch.bool)
        known[0] = known[-1] = True
        return self.fill(clip, known, progress=progress, **knobs)[1:-1]

    def after(self, seen: Tensor, count: int, *, progress: Advance = _unwatched, **knobs) -> Tensor:
        """The `count` frames `[count, h, w]` that follow `seen` `[n, h, w]`, of which the last ones are looked at."""
        if count < 1 or not len(seen):
            raise ValueError(f"Invalid continuation: {count} frames after {len(seen)}. Both are at least 1.")
        context = seen[-CONTEXT:]
        clip = torch.cat([context, seen.new_zeros(count, *seen.shape[1:])])
        known = torch.zeros(clip.shape, dtype=torch.bool)
        known[: len(context)] = True
        return self.fill(clip, known, progress=progress, **knobs)[len(context) :]

    def fill(self, indices: Tensor, known: Tensor, *, progress: Advance = _unwatched, **knobs) -> Tensor:
        """`indices` where `known` (bool `[t, h, w]`), and what the generator makes elsewhere."""
        if indices.shape != known.shape or indices.ndim != 3:
            raise ValueError(f"Invalid tokens {tuple(indices.shape)}, known {tuple(known.shape)}. Both are [t, h, w].")
        if not known.any():
            raise ValueError("Nothing is known of these tokens. At least one frame or area is needed to go on from.")
        chosen = Knobs(**knobs)
        made, done = torch.where(known, indices, 0), known.clone()
        whole = done.flatten(1).all(1)
        while not bool(whole.all()):
            start = int(whole.logical_not().nonzero()[0])
            later = whole[start:].nonzero()
            end = start + int(later[0]) if len(later) else len(whole)
            # frames that are known after a run are looked at, if it is not too long
            bounded = len(later) > 0 and end - start <= MOST_BETWEEN
            stop = end if bounded else min(end, start + AHEAD)
            # as in training: one frame on each side, or some before
            window = slice(max(0, start - 1), stop + 1) if bounded else slice(max(0, start - CONTEXT), stop)
            made[window] = self._window(made[window], done[window], chosen)
            done[start:stop] = True
            whole[start:stop] = True
            progress(stop - start)
        return made

    @torch.inference_mode()
    def _window(self, indices: Tensor, known: Tensor, knobs: Knobs) -> Tensor:
        """A few frames, complete."""
        knobs.check()
        made, done = indices.to(self.device), known.to(self.device)
        guessed = guess(self.image, made, done)[None]
        total = int((~done).sum())
        for step in range(knobs.rounds):
            left = int((~done).sum())
            if not left:
                break
            knobs.check()
            self.calls += 1
            drawn, sure = _drawn(self.net, self.net.look(made[None], done[None], guessed), knobs)
            # a cosine: few at first, when little is known
            rest = math.floor(total * math.cos(math.pi / 2 * (step + 1) / knobs.rounds))
            keep = left if step + 1 == knobs.rounds else max(1, left - rest)
            chosen = torch.where(done, -math.inf, sure).flatten().topk(keep).indices
            made.view(-1)[chosen] = drawn.view(-1)[chosen]
            done.view(-1)[chosen] = True
        return made.cpu()


def _drawn(net: TokenGenerator, seen: Seen, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Tokens `[t, h, w]` of a batch of one, and how sure they are."""
    if not knobs.temperature:
        digits = net.expected(seen, net.logits(seen)).round().long()
        return net.fsq.digits_to_indices(digits)[0], torch.zeros(digits.shape[1:-1], device=digits.device)
    digits = torch.zeros(*seen.exists.shape[:-1], len(net.config.levels), dtype=torch.long, device=seen.exists.device)
    sure = torch.zeros(digits.shape[:-1], device=digits.device)
    for place in range(len(net.config.levels)):
        chances = net.digits(seen, place, digits).log_softmax(-1)
        digits[..., place] = (chances + knobs.temperature * _gumbel(chances, knobs.generator)).argmax(-1)
        sure += chances.gather(-1, digits[..., place, None])[..., 0]
    return net.fsq.digits_to_indices(digits)[0], (sure + knobs.temperature * _gumbel(sure, knobs.generator))[0]


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.rand(like.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-noise.log()).log().to(like.device)
