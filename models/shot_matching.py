"""How well changes of shot that were found agree with those that are there."""

from collections.abc import Sequence
from dataclasses import dataclass

from .shot_judge import Transition


def place(change: Transition) -> int:
    """The one frame that stands for a change that was found: the first of the new shot, or the middle of a dissolve."""
    return (change.first + change.last + 1) // 2


def match(truth: Sequence[Transition], places: Sequence[int], tolerance: int = 1) -> list[int | None]:
    """For each change in `truth`, which of `places` (frames) found it, or None.

    A place finds a cut within `tolerance` of its first frame, and a gradual change from `tolerance` before the last
    frame of the old shot to `tolerance` after the first frame of the new one. Each finds one change at most.
    """
    windows = []
    for number, each in enumerate(truth):
        first, last = (each.first, each.first) if each.kind == "cut" else (each.first - 1, each.last + 1)
        windows.append((last + tolerance, first - tolerance, number))
    found: list[int | None] = [None] * len(truth)
    free = sorted(range(len(places)), key=lambda index: places[index])
    for end, begin, number in sorted(windows):  # the window that ends first takes the first place within it
        taken = next((index for index in free if begin <= places[index] <= end), None)
        if taken is not None:
            found[number] = taken
            free.remove(taken)
    return found


@dataclass(frozen=True)
class Agreement:
    """Counts; they can be added up."""

    found: int = 0
    missed: int = 0
    false: int = 0

    @classmethod
    def of(cls, truth: Sequence[Transition], places: Sequence[int], tolerance: int = 1) -> "Agreement":
        found = sum(each is not None for each in match(truth, places, tolerance))
        return cls(found, len(truth) - found, len(places) - found)

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.found + other.found, self.missed + other.missed, self.false + other.false)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.found + self.missed)

    @property
    def f1(self) -> float:
        return 2 * self.found / max(1, 2 * self.found + self.missed + self.false)
