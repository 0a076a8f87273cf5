"""What our patches are compared with: blocks of keys in raster order, at random too, and uniform token merging.

Queries, keys and values are `[B, heads, N, d]`, tokens in the order of frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.attention import Grid

BLOCK = 64
"""Tokens in a row, of queries and of keys: those of kernels for sparse attention that know no rows or frames."""
STRIDES = (2, 2)
"""Rows and columns of which one token stays a target of merging, as in ToMeSD."""
_AT_ONCE = 1 << 22  # values of keys that are gathered at a time


def raster_blocks(q: Tensor, k: Tensor, v: Tensor, budget: int) -> Tensor:
    """Each block of queries sees the `budget` keys of the blocks whose mean fits its mean best, in each head."""
    scores = _means(q) @ _means(k).transpose(-1, -2)
    return _by_blocks(q, k, v, scores, budget)


def random_blocks(q: Tensor, k: Tensor, v: Tensor, budget: int, seed: int = 0) -> Tensor:
    """Each block of queries sees `budget` keys of blocks at random, others in each head."""
    count = -(-q.shape[2] // BLOCK)
    chance = torch.Generator().manual_seed(seed)
    scores = torch.rand(*q.shape[:2], count, count, generator=chance).to(q)
    return _by_blocks(q, k, v, scores, budget)


def _means(x: Tensor) -> Tensor:
    """`[B, heads, N, d]` -> `[B, heads, blocks, d]`; the last block may be smaller."""
    return torch.stack([part.mean(2) for part in x.float().split(BLOCK, 2)], 2)


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, scores: Tensor, budget: int) -> Tensor:
    """Attention by blocks of queries to the first `budget` keys of blocks in the order of `scores`.

    scores: `[B, heads, blocks, blocks]`.
    """
    B, heads, N, d = v.shape
    blocks = scores.shape[-1]
    whole = torch.arange(blocks * BLOCK, device=q.device).view(blocks, BLOCK)
    order = scores.topk(min(blocks, -(-budget // BLOCK) + 1)).indices
    keys = whole[order].flatten(-2)  # [B, heads, blocks, some * BLOCK]
    # what the last block lacks goes behind all others
    found = torch.sort((keys >= N).to(torch.uint8), stable=True, dim=-1).indices
    keys = keys.gather(-1, found[..., :budget]).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    made = torch.empty_like(q)
    lines = torch.arange(B * heads, device=q.device)[:, None, None]
    step = max(1, _AT_ONCE // (B * heads * budget * d))
    for first in range(0, blocks, step):
        part = keys[:, first : first + step]
        some = slice(first * BLOCK, min(N, (first + step) * BLOCK))
        missing = part.shape[1] * BLOCK - (some.stop - some.start)
        asked = F.pad(q[:, some], (0, 0, 0, missing)).unflatten(1, (-1, BLOCK))
        found = F.scaled_dot_product_attention(asked, k[lines, part], v[lines, part])
        made[:, some] = found.flatten(1, 2)[:, : some.stop - some.start]
    return made.unflatten(0, (B, heads))


class Matched(NamedTuple):
    """Which tokens are merged into which: numbers of tokens `[B, n]`, those of `into` count among the targets."""

    targets: Tensor
    single: Tensor
    merged: Tensor
    into: Tensor


def match_tokens(x: Tensor, grid: Grid, ratio: float, seed: int = 0) -> Matched:
    """Bipartite soft matching (Bolya and Hoffman, 2023, arXiv 2303.17604): `ratio` of all tokens of `[B, N, C]`.

    Targets are one token at random in each 2 x 2 of each frame; of the others those most like one of them are merged
    into it, wherever it lies. ValueError for more than all that are no targets.
    """
    targets, others = _split(grid, seed)
    count = int(ratio * grid.tokens)
    if count > len(others):
        raise ValueError(
            f"Invalid ratio {ratio}. At most {len(others) / grid.tokens:.2f} of the tokens are no targets."
        )
    way = F.normalize(x.float(), dim=-1)
    best, into = (way[:, others] @ way[:, targets].transpose(-1, -2)).max(-1)  # [B, others]
    order = best.argsort(-1, descending=True)
    merged, single = order[:, :count], order[:, count:]
    B = x.shape[0]
    return Matched(targets.expand(B, -1), others[single], others[merged], into.gather(1, merged))


def merge_tokens(x: Tensor, found: Matched) -> Tensor:
    """`[B, N, C]` -> `[B, single + targets, C]`: targets are the means of themselves and all merged into them."""
    single, into, merged = (_rows(x, each) for each in (found.single, found.targets, found.merged))
    index = found.into[..., None].expand_as(merged)
    return torch.cat([single, into.scatter_reduce(1, index, merged, "mean", include_self=True)], 1)


def unmerge_tokens(x: Tensor, found: Matched, tokens: int) -> Tensor:
    """`[B, single + targets, C]` -> `[B, tokens, C]`: merged tokens have what their target has."""
    single, targets = x.split([found.single.shape[1], found.targets.shape[1]], 1)
    made = x.new_empty(x.shape[0], tokens, x.shape[2])
    for numbers, values in (
        (found.single, single),
        (found.targets, targets),
        (found.merged, _rows(targets, found.into)),
    ):
        made.scatter_(1, numbers[..., None].expand_as(values), values)
    return made


def uniform_merging(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    metric: Tensor,
    grid: Grid,
    ratio: float,
    seed: int = 0,
    weighing: Callable[[Tensor], AbstractContextManager[None]] | None = None,
) -> Tensor:
    """What `function` `[B, K, C]` -> `[B, K, C]` gives for merged tokens of `x`, unmerged; matched by `metric`.

    `weighing` is told for how many each of a single batch's tokens stands, `[K]`, and what it gives is entered
    meanwhile: image models merge without (ToMeSD), classifiers with weights in attention (ToMe, arXiv 2210.09461).
    """
    if not ratio:
        return function(x)
    found = match_tokens(metric, grid, ratio, seed)
    counts = torch.bincount(found.into[0], minlength=found.targets.shape[1]) + 1
    counts = torch.cat([counts.new_ones(found.single.shape[1]), counts])
    with weighing(counts) if weighing else nullcontext():
        made = function(merge_tokens(x, found))
    return unmerge_tokens(made, found, grid.tokens)


def _split(grid: Grid, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the targets, and of the others."""
    rows, columns = (side // stride for side, stride in zip(grid[1:], STRIDES, strict=True))
    chance = torch.Generator().manual_seed(seed)
    down, right = (torch.randint(stride, (grid.t, rows, columns), generator=chance) for stride in STRIDES)
    row = torch.arange(rows)[:, None] * STRIDES[0] + down
    column = torch.arange(columns) * STRIDES[1] + right
    targets = ((torch.arange(grid.t)[:, None, None] * grid.h + row) * grid.w + column).flatten()
    other = torch.ones(grid.tokens, dtype=torch.bool)
    other[targets] = False
    return targets, other.nonzero()[:, 0]


def _rows(x: Tensor, numbers: Tensor) -> Tensor:
    return x.gather(1, numbers[..., None].expand(-1, -1, x.shape[-1]))
