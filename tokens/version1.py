"""The payload of token files of version 1, which are read for ever and written no more: arrays of raw symbols.

`docs/token_format.md` describes it in its last section.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accounting import parse_block_symbols, parse_header_symbol
from .video_tokens import CELLS, POPCOUNT, IFrame, Mode, PFrame

_DTYPES = {"I64": "<i8", "U32": "<u4", "U16": "<u2", "U8": "u1"}
KEY_FRAME, PREDICTED_FRAME = 0, 1


def layout(codebook_size: int) -> dict[str, str]:
    """Arrays of a file in payload order with their safetensors types; the widest come first, so all are aligned."""
    code = "U16" if codebook_size <= 1 << 16 else "U32"
    names = {"pts": "I64", "symbols_per_frame": "U32", "key": code, "residual": code, "intra": code}
    return {**names, "header": "U16", "blocks": "U16", "kind": "U8"}


class _Cursor:
    """Takes a list apart from the front."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self.name, self.values, self.at = name, values, 0

    def take(self, count: int) -> NDArray[Any]:
        if self.at + count > self.values.size:
            raise ValueError(f"its array {self.name!r} has {self.values.size} values, more are needed.")
        self.at += count
        return self.values[self.at - count : self.at]

    def close(self) -> None:
        if self.at != self.values.size:
            raise ValueError(f"its array {self.name!r} has {self.values.size} values, only {self.at} are used.")


def _predicted(lists: dict[str, _Cursor], blocks: tuple[int, int]) -> PFrame:
    motion = parse_header_symbol(int(lists["header"].take(1)[0]))
    symbols = lists["blocks"].take(int(lists["symbols_per_frame"].take(1)[0]))
    modes, deltas, masks = parse_block_symbols(symbols, blocks)
    residual = lists["residual"].take(int(POPCOUNT[masks].sum()))
    intra = lists["intra"].take(int((modes == Mode.INTRA).sum()) * CELLS)
    return PFrame(motion, modes, deltas, masks, residual, intra.reshape(-1, CELLS))


def frames(arrays: dict[str, NDArray[Any]], grid: tuple[int, int]) -> list[IFrame | PFrame]:
    kinds = arrays["kind"]
    lists = {name: _Cursor(name, values) for name, values in arrays.items() if name not in ("pts", "kind")}
    frames: list[IFrame | PFrame] = []
    for i, kind in enumerate(kinds.tolist()):
        try:
            if kind == KEY_FRAME:
                frames.append(IFrame(lists["key"].take(grid[0] * grid[1]).reshape(grid)))
            elif kind == PREDICTED_FRAME:
                frames.append(_predicted(lists, (grid[0] // 2, grid[1] // 2)))
            else:
                raise ValueError(f"its kind is {kind}, supported are {KEY_FRAME} and {PREDICTED_FRAME}.")
        except ValueError as error:
            raise ValueError(f"frame {i}: {error}") from error
    for cursor in lists.values():
        cursor.close()
    return frames


def arrays(
    data: bytes, start: int, parts: dict[str, tuple[int, int]], levels: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """The arrays in a payload that begins at byte `start` of `data`; `parts` has the bytes of each."""
    types = {name: np.dtype(_DTYPES[dtype]) for name, dtype in layout(math.prod(levels)).items()}
    return {
        name: np.frombuffer(data, types[name], (b - a) // types[name].itemsize, start + a)
        for name, (a, b) in parts.items()
    }
