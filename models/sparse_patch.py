"""Attention of other people's video models, for less: each tile of tokens sees some of the keys, not all.

    run = SparseRun(SparseSettings(kind="window", density=0.15))
    run.attend(Forward(Grid(21, 30, 52)), backend, (q, k, v, heads), {})

window: the keys in a window around the tile, as sliding tile attention has it (Zhang et al., ICML 2025, arXiv
2502.04507). top-k: the cubes of keys whose mean fits the tile's mean query best, chosen for each head (after VSA, Zhang
et al., NeurIPS 2025, arXiv 2505.13389). Each of the others counts as one key and value, so that nothing is left out
altogether: the means of its keys and values, as the tile's mean query would weigh them, and with the weight that it
would give to all of them. This is exact for the mean query, and for others up to the second term around it.

Tiles and cubes lie in the real grid of frames, rows and columns, of any size; tokens outside of it and, where asked,
the first frame are seen by all. Every tile is a dense call of the attention that the model had before, so that it works
with any head size, any device and any kernel. Where all keys are to be seen that attention is called as ever: the
result is the same, bit for bit.

linear and performer are there for models that were trained with them. In others they are about as good as the mean of
all values: their weights cannot be as sharp as softmax's, on which such a model relies.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import Grid, linear, performer
from .attention_calls import WEIGHT_CHANNELS, AttentionCall, Gate, Place, Run, room_for_weights
from .flex_windows import windows_by_flex
from .token_tiles import Cubes, Tiling, tile_for_choice, tile_for_windows

SparseKind = Literal["window", "top-k", "linear", "performer"]
SPARSE_KINDS: tuple[SparseKind, ...] = get_args(SparseKind)
WindowKernel = Literal["tiles", "flex"]
WINDOW_KERNELS: tuple[WindowKernel, ...] = get_args(WindowKernel)
TILES = {"window": (4, 8, 8), "top-k": (4, 8, 8)}
"""Frames, rows and columns of the queries that share their keys: what one choice suits is smaller."""
LARGE_TILES = {"window": (4, 16, 16), "top-k": (4, 8, 16)}
"""Those on a GPU, where to copy the keys of a tile takes as long as to compute with them for some hundred queries."""
CUBE = (2, 4, 4)
"""Frames, rows and columns of the keys that are chosen together."""
_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26, "": 1 << 25}
"""Values of keys that are gathered at a time: what fits into a cache, or memory."""
_HEADS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25, "": 1 << 24}
"""Values of keys that are widened to 32 bits, cube by cube."""
_SUMMED_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 25, "": 1 << 24}
"""Values of keys that stand for cubes."""
_SURE = 1e4  # of score, for cubes that are chosen before others
_NOTHING = -1e4  # score of keys that are not to count, also in 16 bits


@dataclass(frozen=True)
class SparseSettings:
    """`density` is the share of the keys that a tile sees, those that all see not counted, in (0, 1].

    `kernel`: "flex" has windows computed by FlexAttention where that is faster.
    `window`, in tokens, overrides it for that kind: frames, rows, columns. `tile`: None is that of `TILES`, or of
    `LARGE_TILES`. `first_frame`: all tokens see it. `summary`: of top-k, all that a tile does not see counts as one key
    for each cube; these keys are part of the density.
    """

    kind: SparseKind = "window"
    density: float = 0.15
    window: tuple[int, int, int] | None = None
    tile: tuple[int, int, int] | None = None
    cube: tuple[int, int, int] = CUBE
    first_frame: bool = True
    kernel: WindowKernel = "tiles"
    summary: bool = True

    def __post_init__(self) -> None:
        if self.kind not in SPARSE_KINDS:
            raise ValueError(f"Unknown attention {self.kind!r}. Supported are {', '.join(SPARSE_KINDS)}.")
        if self.kernel not in WINDOW_KERNELS:
            raise ValueError(f"Unknown kernel {self.kernel!r}. Supported are {', '.join(WINDOW_KERNELS)}.")
        if not 0 < self.density <= 1:
            raise ValueError(f"Invalid density {self.density}. It is above 0 and at most 1.")
        sides = (*(self.tile or ()), *self.cube, *(self.window or ()))
        if min(sides) < 1:
            raise ValueError(
                f"Invalid tile {self.tile}, cube {self.cube} or window {self.window}. Sides are at least 1."
            )


class SparseRun(Run):
    """Sparse attention while a model samples once."""

    takes_merged = True

    def __init__(self, settings: SparseSettings, gate: Gate | None = None):
        super().__init__("Efficient Attention", gate or Gate())
        self.settings = settings
        self._tilings: dict[tuple[Place, torch.device], Tiling | None] = {}

    def answer(self, call: AttentionCall, place: Place) -> Tensor:
        """What the call gives, or nearly so."""
        if self.settings.kind in ("linear", "performer"):
            return self._without_softmax(call, place)
        tiling = self._tiling(place, call.q.device)
        if tiling is None:
            self.ran_dense("all keys are to be seen", asked=True)
            return call.dense()
        self.ran_patched(tiling.density)
        if tiling.cubes is None and self.settings.kernel == "flex":
            windows = [(tiles.queries, tiles.keys) for tiles in tiling.tiles]
            made = windows_by_flex(call, place, windows, tiling.sinks, lambda: _by_window(call, tiling), self.settings)
        else:
            made = _by_window(call, tiling) if tiling.cubes is None else _by_choice(call, tiling)
        if len(tiling.others):
            rows = call.rows()
            made[:, tiling.others] = call.part(rows[0][:, tiling.others], *rows[1:], call.heads, _whole_mask(call))
        return call.answer(made)

    def finish(self) -> None:
        self._tilings.clear()
        super().finish()

    def _tiling(self, place: Place, device: torch.device) -> Tiling | None:
        key = (place, device)
        if key not in self._tilings:
            if len(self._tilings) > 8:  # context windows of many shapes
                self._tilings.clear()
            self._tilings[key] = self._tiled(place, device)
        return self._tilings[key]

    def _tiled(self, place: Place, device: torch.device) -> Tiling | None:
        asked = self.settings
        tile = asked.tile or (TILES if device.type == "cpu" else LARGE_TILES)[asked.kind]
        more: Any = {"density": asked.density, "first_frame": asked.first_frame}
        if asked.kind == "window":
            tiling = tile_for_windows(place, tile, window=asked.window, **more)
        else:
            tiling = tile_for_choice(place, tile, asked.cube, summed=asked.summary, **more)
        return None if tiling is None else tiling.to(device)

    def _without_softmax(self, call: AttentionCall, place: Place) -> Tensor:
        if call.mask is not None or place.kept is not None:
            self.ran_dense("a mask or merged tokens, with attention that has no softmax")
            return call.dense()
        q, k, v = call.by_heads()
        kind, times = (linear, 1) if self.settings.kind == "linear" else (performer, 2)  # as many features as channels
        self.ran_patched(min(1.0, times * q.shape[-1] / call.keys))
        return call.answer(kind(q, k, v, Grid(1, 1, call.keys)).transpose(1, 2).flatten(2))


# -- calls


def _by_window(call: AttentionCall, tiling: Tiling) -> Tensor:
    """`[B, N, heads * d]`, what is outside of the grid left open."""
    q, k, v = call.rows()
    B, _, width = v.shape
    mask = call.key_mask()
    made = v.new_empty(B, call.queries, width)
    for tiles in tiling.tiles:
        count = max(1, _at_once(v.device, _AT_ONCE) // (B * tiles.keys.shape[1] * width))
        for queries, keys in zip(tiles.queries.split(count), tiles.keys.split(count), strict=True):
            hidden = None
            if mask is not None:
                hidden = mask[:, keys].expand(B, -1, -1).flatten(0, 1)[:, None]  # [B * tiles, 1, K]
            some = call.part(_picked(q, queries), _picked(k, keys), _picked(v, keys), call.heads, hidden)
            made[:, queries.flatten()] = some.reshape(B, -1, width)
    return made


def _by_choice(call: AttentionCall, tiling: Tiling) -> Tensor:
    """As `_by_window`; each head chooses for itself."""
    q, k, v = (each.flatten(0, 1) for each in call.by_heads())  # [B * heads, N, d]
    everyone, N, d = v.shape
    mask = call.key_mask()
    if mask is not None:
        mask = mask.expand(everyone // call.heads, -1).repeat_interleave(call.heads, 0)
    made = v.new_empty(everyone, call.queries, d)
    for some in torch.arange(everyone).split(max(1, _at_once(v.device, _HEADS_AT_ONCE) // (N * d))):
        part = slice(int(some[0]), int(some[-1]) + 1)
        hidden = None if mask is None else mask[part]
        made[part] = _by_some(call, tiling, (q[part], k[part], v[part]), hidden)
    return made.unflatten(0, (-1, call.heads)).transpose(1, 2).flatten(2)


def _by_some(call: AttentionCall, tiling: Tiling, heads: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Of some heads: q, k, v `[heads, N, d]` and mask `[heads, N]` -> `[heads, N, d]`, likewise."""
    q, k, v = heads
    cubes, d = tiling.cubes, v.shape[-1]
    assert cubes is not None
    scale = d**-0.5 if call.scale is None else call.scale
    summed = tiling.summed and mask is None  # what is hidden must not be summed up
    inside = _Inside.of(k, v, cubes) if summed else None
    moments = None if summed else _moments(k, cubes)
    asking, seen, said = room_for_weights(q, k, v, call.scale) if summed else heads
    # kernels of few bits know few sizes of heads
    told: dict[str, Any] = {"low_precision_attention": False} if summed else {}
    rows = [each.reshape(-1, each.shape[-1]) for each in (seen, said)]
    lines = torch.arange(len(v), device=v.device)[:, None, None]
    made = torch.empty_like(q)
    for tiles in tiling.tiles:
        most = max(1, _at_once(v.device, _SUMMED_AT_ONCE) // (len(v) * len(cubes.sizes) * d))
        count = max(1, _at_once(v.device, _AT_ONCE) // (len(v) * (tiling.budget + len(tiling.sinks)) * d))
        for queries, own in zip(tiles.queries.split(most), tiles.own.split(most), strict=True):
            asked = q[:, queries].float().mean(2) * scale
            if inside is not None:
                scores, more = inside.summed(asked)
            else:  # what is near is worth more only where the rest is not summed up
                assert moments is not None
                likely, more = torch.cat([asked, asked.square()], -1) @ moments.transpose(-1, -2), None
                scores = torch.where(own, likely + _SURE, likely)
            keys, whole = _chosen(scores, tiling)
            for some in torch.arange(len(queries)).split(min(count, most)):
                part = slice(int(some[0]), int(some[-1]) + 1)
                hidden = None if mask is None else mask[lines, keys[:, part]].flatten(0, 1)[:, None]
                index = (keys[:, part] + lines * v.shape[1]).flatten(0, 1)
                given = [each.index_select(0, index.flatten()).unflatten(0, index.shape) for each in rows]
                if more is not None:
                    given[0][..., d] = whole.weights(part, keys.shape[-1], v.dtype)
                    given = [torch.cat(pair, 1) for pair in zip(given, more.of(part, whole, v.dtype), strict=True)]
                found = call.part(asking[:, queries[part]].flatten(0, 1), given[0], given[1], 1, hidden, **told)
                made[:, queries[part].flatten()] = found[..., :d].reshape(len(v), -1, d)
    return made


class _Sums(NamedTuple):
    """Of cubes, for each tile: mean keys and values `[heads, tiles, cubes, d]`, and weights `[heads, tiles, cubes]`."""

    keys: Tensor
    values: Tensor
    weights: Tensor

    def of(self, tiles: slice, whole: "_Whole", dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`[heads * tiles, cubes, C]` of some tiles, with room for weights; cubes seen as a whole do not count."""
        keys, values = (F.pad(each[:, tiles], (0, WEIGHT_CHANNELS)) for each in (self.keys, self.values))
        keys[..., -WEIGHT_CHANNELS] = self.weights[:, tiles].masked_fill(whole.cubes[:, tiles], _NOTHING)
        return keys.to(dtype).flatten(0, 1), values.to(dtype).flatten(0, 1)


class _Whole(NamedTuple):
    """Which cubes a tile sees as a whole, bool `[heads, tiles, cubes]`, and of how many keys `[heads, tiles, 1]`.

    The keys that are chosen after those are of a cube that is cut.
    """

    cubes: Tensor
    keys: Tensor
    budget: int

    def weights(self, tiles: slice, keys: int, dtype: torch.dtype) -> Tensor:
        """`[heads * tiles, keys]`: those of a cube that is cut do not count, as all of it is summed up."""
        number = torch.arange(keys, device=self.keys.device)
        cut = (number >= self.keys[:, tiles]) & (number < self.budget)
        return torch.zeros((), dtype=dtype, device=cut.device).masked_fill(cut, _NOTHING).flatten(0, 1)


class _Inside(NamedTuple):
    """Keys and values by cubes, float32 `[heads, cubes, most, d]`; which count, bool `[cubes, most]`."""

    keys: Tensor
    values: Tensor
    counts: Tensor

    @classmethod
    def of(cls, k: Tensor, v: Tensor, cubes: Cubes) -> "_Inside":
        return cls(k[:, cubes.tokens].float(), v[:, cubes.tokens].float(), _counts(cubes))

    def summed(self, asked: Tensor) -> tuple[Tensor, _Sums]:
        """How much each cube weighs for mean queries `[heads, tiles, d]`, and what stands for it.

        The logarithm of a cube's weight changes with the query as the mean of its keys says, each with its share in the
        weight; that is the first term around the mean query. What is left there is the entropy of the shares.
        """
        cubes, most = self.counts.shape
        scores = (asked @ self.keys.flatten(1, 2).transpose(-1, -2)).unflatten(-1, (cubes, most))
        scores = scores.masked_fill(~self.counts, -torch.inf)
        weight = scores.logsumexp(-1)
        shares = (scores - weight[..., None]).exp().transpose(1, 2)  # [heads, cubes, tiles, most]
        keys, values = ((shares @ each).transpose(1, 2) for each in (self.keys, self.values))
        return weight, _Sums(keys, values, weight - (keys * asked[:, :, None]).sum(-1))


def _counts(cubes: Cubes) -> Tensor:
    """bool `[cubes, most]`: which tokens count"""
    return torch.arange(cubes.tokens.shape[1], device=cubes.sizes.device) < cubes.sizes[:, None]


def _moments(x: Tensor, cubes: Cubes) -> Tensor:
    """`[heads, N, d]` -> float32 `[heads, cubes, 2 * d]`: means of cubes and, after them, half their variances.

    What a cube weighs is the mean of exponentials, of which mean and half the variance of the scores are the
    logarithm's first two terms. Where nothing else of a cube counts, this chooses better than the weight itself.
    """
    inside, shares = x[:, cubes.tokens].float(), _counts(cubes) / cubes.sizes[:, None]
    means = torch.einsum("hcnd,cn->hcd", inside, shares)
    spread = torch.einsum("hcnd,cn->hcd", (inside - means[:, :, None]).square(), shares)
    return torch.cat([means, spread / 2], -1)


def _chosen(scores: Tensor, tiling: Tiling) -> tuple[Tensor, _Whole]:
    """`[heads, tiles, K]`: the keys of the cubes of the largest `scores`, as many for all, and those that all see.

    The last cube is cut where it is too many.
    """
    cubes = tiling.cubes
    assert cubes is not None
    order = scores.topk(min(len(cubes.sizes), -(-tiling.budget // cubes.least))).indices
    sizes = cubes.sizes[order]
    ends = sizes.cumsum(-1)
    fits = ends <= tiling.budget
    seen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, fits)
    whole = _Whole(seen, (sizes * fits).sum(-1, keepdim=True), tiling.budget)
    if cubes.alike:
        tokens = cubes.tokens[order].flatten(2)[..., : tiling.budget]
    else:
        wanted = torch.arange(tiling.budget, device=order.device).expand(*order.shape[:2], -1).contiguous()
        at = torch.searchsorted(ends, wanted, right=True)
        tokens = cubes.tokens[order.gather(-1, at), wanted - (ends - sizes).gather(-1, at)]
    return torch.cat([tokens, tiling.sinks.expand(*tokens.shape[:2], -1)], -1), whole


def _picked(x: Tensor, index: Tensor) -> Tensor:
    """`[B, N, C]`, `[tiles, K]` -> `[B * tiles, K, C]`"""
    if len(x) == 1:  # several times as fast, as rows are copied whole
        return x[0].index_select(0, index.flatten()).unflatten(0, index.shape)
    return x.index_select(1, index.flatten()).unflatten(1, index.shape).flatten(0, 1)


def _whole_mask(call: AttentionCall) -> Tensor | None:
    mask = call.key_mask()
    return None if mask is None else mask[:, None].expand(call.q.shape[0], -1, -1)


def _at_once(device: torch.device, most: dict[str, int]) -> int:
    return most.get(device.type, most[""])
