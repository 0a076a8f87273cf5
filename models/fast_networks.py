"""Our networks in fewer bits, where this machine is faster so: measured on the whole network when it is loaded.

Nearly four fifths of the generator's time on a CPU are convolutions, norms and gates, which wait for memory; int8 in
its linear layers alone can save little of it. bfloat16 halves what is moved and multiplies twice as fast or more where
the CPU has instructions for it. Where it has none, bfloat16 is slower, and int8 or floats are what is left.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from .generator import TokenGenerator
from .quantization import quantize_network
from .token_guess import EXTRA

Precision = Literal["float", "fast"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLOAT = "float32"
MOST_ERROR = 0.012
"""Of what comes out, as a share of it (root mean squares), that a way in fewer bits may have."""
_LEAST_GAIN = 1.1  # times as fast; less is chance, and not worth other numbers
_ENOUGH = 1.4  # times as fast; then nothing else is tried
_HOPELESS = 4  # times as slow; then it is not run again
_ROUNDS = 5
_TRIED = (4, 16, 16)  # frames, rows and columns of tokens

Net = TypeVar("Net", bound=nn.Module)


class Trial(NamedTuple):
    """One way to run a network, beside floats."""

    way: str
    """bfloat16 or int8."""
    float_seconds: float
    seconds: float
    """The least of a few runs, as those of floats."""
    error: float
    """As a share of what comes out of floats."""
    gain: float
    """How many times as fast as floats it surely is."""


@dataclass(frozen=True)
class FastNetwork:
    """A network, and why it is this one."""

    net: Any
    """The one that was given where floats are as fast; else another one."""
    way: str
    """float32, bfloat16 or int8."""
    trials: tuple[Trial, ...]
    """What was tried, in this order."""


def fastest(
    net: Net,
    run: Callable[[Net], Tensor],
    *,
    most_error: float = MOST_ERROR,
    clock: Callable[[], float] = time.perf_counter,
) -> FastNetwork:
    """A float32 network, or itself in bfloat16 or int8 where that is faster, by runs in turn; `net` stays as it is.

    run: what a network makes of something typical, a tensor of any shape. A way whose error is more than `most_error`,
    that fails on this machine or that is hardly faster than floats is not taken. int8 takes seconds to make; it is
    tried only where bfloat16 gains little.
    """
    chosen, most = FastNetwork(net, FLOAT, ()), _LEAST_GAIN
    trials: list[Trial] = []
    with torch.inference_mode():
        exact = run(net).float().cpu()
        for way, make in _WAYS.items():
            if most >= _ENOUGH:
                break
            try:
                made = make(net, run)
                if made is None:
                    continue
                error = _error(exact, run(made).float().cpu())
            except RuntimeError:  # this build of torch has no kernel for what the network does
                continue
            before, seconds = _seconds([lambda: run(net), lambda made=made: run(made)], clock)
            trials.append(Trial(way, min(before), min(seconds), error, _gain(before, seconds)))
            if error <= most_error and trials[-1].gain >= most:
                chosen, most = FastNetwork(made, way, ()), trials[-1].gain
    return replace(chosen, trials=tuple(trials))


def fast_generator(net: TokenGenerator, *, clock: Callable[[], float] = time.perf_counter) -> TokenGenerator:
    """A generator in the fastest way that this machine has for it, by `fastest`; what it makes may differ a little."""
    return fastest(net, typical_run, clock=clock).net


def typical_run(net: TokenGenerator) -> Tensor:
    """All logits of a generator for drawn tokens of a few frames, the first and the last of which are known."""
    chance = torch.Generator().manual_seed(0)
    shape = (1, *_TRIED)
    tokens = torch.randint(net.fsq.codebook_size, shape, generator=chance)
    known = torch.zeros(shape, dtype=torch.bool)
    known[:, 0] = known[:, -1] = True
    told = torch.randn(*shape, len(net.config.levels) + EXTRA, generator=chance).clamp(-1, 1)
    device = net.masked.device
    seen = net.look(tokens.to(device), known.to(device), told.to(device))
    return torch.cat(net.logits(seen), -1)


def _bfloat16(net: Net, run: Callable[[Net], Tensor]) -> Net:
    return copy.deepcopy(net).to(torch.bfloat16)


def _int8(net: Net, run: Callable[[Net], Tensor]) -> Net | None:
    """Only linear layers that are faster so: each is timed. None where there is none."""
    made = copy.deepcopy(net)
    report = quantize_network(made, run=lambda: run(made))
    return made if "int8" in report.counts() else None


_WAYS: Mapping[str, Callable[..., Any]] = {"bfloat16": _bfloat16, "int8": _int8}


def _error(exact: Tensor, made: Tensor) -> float:
    """Infinite where something is no number."""
    error = float((made - exact).norm() / exact.norm().clamp(min=1e-12))
    return error if error == error else float("inf")


def _gain(before: Sequence[float], seconds: Sequence[float]) -> float:
    """The lesser of two ways to count: by the best runs, and by the median of runs one after the other.

    One run that something else on the machine held up makes neither large.
    """
    best = min(before) / max(min(seconds), 1e-9)
    return min(best, median(one / max(other, 1e-9) for one, other in zip(before, seconds, strict=True)))


def _seconds(works: Sequence[Callable[[], Tensor]], clock: Callable[[], float]) -> list[list[float]]:
    """Of each, run in turns, so that what else the machine does falls on all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(_ROUNDS):
        if taken[0] and taken[-1][-1] > _HOPELESS * taken[0][-1]:
            break  # without instructions for a type a network may take minutes
        for number, work in enumerate(works):
            started = clock()
            work().cpu()  # waits for a GPU
            taken[number].append(clock() - started)
    return taken
