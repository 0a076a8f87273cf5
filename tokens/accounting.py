"""What a token is, how many a clip has, and how many bits they take.

Every token is one symbol of a fixed alphabet. A cell's code is one token, also where it stands for a group of frames. A
predicted frame has one header token (its global motion), one token for each block that is not skipped (mode, motion and
mask together) and one for each run of up to 256 skipped blocks before such a block; a run at the end of the frame costs
nothing, so a frame that only repeats the one before it costs a single token. `docs/token_format.md` has numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .video_tokens import CELLS, MAX_DELTA, POPCOUNT, CFrame, Frame, IFrame, Mode, PFrame, VideoTokens

DELTAS = 2 * MAX_DELTA + 1
MASKS = 1 << CELLS
INTRA_SYMBOL = DELTAS * DELTAS * MASKS  # 63504, after all pairs of delta and mask
MAX_RUN = 256
SKIP_SYMBOL = INTRA_SYMBOL  # a run of r blocks is SKIP_SYMBOL + r, r in 1..256
LAST_SYMBOL = SKIP_SYMBOL + MAX_RUN  # 63760; the symbols above it are reserved
SYMBOL_BITS = 16  # of header and block tokens

KINDS: tuple[str, ...] = ("key", "header", "skip_run", "motion", "residual", "intra", "clip")


@dataclass(frozen=True)
class TokenCount:
    """Tokens of a clip; the values of `by_kind` add up to `tokens`, those of `per_frame` too."""

    tokens: int
    by_kind: dict[str, int]
    """key: codes of I-frames; header: one per P-frame; skip_run; motion: block tokens of MOTION and RESIDUAL blocks;
    residual: their codes; intra: block tokens of INTRA blocks and their four codes; clip: codes of groups."""
    bits: int
    """Sum over all tokens of log2(alphabet), rounded up for each token."""
    per_frame: list[int]
    """Of each time stamp; the tokens of a group are shared out as evenly as whole numbers can."""


def _skip_runs(modes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Raster positions of the blocks that are not skipped, and how many skipped ones lie right before each."""
    coded = np.flatnonzero(modes)
    return coded, np.diff(coded, prepend=-1) - 1


def header_symbol(frame: PFrame) -> int:
    """The header token, 0..65535: `(dy + 128) * 256 + dx + 128` of the global motion."""
    dy, dx = frame.global_motion
    return (dy + 128) * 256 + dx + 128


def parse_header_symbol(symbol: int) -> tuple[int, int]:
    """(dy, dx) of the global motion in half pixels, from a header token."""
    if not 0 <= symbol < 65536:
        raise ValueError(f"Invalid header symbol ({symbol}). Supported are 0 to 65535.")
    return symbol // 256 - 128, symbol % 256 - 128


def block_symbols(frame: PFrame) -> NDArray[np.uint16]:
    """uint16 [n]: the block tokens of a P-frame in raster order, runs of skipped blocks among them."""
    coded, gaps = _skip_runs(frame.modes)
    modes = frame.modes.ravel()[coded]
    own = np.full(coded.size, INTRA_SYMBOL, dtype=np.uint16)
    moved = modes != Mode.INTRA
    masks = np.zeros(coded.size, dtype=np.int64)
    masks[modes == Mode.RESIDUAL] = frame.masks
    delta = frame.motion.astype(np.int64) + MAX_DELTA
    own[moved] = (delta[:, 0] * DELTAS + delta[:, 1]) * MASKS + masks[moved]

    full, rest = np.divmod(gaps, MAX_RUN)
    ends = np.cumsum(full + (rest > 0) + 1) - 1  # where each block's own token comes
    symbols = np.full(int(ends[-1]) + 1 if ends.size else 0, SKIP_SYMBOL + MAX_RUN, dtype=np.uint16)
    symbols[ends] = own
    symbols[ends[rest > 0] - 1] = SKIP_SYMBOL + rest[rest > 0]
    return symbols


def parse_block_symbols(
    symbols: NDArray[Any], blocks: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.uint8]]:
    """Inverse of `block_symbols`: (modes [bh, bw], motion [n, 2], masks [m]) of a frame of `blocks` = (bh, bw).

    A frame can be written in one way only; symbols that are reserved, leave the frame or could be fewer raise
    `ValueError`.
    """
    values = np.asarray(symbols).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > LAST_SYMBOL):
        raise ValueError(f"Invalid block symbol ({values.max()}). Supported are 0 to {LAST_SYMBOL}.")
    skips = values > SKIP_SYMBOL
    lengths = np.where(skips, values - SKIP_SYMBOL, 1)
    if values.size and skips[-1]:
        raise ValueError("Invalid block symbols: they end on a run of skipped blocks, which is not written at the end.")
    if np.any(skips[1:] & skips[:-1] & (lengths[:-1] != MAX_RUN)):
        raise ValueError(
            f"Invalid block symbols: a run of fewer than {MAX_RUN} skipped blocks is followed by another run."
        )
    ends = np.cumsum(lengths)
    if ends.size and ends[-1] > blocks[0] * blocks[1]:
        raise ValueError(f"Invalid block symbols: they cover {ends[-1]} blocks of {blocks[0]} x {blocks[1]}.")

    own = values[~skips]
    moved = own < INTRA_SYMBOL
    pairs, masks = np.divmod(own[moved], MASKS)
    motion = np.stack(np.divmod(pairs, DELTAS), axis=1) - MAX_DELTA
    modes = np.full(own.size, Mode.INTRA, dtype=np.uint8)
    modes[moved] = np.where(masks > 0, Mode.RESIDUAL, Mode.MOTION)
    grid = np.zeros(blocks, dtype=np.uint8)
    grid.ravel()[ends[~skips] - 1] = modes
    return grid, motion.astype(np.int8), masks[masks > 0].astype(np.uint8)


def block_costs(frame: Frame) -> NDArray[np.int64]:
    """int64 [bh, bw]: tokens spent in each block, its codes and its block token; skip runs and headers lie in none.

    Of a group it is the share of one of its frames, rounded.
    """
    if not isinstance(frame, PFrame):
        share = round(CELLS / frame.span) if isinstance(frame, CFrame) else CELLS
        return np.full((frame.grid[0] // 2, frame.grid[1] // 2), share, dtype=np.int64)
    costs = np.array([0, 1, 1, 1 + CELLS], dtype=np.int64)[frame.modes]
    costs[frame.modes == Mode.RESIDUAL] += POPCOUNT[frame.masks]
    return costs


def count_frame(frame: Frame) -> dict[str, int]:
    """Tokens of one frame by kind, with all of `KINDS` present."""
    kinds: dict[str, int] = dict.fromkeys(KINDS, 0)
    if not isinstance(frame, PFrame):
        kinds["key" if isinstance(frame, IFrame) else "clip"] = frame.codes.size
        return kinds
    _, gaps = _skip_runs(frame.modes)
    kinds["header"] = 1
    kinds["skip_run"] = int((-(-gaps // MAX_RUN)).sum())
    kinds["motion"] = frame.motion.shape[0]
    kinds["residual"] = frame.residual.size
    kinds["intra"] = frame.intra.shape[0] * (1 + CELLS)
    return kinds


def count_by_time(tokens: VideoTokens) -> list[dict[str, int]]:
    """Tokens by kind of each time stamp; those of a group are shared out, the first frames taking what is left over."""
    counts: list[dict[str, int]] = []
    for frame, group in zip(tokens.frames, tokens.groups, strict=True):
        kinds, span = count_frame(frame), len(group)
        counts += [{kind: (n + span - 1 - i) // span for kind, n in kinds.items()} for i in range(span)]
    return counts


def count(tokens: VideoTokens) -> TokenCount:
    """Count the tokens of a clip; they are the symbols that the token file holds, one for one."""
    frames = [count_frame(frame) for frame in tokens.frames]
    by_kind: dict[str, int] = {kind: sum(kinds[kind] for kinds in frames) for kind in KINDS}
    intra_blocks = by_kind["intra"] // (1 + CELLS)
    symbols = by_kind["header"] + by_kind["skip_run"] + by_kind["motion"] + intra_blocks
    codes = by_kind["key"] + by_kind["clip"] + by_kind["residual"] + intra_blocks * CELLS
    code_bits = (tokens.codebook_size - 1).bit_length()
    return TokenCount(
        tokens=symbols + codes,
        by_kind=by_kind,
        bits=symbols * SYMBOL_BITS + codes * code_bits,
        per_frame=[sum(kinds.values()) for kinds in count_by_time(tokens)],
    )


def report(tokens: VideoTokens, *, file_bytes: int | None = None) -> dict[str, Any]:
    """What was spent, as JSON values: the keys that `--json` prints. `file_bytes` is in it if given.

    `frame_rate` in frames per second, `duration` in seconds, `bits_per_pixel` over the true size, padding not counted.
    """
    counted = count(tokens)
    result: dict[str, Any] = {
        "frames": len(tokens.pts),
        "width": tokens.width,
        "height": tokens.height,
        "frame_rate": float(tokens.frame_rate),
        "duration": float(tokens.duration),
        "tokens": counted.tokens,
        "tokens_per_second": float(counted.tokens / tokens.duration),
        "tokens_by_kind": counted.by_kind,
        "bits": counted.bits,
        "bits_per_pixel": counted.bits / (len(tokens.pts) * tokens.width * tokens.height),
    }
    if file_bytes is not None:
        result["file_bytes"] = file_bytes
    return result
