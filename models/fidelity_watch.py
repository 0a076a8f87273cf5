"""Watching a model sample: what a patch would have answered, where the model itself goes on with its own answers.

Every call of attention, and every block that a patch replaces, is answered twice from the same inputs: by the patch and
without it. The dense answer goes on, so that all errors are measured on the way that the model takes by itself and none
adds up. On a few calls, spread over steps and layers, settings of ours are tried as well. No queries, keys or answers
are kept: errors are computed on the spot.

    watch = Watch([*CANDIDATES])
    watch.schedule([1.0, 0.8, 0.5], first_sigma=0.95, last_sigma=0.0)
    forward = watch.begin(step=0, grid=(21, 30, 52))
    dense = watch.attend(forward, backend, patched, (q, k, v, heads), {})
    watch.end(forward)
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from .attention import Grid
from .attention_calls import AttentionCall, Forward, Gate, Place, Run
from .sparse_patch import SparseRun, SparseSettings
from .token_merging import MergeRun, MergeSettings

Result = TypeVar("Result")

PERCENTS = (0.15, 1.0)
"""The part of the sampling in which settings are tried, and in which the recommended one works."""
EDGE_BLOCKS = 1
"""As many blocks stay dense at either end, likewise."""
_LAYERS, _STEPS = 4, 3  # on so many of each, at most, settings are tried
_SHORT, _REPEATS = 0.05, 3  # seconds: calls that take less are timed so many times, the fastest counts
_AT_ONCE = 1 << 24  # numbers whose error is computed at a time


@dataclass(frozen=True)
class Candidate:
    """A setting to try. `amount` is a density of Efficient Attention, or a ratio of Merge Redundant Tokens (keys)."""

    kind: Literal["window", "top-k", "keys"]
    amount: float

    def run(self, gate: Gate | None = None) -> Run:
        """What answers calls with that setting."""
        if self.kind == "keys":
            return MergeRun(MergeSettings("keys", self.amount), gate)
        return SparseRun(SparseSettings(self.kind, self.amount), gate)

    def start(self, first_sigma: float, last_sigma: float) -> Run:
        """What the recommended setting puts into a model: see `PERCENTS` and `EDGE_BLOCKS`."""
        return self.run(Gate(first_sigma, last_sigma, EDGE_BLOCKS, EDGE_BLOCKS))

    @property
    def name(self) -> str:
        return f"{self.kind} {self.amount:g}"

    @property
    def setting(self) -> str:
        """Which node, and what to set there."""
        if self.kind == "keys":
            return f"Merge Redundant Tokens with mode keys, ratio {self.amount:g}"
        return f"Efficient Attention with kind {self.kind}, density {self.amount:g}"


CANDIDATES = (
    *(Candidate("window", density) for density in (0.1, 0.15, 0.2, 0.3, 0.45)),
    *(Candidate("top-k", density) for density in (0.1, 0.15, 0.2, 0.3, 0.45)),
    *(Candidate("keys", ratio) for ratio in (0.3, 0.5, 0.7)),
)
"""What is tried."""


@dataclass
class Sums:
    """Of answers to the same inputs: squares of their difference and of the dense ones, and seconds of both."""

    wrong: float = 0.0
    right: float = 0.0
    seconds: float = 0.0
    dense_seconds: float = 0.0

    @property
    def error(self) -> float:
        """L2 of the difference over L2 of the dense answers; 0 where all are equal; NaN where a number is none."""
        if self.wrong == 0:
            return 0.0
        return math.sqrt(self.wrong / self.right) if self.right else math.inf


@dataclass
class Tried:
    """What a candidate did on the calls that it was tried on. `errors`: one for each."""

    candidate: Candidate
    run: Run
    errors: list[float] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)


@dataclass
class _Watched:
    """One forward: what `begin` was told, when it began, and how many layers came by."""

    facts: Forward
    step: int
    began: float
    layers: int = 0
    blocks: int = 0
    extra: float = 0.0


class Watch:
    """What is found while a model samples once.

    `calls` and `blocks`: (step, layer) -> sums, of attention about the video (about anything, where there is no video)
    and of blocks that a patch replaces; layers are counted in their order. `others`: of other calls, by step. Blocks
    are held against what they add to what they are given, as their answers contain that.
    """

    def __init__(self, candidates: Sequence[Candidate] = CANDIDATES):
        self.tried = [Tried(each, each.run()) for each in candidates]
        for each in self.tried:
            each.run.name = f"Probe Fidelity, {each.candidate.name}"
        self.calls: dict[tuple[int, int], Sums] = {}
        self.blocks: dict[tuple[int, int], Sums] = {}
        self.others: dict[int, Sums] = {}
        self.grid: Grid | None = None
        self.tokens = 0
        self.forwards = 0
        self.forward_seconds = self.attention_seconds = 0.0
        self.obstacles: set[str] = set()
        self.sampled: set[tuple[int, int]] = set()
        self._steps: set[int] = set()
        self._apart = self._inside = False

    def schedule(self, sigmas: Sequence[float], first_sigma: float, last_sigma: float) -> None:
        """The noise levels of all steps, and those between which settings are tried."""
        there = [step for step, sigma in enumerate(sigmas) if last_sigma <= sigma <= first_sigma]
        self._steps = set(_spread(there, _STEPS))

    def begin(self, *, step: int, grid: tuple[int, int, int] | None, **facts: Any) -> _Watched:
        """A forward of which all that is known: see `Forward`."""
        forward = Forward(None if grid is None else Grid(*grid), **facts)
        self.grid = forward.grid or self.grid
        self.forwards += 1
        return _Watched(forward, step, _now())

    def end(self, forward: _Watched) -> None:
        """It is done."""
        self.forward_seconds += _now() - forward.began - forward.extra

    def attend(
        self,
        forward: _Watched,
        backend: Callable[..., Tensor],
        patched: Callable[..., Tensor] | None,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Tensor:
        """What `backend(*arguments, **options)` gives. `patched`: who else answers, or None."""
        if self._apart:
            return (patched or backend)(*arguments, **options)
        call = AttentionCall(backend, arguments, options)
        place = forward.facts.place(call)
        began = _now()
        made, seconds = _timed(call.dense)
        self.attention_seconds += seconds
        about = place is not None or forward.facts.grid is None
        layer = forward.layers
        forward.layers += about
        if patched is not None and not self._inside:
            key = (forward.step, layer)
            sums = self.calls.setdefault(key, Sums()) if about else self.others.setdefault(forward.step, Sums())
            other, spent = _timed(lambda: patched(*arguments, **options))
            _compare(sums, other, made, made)
            sums.seconds, sums.dense_seconds = sums.seconds + spent, sums.dense_seconds + seconds
        if about:
            self._try(forward, layer, call, place, made, seconds)
        forward.extra += _now() - began - seconds
        return made

    def through(
        self,
        forward: _Watched,
        arguments: dict[str, Any],
        dense: Callable[[dict[str, Any]], dict[str, Any]],
        patched: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> dict[str, Any]:
        """What `dense(arguments)`, a block that a patch replaces, gives."""
        began = _now()
        was, given = _copied(arguments), _copied(arguments)  # blocks may write into what they are given
        key = forward.step, forward.blocks
        forward.blocks += 1
        self._apart = True
        try:
            other, spent = _timed(lambda: patched({**arguments, **given}))
        finally:
            self._apart = False
        self._inside = True  # a patch counts the calls of a forward: it has seen those of this block
        extra = forward.extra
        try:
            made, seconds = _timed(lambda: dense(arguments))
        finally:
            self._inside = False
        total = seconds
        seconds -= forward.extra - extra
        sums = self.blocks.setdefault(key, Sums())
        for name in was.keys() & made.keys() & other.keys():
            for one, two, before in zip(*map(_tensors, (other[name], made[name], was[name])), strict=True):
                _compare(sums, one, two, two - before)
        sums.seconds, sums.dense_seconds = sums.seconds + spent, sums.dense_seconds + seconds
        forward.extra += _now() - began - total
        return made

    def _try(
        self,
        forward: _Watched,
        layer: int,
        call: AttentionCall,
        place: Place | str | None,
        made: Tensor,
        seconds: float,
    ) -> None:
        """All candidates on that call, if it is one of those."""
        if not isinstance(place, Place):
            if isinstance(place, str):
                self.obstacles.add(place)
            return
        self.tokens = place.tokens
        key, blocks = (forward.step, layer), forward.facts.blocks or 3 * EDGE_BLOCKS
        there = range(EDGE_BLOCKS, blocks - EDGE_BLOCKS)
        if key in self.sampled or forward.step not in self._steps or layer not in _spread(there, _LAYERS):
            return
        obstacle = call.obstacle()
        if obstacle is not None:
            self.obstacles.add(obstacle)
            return
        repeats = _REPEATS if seconds < _SHORT else 1
        if repeats > 1:
            seconds = _timed(call.dense, repeats)[1]
        for each in self.tried:
            if not each.errors:
                each.run.answer(call, place)  # plans its tiles, wakes kernels
            other, spent = _timed(lambda each=each: each.run.answer(call, place), repeats)
            one = Sums()
            _compare(one, other, made, made)
            each.errors.append(one.error)
            each.sums.seconds, each.sums.dense_seconds = each.sums.seconds + spent, each.sums.dense_seconds + seconds
        self.sampled.add(key)


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, evenly over all."""
    count = min(count, len(numbers))
    return [numbers[int((i + 0.5) * len(numbers) / count)] for i in range(count)]


def _now() -> float:
    """Seconds, once the device has done what it was told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _timed(function: Callable[[], Result], repeats: int = 1) -> tuple[Result, float]:
    best, made = math.inf, None
    for _ in range(repeats):
        del made
        began = _now()
        made = function()
        best = min(best, _now() - began)
    assert made is not None
    return made, best


def _compare(sums: Sums, made: Tensor, dense: Tensor, right: Tensor) -> None:
    """Adds the squares of `made - dense` and of `right`, all of one shape."""
    rows = max(1, _AT_ONCE * dense.shape[1] // max(1, dense.numel())) if dense.ndim > 1 else len(dense)
    dim = min(1, dense.ndim - 1)
    for one, two, three in zip(*(each.split(rows, dim) for each in (made, dense, right)), strict=True):
        sums.wrong += float((one.float() - two.float()).square().sum())
        sums.right += float(three.float().square().sum())


def _copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copies of what a block changes."""
    found = {name: arguments[name] for name in ("img", "txt") if name in arguments}
    return {
        name: value.clone() if isinstance(value, Tensor) else type(value)(each.clone() for each in value)
        for name, value in found.items()
        if value is not None
    }


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
