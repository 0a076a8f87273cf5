"""The payload of a token file: times and frames of a clip as the bytes of one arithmetic code.

`docs/token_format.md` is the normative description. `tokens/symbol_models.py` knows the symbols, here is their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .range_coder import Coder
from .symbol_models import Blocks, GridCodes, Layout, LooseCodes, Numbers
from .video_tokens import MAX_SPAN, CFrame, Frame, IFrame, PFrame

KEY_FRAME, PREDICTED_FRAME, STILL_FRAME = range(3)
_LONGEST = 65  # bits of a time step's change


def _nothing() -> None:
    """Never cancelled."""


class _Times:
    """Time stamps: a step is that before it, the one before that, or spelled out."""

    def __init__(self, layout: Layout) -> None:
        self._same, _ = layout.take(4)
        self._older, _ = layout.take(4)
        self._numbers = Numbers(layout, _LONGEST)

    def code(self, coder: Coder, times: Sequence[int] | None, count: int) -> list[int]:
        """`count` ticks."""
        result = [self._numbers.code(coder, times[0] if times else 0)]
        last = older = history = 0
        for i in range(1, count):
            step = times[i] - times[i - 1] if times else 0
            same, known = coder.plain(int(step == last), 2, self._same + 2 * history), last
            if not same and (older == last or not coder.plain(int(step == older), 2, self._older + 2 * history)):
                known = last + self._numbers.code(coder, step - last)
                if known in (last, older):
                    raise ValueError("its payload spells out a time step that need not be.")
            elif not same:
                known = older
            history = history << 1 & 3 | same
            if not same:
                last, older = known, last
            result.append(result[-1] + known)
        return result


class _Models:
    """All models of a clip, and the coder that they share."""

    def __init__(
        self, levels: Sequence[int], grid: tuple[int, int], data: bytes | None, check: Callable[[], None]
    ) -> None:
        layout = Layout()
        self.grid, self.times = grid, _Times(layout)
        self.kinds, self._step = layout.take(3, 3)
        self.blocks = Blocks(layout, (grid[0] // 2, grid[1] // 2))
        self.codes = GridCodes(layout, levels)
        self.residual, self.intra = LooseCodes(layout, levels), LooseCodes(layout, levels)
        self.coder = Coder(layout.chances, layout.weights, data, check=check)
        self._still: PFrame | None = None
        self._kind = KEY_FRAME

    def frame(self, frame: IFrame | PFrame | None) -> IFrame | PFrame:
        kind = KEY_FRAME
        if isinstance(frame, PFrame):
            still = frame.global_motion == (0, 0) and not frame.modes.any()
            kind = STILL_FRAME if still else PREDICTED_FRAME
        kind = self._kind = self.coder.plain(kind, 3, self.kinds + self._step * self._kind)
        if kind == STILL_FRAME:
            blocks = self.grid[0] // 2, self.grid[1] // 2
            self._still = self._still or PFrame((0, 0), np.zeros(blocks, np.uint8))
            return self._still
        if kind == KEY_FRAME:
            codes = frame.codes if isinstance(frame, IFrame) else None
            return IFrame(self.codes.code(self.coder, codes, self.grid))
        given = frame if isinstance(frame, PFrame) else None
        found = self.blocks.code(self.coder, given)
        residual = self.residual.code(self.coder, given and given.residual, found.residual.size)
        intra = self.intra.code(self.coder, given and given.intra, found.intra.size)
        return replace(found, residual=residual, intra=intra.reshape(found.intra.shape))

    def group(self, group: CFrame | None, span: int) -> CFrame:
        return CFrame(self.codes.code(self.coder, group.codes if group else None, self.grid), span)


def spans(count: int) -> list[int]:
    """Of the groups that stand for `count` frames."""
    return [1, *(min(MAX_SPAN, count - at) for at in range(1, count, MAX_SPAN))]


def pack(
    pts: Sequence[int],
    frames: Sequence[Frame],
    levels: Sequence[int],
    grid: tuple[int, int],
    check: Callable[[], None] = _nothing,
) -> bytes:
    """The payload of a clip; frames as `VideoTokens` has them. `check` may raise to cancel."""
    models = _Models(levels, grid, None, check)
    models.times.code(models.coder, pts, len(pts))
    for frame in frames:
        check()
        if isinstance(frame, CFrame):
            models.group(frame, frame.span)
        else:
            models.frame(frame)
    return models.coder.written()


def unpack(
    data: bytes,
    count: int,
    groups: bool,
    levels: Sequence[int],
    grid: tuple[int, int],
    check: Callable[[], None] = _nothing,
) -> tuple[list[int], list[Frame]]:
    """(pts, frames) of a payload of `count` time stamps; `groups`: the frames are `CFrame`s.

    Raises ValueError for bytes that `pack` would not have written. Memory is taken as the bytes are read.
    """
    models = _Models(levels, grid, data, check)
    pts = models.times.code(models.coder, None, count)
    frames: list[Frame] = []
    for span in spans(count) if groups else [1] * count:
        check()
        try:
            frames.append(models.group(None, span) if groups else models.frame(None))
        except ValueError as error:
            raise ValueError(f"frame {len(frames)}: {error}") from error
    models.coder.close()
    return pts, frames
