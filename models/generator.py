"""A generator of video tokens: given any of a clip's tokens, it fills in the others.

Continuing a clip, filling in between key frames and completing partly known frames are one task: some tokens are known,
the others are masked (as in MAGVIT, arXiv 2212.05199). It works on the key-frame tokenizer's grid, a token for 8x8
pixels of each frame. A token's FSQ digits are predicted each for itself, which takes 39 outputs rather than 64,000.

Each block mixes near tokens by a depthwise 3-D convolution, far ones by attention (models/attention.py), and channels
by a gated feed-forward part with a convolution in it (as in SANA, arXiv 2410.10629). Attention is linear in three of
four blocks and over windows in the fourth. Frames that are wholly known are handed to all others: each token is told
what stands in its place in the nearest known frame before and after it, and how far away they are.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import KINDS, attention
from .network_config import NetworkConfig
from .quantizers import FSQ

SPAN = 16
"""Frames from which on a known frame counts as far away."""
_WAVES = 8  # sines and cosines that say where along an axis a token lies


@dataclass(frozen=True)
class GeneratorConfig(NetworkConfig):
    """Sizes of a generator; `pattern` names the attention of its blocks, again and again."""

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    width: int = 256
    depth: int = 8
    heads: int = 4
    pattern: tuple[str, ...] = ("linear", "linear", "linear", "window")
    window: tuple[int, int, int] = (5, 12, 12)
    tile: tuple[int, int, int] = (2, 8, 8)

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads or not self.levels:
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

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        wide = 2 * channels
        self.widen = operations.Linear(channels, 2 * wide)
        self.near = operations.Conv2d(2 * wide, 2 * wide, 3, padding=1, groups=2 * wide)
        self.narrow = operations.Linear(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, t = x.shape[:2]
        y = self.widen(x).flatten(0, 1).permute(0, 3, 1, 2)
        y = self.near(y).permute(0, 2, 3, 1).unflatten(0, (B, t))
        gate, value = y.chunk(2, -1)
        return self.narrow(F.silu(gate) * value)


class _Block(nn.Module):
    def __init__(self, config: GeneratorConfig, kind: str, operations: Any):
        super().__init__()
        self.norms = nn.ModuleList(_Norm(config.width) for _ in range(3))
        self.parts = nn.ModuleList(
            [_Near(config.width, operations), _Far(config, kind, operations), _Channels(config.width, operations)]
        )
        # each part begins at a tenth, so that a deep stack begins near to passing on what it is given
        self.shares = nn.Parameter(torch.full((3, config.width), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        for norm, part, share in zip(self.norms, self.parts, self.shares, strict=True):
            x = x + share * part(norm(x))
        return x


class TokenGenerator(nn.Module):
    """Tokens of which some are known -> logits of the digits of all."""

    def __init__(self, config: GeneratorConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or GeneratorConfig()
        width, digits = self.config.width, len(self.config.levels)
        self.fsq = FSQ(self.config.levels)
        self.given = nn.ModuleList(operations.Embedding(level, width) for level in self.config.levels)
        self.masked = nn.Parameter(torch.zeros(width))
        self.hints = operations.Linear(2 * (digits + 2), width)
        self.place = operations.Linear(3 * 2 * _WAVES, width)
        kinds = [self.config.pattern[i % len(self.config.pattern)] for i in range(self.config.depth)]
        self.blocks = nn.ModuleList(_Block(self.config, kind, operations) for kind in kinds)
        self.norm = _Norm(width)
        self.out = operations.Linear(width, sum(self.config.levels))

    def forward(self, indices: Tensor, known: Tensor, at: tuple[int, int, int] = (0, 0, 0)) -> tuple[Tensor, ...]:
        """Logits `[B, t, h, w, level]` of each digit, the least significant first.

        indices: int64 `[B, t, h, w]`, of any value where not known. known: bool `[B, t, h, w]`. at: frame, row and
        column of the first token; training moves crops about, so that larger grids than its own are nothing new.
        """
        digits = self.fsq.digits(indices)
        given = sum((table(digits[..., i]) for i, table in enumerate(self.given)), torch.zeros_like(self.masked))
        x = torch.where(known[..., None], given, self.masked)
        x = x + self.hints(self._hints(indices, known).to(x.dtype)) + self.place(_places(indices, at).to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)).split(self.config.levels, -1)

    def _hints(self, indices: Tensor, known: Tensor) -> Tensor:
        """`[B, t, h, w, 2 * (digits + 2)]`: the codes in the nearest known frames before and after; how near."""
        codes = self.fsq.indices_to_codes(indices.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(0, indices.shape[:2])
        whole = known.flatten(2).all(-1)  # [B, t]
        t = indices.shape[1]
        frames = torch.arange(t, device=indices.device).expand_as(whole)
        before = torch.where(whole, frames, -1).cummax(1).values
        after = torch.where(whole, frames, t).flip(1).cummin(1).values.flip(1)
        hints = []
        for nearest, exists in ((before, before >= 0), (after, after < t)):
            index = nearest.clamp(0, t - 1)[:, :, None, None, None].expand_as(codes)
            picked = codes.gather(1, index) * exists[:, :, None, None, None]
            near = 1 - (nearest - frames).abs().clamp(max=SPAN) / SPAN
            told = torch.stack([near * exists, exists.to(near.dtype)], -1)[:, :, None, None]
            hints += [picked, told.expand(*picked.shape[:-1], 2).to(picked.dtype)]
        return torch.cat(hints, -1)


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
