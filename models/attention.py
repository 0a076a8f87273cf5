"""Attention between the tokens of a video, of four kinds that are exchangeable by name.

    attention(q, k, v, grid, kind="window", window=(3, 16, 16))

full: every token sees every other one; the cost grows with the square of their number. linear: softmax is replaced by
a product of features, so that keys and values are summed up once, whatever their number (Katharopoulos et al., ICML
2020, arXiv 2006.16236). performer: the same with random features whose product is softmax's kernel on average (FAVOR+,
Choromanski et al., ICLR 2021, arXiv 2009.14794). window: each tile of tokens sees a window of frames, rows and columns
around it, and the frames that are named as sinks; as large as the grid, it is full attention.

Queries, keys and values are `[B, heads, N, d]`, N = t * h * w in the order of frames, rows, columns. Causal means by
frames: a token sees its own frame and those before. The linear kinds keep what they saw in a state of constant size,
which carries on to later frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["full", "linear", "performer", "window"]
KINDS = ("full", "linear", "performer", "window")
TILE = (2, 8, 8)
"""Frames, rows and columns of the tokens that share a window."""
WINDOW = (4, 16, 16)
"""Frames, rows and columns that a tile sees."""
_AT_ONCE = 1 << 25  # values of keys that are gathered for windows at a time
_IN_CACHE = 1 << 17  # values of a head that linear kinds work on at a time
_LEAST = 1e-6  # sum of weights below which nothing was seen


class Grid(NamedTuple):
    """Frames, rows and columns of tokens."""

    t: int
    h: int
    w: int

    @property
    def tokens(self) -> int:
        return self.t * self.h * self.w


@dataclass
class State:
    """What linear attention saw: the sum of features times values, a last column summing the features alone.

    `sums` is float32 `[B, heads, features, d + 1]`. `level` `[B, heads, 1, 1]` is a logarithm that the sums were
    divided by; None where features need none.
    """

    sums: Tensor
    level: Tensor | None = None


def attention(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], *, kind: Kind = "full", **options: Any
) -> Tensor:
    """`[B, heads, N, d]` of `q`, `k` and `v`, by that kind.

    Options of all kinds: `causal` (by frames). linear: `feature` ("relu" or "elu"). performer: `features` (how many),
    `seed`. window: `window`, `tile` (frames, rows, columns), `sinks` (numbers of frames that all tokens see). Raises
    ValueError for shapes that do not fit the grid, an unknown kind or an option of another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown attention {kind!r}. Supported are {', '.join(KINDS)}.")
    size = Grid(*grid)
    for name, each in (("q", q), ("k", k), ("v", v)):
        if each.ndim != 4 or each.shape[:3] != q.shape[:3] or each.shape[2] != size.tokens:
            raise ValueError(
                f"Invalid {name} of shape {tuple(each.shape)}. It is [B, heads, {size.tokens}, d] for a grid of "
                f"{tuple(size)}, with B and heads as in q {tuple(q.shape)}."
            )
    try:
        return _BY_KIND[kind](q, k, v, size, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ValueError(f"Attention {kind!r} has no such option: {', '.join(options)}.") from error
        raise


def full(q: Tensor, k: Tensor, v: Tensor, grid: Grid, causal: bool = False) -> Tensor:
    """Softmax over all tokens, by torch's fastest kernel."""
    if not causal:
        return F.scaled_dot_product_attention(q, k, v)
    frame = grid.h * grid.w
    # a frame at a time: no mask, and half the work
    made = [
        F.scaled_dot_product_attention(q[:, :, i : i + frame], k[:, :, : i + frame], v[:, :, : i + frame])
        for i in range(0, grid.tokens, frame)
    ]
    return torch.cat(made, 2)


# -- linear kinds


def linear(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, causal: bool = False, feature: Literal["relu", "elu"] = "relu"
) -> Tensor:
    """Weights are products of features, which are relu(x) or elu(x) + 1."""
    return linear_with_state(q, k, v, grid, None, causal, feature)[0]


def linear_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Grid,
    state: State | None,
    causal: bool = True,
    feature: Literal["relu", "elu"] = "relu",
) -> tuple[Tensor, State]:
    """Linear attention that has seen what `state` holds (None: nothing), and the state after these frames."""
    if feature not in ("relu", "elu"):
        raise ValueError(f"Unknown feature {feature!r}. Supported are 'relu' and 'elu'.")

    def act(x: Tensor) -> Tensor:
        return F.relu(x.float()) if feature == "relu" else F.elu(x.float()) + 1

    return _accumulated(q, k, v, grid, state, causal, act, lambda x: (act(x), None))


def performer(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, causal: bool = False, features: int | None = None, seed: int = 0
) -> Tensor:
    """Weights are products of positive random features, softmax's on average; by default twice as many as d."""
    return performer_with_state(q, k, v, grid, None, causal, features, seed)[0]


def performer_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Grid,
    state: State | None,
    causal: bool = True,
    features: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, State]:
    """As `linear_with_state`."""
    size = q.shape[-1]
    directions = random_directions(features or 2 * size, size, seed).to(q.device)

    def query(x: Tensor) -> Tensor:
        logarithms = _logarithms(x.float() * size**-0.25, directions)
        return (logarithms - logarithms.amax(-1, keepdim=True)).exp()  # a factor for each query cancels out

    def key(x: Tensor) -> tuple[Tensor, Tensor]:
        logarithms = _logarithms(x.float() * size**-0.25, directions)
        level = logarithms.amax((-2, -1), keepdim=True)
        return (logarithms - level).exp(), level

    return _accumulated(q, k, v, grid, state, causal, query, key)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept is used in training, too
def random_directions(count: int, size: int, seed: int) -> Tensor:
    """float32 `[count, size]`: normal vectors of which each `size` in a row are at right angles to each other."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(-(-count // size)):
        turned, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
        lengths = torch.randn(size, size, generator=generator).norm(dim=1, keepdim=True)
        blocks.append(turned.T * lengths)
    return torch.cat(blocks)[:count]


def _logarithms(x: Tensor, directions: Tensor) -> Tensor:
    return x @ directions.T - x.square().sum(-1, keepdim=True) / 2


def _accumulated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Grid,
    state: State | None,
    causal: bool,
    query: Callable[[Tensor], Tensor],
    key: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, State]:
    """Outputs and the state; features are made by `query` and, with the level they were divided by, by `key`.

    Some tokens at a time: what is made of them stays in the processor's cache.
    """
    frame = grid.h * grid.w
    step = frame if causal else max(1, _IN_CACHE // q.shape[-1])
    parts = [slice(i, i + step) for i in range(0, grid.tokens, step)]
    made = []
    for part in parts:
        state = _added(state, *key(k[:, :, part]), v[:, :, part].float())
        if causal:
            made.append(_divided(query(q[:, :, part]) @ state.sums, v.dtype))
    assert state is not None
    if not causal:
        made = [_divided(query(q[:, :, part]) @ state.sums, v.dtype) for part in parts]
    return torch.cat(made, 2), state


def _added(state: State | None, features: Tensor, level: Tensor | None, values: Tensor) -> State:
    sums = torch.cat([features.transpose(-1, -2) @ values, features.sum(-2)[..., None]], -1)
    if state is None:
        return State(sums, level)
    if level is None or state.level is None:
        return State(state.sums + sums, level)
    top = torch.maximum(level, state.level)
    return State(state.sums * (state.level - top).exp() + sums * (level - top).exp(), top)


def _divided(weighted: Tensor, dtype: torch.dtype) -> Tensor:
    return (weighted[..., :-1] / weighted[..., -1:].clamp(min=_LEAST)).to(dtype)


# -- windows


class _Tiling(NamedTuple):
    """Which tokens belong together. `queries` `[tiles, Q]`, `keys` `[tiles, K]`: numbers of tokens.

    `seen` is bool `[tiles, Q or 1, K]`, or None where every query of a tile sees every key. `places` `[N]`: where a
    token's result lies among all queries.
    """

    queries: Tensor
    keys: Tensor
    seen: Tensor | None
    places: Tensor


def window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Grid,
    causal: bool = False,
    window: tuple[int, int, int] = WINDOW,
    tile: tuple[int, int, int] = TILE,
    sinks: tuple[int, ...] = (),
) -> Tensor:
    """Softmax over the window around each tile, and over the frames in `sinks`."""
    if min(window) < 1 or min(tile) < 1 or any(not 0 <= each < grid.t for each in sinks):
        raise ValueError(
            f"Invalid window {tuple(window)}, tile {tuple(tile)} or sinks {tuple(sinks)}. Sides are at least 1; sinks "
            f"are numbers of frames below {grid.t}."
        )
    if all(side >= whole for side, whole in zip(window, grid, strict=True)):
        return full(q, k, v, grid, causal)
    tiling = _tiling(grid, tuple(window), tuple(tile), tuple(sorted(set(sinks))), causal, q.device)
    B, heads, _, size = q.shape
    tiles, count = tiling.keys.shape
    made = []
    for some in torch.arange(tiles, device=q.device).split(max(1, _AT_ONCE // (B * heads * count * size))):
        parts = [_gathered(x, index[some]) for x, index in ((q, tiling.queries), (k, tiling.keys), (v, tiling.keys))]
        mask = None if tiling.seen is None else tiling.seen[some].repeat(B, 1, 1)[:, None]
        out = F.scaled_dot_product_attention(*parts, attn_mask=mask)
        made.append(out.view(B, len(some), heads, -1, v.shape[-1]))
    found = torch.cat(made, 1).transpose(1, 2).flatten(2, 3)
    return found[:, :, tiling.places]


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """`[B, heads, N, d]`, `[tiles, K]` -> `[B * tiles, heads, K, d]`."""
    B, heads, _, size = x.shape
    picked = x[:, :, index.flatten()].view(B, heads, *index.shape, size)
    return picked.transpose(1, 2).reshape(B * len(index), heads, index.shape[1], size)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _tiling(
    grid: Grid,
    window: tuple[int, ...],
    tile: tuple[int, ...],
    sinks: tuple[int, ...],
    causal: bool,
    device: torch.device,
) -> _Tiling:
    axes = [_axis(*sizes) for sizes in zip(grid, tile, window, strict=True)]
    queries, keys, own = [], [], []
    for t, h, w in product(*axes):
        queries.append(_numbers(grid, t[0], h[0], w[0]))
        keys.append(_numbers(grid, t[1], h[1], w[1]))
        own.append(_numbers(grid, t[2], h[2], w[2]))
    frame = grid.h * grid.w
    query, key = torch.stack(queries), torch.stack(keys)
    seen = None
    if sinks:
        extra = torch.cat([torch.arange(each * frame, (each + 1) * frame) for each in sinks])
        # a token of a sink in the window is seen as part of the sink alone, not twice
        fresh = ~torch.isin(key // frame, torch.tensor(sinks))
        seen = torch.cat([fresh, torch.ones(len(key), len(extra), dtype=torch.bool)], 1)[:, None]
        key = torch.cat([key, extra.expand(len(key), -1)], 1)
    if causal:
        before = key[:, None] // frame <= query[:, :, None] // frame
        seen = before if seen is None else before & seen
    places = torch.zeros(grid.tokens, dtype=torch.long)
    for number, (all_of, mine) in enumerate(zip(queries, own, strict=True)):
        position = torch.isin(all_of, mine).nonzero()[:, 0]
        places[all_of[position]] = number * len(all_of) + position
    if seen is not None and bool(seen.all()):
        seen = None
    return _Tiling(query.to(device), key.to(device), None if seen is None else seen.to(device), places.to(device))


def _axis(size: int, tile: int, window: int) -> list[tuple[range, range, range]]:
    """Along one axis, for each tile: its places, those of its window, and the places that no tile before had.

    All tiles have one size and all windows too: the last ones are moved back to lie within the grid.
    """
    tile, window = min(tile, size), min(max(window, tile), size)
    found = []
    for begin in range(0, size, tile):
        first = min(begin, size - tile)
        low = min(max(0, first + tile // 2 - window // 2), size - window)
        found.append((range(first, first + tile), range(low, low + window), range(begin, min(begin + tile, size))))
    return found


def _numbers(grid: Grid, frames: range, rows: range, columns: range) -> Tensor:
    t, h, w = (torch.arange(each.start, each.stop) for each in (frames, rows, columns))
    return ((t[:, None, None] * grid.h + h[:, None]) * grid.w + w).flatten()


_BY_KIND: dict[str, Callable[..., Tensor]] = {
    "full": full,
    "linear": linear,
    "performer": performer,
    "window": window,
}
