"""What is wanted of an interpolated clip: which frames, and how cuts and repeated frames are treated."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from .frame_rates import HIGHEST
from .knots import AtCuts, Joiner
from .output_times import MAX_TIMES, DividedTimes, EvenTimes, OutputTimes, TimelineTimes
from .timeline import FrameTimeline

Repeats = Literal["keep", "retime"]


@dataclass(frozen=True)
class Retiming:
    """One of: a `timeline`, whose kept frames the clip is: every frame of its source comes back; a `rate` in frames a
    second; `times`, by which every interval is divided.

    `loop`: the last frame moves on to the first. `at_cuts`: the old shot is held until the new one, or cross-fades.
    `repeats`: frames that show the same as the one before are kept, or the motion is spread over them. Raises
    ValueError for what cannot be.
    """

    timeline: FrameTimeline | None = None
    rate: Fraction | None = None
    times: int | None = None
    loop: bool = False
    at_cuts: AtCuts = "hold"
    repeats: Repeats = "keep"

    def __post_init__(self) -> None:
        given = [name for name in ("timeline", "rate", "times") if getattr(self, name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none of them"
            raise ValueError(f"Give just one of a timeline, a rate and a multiplier. Given: {found}.")
        if self.rate is not None and not 0 < self.rate <= HIGHEST:
            raise ValueError(f"Invalid frame rate ({self.rate}). Supported are rates above 0 up to {HIGHEST}.")
        if self.times is not None and not 1 <= self.times <= MAX_TIMES:
            raise ValueError(f"Invalid multiplier ({self.times}). Supported are 1 to {MAX_TIMES}.")
        for name, value, kind in (("at_cuts", self.at_cuts, AtCuts), ("repeats", self.repeats, Repeats)):
            if value not in get_args(kind):
                supported = " and ".join(map(repr, get_args(kind)))
                raise ValueError(f"Invalid {name} ({value!r}). Supported are {supported}.")

    def output_times(self, time_base: Fraction, frame_rate: Fraction, first: int) -> OutputTimes:
        """For a clip of this time base and nominal rate, whose first frame is at tick `first`."""
        if self.timeline:
            return TimelineTimes(self.timeline, first * time_base)
        if self.rate:
            return EvenTimes(self.rate, time_base, first)
        return DividedTimes(self.times or 1, frame_rate, time_base)

    def joiner(self, time_base: Fraction, frame_rate: Fraction) -> Joiner:
        """For such a clip."""
        base = self.timeline.time_base if self.timeline else time_base
        return Joiner(base, self.at_cuts, self.loop, 1 / (frame_rate * time_base), self.timeline)
