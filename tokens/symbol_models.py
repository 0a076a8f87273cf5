"""What the coder knows of a clip: which chances stand for each symbol, given what was coded before it.

Every model is written once, for both directions: it is given the values to write, or None to read, and returns them.
`docs/token_format.md` is the normative description of contexts and order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .range_coder import Coder
from .video_tokens import CELLS, MAX_DELTA, POPCOUNT, Mode, PFrame

_LEARNED = 6  # bits of a digit; those below are taken as they come
_SEEN = 3  # highest bits of a neighbour's digit that a context has
_UNSEEN = 1 << _SEEN  # in the place of a neighbour that there is none of
_NEAR = 4  # half pixels up to which a vector's distance from the prediction is told apart


_STILL = (0, 0)


class Layout:
    """Numbers the chances and weights of the models, one after another."""

    def __init__(self) -> None:
        self.chances = self.weights = 0

    def take(self, contexts: int, levels: int = 2) -> tuple[int, int]:
        """Chances for a digit of `levels` in each of `contexts`: where they begin, and how far apart contexts are."""
        first, nodes = self.chances, 1 << (levels - 1).bit_length()
        self.chances += contexts * nodes
        return first, nodes

    def mix(self, sets: int = 1) -> int:
        """The first of so many sets of weights."""
        self.weights += sets
        return self.weights - sets


class Numbers:
    """Whole numbers of up to `longest` bits, small ones cheap: bit length, sign, the bits below the highest."""

    def __init__(self, layout: Layout, longest: int) -> None:
        self._levels = longest + 1
        self._length, _ = layout.take(1, self._levels)
        self._sign, _ = layout.take(1)

    def code(self, coder: Coder, value: int) -> int:
        length = coder.plain(abs(value).bit_length(), self._levels, self._length)
        if length == 0:
            return 0
        negative = coder.plain(int(value < 0), 2, self._sign)
        size = 1 << (length - 1) | coder.bits(abs(value), length - 1)
        return -size if negative else size


class _Digits:
    """How the digits of a code are coded: their highest bits are learned, those below come as they are."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = tuple(levels)
        self.raw = [max(0, (level - 1).bit_length() - _LEARNED) for level in levels]
        self.high = [((level - 1) >> raw) + 1 for level, raw in zip(levels, self.raw, strict=True)]
        self.hidden = [max(0, (high - 1).bit_length() - _SEEN) for high in self.high]
        self.units = [math.prod(levels[:at]) for at in range(len(levels))]
        self.count = len(self.levels)

    def split(self, codes: NDArray[Any] | None) -> Iterator[list[int]]:
        """The digits of each code; zeros without end if there are none yet."""
        if codes is None:
            return repeat([0] * self.count)
        rest, digits = codes.astype(np.int64).ravel(), []
        for level in self.levels:
            rest, digit = np.divmod(rest, level)
            digits.append(digit)
        return iter(np.stack(digits, axis=1).tolist())

    def finish(self, coder: Coder, digit: int, known: int, at: int) -> int:
        """The whole of digit number `at`, of which the bits that are learned are known."""
        whole = known << self.raw[at] | coder.bits(digit, self.raw[at])
        if whole >= self.levels[at]:
            raise ValueError(f"its payload has the digit {whole} where there are {self.levels[at]} levels.")
        return whole


class LooseCodes:
    """Codes with nothing to tell them from: residual codes, and those of INTRA blocks."""

    def __init__(self, layout: Layout, levels: Sequence[int]) -> None:
        self._digits = _Digits(levels)
        self._first = [layout.take(1, high)[0] for high in self._digits.high]

    def code(self, coder: Coder, codes: NDArray[Any] | None, count: int) -> NDArray[np.int32]:
        """int32 [count]."""
        digits, result = self._digits, array("i")
        parts = list(zip(range(digits.count), digits.high, digits.raw, self._first, digits.units, strict=True))
        for value in islice(digits.split(codes), count):
            code = 0
            for at, high, raw, first, unit in parts:
                digit = coder.plain(value[at] >> raw, high, first)
                code += unit * (digits.finish(coder, value[at], digit, at) if raw else digit)
            result.append(code)
        return np.array(result, dtype=np.int32)


class GridCodes:
    """Codes of whole grids, each digit told from the same one to the left, above, and in the grid before."""

    def __init__(self, layout: Layout, levels: Sequence[int]) -> None:
        self._digits = _Digits(levels)
        taken = [[layout.take(_UNSEEN + 1, high) for _ in range(3)] for high in self._digits.high]
        self._first = [(*(first for first, _ in each), each[0][1]) for each in taken]
        self._mix = layout.mix(self._digits.count)
        self._before = b""

    def code(self, coder: Coder, codes: NDArray[Any] | None, grid: tuple[int, int]) -> NDArray[np.int32]:
        """int32 [h, w] for a `grid` of (h, w)."""
        digits, values, (h, w) = self._digits, self._digits.split(codes), grid
        result, none = array("i"), bytes([_UNSEEN]) * digits.count
        before, seen = self._before, bytearray()  # what contexts have of the digits, those of each cell in a row
        for y in range(h):
            coder.check()
            for x in range(w):
                place = len(seen)
                left = seen[place - digits.count :] if x else none
                above = seen[place - w * digits.count : place - (w - 1) * digits.count] if y else none
                was = before[place : place + digits.count] or none
                result.append(self._cell(coder, next(values), (left, above, was), seen))
        self._before = bytes(seen)
        return np.array(result, dtype=np.int32).reshape(h, w)

    def _cell(self, coder: Coder, value: list[int], sides: Sequence[bytes | bytearray], seen: bytearray) -> int:
        digits, code = self._digits, 0
        for at, ((a, b, c, step), left, above, was) in enumerate(zip(self._first, *sides, strict=True)):
            raw = digits.raw[at]
            places = a + step * left, b + step * above, c + step * was
            known = coder.digit(value[at] >> raw, digits.high[at], *places, self._mix + at)
            code += digits.units[at] * (digits.finish(coder, value[at], known, at) if raw else known)
            seen.append(known >> digits.hidden[at])
        return code


class _Field:
    """What contexts have of a predicted frame: blocks in rows of `row`, with a border of skipped ones around them."""

    def __init__(self, blocks: tuple[int, int]) -> None:
        self.row = blocks[1] + 2
        size = (blocks[0] + 2) * self.row
        self.modes, self.masks = bytearray(size), bytearray(size)
        self.past = bytearray(size)
        """Whether the block was other than SKIP in this frame (bit 0) and in the two before it."""
        self.vectors: dict[int, tuple[int, int]] = {}
        """Deltas of the blocks that have one."""
        self.motion: tuple[int, int] = (0, 0)


def _median(a: int, b: int, c: int) -> int:
    return max(min(a, b), min(max(a, b), c))


def _near(distance: int) -> int:
    """0..8, or 9 for a vector that there is none of."""
    return min(max(distance, -_NEAR), _NEAR) + _NEAR


class Blocks:
    """Modes, vectors and masks of predicted frames."""

    def __init__(self, layout: Layout, blocks: tuple[int, int]) -> None:
        self._blocks = blocks
        self._before: _Field | None = None
        self._global = [Numbers(layout, 8), Numbers(layout, 8)]
        self._skip = [layout.take(size)[0] for size in (32, 120, 128)], layout.mix(5)
        self._intra = [layout.take(size)[0] for size in (16, 64, 16)], layout.mix()
        self._coded = [layout.take(size)[0] for size in (16, 64, 16)], layout.mix()
        self._length = [[layout.take(size, 8)[0] for size in (100, 60, 56)] for _ in range(2)], layout.mix(2)
        self._sign = [[layout.take(size)[0] for size in (100, 60, 56)] for _ in range(2)], layout.mix(2)
        self._below = layout.take(14, 64)[0]
        self._mask = [layout.take(size)[0] for size in (64, 128, 64)], layout.mix(CELLS)

    def code(self, coder: Coder, frame: PFrame | None) -> PFrame:
        """A frame without its codes: those are zeros."""
        (bh, bw), field = self._blocks, _Field(self._blocks)
        before = self._before or _Field(self._blocks)
        field.motion = self._motion(coder, before.motion, frame.global_motion if frame else (0, 0))
        modes = iter(frame.modes.ravel().tolist()) if frame else repeat(0)
        deltas = iter(frame.motion.tolist()) if frame else repeat((0, 0))
        masks = iter(frame.masks.tolist()) if frame else repeat(0)
        for y in range(1, bh + 1):
            coder.check()
            for at in range(y * field.row + 1, y * field.row + 1 + bw):
                mode = self._mode(coder, next(modes), (field, before), at)
                field.modes[at], field.past[at] = mode, (before.past[at] << 1 & 7) | (mode > 0)
                if mode == Mode.MOTION or mode == Mode.RESIDUAL:
                    field.vectors[at] = self._vector(coder, next(deltas), (field, before), at)
                if mode == Mode.RESIDUAL:
                    field.masks[at] = self._marks(coder, next(masks), (field, before), at)
        self._before = field
        grid = np.frombuffer(field.modes, dtype=np.uint8).reshape(-1, field.row)[1:-1, 1:-1]
        found = np.array([field.masks[at] for at in field.vectors if field.masks[at]], dtype=np.uint8)
        return PFrame(
            field.motion,
            grid,
            np.array(list(field.vectors.values()), dtype=np.int8).reshape(-1, 2),
            found,
            np.zeros(int(POPCOUNT[found].sum()), np.int32),
            np.zeros((int((grid == Mode.INTRA).sum()), CELLS), np.int32),
        )

    def _motion(self, coder: Coder, was: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
        dy, dx = (a + numbers.code(coder, b - a) for a, b, numbers in zip(was, now, self._global, strict=True))
        if not (-128 <= dy <= 127 and -128 <= dx <= 127):
            raise ValueError(f"its payload has the global motion ({dy}, {dx}) beyond -128 to 127 half pixels.")
        return dy, dx

    def _mode(self, coder: Coder, mode: int, fields: tuple[_Field, _Field], at: int) -> int:
        (field, before), row = fields, fields[0].row
        now, was = field.modes, before.modes
        left, above, right, corner = now[at - 1], now[at - row], now[at - row + 1], now[at - row - 1]
        near = (left > 0) + (above > 0) + (right > 0) + (corner > 0)
        ahead = (was[at + 1] > 0) + (was[at + row] > 0) + (was[at + row + 1] > 0) + (was[at - 1] > 0)
        ahead += was[at - row] > 0
        (a, b, c), mix = self._skip
        around = (left > 0) << 4 | (above > 0) << 3 | (right > 0) << 2 | (corner > 0) << 1 | (was[at] > 0)
        past = before.past[at]
        a, b, c = a + 2 * around, b + 2 * ((near * 6 + ahead) * 4 + was[at]), c + 2 * (past << 4 | left << 2 | above)
        if not coder.digit(int(mode > 0), 2, a, b, c, mix + near):
            return Mode.SKIP
        sides = left << 2 | above, was[at] << 4 | was[at + 1] << 2 | was[at + row], (past & 3) << 2 | right
        (a, b, c), mix = self._intra
        if coder.digit(int(mode == Mode.INTRA), 2, a + 2 * sides[0], b + 2 * sides[1], c + 2 * sides[2], mix):
            return Mode.INTRA
        (a, b, c), mix = self._coded
        coded = coder.digit(int(mode == Mode.RESIDUAL), 2, a + 2 * sides[0], b + 2 * sides[1], c + 2 * sides[2], mix)
        return Mode.RESIDUAL if coded else Mode.MOTION

    def _vector(self, coder: Coder, delta: Sequence[int], fields: tuple[_Field, _Field], at: int) -> tuple[int, int]:
        (field, before), row = fields, fields[0].row
        near = at - 1, at - row, at - row + (1 if (at + 2) % row else -1)  # above right, at the edge above left
        vectors = [field.vectors.get(place, _STILL) for place in near]
        guesses = [_median(*sides) for sides in zip(*vectors, strict=True)]
        last = before.vectors.get(at)
        result: list[int] = []
        for axis in range(2):
            (left, above, right), guess = (vector[axis] for vector in vectors), guesses[axis]
            a = _near(left - guess) * 10 + _near(above - guess)
            b = (_near(last[axis] + before.motion[axis] - field.motion[axis] - guess) if last else 9) * 6
            b += 5 if axis == 0 else min(max(result[0] - guesses[0], -2), 2) + 2
            c = (abs(left - above) + abs(above - right)).bit_length() * 7 + min(max(guess, -3), 3) + 3
            first, mix = self._length[0][axis], self._length[1] + axis
            size = abs(delta[axis] - guess)
            length = coder.digit(size.bit_length(), 7, first[0] + 8 * a, first[1] + 8 * b, first[2] + 8 * c, mix)
            if length:
                first, mix = self._sign[0][axis], self._sign[1] + axis
                places = first[0] + 2 * a, first[1] + 2 * b, first[2] + 2 * c
                negative = coder.digit(int(delta[axis] < guess), 2, *places, mix)
                size &= (1 << (length - 1)) - 1
                if length > 1:
                    size = coder.plain(size, 1 << (length - 1), self._below + 64 * (axis * 7 + length))
                size |= 1 << (length - 1)
                guess += -size if negative else size
            if not -MAX_DELTA <= guess <= MAX_DELTA:
                raise ValueError(f"its payload has the motion delta {guess} beyond {MAX_DELTA} half pixels.")
            result.append(guess)
        return result[0], result[1]

    def _marks(self, coder: Coder, mask: int, fields: tuple[_Field, _Field], at: int) -> int:
        (field, before), row, marks = fields, fields[0].row, 0
        was = before.masks[at]
        left, above = field.masks[at - 1], field.masks[at - row]
        (a, b, c), mix = self._mask
        for cell in range(CELLS):
            if cell == CELLS - 1 and not marks:
                return 1 << cell
            beside = marks >> (cell - 1) if cell % 2 else left >> (cell + 1)
            over = marks >> (cell - 2) if cell > 1 else above >> (cell + 2)
            sides = (beside & 1) << 4 | (over & 1) << 3 | (was >> cell & 1) << 2 | (left > 0) << 1 | (above > 0)
            places = a + 2 * (cell << 3 | marks), b + 2 * (cell << 5 | sides), c + 2 * (cell << 4 | was)
            marks |= coder.digit(mask >> cell & 1, 2, *places, mix + cell) << cell
        return marks
