"""What is wanted of a clip of which not all is there yet: which frames or places are to be made, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from .knots import Join, Joiner, Knot
from .masks import covered_cells
from .retiming import Retiming
from .timeline import FrameTimeline

Task = Literal["continue", "between", "fill"]
TASKS: tuple[Task, ...] = get_args(Task)
MOST_FRAMES = {"continue": 4096, "between": 63}
"""Frames that may be asked for: after the clip; in each gap."""
USUAL_FRAMES = {"continue": 8, "between": 7}
MOST_STEPS, MOST_TEMPERATURE = 64, 10.0
MOST_IN_ALL = 65_536  # frames of a result: it is held in memory
LOOK_BACK = 32
"""Frames at the end of a clip that a continuation may look at, as far as they are of its last shot."""
_OFF = Fraction(1, 8)  # of the distance of evenly spaced frames, by which a time may be missed
_FINER = 4  # times as many as are asked for: evenly spaced frames among which those at uneven times are sought


@dataclass(frozen=True, eq=False)
class Completion:
    """One of: continue, `frames` after the last one at the nominal rate; between, `frames` in each gap at even times,
    or with a `timeline`, whose kept frames the clip is, every frame of its source; fill, what `mask` covers, `[H, W]`
    or `[T, H, W]`, see covered_cells.

    `temperature` 0 takes what may be expected; 1 draws tokens as likely as they are, in `steps` steps, the surest
    first. `seed` is all that chance depends on. Raises ValueError for what cannot be.
    """

    task: Task = "between"
    frames: int | None = None
    """None: the usual number."""
    mask: np.ndarray | None = None
    timeline: FrameTimeline | None = None
    steps: int = 4
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"Invalid task ({self.task!r}). Supported tasks are {', '.join(map(repr, TASKS))}.")
        for name, belongs in (("mask", "fill"), ("timeline", "between")):
            if getattr(self, name) is not None and self.task != belongs:
                raise ValueError(
                    f"A {name} goes with task {belongs!r}, not with {self.task!r}. Leave it out, or change the task."
                )
        if self.task == "fill" and self.mask is None:
            raise ValueError("Task 'fill' needs a mask: white where the picture is to be made anew. Give one.")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"Invalid steps ({self.steps}). Supported are 1 to {MOST_STEPS}.")
        if not 0 <= self.temperature <= MOST_TEMPERATURE:
            raise ValueError(f"Invalid temperature ({self.temperature}). Supported are 0 to {MOST_TEMPERATURE:g}.")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"Invalid seed ({self.seed}). Supported are 0 to 2^64 - 1.")
        most = MOST_FRAMES.get(self.task)
        if most and not self.timeline and not 1 <= self.count <= most:
            gap = " in each gap" if self.task == "between" else ""
            raise ValueError(f"Invalid frames ({self.count}). Task {self.task!r} makes 1 to {most}{gap}.")

    @property
    def count(self) -> int:
        """Frames after the clip or in each gap; 0 where that is not what is asked for."""
        usual = USUAL_FRAMES.get(self.task, 0)
        return usual if self.frames is None or not usual else self.frames

    def result(self, known: int) -> int:
        """Frames of the result for a clip of `known` frames. Raises ValueError where the two do not go together."""
        if self.task == "fill":
            return known
        total = known + self.count
        if self.timeline and known != len(self.timeline.kept):
            raise ValueError(
                f"The tokens have {known} frames, but the timeline kept {len(self.timeline.kept)}. Encode the video "
                "that was written together with the timeline, all of it."
            )
        if self.task == "between":
            total = len(self.timeline.source_pts) if self.timeline else known + (known - 1) * self.count
            if known < 2 and not self.timeline:
                raise ValueError("The tokens have 1 frame, and so no gap. Give 2 or more, or use task 'continue'.")
        if total > MOST_IN_ALL:
            raise ValueError(
                f"{total:,} frames would come out, more than {MOST_IN_ALL:,}. Ask for fewer, or give fewer."
            )
        return total

    def work(self, known: int) -> int:
        """Frames of the result and those looked at for cuts: what progress counts."""
        looked_at = 0 if self.timeline else min(known, LOOK_BACK) if self.task == "continue" else known
        return looked_at + (self.count if self.task == "continue" else self.result(known))

    def retiming(self) -> Retiming:
        """When the frames of task between are shown."""
        return Retiming(timeline=self.timeline, times=None if self.timeline else self.count + 1)

    def cells(self, known: int, frame: tuple[int, int], grid: tuple[int, int], cell: int) -> np.ndarray | None:
        """bool `[known, h, w]`: the cells to be made anew, for frames of (width, height); None without a mask."""
        if self.mask is None:
            return None
        cells = covered_cells(self.mask, frame, grid, cell)
        if len(cells) not in (1, known):
            raise ValueError(
                f"The mask has {len(cells)} frames, the tokens {known}. Give a mask of one, or of as many."
            )
        if not cells.any():
            raise ValueError("The mask covers nothing. Make it white where the picture is to be made anew.")
        if cells.all():
            raise ValueError("The mask covers everything. Leave something of the clip that the rest can be made from.")
        return np.broadcast_to(cells, (known, *grid))


def gap(joiner: Joiner, start: int, stop: int, begins_shot: bool) -> Join:
    """What happens between two known frames; only a timeline knows where in between a cut lies."""
    if joiner.timeline:
        nothing = np.zeros((0, 0, 3), np.uint8)  # pictures do not matter
        return joiner.join(Knot(nothing, start), Knot(nothing, stop))
    middle = Fraction(start + stop, 2)
    return Join("hold", middle, middle, is_cut=True) if begins_shot else Join("motion", Fraction(start), Fraction(stop))


def even_places(shares: Sequence[Fraction]) -> tuple[int, list[int]]:
    """How many evenly spaced frames to make in a gap, and which of them is the one for each share of the gap.

    As many as there are shares where these are even themselves; else up to four times as many, of which the nearest
    are taken. In a gap of more frames than can be made, neighbours share one.
    """
    most = MOST_FRAMES["between"]

    def places(count: int) -> list[int]:
        return [min(max(round(share * (count + 1)), 1), count) - 1 for share in shares]

    def missed(count: int) -> Fraction:
        """By how much of their distance."""
        return max(abs(share * (count + 1) - place - 1) for share, place in zip(shares, places(count), strict=True))

    counts = range(min(len(shares), most), min(_FINER * len(shares), most) + 1)
    best = next((count for count in counts if missed(count) <= _OFF), None)
    best = best or min(counts, key=lambda count: missed(count) / (count + 1))
    return best, places(best)
