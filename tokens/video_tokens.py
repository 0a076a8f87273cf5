"""VideoTokens: a clip as indices, with all that is needed to decode them.

A frame is cut into cells of 8x8 pixels, four cells make a block of 16x16. A key frame (`IFrame`) has one code per cell.
A predicted frame (`PFrame`) has one mode per block and spends codes only where the frame before, moved, is not enough.
A group (`CFrame`) has one code per cell for up to four frames at once; it comes with its like only.
`docs/token_format.md` is the normative description.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # pixels
CELL = 8  # pixels
CELLS = 4  # of a block, in raster order: cell k is bit k of a mask
MAX_SPAN = 4  # frames of a group
MAX_DELTA = 31  # half pixels a block may differ from the global motion, on each axis
MAX_SIDE = 65536  # pixels
MAX_CODEBOOK = 1 << 24
MAX_TICK = 1 << 62

_DIGEST = re.compile(r"[0-9a-f]{64}")
POPCOUNT = np.array([mask.bit_count() for mask in range(16)], dtype=np.int64)


class Mode(IntEnum):
    """What a block of a P-frame is made of."""

    SKIP = 0  # the global motion alone; costs no token
    MOTION = 1  # global motion plus the block's own delta
    RESIDUAL = 2  # MOTION, then a code for each marked cell
    INTRA = 3  # four key-frame codes, nothing is predicted


def grid_size(width: int, height: int) -> tuple[int, int]:
    """Cells `(h, w)` that cover a frame of `width` x `height` pixels padded up to whole blocks; both are even."""
    return -(-height // BLOCK) * 2, -(-width // BLOCK) * 2


def _integers(name: str, value: Any, dtype: type, shape: tuple[int | None, ...], low: int, high: int) -> NDArray[Any]:
    """`value` as a contiguous array of `dtype`, after its shape (None: any) and its range have been checked."""
    array = np.asarray(value)
    if array.ndim != len(shape) or any(w is not None and w != n for w, n in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise ValueError(f"Invalid {name} of shape {list(array.shape)}. Supported shape is [{wanted}].")
    if array.size:
        if array.dtype.kind not in "iu":
            raise ValueError(f"Invalid {name} of type {array.dtype}. Supported are integers from {low} to {high}.")
        least, most = int(array.min()), int(array.max())
        if least < low or most > high:
            raise ValueError(f"Invalid {name} with values {least} to {most}. Supported values are {low} to {high}.")
    return np.ascontiguousarray(array, dtype=dtype)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"Invalid {name} ({value!r:.60}). Supported are whole numbers.") from error


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


class _Arrays:
    """Equality by content, which dataclasses with arrays do not get by themselves."""

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]


def _code_grid(name: str, value: Any) -> NDArray[np.int32]:
    codes = _integers(name, value, np.int32, (None, None), 0, MAX_CODEBOOK - 1)
    if codes.size == 0 or codes.shape[0] % 2 or codes.shape[1] % 2:
        raise ValueError(f"Invalid {name} of shape {list(codes.shape)}. Supported are even sides from 2 up.")
    return codes


@dataclass(frozen=True, eq=False, repr=False)
class IFrame(_Arrays):
    """A key frame: one code per cell. The array must not be written to afterwards."""

    codes: NDArray[np.int32]
    """int32 [h, w], h and w even, each in [0, codebook_size)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", _code_grid("key-frame codes", self.codes))

    @property
    def grid(self) -> tuple[int, int]:
        """Cells `(h, w)`."""
        return self.codes.shape[0], self.codes.shape[1]

    def __repr__(self) -> str:
        return f"IFrame(codes=int32{list(self.codes.shape)})"


@dataclass(frozen=True, eq=False, repr=False)
class CFrame(_Arrays):
    """A group of frames that share one code per cell; it is decoded after all groups before it.

    The first group of a clip is one frame, the others are four; the last may end early. No array may be written to.
    """

    codes: NDArray[np.int32]
    """int32 [h, w], h and w even, each in [0, codebook_size)."""
    span: int
    """Frames that the group stands for, 1..4."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", _code_grid("group codes", self.codes))
        object.__setattr__(self, "span", _whole("span", self.span))
        if not 1 <= self.span <= MAX_SPAN:
            raise ValueError(f"Invalid span ({self.span}). Supported are groups of 1 to {MAX_SPAN} frames.")

    @property
    def grid(self) -> tuple[int, int]:
        """Cells `(h, w)`."""
        return self.codes.shape[0], self.codes.shape[1]

    def __repr__(self) -> str:
        return f"CFrame(codes=int32{list(self.codes.shape)}, span={self.span})"


def _no_motion() -> NDArray[np.int8]:
    return np.zeros((0, 2), np.int8)


def _no_masks() -> NDArray[np.uint8]:
    return np.zeros(0, np.uint8)


def _no_residual() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


def _no_intra() -> NDArray[np.int32]:
    return np.zeros((0, CELLS), np.int32)


@dataclass(frozen=True, eq=False, repr=False)
class PFrame(_Arrays):
    """A frame predicted from the one before it. Lists follow the blocks in raster order. No array may be written to."""

    global_motion: tuple[int, int]
    """(dy, dx) in half pixels, each in -128..127: a pixel is taken from that far down and right in the frame before."""
    modes: NDArray[np.uint8]
    """uint8 [bh, bw], values of `Mode`."""
    motion: NDArray[np.int8] = field(default_factory=_no_motion)
    """int8 [n_motion, 2]: (dy, dx) in half pixels added to the global motion, one row per MOTION or RESIDUAL block."""
    masks: NDArray[np.uint8] = field(default_factory=_no_masks)
    """uint8 [n_residual], 1..15, one per RESIDUAL block; bit k marks cell k."""
    residual: NDArray[np.int32] = field(default_factory=_no_residual)
    """int32 [n_codes]: a code per marked cell, blocks in raster order and cells in raster order within a block."""
    intra: NDArray[np.int32] = field(default_factory=_no_intra)
    """int32 [n_intra, 4]: the key-frame codes of each INTRA block."""

    def __post_init__(self) -> None:
        motion = _integers("global motion", self.global_motion, np.int64, (2,), -128, 127)
        modes = _integers("block modes", self.modes, np.uint8, (None, None), 0, max(Mode))
        if modes.size == 0:
            raise ValueError(f"Invalid block modes of shape {list(modes.shape)}. Supported is at least one block.")
        counts = np.bincount(modes.ravel(), minlength=len(Mode))
        moved, coded = int(counts[Mode.MOTION] + counts[Mode.RESIDUAL]), int(counts[Mode.RESIDUAL])
        masks = _integers("residual masks", self.masks, np.uint8, (coded,), 1, 15)
        codes, highest = int(POPCOUNT[masks].sum()), MAX_CODEBOOK - 1
        checked: Mapping[str, Any] = {
            "global_motion": (int(motion[0]), int(motion[1])),
            "modes": modes,
            "motion": _integers("motion deltas", self.motion, np.int8, (moved, 2), -MAX_DELTA, MAX_DELTA),
            "masks": masks,
            "residual": _integers("residual codes", self.residual, np.int32, (codes,), 0, highest),
            "intra": _integers("intra codes", self.intra, np.int32, (int(counts[Mode.INTRA]), CELLS), 0, highest),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def grid(self) -> tuple[int, int]:
        """Cells `(h, w)`."""
        return self.modes.shape[0] * 2, self.modes.shape[1] * 2

    def motion_field(self) -> NDArray[np.int16]:
        """int16 [bh, bw, 2]: (dy, dx) of each block in half pixels, global motion included. INTRA has only that."""
        motion = np.full((*self.modes.shape, 2), self.global_motion, dtype=np.int16)
        motion[(self.modes == Mode.MOTION) | (self.modes == Mode.RESIDUAL)] += self.motion
        return motion

    def code_grid(self) -> NDArray[np.int32]:
        """int32 [h, w]: the residual or key-frame code of each cell that has one (`modes` says which), else -1."""
        bh, bw = self.modes.shape
        blocks = np.full((bh, bw, CELLS), -1, dtype=np.int32)
        blocks[self.modes == Mode.INTRA] = self.intra
        marked = np.zeros((bh, bw, CELLS), dtype=bool)
        marked[self.modes == Mode.RESIDUAL] = (self.masks[:, None] >> np.arange(CELLS)) & 1
        blocks[marked] = self.residual
        return blocks.reshape(bh, bw, 2, 2).transpose(0, 2, 1, 3).reshape(bh * 2, bw * 2)  # block rows to cell rows

    def __repr__(self) -> str:
        counts = np.bincount(self.modes.ravel(), minlength=len(Mode))
        shares = ", ".join(f"{mode.name.lower()}={counts[mode]}" for mode in Mode)
        return f"PFrame(blocks={list(self.modes.shape)}, global_motion={self.global_motion}, {shares})"


Frame = IFrame | PFrame | CFrame


def _span(frame: Frame) -> int:
    return frame.span if isinstance(frame, CFrame) else 1


@dataclass(frozen=True, eq=False, repr=False)
class VideoTokens(_Arrays):
    """A clip as tokens. Building one checks it: a `ValueError` names the field, its value and what is allowed."""

    width: int
    """Pixels, the true size; the code grid covers it padded up to whole blocks."""
    height: int
    frame_rate: Fraction
    """Nominal frames per second; `pts` has the exact times."""
    time_base: Fraction
    """Seconds per tick of `pts`."""
    pts: tuple[int, ...]
    """Presentation time of each frame in ticks, strictly increasing."""
    duration: Fraction
    """Seconds from the first frame's start to the last one's end."""
    frames: tuple[Frame, ...]
    """At least one. Either the first is an `IFrame` and there is one for each time stamp, or all are `CFrame`s."""
    levels: tuple[int, ...]
    """FSQ levels; their product is the size of the codebook."""
    tokenizer: str
    """Name of the tokenizer the codes belong to."""
    digest: str
    """SHA-256 of the tokenizer's weights, 64 lower-case hex digits."""
    codec: str = ""
    """Name of the residual codec; empty when there are no P-frames."""
    codec_digest: str = ""
    """SHA-256 of the residual codec's weights; empty when there are no P-frames."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))
        for name in ("pts", "levels"):
            object.__setattr__(self, name, tuple(_whole(name, value) for value in getattr(self, name)))
        for name in ("width", "height"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        self._check_size()
        self._check_identity()
        self._check_frames()
        self._check_time()

    @property
    def grid(self) -> tuple[int, int]:
        """Cells `(h, w)` of each frame."""
        return grid_size(self.width, self.height)

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return math.prod(self.levels)

    @property
    def groups(self) -> tuple[range, ...]:
        """Time stamps, counted from 0, that each of `frames` stands for."""
        ends = list(accumulate(_span(frame) for frame in self.frames))
        return tuple(range(a, b) for a, b in zip([0, *ends], ends, strict=False))

    @property
    def by_time(self) -> tuple[Frame, ...]:
        """For each time stamp that of `frames` it belongs to."""
        return tuple(frame for frame in self.frames for _ in range(_span(frame)))

    @property
    def gops(self) -> tuple[range, ...]:
        """Time stamps, counted from 0, that can be decoded without any other: from one I-frame up to the next."""
        starts = [0, *(i for i, frame in enumerate(self.frames) if isinstance(frame, IFrame) and i)]
        return tuple(range(a, b) for a, b in zip(starts, [*starts[1:], len(self.pts)], strict=True))

    def trim(self, start: int = 0, stop: int | None = None) -> VideoTokens:
        """Frames `[start, stop)` with their own times. `start` must begin a range of `gops`; every `stop` works."""
        count = len(self.pts)
        stop = count if stop is None else stop
        if not 0 <= start < stop <= count:
            raise ValueError(f"Invalid range [{start}, {stop}). Supported is 0 <= start < stop <= {count}.")
        starts = [gop.start for gop in self.gops]
        if start not in starts:
            shown = ", ".join(map(str, starts[:8])) + (", ..." if len(starts) > 8 else "")
            raise ValueError(f"Invalid start ({start}): that frame needs the one before it. Supported are {shown}.")
        end = self.pts[0] * self.time_base + self.duration if stop == count else self.pts[stop] * self.time_base
        duration = end - self.pts[start] * self.time_base
        kept = [
            replace(frame, span=min(len(group), stop - group.start)) if isinstance(frame, CFrame) else frame
            for frame, group in zip(self.frames, self.groups, strict=True)
            if start <= group.start < stop
        ]
        return replace(self, frames=tuple(kept), pts=self.pts[start:stop], duration=duration)

    def __repr__(self) -> str:
        kinds = [type(frame) for frame in self.frames]
        pictures, groups = f"{kinds.count(IFrame)} I + {kinds.count(PFrame)} P", f"{len(self.pts)} in {len(kinds)} C"
        return (
            f"VideoTokens({self.width}x{self.height}, {groups if CFrame in kinds else pictures} frames, "
            f"grid={list(self.grid)}, frame_rate={self.frame_rate}, codebook_size={self.codebook_size}, "
            f"tokenizer={self.tokenizer!r})"
        )

    def _check_size(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIDE:
                raise ValueError(f"Invalid {name} ({value}). Supported are 1 to {MAX_SIDE} pixels.")
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"Invalid levels ({self.levels}). Supported are integers from 2 up, at least one.")
        if self.codebook_size > MAX_CODEBOOK:
            raise ValueError(f"Invalid levels ({self.levels}): {self.codebook_size} codes. At most {MAX_CODEBOOK} fit.")

    def _check_identity(self) -> None:
        for name in ("tokenizer", "codec"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > 128 or not value.isprintable():
                raise ValueError(
                    f"Invalid {name} ({value!r:.60}). Supported are printable names of at most 128 letters."
                )
        if not self.tokenizer:
            raise ValueError("Invalid tokenizer (''). The name of the tokenizer that made the codes is needed.")
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"Invalid digest ({self.digest!r:.80}). Supported are 64 lower-case hex digits (SHA-256).")
        if bool(self.codec) != bool(self.codec_digest):
            raise ValueError(f"Invalid codec ({self.codec!r}, digest {self.codec_digest!r:.80}). Give both or neither.")
        if self.codec_digest and not _DIGEST.fullmatch(self.codec_digest):
            raise ValueError(
                f"Invalid codec_digest ({self.codec_digest!r:.80}). Supported are 64 lower-case hex digits."
            )

    def _check_frames(self) -> None:
        if not self.frames or isinstance(self.frames[0], PFrame):
            first = "a PFrame" if self.frames else "missing"
            raise ValueError(
                f"Invalid frames: the first one is {first}. Supported are clips that begin with an IFrame or a CFrame."
            )
        self._check_groups()
        for i, frame in enumerate(self.frames):
            if frame.grid != self.grid:
                raise ValueError(
                    f"Invalid frame {i} with a grid of {list(frame.grid)} cells. "
                    f"{self.width}x{self.height} pixels take {list(self.grid)}."
                )
            arrays = (frame.residual, frame.intra) if isinstance(frame, PFrame) else (frame.codes,)
            highest = max((int(codes.max()) for codes in arrays if codes.size), default=0)
            if highest >= self.codebook_size:
                raise ValueError(
                    f"Invalid code {highest} in frame {i}. "
                    f"Levels {self.levels} have the codes 0 to {self.codebook_size - 1}."
                )
        if not self.codec and any(isinstance(frame, PFrame) for frame in self.frames):
            raise ValueError(
                "Invalid codec (''). P-frames need the name and digest of the residual codec that made them."
            )

    def _check_groups(self) -> None:
        spans = [frame.span for frame in self.frames if isinstance(frame, CFrame)]
        if len(spans) not in (0, len(self.frames)):
            raise ValueError("Invalid frames: CFrames among others. Supported are clips of CFrames only.")
        full = [1, *[MAX_SPAN] * len(spans)][: len(spans)]
        if spans[:-1] != full[:-1] or spans[-1:] > full[-1:]:
            raise ValueError(
                f"Invalid spans ({spans!s:.60}). Supported are 1, then {MAX_SPAN} each; only the last may be smaller."
            )

    def _check_time(self) -> None:
        for name in ("frame_rate", "time_base", "duration"):
            value = getattr(self, name)
            if not isinstance(value, Fraction) or value <= 0:
                raise ValueError(f"Invalid {name} ({value!r}). Supported are Fractions above 0.")
        count = sum(_span(frame) for frame in self.frames)
        if len(self.pts) != count:
            raise ValueError(f"Invalid pts: {len(self.pts)} time stamps for {count} frames.")
        if min(self.pts) < -MAX_TICK or max(self.pts) > MAX_TICK:
            raise ValueError(f"Invalid pts ({self.pts[0]} to {self.pts[-1]}). Supported are -2^62 to 2^62.")
        for i, (a, b) in enumerate(zip(self.pts, self.pts[1:], strict=False)):
            if a >= b:
                raise ValueError(f"Invalid pts: frame {i + 1} is at {b}, not after frame {i} at {a}.")
        if self.duration <= (self.pts[-1] - self.pts[0]) * self.time_base:
            shown = (self.pts[-1] - self.pts[0]) * self.time_base
            raise ValueError(f"Invalid duration ({self.duration} s): the last frame begins {shown} s after the first.")
