"""Which of a video's tokens say nearly the same, so that one can stand for several of them.

In each 2 x 2 tokens of a frame one stays, at another corner in each of four frames in turn. Each of the others is
compared with those that stay in its cell, in four frames around it, of which one lies at its own place, and in the four
cells around it in its own frame. So much less is compared than where any token may be merged into any other (token
merging, Bolya and Hoffman, 2023, arXiv 2303.17604): eight for each token, however many there are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Grid

MOST = 0.75
"""The share of tokens that can be left out at most: three in a cell."""
_CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))  # rows and columns of the token that stays, frame by frame
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))  # rows and columns of cells


class Merged(NamedTuple):
    """`kept` `[K]`: numbers of tokens in their order. `stands` `[N]`: where in `kept` the one is that stands for each.

    `counts` `[K]`: for how many a token stands, with itself. `order` `[N]`: tokens by what stands for them.
    """

    kept: Tensor
    stands: Tensor
    counts: Tensor
    order: Tensor

    def means(self, x: Tensor) -> Tensor:
        """`[B, N, C]` -> `[B, K, C]`: the mean of all that each token stands for. The same every time, also on GPUs."""
        parts = [torch.segment_reduce(each[self.order].float(), "mean", lengths=self.counts, axis=0) for each in x]
        return torch.stack(parts).to(x.dtype)


def match_tokens(features: Tensor, grid: Grid, *, whole: int = 0) -> tuple[Tensor, Tensor]:
    """For each token of `[B, N, C]`, N = t * h * w, how alike it is to the one it would be merged into, and its number.

    float32 `[N]`, cosines, the least of the batch; -inf for those that stay: those of the first frame and, if `whole`,
    of every so-manieth frame, and one in each cell. int64 `[N]`.
    """
    device, frame = features.device, grid.h * grid.w
    alike = torch.full((grid.tokens,), -torch.inf, device=device)
    into = torch.arange(grid.tokens, device=device)
    stay = torch.stack([_stay(grid, t) for t in range(grid.t)]).to(device)  # [t, cells]
    cells, around = _cells(grid).to(device), _around(grid).to(device)
    for t in range(1, grid.t):
        if whole and t % whole == 0:
            continue
        first = max(0, min(t - 2, grid.t - 4))
        near = stay[first : first + 4].T
        candidates = torch.cat([near, stay[t][around]], 1)  # [cells, 8]
        some = features[:, t * frame + cells].float()  # [B, cells, 4, C]
        others = features[:, candidates].float()
        sizes = some.norm(dim=-1)[..., None] * others.norm(dim=-1)[:, :, None]
        found = ((some @ others.transpose(-1, -2)) / sizes.clamp_min(1e-12)).amin(0)
        best = found.max(-1)
        alike[t * frame + cells] = best.values
        into[t * frame + cells] = candidates.gather(1, best.indices)
        alike[stay[t]] = -torch.inf
    return alike, into


def merge_alike(alike: Tensor, into: Tensor, *, threshold: float, most: int) -> Merged:
    """Leaves out the `most` tokens that are most alike, and at least `threshold`; see `match_tokens`."""
    chosen = torch.zeros_like(alike, dtype=torch.bool)
    chosen[alike.topk(min(most, len(alike))).indices] = True
    left_out = chosen & (alike >= threshold)
    kept = ~left_out
    number = kept.cumsum(0) - 1
    stands = torch.where(left_out, number[into], number)
    return Merged(kept.nonzero()[:, 0], stands, torch.bincount(stands), stands.argsort(stable=True))


def _stay(grid: Grid, t: int) -> Tensor:
    """Numbers of the tokens of a frame of which one in each cell stays, `[cells]`."""
    down, right = _CORNERS[t % 4]
    rows = (torch.arange(0, grid.h, 2) + down).clamp_max(grid.h - 1)
    columns = (torch.arange(0, grid.w, 2) + right).clamp_max(grid.w - 1)
    return ((t * grid.h + rows[:, None]) * grid.w + columns).flatten()


def _cells(grid: Grid) -> Tensor:
    """Numbers in a frame of the four tokens of each cell, `[cells, 4]`; at odd ends some are there twice."""
    rows = (torch.arange(0, grid.h, 2)[:, None] + torch.arange(2)).clamp_max(grid.h - 1)
    columns = (torch.arange(0, grid.w, 2)[:, None] + torch.arange(2)).clamp_max(grid.w - 1)
    return (rows[:, None, :, None] * grid.w + columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _around(grid: Grid) -> Tensor:
    """Numbers of the cells around each cell, `[cells, 4]`; at the border the cell itself."""
    down, across = -(-grid.h // 2), -(-grid.w // 2)
    rows, columns = torch.arange(down)[:, None], torch.arange(across)
    each = [(rows + i).clamp(0, down - 1) * across + (columns + j).clamp(0, across - 1) for i, j in _AROUND]
    return torch.stack(each, -1).flatten(0, 1)
