"""Drawn images with the sharp regular edges that small footage lacks: stripes, grids and bricks in perspective."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FINER = 3
"""Pictures are drawn this many times finer in each direction, then averaged."""


def drawn_pattern(texture: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A crop `[3, side, side]` in [0, 1]; `texture`, of that shape, shows through on one of the two materials."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=generator).item()

    line = torch.linspace(-1, 1, FINER * side)
    y, x = line[:, None], line[None, :]
    depth = 1 + draw(-0.45, 0.45) * x + draw(-0.45, 0.45) * y
    turn = draw(0, math.pi)
    u = (x * math.cos(turn) + y * math.sin(turn)) / depth
    v = (y * math.cos(turn) - x * math.sin(turn)) / depth
    one = _stripes(u, draw(2, side / 5), draw(0, 1), draw(0.2, 0.8))
    two = _stripes(v, draw(2, side / 5), draw(0, 1), draw(0.2, 0.8))
    kind = draw(0, 3)
    mask = one if kind < 1 else one * two if kind < 2 else (one - two).abs()
    mask = F.avg_pool2d(mask[None, None], FINER)[0]
    back, front = (torch.rand(3, 1, 1, generator=generator) * draw(0.1, 1) + draw(-0.3, 0.3) for _ in range(2))
    back = back + (texture - 0.5) * draw(0, 1.2)
    return torch.lerp(back, front.expand_as(back), mask).clamp(0, 1)


def _stripes(place: Tensor, count: float, phase: float, share: float) -> Tensor:
    return (((place * count / 2 + phase) % 1) < share).float()
