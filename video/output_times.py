"""When the frames of an interpolated clip are shown: at an even rate, at divided intervals, or as a timeline says.

Positions are times on the clock of the source frames, in ticks of their time base, exact. The frame at a position that
is a source frame's own is that frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Protocol

from .timeline import FrameTimeline

MAX_TICKS = 2**31 - 1  # what containers hold as terms of a time base
MAX_TIMES = 64  # what an interval is divided by at most
_ROUNDED = Fraction(51, 100)  # ticks: time stamps that were rounded to ticks lie so near to where they belong
_COARSE = 8  # ticks: intervals that are shorter come of time bases in which frames lie exactly


@dataclass(frozen=True)
class Showing:
    """A frame to be shown."""

    tick: int
    """When, in ticks of the output's time base."""
    position: Fraction
    """What: the source's picture at this time, in ticks of the source's time base."""


class OutputTimes(Protocol):
    """The frames to be shown, told piece by piece while the source is read."""

    frame_rate: Fraction
    time_base: Fraction

    def within(self, ticks: Sequence[int]) -> list[Showing]:
        """What is shown from the first of `ticks` until the last one: those of source frames that follow each other.

        The last of all is the end of the clip.
        """
        ...

    def end(self, tick: int) -> int:
        """Where the output ends, in its ticks, when the source ends at `tick`. No frame is shown from then on."""
        ...


class EvenTimes:
    """A frame every 1 / `frame_rate` seconds from the first source frame on, rounded to whole frames at the end."""

    def __init__(self, frame_rate: Fraction, source_base: Fraction, first: int) -> None:
        self.frame_rate = frame_rate
        self._step, self._first, self._source_base = 1 / frame_rate, first, source_base
        start = first * source_base
        self.time_base = _common(self._step, start) if start else self._step
        if self.time_base.denominator > MAX_TICKS:
            self.time_base = self._step  # then the start is right to half a frame
        self._offset = round(start / self.time_base)
        self._next = 0

    def within(self, ticks: Sequence[int]) -> list[Showing]:
        showings, pieces = [], pairwise(ticks)
        start, stop = next(pieces)
        while (position := self._position(self._next)) < ticks[-1]:
            while position >= stop:
                start, stop = next(pieces)
            showings.append(Showing(self._tick(self._next), _snapped(position, start, stop)))
            self._next += 1
        return showings

    def end(self, tick: int) -> int:
        length = (tick - self._first) * self._source_base * self.frame_rate
        return self._tick(max(1, math.ceil(length - Fraction(1, 2))))

    def _position(self, index: int) -> Fraction:
        return self._first + index * self._step / self._source_base

    def _tick(self, index: int) -> int:
        return self._offset + int(index * self._step / self.time_base)


class DividedTimes:
    """Every source frame, and `times` - 1 between it and the next one, whatever their distance."""

    def __init__(self, times: int, source_rate: Fraction, source_base: Fraction) -> None:
        self.frame_rate, self._times = source_rate * times, times
        self.time_base = source_base / times
        if max(self.time_base.denominator, self.time_base.numerator) > MAX_TICKS:
            self.time_base = Fraction(1, 1_000_000_000)
        self._scale = source_base / self.time_base

    def within(self, ticks: Sequence[int]) -> list[Showing]:
        return [
            Showing(math.floor(position * self._scale), position)
            for start, stop in pairwise(ticks)
            for position in (start + Fraction(index * (stop - start), self._times) for index in range(self._times))
        ]

    def end(self, tick: int) -> int:
        return math.floor(tick * self._scale)


class TimelineTimes:
    """All source frames of a timeline, where `ticks` are those of its kept frames. `start`: of the first kept, in s."""

    def __init__(self, timeline: FrameTimeline, start: Fraction) -> None:
        self.frame_rate, self.time_base = timeline.frame_rate, timeline.time_base
        self._pts, self._next = timeline.source_pts, 0
        self._shift = round(start / timeline.time_base) - timeline.kept_pts[0]
        self._end = timeline.source_pts[-1] + timeline.final_duration

    def within(self, ticks: Sequence[int]) -> list[Showing]:
        showings = []
        while self._next < len(self._pts) and self._pts[self._next] < ticks[-1]:
            pts = self._pts[self._next]
            showings.append(Showing(pts + self._shift, Fraction(pts)))
            self._next += 1
        return showings

    def end(self, tick: int) -> int:
        return self._end + self._shift


def _snapped(position: Fraction, start: int, stop: int) -> Fraction:
    """The time stamp that is meant, where a container has rounded it (Matroska to milliseconds)."""
    if stop - start >= _COARSE:
        for tick in (start, stop):
            if abs(position - tick) < min(_ROUNDED, Fraction(stop - start, 4 * _COARSE)):
                return Fraction(tick)
    return position


def _common(a: Fraction, b: Fraction) -> Fraction:
    """The largest time base in which both are whole."""
    top = math.gcd(a.numerator * b.denominator, b.numerator * a.denominator)
    return Fraction(top, a.denominator * b.denominator)
