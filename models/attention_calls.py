"""Calls of attention as ComfyUI's video models make them: what they are about, their parts, and why some stay dense.

A model's tokens are those of a grid of frames, rows and columns, and others before or after them: text, references,
guides. A patch of attention sees every call that the model makes, also those between other tokens, and answers the ones
that it can answer for less. What it passes on unchanged is called dense here; why, is said once for each reason.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import Grid

logger = logging.getLogger(__name__)

_ARGUMENTS = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")
_OF_THE_WHOLE = {"q", "k", "v", "heads", "mask", "skip_reshape", "skip_output_reshape"}


WEIGHT_CHANNELS = 8
"""Channels that a head has more where keys have weights, of which the first carries it: kernels want multiples of 8."""
MERGED = "tokenreel_merged_tokens"
"""Among ComfyUI's transformer_options: the `Kept` tokens that a block, or a call, was given in place of the video's."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Tokens of the grid that are left: their `numbers` `[K]` in it, in their order. `queries`: these are left, too."""

    numbers: Tensor
    queries: bool

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kept":
        return self  # known by being the same


class Place(NamedTuple):
    """Where the tokens of the grid lie in a sequence: after `before` others, and before `after` others.

    Where some were left out before, `kept` tells which are not.
    """

    grid: Grid
    before: int
    after: int
    kept: Kept | None = None

    @property
    def tokens(self) -> int:
        """As many as there are where none was left out."""
        return self.before + self.grid.tokens + self.after

    @property
    def keys(self) -> int:
        return self.tokens if self.kept is None else self.before + len(self.kept.numbers) + self.after

    @property
    def queries(self) -> int:
        return self.keys if self.kept is not None and self.kept.queries else self.tokens


class AttentionCall:
    """One call of a function of attention with ComfyUI's signature, and what it is made of.

    `q`, `k` and `v` are `[B, N, heads * d]`, or `[B, heads, N, d]` with `skip_reshape`. The answer is
    `[B, N, heads * d]`, or `[B, heads, N, d]` with `skip_output_reshape`.
    """

    def __init__(self, backend: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]):
        self._backend, self._arguments, self._options = backend, arguments, options
        named = {**dict(zip(_ARGUMENTS, arguments, strict=False)), **options}
        self.q, self.k, self.v = named["q"], named["k"], named["v"]
        self.heads: int = named["heads"]
        self.mask: Tensor | None = named.get("mask")
        self._by_heads = bool(named.get("skip_reshape"))
        self._answered_by_heads = bool(named.get("skip_output_reshape"))
        self._rest = {name: value for name, value in named.items() if name not in _OF_THE_WHOLE}

    @property
    def queries(self) -> int:
        return self.q.shape[-2]

    @property
    def keys(self) -> int:
        return self.k.shape[-2]

    @property
    def model_options(self) -> dict[str, Any]:
        """What ComfyUI calls transformer_options."""
        return self._options.get("transformer_options") or {}

    @property
    def scale(self) -> float | None:
        """What scores are multiplied by, where it is not the usual."""
        return self._options.get("scale")

    def dense(self) -> Tensor:
        """The answer as if nobody had asked: the same arguments, and so the same bits."""
        return self._backend(*self._arguments, **self._options)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as `[B, N, heads * d]`."""
        if not self._by_heads:
            return self.q, self.k, self.v
        return self.q.transpose(1, 2).flatten(2), self.k.transpose(1, 2).flatten(2), self.v.transpose(1, 2).flatten(2)

    def by_heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as `[B, heads, N, d]`."""
        if self._by_heads:
            return self.q, self.k, self.v
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return q, k, v

    def part(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any) -> Tensor:
        """What the backend answers to `[B, N, heads * d]` of some queries, keys and values, laid out in the same way.

        Options that are not given are those of the whole call. `mask` is `[B, 1 or queries, keys]`.
        """
        masked = {} if mask is None else {"mask": mask}
        return self._backend(q, k, v, heads, **masked, **{**self._rest, **options})

    def answer(self, rows: Tensor) -> Tensor:
        """`[B, N, heads * d]` as the caller wants it."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2) if self._answered_by_heads else rows

    def key_mask(self) -> Tensor | None:
        """`[1 or B, keys]` of a mask that treats all queries and heads alike; None where there is none.

        Raises ValueError for any other mask.
        """
        mask = self.mask
        if mask is None:
            return None
        alike = mask.ndim > 2 and mask.shape[-2] == 1 and (mask.ndim == 3 or (mask.ndim == 4 and mask.shape[1] == 1))
        if not alike or mask.shape[-1] != self.keys or mask.shape[0] not in (1, self.q.shape[0]):
            raise ValueError(f"mask of shape {tuple(mask.shape)}")
        return mask.reshape(mask.shape[0], self.keys)

    def obstacle(self) -> str | None:
        """Why it cannot be answered in parts, or None."""
        if self.q.shape[-1] != self.k.shape[-1] or self.q.shape[:-2] != self.k.shape[:-2]:
            return "heads share keys"
        if self.v.shape != self.k.shape:
            return "values are not shaped like keys"
        try:
            self.key_mask()
        except ValueError:
            return "a mask hides other keys from each query"
        return None


def room_for_weights(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """`[..., d]` with channels more: what a key has in channel d is then added to all of its scores.

    Every kernel can do that; with a mask, the fastest ones cannot. `scale`: what scores are multiplied by, None for the
    usual, which is that of the channels there are now.
    """
    d = q.shape[-1]
    if scale is None:
        q = q * math.sqrt((d + WEIGHT_CHANNELS) / d)
    first = q.new_zeros(WEIGHT_CHANNELS)
    first[0] = math.sqrt(d + WEIGHT_CHANNELS) if scale is None else 1 / scale
    return (
        torch.cat([q, first.expand(*q.shape[:-1], -1)], -1),
        F.pad(k, (0, WEIGHT_CHANNELS)),
        F.pad(v, (0, WEIGHT_CHANNELS)),
    )


@dataclass
class Forward:
    """One run of a batch through the model.

    `grid` is None where the latent is no video. `before` says how many tokens lie before those of the grid; None: all
    that are not of the grid; -1: nobody knows, so there must be none. `alone` are the lengths of other sequences that
    attend to themselves, as text that is refined. `doubles` and `blocks` count the model's blocks: those that treat
    text apart, and all. `sigma` is the noise level, where it is known.
    """

    grid: Grid | None
    before: int | None = 0
    alone: frozenset[int] = frozenset()
    doubles: int = 0
    blocks: int = 0
    sigma: float | None = None
    _calls: int = field(default=0, repr=False)

    def place(self, call: AttentionCall) -> Place | str | None:
        """Where the grid lies in that call's tokens; why nobody knows; or None, where it is about other tokens."""
        if self.grid is None:
            return None
        kept: Kept | None = call.model_options.get(MERGED)
        tokens = self.grid.tokens
        there = tokens if kept is None else len(kept.numbers)
        asking = there if kept is None or kept.queries else tokens
        if call.keys < there or call.queries < asking:
            return None
        if call.queries - asking != call.keys - there:
            return "queries and keys are different tokens"
        others = call.keys - there
        if others and call.keys in self.alone:
            return None
        if self.before == -1 and others:
            return "the model has tokens beside the video's, in an order that is not known"
        before = others if self.before is None else self.before
        if before > others:
            return "tokens are missing from the video's grid"
        return Place(self.grid, before, others - before, kept)

    def block(self, call: AttentionCall) -> int:
        """The number of the block that makes that call, counted where the model does not tell. Ask once a call."""
        number, self._calls = self._calls, self._calls + 1
        told = call.model_options.get("block_index")
        if told is None:
            return number
        return told + (self.doubles if call.model_options.get("block_type") == "single" else 0)


@dataclass(frozen=True)
class Gate:
    """Where a patch works: between two noise levels, between the first and the last blocks, on tokens enough.

    `first_sigma` >= `last_sigma`. `first_blocks` and `last_blocks` are how many stay dense, `least_tokens` how many
    tokens the grid must have.
    """

    first_sigma: float = float("inf")
    last_sigma: float = 0.0
    first_blocks: int = 0
    last_blocks: int = 0
    least_tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.first_blocks, self.last_blocks, self.least_tokens) < 0:
            raise ValueError("Invalid gate: numbers of blocks and tokens are at least 0.")

    def reason(self, forward: Forward, block: int) -> str | None:
        """Why a call of that block stays dense, or None."""
        if forward.grid is not None and forward.grid.tokens < self.least_tokens:
            return f"fewer than {self.least_tokens} tokens"
        if forward.sigma is not None and not self.last_sigma <= forward.sigma <= self.first_sigma:
            return "steps that were to stay dense"
        last = forward.blocks - self.last_blocks if self.last_blocks and forward.blocks else block + 1
        if block < self.first_blocks or block >= last:
            return "blocks that were to stay dense"
        return None


class Run:
    """What a patch does and did while a model samples once. `name` begins its lines in the log."""

    takes_merged = False
    """Whether it knows what to do where tokens were left out before."""

    def __init__(self, name: str, gate: Gate):
        self.name, self.gate = name, gate
        self.patched = 0
        self.dense: Counter[str] = Counter()
        self.shares: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Run":
        return self  # ComfyUI copies options that hold it; there is one run

    def begin(self, *, grid: tuple[int, int, int] | None, **facts: Any) -> Forward:
        """A forward of which all that is known."""
        return Forward(None if grid is None else Grid(*grid), **facts)

    def attend(
        self, forward: Forward, backend: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor:
        """What `backend(*arguments, **options)` gives, or nearly so."""
        call = AttentionCall(backend, arguments, options)
        place = self.admit(forward, call)
        return call.dense() if place is None else self.answer(call, place)

    def answer(self, call: AttentionCall, place: Place) -> Tensor:
        """What a call gives that is to be patched; the grid lies at `place` in it."""
        raise NotImplementedError

    def admit(self, forward: Forward, call: AttentionCall) -> Place | None:
        """Where the grid lies in a call that is to be patched; None where it is to run dense."""
        place = forward.place(call)
        if place is None:
            return None
        reason: str | None = place if isinstance(place, str) else None
        if isinstance(place, Place) and place.kept is not None and not self.takes_merged:
            reason = "tokens were merged before"
        asked = None if reason else self.gate.reason(forward, forward.block(call))
        reason = reason or asked or call.obstacle()
        if reason is None and isinstance(place, Place):
            return place
        self.ran_dense(reason or "", asked=asked is not None)
        return None

    def ran_dense(self, reason: str, *, asked: bool = False) -> None:
        """Counts a call that ran dense, and says so the first time. `asked`: settings say so, nothing is wrong."""
        self.dense[reason] += 1
        if self.dense[reason] == 1:
            logger.log(logging.INFO if asked else logging.WARNING, "%s: runs dense: %s.", self.name, reason)

    def ran_patched(self, share: float) -> None:
        """Counts a call that cost `share` of what it costs dense."""
        self.patched += 1
        self.shares.append(share)

    @property
    def density(self) -> float:
        """What calls about the video cost, as a share of their cost dense; 1 where there were none."""
        calls = self.patched + sum(self.dense.values())
        return (sum(self.shares) + sum(self.dense.values())) / calls if calls else 1.0

    def report(self) -> str:
        """One line of what it did."""
        calls = self.patched + sum(self.dense.values())
        if not calls:
            return "no call of attention about a video came by; another patch may have taken its place"
        said = f"{self.patched} of {calls} calls patched, {self.density:.0%} of the work of attention"
        reasons = "; ".join(f"{count} dense: {reason}" for reason, count in self.dense.most_common())
        return f"{said} ({reasons})" if reasons else said

    def finish(self) -> None:
        """Says what it did. Nothing is kept for another run."""
        logger.info("%s: %s.", self.name, self.report())
