"""Windows of keys by torch's FlexAttention: one compiled kernel in place of a call of attention for some tiles each.

    flex = FlexWindows(windows, sinks, place)
    flex(q, k, v)

What it gives is what attention of each tile gives, up to rounding (Dong et al., MLSys 2025, arXiv 2412.05496). It is
never required: `windows_by_flex` tries it on the first call of each size, and tiles answer where it cannot be compiled,
says something else or takes longer.

The kernel skips blocks of 128 queries and 128 keys that do not see each other, and looks at single tokens only in
blocks that do so in part. There are few of these if tokens that the same windows hold lie together, so keys are put in
the order of these cells and queries in that of their windows, in lines that run to and fro. Which token sees which is
told by bits: each side of a window is one, a query has those of its window's three sides, and a key that has all three
is seen.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention_calls import AttentionCall, Place

logger = logging.getLogger(__name__)

BLOCK = 128
"""Queries and keys of a block: what the kernel is tuned for on every device."""
_BITS = 63
_MOST = 8
"""So many sizes are kept; the one unused for longest is tried anew."""
_TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}
"""Relative error up to which two answers are the same: kernels round scores and weights differently, some a lot."""


class FlexWindows:
    """Attention of tiles of a grid to windows of it, and to tokens that all see.

    `windows` are tiles of a size: numbers of their queries `[tiles, Q]` and of the keys they see `[tiles, K]`. The keys
    are a box of the grid and `sinks`, numbers of tokens; those outside of the grid must be among these. Raises
    ValueError for other windows, or too many.
    """

    def __init__(self, windows: Sequence[tuple[Tensor, Tensor]], sinks: Tensor, place: Place):
        bits = _bits(windows, sinks, place)
        queries, self._asked = _ordered(torch.cat([each.flatten() for each, _ in windows]), bits.asked, bits.sides)
        keys, self._held = _ordered(torch.arange(place.tokens, device=sinks.device), bits.held, bits.sides)
        self._count = len(queries)
        # in a block that is filled up, queries are there twice and keys are token 0, which nobody sees there
        self._queries, self._keys = _filled(queries, queries[-1]), _filled(keys, 0)
        self._asked, self._held = _filled(self._asked, self._asked[-1]), _filled(self._held, 0)
        self._blocks: Any = None
        self._kernel: Callable[..., Tensor] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """`[B, heads, N, d]` of q, k and v; rows of tokens outside of the grid are left open.

        Compiled when it is called first. Raises what the compiler does where it cannot be, and RuntimeError where
        compiling is switched off: not compiled, it would need memory for every pair of tokens.
        """
        self._kernel = self._kernel or _compiled()
        asking = q.index_select(2, self._queries)
        seen, said = (each.index_select(2, self._keys) for each in (k, v))
        made = self._kernel(asking, seen, said, self.blocks, scale)
        B, heads, N, d = v.shape
        answer = v.new_empty(B, N, heads, d).transpose(1, 2)  # as callers want it: a token's heads side by side
        answer[:, :, self._queries[: self._count]] = made[:, :, : self._count]
        return answer

    @property
    def blocks(self) -> Any:
        """torch's BlockMask of queries and keys in their orders, filled up to whole blocks."""
        if self._blocks is None:
            self._blocks = _blocks(self._asked, self._held)
        return self._blocks


def windows_by_flex(
    call: AttentionCall,
    place: Place,
    windows: Sequence[tuple[Tensor, Tensor]],
    sinks: Tensor,
    tiles: Callable[[], Tensor],
    kind: Hashable = None,
) -> Tensor:
    """`[B, N, heads * d]` by the faster of FlexAttention and `tiles`, which answers the call in the same way.

    `kind` tells windows from others in that place. Says once for each size what is used, and why.
    """
    size: Hashable = (call.q.shape, call.heads, call.q.dtype, call.q.device, call.scale)
    obstacle = "tokens were merged" if place.kept is not None else None if call.mask is None else "a mask hides keys"
    key = (kind, place._replace(kept=None), obstacle or size)  # merged tokens are not as many in each call
    if key not in _KEPT:
        _KEPT[key] = None if obstacle else _tried(call, place, windows, sinks, tiles)
        if obstacle:
            _refused(obstacle)
        if len(_KEPT) > _MOST:
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    flex = _KEPT[key]
    if flex is not None:
        try:
            return _by_rows(flex, call)
        except _NoKernelError as error:
            _KEPT[key] = None
            _refused(str(error))
    return tiles()


# -- choice

_KEPT: "OrderedDict[Hashable, FlexWindows | None]" = OrderedDict()  # None: tiles are to answer


class _NoKernelError(Exception):
    """Why FlexAttention does not answer."""


def _refused(reason: str) -> None:
    logger.warning("Efficient Attention: tiles in place of FlexAttention: %s.", reason)


def _tried(
    call: AttentionCall,
    place: Place,
    windows: Sequence[tuple[Tensor, Tensor]],
    sinks: Tensor,
    tiles: Callable[[], Tensor],
) -> FlexWindows | None:
    """What answers that call as tiles do and in less time, or None."""
    try:
        logger.info("Efficient Attention: compiles FlexAttention for this size, which takes up to a minute.")
        try:
            flex = FlexWindows(windows, sinks, place)
        except ValueError as error:
            raise _NoKernelError(str(error).rstrip(".")) from error
        asking = torch.cat([queries.flatten() for queries, _ in windows])
        error = _difference(_by_rows(flex, call), tiles(), asking)
        if not error <= _TOLERANCE.get(call.q.dtype, 0.0):
            raise _NoKernelError(f"its answer differs by {error:.2g}")
        ours, theirs = _seconds(lambda: _by_rows(flex, call), call.q), _seconds(tiles, call.q)
        if ours >= theirs:
            raise _NoKernelError(f"it takes {ours:.2g} seconds a call, tiles {theirs:.2g}")
    except _NoKernelError as reason:
        _refused(str(reason))
        return None
    logger.info("Efficient Attention: FlexAttention takes %.2g seconds a call, tiles %.2g.", ours, theirs)
    return flex


def _by_rows(flex: FlexWindows, call: AttentionCall) -> Tensor:
    """`[B, N, heads * d]`"""
    try:
        return flex(*call.by_heads(), call.scale).transpose(1, 2).flatten(2)
    except Exception as error:  # the compiler, Triton and drivers have their own; all mean that tiles are to answer
        said = str(error).strip().splitlines()
        raise _NoKernelError(f"{type(error).__name__}: {said[0] if said else 'nothing said'}".rstrip(".")) from error


def _difference(made: Tensor, wanted: Tensor, rows: Tensor) -> float:
    """Relative error of some rows of `[B, N, C]`."""
    error = total = 0.0
    for some in rows.split(1 << 12):  # wide copies of all would fill the memory
        right = wanted[:, some].float()
        error += float((made[:, some] - right).square().sum())
        total += float(right.square().sum())
    return (error / total) ** 0.5 if total else float(error > 0)


def _seconds(function: Callable[[], Tensor], like: Tensor) -> float:
    """The faster of two calls on the device of a tensor."""
    synchronize = getattr(torch, like.device.type).synchronize
    took = []
    for _ in range(2):
        synchronize()
        begin = time.perf_counter()
        function()
        synchronize()
        took.append(time.perf_counter() - begin)
    return min(took)


def _compiled() -> Callable[..., Tensor]:
    """FlexAttention for tensors of one size."""
    from torch.nn.attention.flex_attention import flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, blocks: Any, scale: float | None) -> Any:
        if not torch.compiler.is_compiling():
            raise RuntimeError("torch.compile is switched off")
        return flex_attention(q, k, v, block_mask=blocks, scale=scale)

    # torch compiles the same code for eight sizes at most, and keeps what it made as long as the code: each has its own
    own = FunctionType(attend.__code__.replace(), attend.__globals__, "attend", None, attend.__closure__)
    return torch.compile(own, dynamic=False, fullgraph=True)


# -- blocks


class _Bits(NamedTuple):
    """Sides of windows. `asked` int64 `[queries]`, `held` int64 `[tokens]`; `sides` are the bits of each axis."""

    asked: Tensor
    held: Tensor
    sides: list[int]


def _bits(windows: Sequence[tuple[Tensor, Tensor]], sinks: Tensor, place: Place) -> _Bits:
    """A query asks for the sides of its window, a token has those of all windows that hold it; sinks have all."""
    _, h, w = place.grid
    numbers = torch.arange(place.tokens, device=sinks.device) - place.before
    places = (numbers // (h * w), numbers // w % h, numbers % w)
    everywhere = torch.zeros_like(numbers, dtype=torch.bool)
    everywhere[sinks] = True
    if not everywhere[(numbers < 0) | (numbers >= place.grid.tokens)].all():
        raise ValueError("Invalid windows. Tokens outside of the grid are seen by all.")
    volumes = torch.cat([(~everywhere[keys]).sum(1) for _, keys in windows])
    tiles, held = torch.zeros_like(volumes), torch.zeros_like(numbers)
    used, sides = 0, []
    for along in places:
        ends = torch.cat([_ends(along[keys], everywhere[keys]) for _, keys in windows])  # [tiles, 2]
        volumes = volumes / (ends[:, 1] - ends[:, 0])
        distinct, which = ends.unique(dim=0, return_inverse=True)
        if used + len(distinct) > _BITS:
            raise ValueError(f"Invalid windows. Their sides are more than {_BITS} different ones.")
        tiles |= torch.ones_like(which) << (which + used)
        for low, high in distinct.tolist():
            held |= ((along >= low) & (along < high)).long() << used
            used += 1
        sides.append(((1 << len(distinct)) - 1) << (used - len(distinct)))
    if not (volumes == 1).all():
        raise ValueError("Invalid windows. Each is a box of the grid, and what all see.")
    held[everywhere] = (1 << used) - 1
    each = tiles.split([len(queries) for queries, _ in windows])
    asked = [some.repeat_interleave(len(queries[0])) for some, (queries, _) in zip(each, windows, strict=True)]
    return _Bits(torch.cat(asked), held, sides)


def _ends(along: Tensor, everywhere: Tensor) -> Tensor:
    """`[tiles, K]` -> `[tiles, 2]`: where keys that not all see begin and end on an axis."""
    low = along.masked_fill(everywhere, int(along.max()) + 1).amin(1)
    return torch.stack([low, along.masked_fill(everywhere, -1).amax(1) + 1], 1)


def _ordered(tokens: Tensor, bits: Tensor, sides: list[int]) -> tuple[Tensor, Tensor]:
    """Tokens with the same bits together, in lines that run to and fro, and their bits."""
    t, h, w = (bits.bitwise_and(side).unique(return_inverse=True)[1] for side in sides)
    h = torch.where(t % 2 == 0, h, -h)
    w = torch.where((t + h) % 2 == 0, w, -w)
    order = torch.arange(len(tokens), device=tokens.device)
    for each in (w, h, t):
        order = order[each[order].argsort(stable=True)]
    return tokens[order], bits[order]


def _filled(x: Tensor, value: Tensor | int) -> Tensor:
    """Whole blocks of it."""
    return torch.cat([x, torch.zeros_like(x[:1]).expand(-len(x) % BLOCK) + value])


def _blocks(asked: Tensor, held: Tensor) -> Any:
    """torch's BlockMask. `asked` and `held` are the bits of queries and keys, whole blocks of each."""
    from torch.nn.attention.flex_attention import BlockMask

    kinds, kind = asked.unique(return_inverse=True)
    cells, cell = held.unique(return_inverse=True)
    seen = (kinds[:, None] & cells == kinds[:, None]).float()
    asking = seen.new_zeros(len(asked) // BLOCK, len(kinds)).scatter_(1, kind.view(-1, BLOCK), 1.0)
    inside = seen.new_zeros(len(held) // BLOCK, len(cells)).scatter_(1, cell.view(-1, BLOCK), 1.0)
    some = asking @ seen @ inside.T > 0  # [blocks of queries, blocks of keys]
    whole = asking @ (1 - seen) @ inside.T == 0

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return held[key] & asked[query] == asked[query]

    listed = [each for chosen in (some & ~whole, whole) for each in _listed(chosen)]
    return BlockMask.from_kv_blocks(*listed, BLOCK_SIZE=BLOCK, mask_mod=sees)


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """bool `[rows, columns]` -> int32 `[1, 1, rows]`, how many each chose, and `[1, 1, rows, columns]`, these first."""
    order = chosen.byte().argsort(dim=1, descending=True, stable=True)
    return chosen.sum(1).int()[None, None], order.int()[None, None]
