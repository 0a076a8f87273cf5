"""Pictures at times, and what happens between two of them: motion, or a change of shot, over which nothing moves."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from .timeline import FrameTimeline

AtCuts = Literal["hold", "crossfade"]
FADE = Fraction(1, 5)  # seconds of a cross-fade at a cut, as far as the frames next to the cut are so far apart
_STILL_INTERVALS, _STILL_SECONDS = 4, Fraction(1, 2)  # a frame shown for longer than both stands still until the last


@dataclass
class Knot:
    """A picture, and when it is shown, in ticks of the source's time base."""

    frame: np.ndarray
    """uint8 `[H, W, 3]`."""
    tick: int
    begins_shot: bool = False
    repeats: tuple[int, ...] = ()
    """When frames follow that show the same, and were left out."""
    closes: bool = False
    """The end of the clip; the frame is the first one again, for a clip that loops."""


@dataclass(frozen=True)
class Join:
    """What happens between two knots: until `start` there is the first, from `end` on the second."""

    kind: Literal["motion", "hold", "fade"]
    start: Fraction
    end: Fraction
    is_cut: bool = False

    def share(self, position: Fraction) -> Fraction | None:
        """How far it has come at a position strictly inside, above 0 and below 1; None elsewhere."""
        return (position - self.start) / (self.end - self.start) if self.start < position < self.end else None


@dataclass(frozen=True)
class Joiner:
    """Says what happens between two knots of a clip. `interval` is that of a nominal frame, in ticks."""

    time_base: Fraction
    at_cuts: AtCuts = "hold"
    loop: bool = False
    interval: Fraction = Fraction(1)
    timeline: FrameTimeline | None = None

    def join(self, first: Knot, second: Knot) -> Join:
        """Between `first` and the knot after it."""
        start, end = Fraction(first.tick), Fraction(second.tick)
        if second.closes and not self.loop:
            return Join("hold", end + 1, end + 1)
        if self.timeline and not second.closes:
            return self._in_timeline(self.timeline, first, second)
        if second.begins_shot:
            return self._cut(first, end)
        still = max(_STILL_INTERVALS * self.interval, _STILL_SECONDS / self.time_base)
        waits = not self.timeline and end - start > still
        return Join("motion", end - self.interval if waits else start, end)

    def _in_timeline(self, timeline: FrameTimeline, first: Knot, second: Knot) -> Join:
        """The last change of shot between two kept frames, or motion where there is none."""
        pts = timeline.source_pts
        a, b = bisect_left(pts, first.tick), bisect_left(pts, second.tick)
        last_shot = timeline.shots[bisect_right(timeline.shots, b) - 1]
        gradual = [(begin, end) for begin, end, _ in timeline.transitions if begin <= b and end >= a]
        if gradual and (last_shot <= a or gradual[-1][1] + 1 >= last_shot):
            begin, end = gradual[-1]
            last = Fraction(min(second.tick, pts[end + 1]))
            return Join("fade", Fraction(max(first.tick, pts[max(0, begin - 1)])), last)
        if last_shot > a:
            return self._cut(first, Fraction(pts[last_shot]))
        return Join("motion", Fraction(first.tick), Fraction(second.tick))

    def _cut(self, first: Knot, at: Fraction) -> Join:
        if self.at_cuts == "hold":
            return Join("hold", at, at, is_cut=True)
        return Join("fade", max(Fraction(first.tick), at - FADE / self.time_base), at, is_cut=True)
