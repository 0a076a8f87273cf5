"""FRAME_TIMELINE: which source frames a sampler kept, when every source frame was shown, and where shots begin.

The sampler writes it and the interpolator reads it: any sampling can be brought back to the exact source timing, and
nothing is ever blended across a cut.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

FORMAT = "tokenreel.timeline"
VERSION = 2
_KEYS = {"format", "version", "time_base", "frame_rate", "duration", "source_pts", "kept", "shots", "transitions"}
_NOT_IN = {1: {"transitions"}, 2: set[str]()}
"""What files of older versions lack."""
GRADUAL = ("dissolve", "fade")
_MAX_FRAMES = 2_000_000


@dataclass(frozen=True)
class FrameTimeline:
    """Timing of a clip and of the frames kept from it.

    `source_pts` are the time stamps of all N source frames in ticks of `time_base` (seconds), strictly increasing.
    `duration` is that of the whole clip in seconds, the last frame included. `kept` and `shots` are strictly increasing
    indices of source frames: the frames kept (at least one), and the first frame of every shot (the first is 0).

    `transitions` are the gradual ones, increasing: (first, last, "dissolve" or "fade"); the frames first..last are
    mixtures of two shots. The new shot begins at last + 1, which is in `shots`; the old one ends at first - 1. A clip
    that fades in has a transition from 0. Raises ValueError naming the field that breaks this.
    """

    time_base: Fraction
    frame_rate: Fraction
    duration: Fraction
    source_pts: tuple[int, ...]
    kept: tuple[int, ...]
    shots: tuple[int, ...] = (0,)
    transitions: tuple[tuple[int, int, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("time_base", "frame_rate", "duration"):
            value = getattr(self, name)
            if not isinstance(value, Fraction) or value <= 0:
                raise ValueError(f"Invalid timeline: {name} is {value!r}. It is a Fraction above 0.")
        for name in ("source_pts", "kept", "shots"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or any(type(item) is not int for item in value):
                raise ValueError(f"Invalid timeline: {name} is not a tuple of at least one integer.")
            if any(later <= earlier for earlier, later in pairwise(value)):
                raise ValueError(f"Invalid timeline: {name} does not increase strictly.")
        count = len(self.source_pts)
        for name in ("kept", "shots"):
            first, last = getattr(self, name)[0], getattr(self, name)[-1]
            if first < 0 or last >= count:
                raise ValueError(f"Invalid timeline: {name} holds {first}..{last}, but the clip has {count} frames.")
        if self.shots[0] != 0:
            raise ValueError(f"Invalid timeline: the first shot begins at frame {self.shots[0]}. It begins at frame 0.")
        if (self.source_pts[-1] - self.source_pts[0]) * self.time_base >= self.duration:
            raise ValueError(f"Invalid timeline: duration {self.duration} s ends before the last frame begins.")
        self._check_transitions()

    def _check_transitions(self) -> None:
        if not isinstance(self.transitions, tuple):
            raise ValueError("Invalid timeline: transitions is not a tuple.")
        starts, end = set(self.shots), -1
        for each in self.transitions:
            if not (isinstance(each, tuple) and len(each) == 3 and type(each[0]) is type(each[1]) is int):
                raise ValueError(f"Invalid timeline: the transition {each!r:.80} is not (first, last, kind).")
            first, last, kind = each
            if kind not in GRADUAL:
                raise ValueError(
                    f"Invalid timeline: transition of kind {kind!r:.40}. It is one of {', '.join(GRADUAL)}."
                )
            if not end < first <= last:
                raise ValueError(
                    f"Invalid timeline: the transition {first}..{last} is empty, or begins before {end + 1}."
                )
            inside = bisect_right(self.shots, last) - bisect_right(self.shots, first)
            if last + 1 not in starts or inside:
                raise ValueError(f"Invalid timeline: no shot begins at {last + 1}, or one inside {first}..{last}.")
            end = last

    def __repr__(self) -> str:
        return (
            f"FrameTimeline({len(self.kept)} of {len(self.source_pts)} frames kept, {len(self.shots)} shots, "
            f"{float(self.duration):.3f} s)"
        )

    @property
    def kept_pts(self) -> tuple[int, ...]:
        """Time stamps of the kept frames, in ticks of `time_base`."""
        return tuple(self.source_pts[index] for index in self.kept)

    @property
    def final_duration(self) -> int:
        """How long the last source frame is shown, in ticks, at least 1."""
        return max(1, round(self.duration / self.time_base) - (self.source_pts[-1] - self.source_pts[0]))

    def shot_of(self, index: int) -> int:
        """The number of the shot that source frame `index` belongs to, from 0."""
        if not 0 <= index < len(self.source_pts):
            raise IndexError(f"Frame {index} is outside the clip of {len(self.source_pts)} frames.")
        return bisect_right(self.shots, index) - 1

    def to_json(self) -> str:
        """The timeline as one JSON object; fractions as "numerator/denominator"."""
        fields = {name: str(getattr(self, name)) for name in ("time_base", "frame_rate", "duration")}
        lists = {name: list(getattr(self, name)) for name in ("source_pts", "kept", "shots")}
        lists["transitions"] = [list(each) for each in self.transitions]
        return json.dumps({"format": FORMAT, "version": VERSION, **fields, **lists})

    @classmethod
    def from_json(cls, text: str) -> "FrameTimeline":
        """Read what `to_json` wrote. Raises ValueError for anything else, saying what is wrong with it."""
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as e:
            raise ValueError(
                f"Not a timeline: it is no JSON ({e}). Give the file that `sample --timeline` wrote."
            ) from e
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"Not a timeline: no format {FORMAT!r}. Give the file that `sample --timeline` wrote.")
        version = data.get("version")
        if type(version) is not int or version not in _NOT_IN:
            supported = " and ".join(map(str, _NOT_IN))
            raise ValueError(f"Timeline version {version!r:.40} is not supported; {supported} are. Update TokenReel.")
        if data.keys() != _KEYS - _NOT_IN[version]:
            odd = ", ".join(sorted(map(str, data.keys() ^ (_KEYS - _NOT_IN[version]))))
            raise ValueError(f"Invalid timeline: missing or unknown fields: {odd}.")
        return cls(
            time_base=_fraction("time_base", data["time_base"]),
            frame_rate=_fraction("frame_rate", data["frame_rate"]),
            duration=_fraction("duration", data["duration"]),
            source_pts=_integers("source_pts", data["source_pts"]),
            kept=_integers("kept", data["kept"]),
            shots=_integers("shots", data["shots"]),
            transitions=_transitions(data.get("transitions", [])),
        )


def _fraction(name: str, value: Any) -> Fraction:
    if isinstance(value, str) and len(value) <= 64:
        numerator, _, denominator = value.partition("/")
        if numerator.isdecimal() and (denominator or "1").isdecimal() and int(denominator or "1") > 0:
            return Fraction(int(numerator), int(denominator or "1"))
    raise ValueError(f"Invalid timeline: {name} is {value!r:.80}. It is a string like '1/24'.")


def _integers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MAX_FRAMES or any(type(item) is not int for item in value):
        raise ValueError(f"Invalid timeline: {name} is not a list of at most {_MAX_FRAMES:,} integers.")
    return tuple(value)


def _transitions(value: Any) -> tuple[tuple[int, int, str], ...]:
    if not isinstance(value, list) or len(value) > _MAX_FRAMES or any(not isinstance(item, list) for item in value):
        raise ValueError(f"Invalid timeline: transitions is not a list of at most {_MAX_FRAMES:,} [first, last, kind].")
    return tuple(tuple(item) for item in value)
