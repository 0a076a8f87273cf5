"""A generator of video tokens: given any of a clip's tokens, it fills in the others.

Continuing a clip, filling in between key frames and completing partly known frames are one task: some tokens are known,
the others are masked (as in MAGVIT, arXiv 2212.05199). It works on the key-frame tokenizer's grid, a token for 8x8
pixels of each frame. A token's FSQ digits are predicted one by one, which takes 39 outputs rather than 64,000.

Each block mixes near tokens by a depthwise 3-D convolution, far ones by attention (models/attention.py), and channels
by a gated feed-forward part with a convolution in it (as in SANA, arXiv 2410.10629). Attention is linear in three of
four blocks and over windows in the fourth. What is likely is handed to all tokens: what stands in their place in the
nearest known frame before and after, how far away those are, and a guess that follows the motion
(models/token_guess.py). The network says how far each of the three is to be believed, and what else there may be.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import KINDS, attention
from .network_config import NetworkConfig
from .quantizers import FSQ
from .token_guess import EXTRA, NONE

SPAN = 16
"""Frames from which on a known frame counts as far away."""
HINTS = 3
"""What a token is told: the code in the nearest known frame before, the one after, and the guess."""
_AT_ONCE = 1 << 21  # values of frames that are widened at a time
_WAVES = 8  # sines and cosines that say where along an axis a token lies
_BELIEVED = (0.3, 0.3, 0.7)  # how sharply the hints count before anything is learned


@dataclass(frozen=True)
class GeneratorConfig(NetworkConfig):
    """Sizes of a generator; `pattern` names the attention of its blocks, again and again."""

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    width: int = 256
    depth: int = 6
    heads: int = 4
    widen: int = 3
    pattern: tuple[str, ...] = ("linear", "linear", "linear", "window")
    window: tuple[int, int, int] = (4, 8, 8)
    tile: tuple[int, int, int] = (2, 4, 4)
    digit_width: int = 64

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.widen, self.digit_width)
        if min(sizes) < 1 or self.width % self.heads or not self.levels:
            raise ValueError(f"Invalid sizes: {self}. Width is a multiple of heads; all are at least 1.")
        unknown = [kind for kind in self.pattern if kind not in KINDS]
        if unknown or not self.pattern:
            raise ValueError(f"Invalid pattern {self.pattern}. Supported kinds are {', '.join(KINDS)}.")


class _Norm(nn.Module):
    """Root mean square over channels, the last axis."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight)


class _Near(nn.Module):
    """Depthwise 3 x 3 x 3 convolution: along rows and columns, then along time."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.space = operations.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.time = nn.Parameter(torch.zeros(3, channels))
        with torch.no_grad():
            self.time[1] = 1

    def forward(self, x: Tensor) -> Tensor:
        """`[B, t, h, w, C]` -> the same."""
        B, t = x.shape[:2]
        mixed = self.space(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, (B, t))
        around = F.pad(mixed, (0, 0, 0, 0, 0, 0, 1, 1))
        return sum((around[:, i : i + t] * self.time[i] for i in range(3)), torch.zeros((), device=x.device))


class _Far(nn.Module):
    """Attention of one kind over all tokens."""

    def __init__(self, config: GeneratorConfig, kind: str, operations: Any):
        super().__init__()
        self.kind, self.heads = kind, config.heads
        self.options: dict[str, Any] = {"window": config.window, "tile": config.tile} if kind == "window" else {}
        self.qkv = operations.Linear(config.width, 3 * config.width)
        self.out = operations.Linear(config.width, config.width)
        # linear attention has no softmax to sharpen
        self.sharpness = None if kind == "linear" else nn.Parameter(torch.zeros(config.heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, t, h, w, C = x.shape
        q, k, v = self.qkv(x).view(B, t * h * w, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        # directions alone count, times what is learned: no token shouts, in softmax or in features
        size = q.shape[-1]
        q, k = F.rms_norm(q, (size,)), F.rms_norm(k, (size,))
        if self.sharpness is not None:
            q = q * self.sharpness.exp()
        mixed = attention(q.to(v.dtype), k.to(v.dtype), v, (t, h, w), kind=self.kind, **self.options)  # type: ignore[arg-type]
        return self.out(mixed.transpose(1, 2).reshape(B, t, h, w, C))


class _Channels(nn.Module):
    """Feed-forward part: wider, a depthwise 3 x 3 convolution, one half gates the other."""

    def __init__(self, channels: int, widen: int, operations: Any):
        super().__init__()
        wide = widen * channels
        self.widen = operations.Linear(channels, 2 * wide)
        self.near = operations.Conv2d(2 * wide, 2 * wide, 3, padding=1, groups=2 * wide)
        self.narrow = operations.Linear(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, t, h, w, C]` -> the same; some frames at a time, as what is wide takes much memory."""
        frames = x.flatten(0, 1)
        parts = frames.split(max(1, _AT_ONCE // frames[0].numel()))
        return torch.cat([self._mixed(part) for part in parts]).unflatten(0, x.shape[:2])

    def _mixed(self, frames: Tensor) -> Tensor:
        y = self.near(self.widen(frames).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        gate, value = y.chunk(2, -1)
        return self.narrow(F.silu(gate) * value)


class _Block(nn.Module):
    def __init__(self, config: GeneratorConfig, kind: str, operations: Any):
        super().__init__()
        self.norms = nn.ModuleList(_Norm(config.width) for _ in range(3))
        self.parts = nn.ModuleList(
            [
                _Near(config.width, operations),
                _Far(config, kind, operations),
                _Channels(config.width, config.widen, operations),
            ]
        )
        # each part begins at a tenth, so that a deep stack begins near to passing on what it is given
        self.shares = nn.Parameter(torch.full((3, config.width), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(len(self.parts)):
            x = self.with_part(x, number)
        return x

    def with_part(self, x: Tensor, number: int) -> Tensor:
        """`[B, t, h, w, C]` with what one of its parts adds: 0, near tokens; 1, far ones; 2, channels."""
        return x + self.shares[number] * self.parts[number](self.norms[number](x))


class Seen(NamedTuple):
    """What the blocks made of a clip, and what its tokens were told."""

    features: Tensor
    """`[B, t, h, w, digits * digit_width]`"""
    hints: Tensor
    """float32 `[B, t, h, w, HINTS, digits]`: levels from 0, not whole."""
    exists: Tensor
    """float32 `[B, t, h, w, HINTS]`, 0 or 1."""


class _Digits(nn.Module):
    """Logits of each digit: around the hints as far as they are believed, and of its own."""

    def __init__(self, config: GeneratorConfig, operations: Any):
        super().__init__()
        self.levels, self.size = config.levels, config.digit_width
        self.look = operations.Linear(config.width, len(config.levels) * self.size)
        told = [sum(config.levels[:i]) + i * HINTS for i in range(len(config.levels))]
        self.earlier = nn.ModuleList(operations.Linear(count, self.size, bias=False) for count in told[1:])
        self.out = nn.ModuleList(operations.Linear(self.size, level + HINTS) for level in config.levels)
        self.offset = operations.Linear(len(config.levels) * self.size, len(config.levels))
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        believed = torch.tensor(_BELIEVED).expm1().log()  # softplus of it is _BELIEVED
        for name, value in self.out.named_parameters():
            with torch.no_grad():
                value.copy_(value * 0.1 if name.endswith("weight") else F.pad(believed, (len(value) - HINTS, 0)))

    def forward(self, seen: Seen, digit: int, earlier: Tensor | None = None) -> Tensor:
        """`[B, t, h, w, level]`. earlier: int64 `[B, t, h, w, digits]`, of which those before `digit` are looked at.

        Without `earlier` nothing is known of the other digits.
        """
        x = seen.features[..., digit * self.size : (digit + 1) * self.size]
        if earlier is not None and digit:
            x = x + self.earlier[digit - 1](self._told(seen, digit, earlier).to(x.dtype))
        own, sharp = self.out[digit](F.silu(x)).float().split([self.levels[digit], HINTS], -1)
        levels = torch.arange(self.levels[digit], device=own.device)
        off = (levels - seen.hints[..., digit, None]).abs()  # [B, t, h, w, HINTS, level]
        return own - (off * (F.softplus(sharp) * seen.exists)[..., None]).sum(-2)

    def _told(self, seen: Seen, digit: int, earlier: Tensor) -> Tensor:
        each = []
        for i in range(digit):
            each.append(F.one_hot(earlier[..., i], self.levels[i]))
            agrees = (earlier[..., i, None] - seen.hints[..., i]).abs() < 0.5
            each.append(agrees * seen.exists)
        return torch.cat(each, -1)


class TokenGenerator(nn.Module):
    """Tokens of which some are known -> how likely the levels of each digit are."""

    tokenizer_digest = ""
    """SHA-256 of the tokenizer whose tokens it was trained on; empty where that is not known."""

    def __init__(self, config: GeneratorConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or GeneratorConfig()
        width, digits = self.config.width, len(self.config.levels)
        self.fsq = FSQ(self.config.levels)
        self.given = nn.ModuleList(operations.Embedding(level, width) for level in self.config.levels)
        self.masked = nn.Parameter(torch.zeros(width))
        self.told = operations.Linear(HINTS * (digits + 2), width)
        self.place = operations.Linear(3 * 2 * _WAVES, width)
        kinds = [self.config.pattern[i % len(self.config.pattern)] for i in range(self.config.depth)]
        self.blocks = nn.ModuleList(_Block(self.config, kind, operations) for kind in kinds)
        self.norm = _Norm(width)
        self.digits = _Digits(self.config, operations)

    def look(self, indices: Tensor, known: Tensor, guess: Tensor, at: tuple[int, int, int] = (0, 0, 0)) -> Seen:
        """What `logits` needs.

        indices: int64 `[B, t, h, w]`, of any value where not known. known: bool `[B, t, h, w]`. guess: float
        `[B, t, h, w, digits + EXTRA]`, of models/token_guess.py. at: frame, row and column of the first token;
        training moves crops about, so that larger grids than its own are nothing new.
        """
        digits = self.fsq.digits(indices)
        given = sum((table(digits[..., i]) for i, table in enumerate(self.given)), torch.zeros_like(self.masked))
        x = torch.where(known[..., None], given, self.masked)
        codes, told, exists = self._hints(indices, known, guess)
        # embeddings may be in less precision than what goes into the first layers
        hints = self.told(torch.cat([codes.flatten(-2), told], -1).to(x.dtype))
        x = x + hints + self.place(_places(indices, at).to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return Seen(self.digits.look(self.norm(x)), self.fsq.codes_to_levels(codes), exists)

    def logits(self, seen: Seen, earlier: Tensor | None = None) -> tuple[Tensor, ...]:
        """`[B, t, h, w, level]` of each digit, the least significant first.

        earlier: int64 `[B, t, h, w, digits]`; then each is that of a token whose digits before it are these.
        """
        return tuple(self.digits(seen, digit, earlier) for digit in range(len(self.config.levels)))

    def expected(self, seen: Seen, logits: tuple[Tensor, ...]) -> Tensor:
        """float32 `[B, t, h, w, digits]`: levels, not rounded, whose pixels are nearest to what may be expected.

        Each is its mean by `logits`, which are those of each digit for itself and learn nothing from this, plus what
        the decoder makes of several digits at once.
        """
        means = [(each.softmax(-1) * torch.arange(each.shape[-1], device=each.device)).sum(-1) for each in logits]
        offset = self.digits.offset(F.silu(seen.features)).float()
        highest = torch.tensor([level - 1 for level in self.config.levels], device=offset.device)
        return torch.minimum((torch.stack(means, -1).detach() + offset).clamp(min=0), highest)

    def forward(
        self, shown: Tensor, known: Tensor, guess: Tensor, truth: Tensor, at: tuple[int, int, int] = (0, 0, 0)
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Logits of each digit for itself, those given the digits of `truth` before it, and what may be expected.

        Both `shown` and `truth` are int64 `[B, t, h, w]`; of `shown` only what is known is looked at. The others are
        as of `look`.
        """
        seen = self.look(torch.where(known, shown, 0), known, guess, at)
        alone = self.logits(seen)
        return alone, self.logits(seen, self.fsq.digits(truth)), self.expected(seen, alone)

    def bits(self, indices: Tensor, known: Tensor, guess: Tensor) -> Tensor:
        """float32 `[B, t, h, w]`: bits of each token of `indices` where only what is `known` is shown."""
        return token_bits(self(indices, known, guess, indices)[1], self.fsq.digits(indices))

    def _hints(self, indices: Tensor, known: Tensor, guess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes `[B, t, h, w, HINTS, digits]`, two values about each `[..., 2 * HINTS]`, whether they exist."""
        codes = self.fsq.indices_to_codes(indices.flatten(0, 1)).movedim(1, -1).unflatten(0, indices.shape[:2])
        whole = known.flatten(2).all(-1)  # [B, t]
        t = indices.shape[1]
        frames = torch.arange(t, device=indices.device).expand_as(whole)
        before = torch.where(whole, frames, -1).cummax(1).values
        after = torch.where(whole, frames, t).flip(1).cummin(1).values.flip(1)
        hints, told, there = [], [], []
        for nearest, exists in ((before, before >= 0), (after, after < t)):
            index = nearest.clamp(0, t - 1)[:, :, None, None, None].expand_as(codes)
            hints.append(codes.gather(1, index) * exists[:, :, None, None, None])
            near = 1 - (nearest - frames).abs().clamp(max=SPAN) / SPAN
            about = torch.stack([near * exists, exists.to(near.dtype)], -1)[:, :, None, None]
            told.append(about.expand(*indices.shape, 2))
            there.append(about[..., 1].expand(indices.shape))
        hints.append(guess[..., :-EXTRA].to(codes.dtype))
        told.append(guess[..., -EXTRA:].to(codes.dtype))
        there.append((guess[..., -EXTRA] != NONE).to(codes.dtype))
        return torch.stack(hints, -2), torch.cat(told, -1), torch.stack(there, -1)


def token_bits(logits: tuple[Tensor, ...], digits: Tensor) -> Tensor:
    """float32 `[B, t, h, w]`: bits of tokens whose digits are `[B, t, h, w, d]`."""
    each = [
        F.cross_entropy(part.float().flatten(0, -2), digits[..., i].flatten(), reduction="none")
        for i, part in enumerate(logits)
    ]
    return torch.stack(each).sum(0).view(digits.shape[:-1]) / math.log(2)


def _places(indices: Tensor, at: tuple[int, int, int]) -> Tensor:
    """`[1, t, h, w, 48]`: sines and cosines of the numbers of frame, row and column."""
    axes = []
    for axis, size in enumerate(indices.shape[1:]):
        steps = torch.arange(at[axis], at[axis] + size, device=indices.device, dtype=torch.float32)
        angles = steps[:, None] * torch.logspace(0, -2, _WAVES, device=indices.device)
        waves = torch.cat([angles.sin(), angles.cos()], -1)
        shape = [1, 1, 1, 1, 2 * _WAVES]
        shape[1 + axis] = size
        axes.append(waves.view(shape).expand(1, *indices.shape[1:], -1))
    return torch.cat(axes, -1)
