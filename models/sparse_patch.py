"""Attention of other people's video models, for less: each tile of tokens sees some of the keys, not all.

    run = SparseRun(SparseSettings(kind="window", density=0.15))
    run.attend(Forward(Grid(21, 30, 52)), backend, (q, k, v, heads), {})

window: the keys in a window around the tile, as sliding tile attention has it (Zhang et al., ICML 2025, arXiv
2502.04507). top-k: the cubes of keys whose mean fits the tile's mean query best, chosen for each head (after VSA, Zhang
et al., NeurIPS 2025, arXiv 2505.13389). Tiles and cubes lie in the real grid of frames, rows and columns, of any size;
tokens outside of it and, where asked, the first frame are seen by all. Every tile is a dense call of the attention that
the model had before, so that it works with any head size, any device and any kernel. Where all keys are to be seen that
attention is called as ever: the result is the same, bit for bit.

linear and performer are there for models that were trained with them. In others they are about as good as the mean of
all values: their weights cannot be as sharp as softmax's, on which such a model relies.
"""

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .attention import Grid, linear, performer
from .attention_calls import AttentionCall, Gate, Place, Run

SparseKind = Literal["window", "top-k", "linear", "performer"]
SPARSE_KINDS: tuple[SparseKind, ...] = get_args(SparseKind)
TILES = {"window": (4, 8, 8), "top-k": (4, 4, 4)}
"""Frames, rows and columns of the queries that share their keys: what one choice suits is smaller."""
CUBE = (2, 4, 4)
"""Frames, rows and columns of the keys that are chosen together."""
_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}  # values of keys that are gathered at a time: cache, or memory
_AT_ONCE_ELSEWHERE = 1 << 25
_SURE = 1e30  # score of cubes that are always chosen


@dataclass(frozen=True)
class SparseSettings:
    """`density` is the share of the keys that a tile sees, those that all see not counted, in (0, 1].

    `window`, in tokens, overrides it for that kind: frames, rows, columns. `tile`: None is that of `TILES`.
    `first_frame`: all tokens see it.
    """

    kind: SparseKind = "window"
    density: float = 0.15
    window: tuple[int, int, int] | None = None
    tile: tuple[int, int, int] | None = None
    cube: tuple[int, int, int] = CUBE
    first_frame: bool = True

    def __post_init__(self) -> None:
        if self.kind not in SPARSE_KINDS:
            raise ValueError(f"Unknown attention {self.kind!r}. Supported are {', '.join(SPARSE_KINDS)}.")
        if not 0 < self.density <= 1:
            raise ValueError(f"Invalid density {self.density}. It is above 0 and at most 1.")
        sides = (*(self.tile or ()), *self.cube, *(self.window or ()))
        if min(sides) < 1:
            raise ValueError(
                f"Invalid tile {self.tile}, cube {self.cube} or window {self.window}. Sides are at least 1."
            )


class SparseRun(Run):
    """Sparse attention while a model samples once."""

    def __init__(self, settings: SparseSettings, gate: Gate | None = None):
        super().__init__("Efficient Attention", gate or Gate())
        self.settings = settings
        self._tilings: dict[tuple[Place, torch.device], _Tiling | None] = {}

    def answer(self, call: AttentionCall, place: Place) -> Tensor:
        """What the call gives, or nearly so."""
        if self.settings.kind in ("linear", "performer"):
            return self._without_softmax(call)
        tiling = self._tiling(place, call.q.device)
        if tiling is None:
            self.ran_dense("all keys are to be seen", asked=True)
            return call.dense()
        self.ran_patched(tiling.density)
        made = _by_window(call, tiling) if self.settings.kind == "window" else _by_choice(call, tiling)
        if len(tiling.others):
            rows = call.rows()
            made[:, tiling.others] = call.part(rows[0][:, tiling.others], *rows[1:], call.heads, _whole_mask(call))
        return call.answer(made)

    def finish(self) -> None:
        self._tilings.clear()
        super().finish()

    def _tiling(self, place: Place, device: torch.device) -> "_Tiling | None":
        key = (place, device)
        if key not in self._tilings:
            if len(self._tilings) > 8:  # context windows of many shapes
                self._tilings.clear()
            self._tilings[key] = _tiled(place, self.settings, device)
        return self._tilings[key]

    def _without_softmax(self, call: AttentionCall) -> Tensor:
        if call.mask is not None:
            self.ran_dense("a mask, with attention that has no softmax")
            return call.dense()
        q, k, v = call.by_heads()
        kind, times = (linear, 1) if self.settings.kind == "linear" else (performer, 2)  # as many features as channels
        self.ran_patched(min(1.0, times * q.shape[-1] / call.keys))
        return call.answer(kind(q, k, v, Grid(1, 1, call.keys)).transpose(1, 2).flatten(2))


# -- tiles


class _Tiles(NamedTuple):
    """Tiles of one size. `queries` `[tiles, Q]` and `keys` `[tiles, K]` are numbers of tokens.

    For a choice, `keys` `[tiles, 0]` is empty, and `own` bool `[tiles, cubes]` tells the cubes that overlap a tile.
    """

    queries: Tensor
    keys: Tensor
    own: Tensor


class _Cubes(NamedTuple):
    """`tokens` `[cubes, most]`: numbers of a cube's tokens, of which the first `sizes` `[cubes]` count."""

    tokens: Tensor
    sizes: Tensor
    least: int
    alike: bool


class _Tiling(NamedTuple):
    """What is computed. `sinks` are numbers of tokens that all see, `others` those outside of the grid."""

    tiles: list[_Tiles]
    cubes: _Cubes | None
    budget: int
    sinks: Tensor
    others: Tensor
    density: float


def _tiled(place: Place, settings: SparseSettings, device: torch.device) -> _Tiling | None:
    """None where all keys are to be seen."""
    grid = place.grid
    outside = [*range(place.before), *range(place.before + grid.tokens, place.tokens)]
    others = torch.tensor(outside, dtype=torch.long)
    first = 1 if settings.first_frame and grid.t > 1 else 0
    sides = (grid.t - first, grid.h, grid.w)
    sinks = torch.cat([others, place.before + torch.arange(first * grid.h * grid.w)])
    parts = [_parts(*sizes) for sizes in zip(grid, settings.tile or TILES[settings.kind], strict=True)]
    boxes = list(product(*parts))
    if settings.kind == "window":
        found = _windows(place, first, sides, parts, settings)
        cubes, budget = None, len(found[0]) if found else 0
    else:
        body = sides[0] * sides[1] * sides[2]
        budget = max(1, round(settings.density * body))
        cubes = _cubed(place, first, sides, settings.cube) if budget < body else None
        found = [] if cubes is None else [torch.zeros(0, dtype=torch.long)] * len(boxes)
    if not found:
        return None
    by_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for box, keys in zip(boxes, found, strict=True):
        queries = _numbers(place, *box)
        by_size.setdefault(len(queries), []).append((queries, torch.cat([keys, sinks]) if len(keys) else keys))
    tiles = []
    for some in by_size.values():
        queries = torch.stack([each for each, _ in some])
        keys = torch.stack([each for _, each in some])
        own = torch.zeros(0) if cubes is None else _overlaps(queries, cubes)
        tiles.append(_Tiles(queries.to(device), keys.to(device), own.to(device)))
    seen = budget + len(sinks) * (settings.kind == "top-k") if cubes else len(tiles[0].keys[0])
    density = (grid.tokens * seen + len(others) * place.tokens) / place.tokens**2
    if cubes is not None:
        cubes = cubes._replace(tokens=cubes.tokens.to(device), sizes=cubes.sizes.to(device))
    return _Tiling(tiles, cubes, budget, sinks.to(device), others.to(device), density)


def _parts(side: int, tile: int, first: int = 0) -> list[range]:
    """A side in parts of about that length, their lengths at most 1 apart; numbers begin at `first`."""
    count = max(1, round(side / tile))
    ends = [first + side * i // count for i in range(count + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def _windows(
    place: Place, first: int, sides: tuple[int, int, int], parts: list[list[range]], settings: SparseSettings
) -> list[Tensor]:
    """For each tile the numbers of the keys in its window, as many for all; none where windows see everything."""
    asked = settings.window or tuple(-(-side * settings.density ** (1 / 3) // 1) for side in sides)
    begins = (first, 0, 0)
    axes: list[list[range]] = []
    for side, begin, wide, some in zip(sides, begins, asked, parts, strict=True):
        wide = min(max(int(wide), max(map(len, some))), side)
        lows = [min(max(begin, (part.start + part.stop - wide) // 2), begin + side - wide) for part in some]
        axes.append([range(low, low + wide) for low in lows])
    if all(len(axis[0]) == side for axis, side in zip(axes, sides, strict=True)):
        return []
    return [_numbers(place, *box) for box in product(*axes)]


def _cubed(place: Place, first: int, sides: tuple[int, int, int], cube: tuple[int, int, int]) -> _Cubes:
    parts = [_parts(side, size, begin) for side, size, begin in zip(sides, cube, (first, 0, 0), strict=True)]
    cubes = [_numbers(place, *box) for box in product(*parts)]
    sizes = torch.tensor([len(each) for each in cubes])
    most = int(sizes.max())
    tokens = torch.stack([torch.cat([each, each[-1:].expand(most - len(each))]) for each in cubes])
    return _Cubes(tokens, sizes, int(sizes.min()), bool((sizes == most).all()))


def _overlaps(queries: Tensor, cubes: _Cubes) -> Tensor:
    """bool `[tiles, cubes]`"""
    highest = int(max(queries.max(), cubes.tokens.max())) + 1
    cube_of = torch.full((highest,), -1, dtype=torch.long)
    cube_of[cubes.tokens] = torch.arange(len(cubes.tokens))[:, None]
    own = torch.zeros(len(queries), len(cubes.tokens) + 1, dtype=torch.bool)
    own.scatter_(1, cube_of[queries] % (len(cubes.tokens) + 1), True)  # -1, no cube's, falls into the last column
    return own[:, :-1]


def _numbers(place: Place, frames: range, rows: range, columns: range) -> Tensor:
    t, h, w = (torch.arange(each.start, each.stop) for each in (frames, rows, columns))
    return place.before + ((t[:, None, None] * place.grid.h + h[:, None]) * place.grid.w + w).flatten()


# -- calls


def _by_window(call: AttentionCall, tiling: _Tiling) -> Tensor:
    """`[B, N, heads * d]`, what is outside of the grid left open."""
    q, k, v = call.rows()
    B, N, width = v.shape
    mask = call.key_mask()
    made = v.new_empty(B, N, width)
    for tiles in tiling.tiles:
        count = max(1, _at_once(v.device) // (B * tiles.keys.shape[1] * width))
        for queries, keys in zip(tiles.queries.split(count), tiles.keys.split(count), strict=True):
            hidden = None
            if mask is not None:
                hidden = mask[:, keys].expand(B, -1, -1).flatten(0, 1)[:, None]  # [B * tiles, 1, K]
            some = call.part(_picked(q, queries), _picked(k, keys), _picked(v, keys), call.heads, hidden)
            made[:, queries.flatten()] = some.reshape(B, -1, width)
    return made


def _by_choice(call: AttentionCall, tiling: _Tiling) -> Tensor:
    """As `_by_window`; each head chooses for itself."""
    assert tiling.cubes is not None
    q, k, v = (each.flatten(0, 1) for each in call.by_heads())  # [B * heads, N, d]
    everyone, N, d = v.shape
    mask = call.key_mask()
    if mask is not None:
        mask = mask.expand(everyone // call.heads, -1).repeat_interleave(call.heads, 0)
    scale = d**-0.5 if call.scale is None else call.scale
    made = v.new_empty(everyone, N, d)
    at_once = _at_once(v.device)
    for some in torch.arange(everyone).split(max(1, at_once // (N * d))):
        part = slice(int(some[0]), int(some[-1]) + 1)
        pooled = _moments(k[part], tiling.cubes)
        for tiles in tiling.tiles:
            count = max(1, at_once // (len(some) * (tiling.budget + len(tiling.sinks)) * d))
            for queries, own in zip(tiles.queries.split(count), tiles.own.split(count), strict=True):
                asking = q[part][:, queries]  # [some, tiles, Q, d]
                keys = _chosen(asking.float().mean(2) * scale, pooled, own, tiling)
                lines = torch.arange(len(some), device=v.device)[:, None, None]
                hidden = None if mask is None else mask[part][lines, keys].flatten(0, 1)[:, None]
                seen, said = (each[part][lines, keys].flatten(0, 1) for each in (k, v))  # [some * tiles, K, d]
                found = call.part(asking.flatten(0, 1), seen, said, 1, hidden)
                made[part, queries.flatten()] = found.reshape(len(some), -1, d)
    return made.unflatten(0, (-1, call.heads)).transpose(1, 2).flatten(2)


def _chosen(asking: Tensor, pooled: Tensor, own: Tensor, tiling: _Tiling) -> Tensor:
    """`[heads, tiles, K]`: the keys of the cubes that fit best, as many for all, and those that all see.

    `asking` `[heads, tiles, d]`: mean queries; `pooled`: see `_moments`. What a cube weighs in softmax is the mean of
    exponentials, of which mean and half the variance of the scores are the logarithm's first two terms. The last cube
    is cut where it is too many.
    """
    cubes = tiling.cubes
    assert cubes is not None
    scores = torch.cat([asking, asking.square()], -1) @ pooled.transpose(-1, -2)
    scores = scores.masked_fill(own, _SURE)
    order = scores.topk(min(len(cubes.sizes), -(-tiling.budget // cubes.least))).indices
    if cubes.alike:
        tokens = cubes.tokens[order].flatten(2)[..., : tiling.budget]
    else:
        sizes = cubes.sizes[order]
        ends = sizes.cumsum(-1)
        wanted = torch.arange(tiling.budget, device=order.device).expand(*order.shape[:2], -1).contiguous()
        at = torch.searchsorted(ends, wanted, right=True)
        tokens = cubes.tokens[order.gather(-1, at), wanted - (ends - sizes).gather(-1, at)]
    return torch.cat([tokens, tiling.sinks.expand(*tokens.shape[:2], -1)], -1)


def _moments(x: Tensor, cubes: _Cubes) -> Tensor:
    """`[heads, N, d]` -> float32 `[heads, cubes, 2 * d]`: means of cubes and, after them, half their variances."""
    most = cubes.tokens.shape[1]
    counts = torch.arange(most, device=x.device) < cubes.sizes[:, None]
    weights = counts / cubes.sizes[:, None]
    inside = x[:, cubes.tokens].float()
    means = torch.einsum("bcnd,cn->bcd", inside, weights)
    spread = torch.einsum("bcnd,cn->bcd", (inside - means[:, :, None]).square(), weights)
    return torch.cat([means, spread / 2], -1)


def _picked(x: Tensor, index: Tensor) -> Tensor:
    """`[B, N, C]`, `[tiles, K]` -> `[B * tiles, K, C]`"""
    return x[:, index].flatten(0, 1)


def _whole_mask(call: AttentionCall) -> Tensor | None:
    mask = call.key_mask()
    return None if mask is None else mask[:, None].expand(call.q.shape[0], -1, -1)


def _at_once(device: torch.device) -> int:
    return _AT_ONCE.get(device.type, _AT_ONCE_ELSEWHERE)
