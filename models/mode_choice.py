"""Which block of a predicted frame is coded in which way, at a price per token: the cheapest choice of all.

A block that is coded in the middle of skipped ones costs a second token, since it splits their run. So blocks are not
chosen one by one but along the raster, by dynamic programming, as a path through two states: skipped and coded.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tokens.accounting import MAX_RUN
from ..tokens.video_tokens import CELLS, Mode

INTRA_TOKENS = 1 + CELLS  # a block token and its codes

Errors = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass
class Options:
    """What the squared error would be, by cell `[bh, bw, 4]`, for each way to code a block."""

    skip: Errors
    motion: Errors
    differs: Flags
    """`[bh, bw]`: blocks with a vector of their own to send."""
    weight: Errors
    """How much an error counts against tokens, by cell."""
    context: Errors | None = None
    """Before residual codes; None where there are none to choose from."""
    coded: Errors | None = None
    """With residual codes."""
    intra: Errors | None = None
    """`[bh, bw]`, error of the whole block."""


@dataclass(frozen=True)
class Choice:
    """How a frame is coded."""

    modes: NDArray[np.uint8]
    """`[bh, bw]`, values of Mode."""
    marked: Flags
    """`[bh, bw, 4]`: the cells of RESIDUAL blocks that get a code."""
    error: float
    """Squared error expected."""
    tokens: int


def tokens_of(modes: NDArray[np.uint8], marked: Flags | None = None) -> int:
    """Tokens of a P-frame with these modes `[bh, bw]` and marked cells: what count_frame counts, before it is built."""
    coded = np.flatnonzero(modes)
    gaps = np.diff(coded, prepend=-1) - 1
    runs = int((-(-gaps // MAX_RUN)).sum())
    codes = (0 if marked is None else int(marked.sum())) + CELLS * int((modes == Mode.INTRA).sum())
    return 1 + len(coded) + runs + codes


def _coded_blocks(extra: Errors, price: float) -> Flags:
    """The best blocks to code, where `extra` `[n]` is what coding costs over skipping, tokens of the block included.

    The first coded block after skipped ones costs a price more, for the token of their run.
    """
    coded, skipped = 0.0, np.inf  # the best that can be had so far if the last block was coded, or skipped
    from_run, from_coded = [], []
    for cost in extra.tolist():
        after_run = skipped + price
        from_run.append(after_run < coded)
        from_coded.append(coded <= skipped)
        coded, skipped = min(after_run, coded) + cost, min(coded, skipped)
    state, states = coded < skipped, []
    for run, fresh in zip(reversed(from_run), reversed(from_coded), strict=True):
        states.append(state)
        state = not run if state else fresh
    return np.array(states[::-1])


def choose(options: Options, price: float) -> Choice:
    """The choice with the least weighted error + price * tokens."""
    shape, weight = options.differs.shape, options.weight
    marked = np.zeros((*shape, CELLS), bool)
    skip = (options.skip * weight).sum(-1)
    costs = [skip, np.where(options.differs, (options.motion * weight).sum(-1) + price, np.inf)]
    errors = [options.skip.sum(-1), options.motion.sum(-1)]
    if options.context is not None and options.coded is not None:
        gain = weight * (options.context - options.coded)
        marked = gain > price
        refined = (options.context * weight).sum(-1) + price - np.where(marked, gain - price, 0).sum(-1)
        costs.append(np.where(marked.any(-1), refined, np.inf))
        errors.append(np.where(marked, options.coded, options.context).sum(-1))
    else:
        costs.append(np.full(shape, np.inf))
        errors.append(errors[0])
    if options.intra is not None:
        costs.append(options.intra * weight.mean(-1) + price * INTRA_TOKENS)
        errors.append(options.intra)
    stacked = np.stack(costs[1:])
    best = stacked.argmin(0)  # Mode.MOTION is the first
    coded = _coded_blocks((stacked.min(0) - skip).ravel(), price).reshape(shape)
    modes = np.where(coded, best + 1, int(Mode.SKIP)).astype(np.uint8)
    marked &= (modes == Mode.RESIDUAL)[..., np.newaxis]
    error = float(np.take_along_axis(np.stack(errors), modes[np.newaxis].astype(np.int64), 0).sum())
    return Choice(modes, marked, error, tokens_of(modes, marked))
