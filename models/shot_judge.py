"""From what the shot net says of each frame to changes of shot; as frames come in, and with a bounded delay."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .shot_net import CLASSES, THUMBNAIL, ShotNet

TransitionKind = Literal["cut", "dissolve", "fade"]

LONGEST = 64
"""Frames of a dissolve or fade at most: what goes on for longer is a slow change within a shot, as dusk is."""
LONGEST_FLASH = 8
_GROUP = 8  # frames judged at a time: always the same ones together, so that chunks make no difference
# Chosen on takes held out from training:
_CUT = 0.6  # least probability of a cut
_CUT_SEEN = 0.5  # ... where the change of the picture alone looks like one too
_GRADUAL = 0.5  # least probability of all frames of a dissolve or fade
_GRADUAL_PEAK = 0.9  # ... and of the surest one
_FLASH = 0.5
_NEAR = 2  # frames: no two cuts are closer, nor a cut and a dissolve
_GAP = 2  # frames that may be missing from a dissolve
_BEYOND = 6  # judged frames after one whose verdict is final: more than any of the distances above together


@dataclass(frozen=True)
class Transition:
    """A change of shot. Frames `first` to `last` belong to neither shot alone; a cut has none: last is first - 1.

    The new shot begins at frame `last + 1`, whatever the kind; the old one ends at frame `first - 1`.
    """

    first: int
    last: int
    kind: TransitionKind

    @property
    def begins(self) -> int:
        """The first frame of the new shot."""
        return self.last + 1


class ShotJudge:
    """Runs the net over frames that come one by one; keeps a few numbers of each, and more of the last 120 or so."""

    def __init__(self, net: ShotNet) -> None:
        self._net = net
        self._lag = -(-net.config.radius // _GROUP)  # groups on each side of one that is judged
        self._thumbnails: list[Tensor] = []  # of the group that is not full yet
        self._groups: dict[int, list[Tensor]] = {}  # descriptors [1, GROUP, ...] of the last groups
        self._count = 0
        self._judged: list[np.ndarray] = []  # probabilities [GROUP, 4], final
        self._provisional = (0, np.zeros((0, len(CLASSES))))

    def add(self, picture: np.ndarray) -> None:
        """The next frame, at low resolution: float32 `[h, w, 3]` in 0..255."""
        self._thumbnails.append(F.adaptive_avg_pool2d(torch.from_numpy(picture).permute(2, 0, 1), THUMBNAIL) / 255)
        self._count += 1
        if len(self._thumbnails) < _GROUP:
            return
        self._groups[self._count // _GROUP - 1] = self._net.describe(torch.stack(self._thumbnails)[None])
        self._thumbnails.clear()
        while len(self._judged) + self._lag + 1 <= self._count // _GROUP:
            self._judged.append(self._probabilities(len(self._judged), self._groups))
            self._groups.pop(len(self._judged) - 1 - self._lag, None)

    @property
    def judged(self) -> np.ndarray:
        """Probabilities that will not change, `[frames, 4]` in the order of CLASSES."""
        return np.concatenate([np.zeros((0, len(CLASSES))), *self._judged])

    @property
    def probabilities(self) -> np.ndarray:
        """Those of all frames so far, `[N, 4]`, as if the clip ended here."""
        if self._provisional[0] != self._count:
            groups = dict(self._groups)
            if self._thumbnails:
                groups[self._count // _GROUP] = self._net.describe(torch.stack(self._thumbnails)[None])
            rest = [self._probabilities(each, groups) for each in range(len(self._judged), -(-self._count // _GROUP))]
            self._provisional = (self._count, np.concatenate([self.judged, *rest])[: self._count])
        return self._provisional[1]

    def _probabilities(self, group: int, groups: dict[int, list[Tensor]]) -> np.ndarray:
        """Of the frames of a group, `[GROUP, 4]`. Before the first frame and after the last one, they repeat."""
        numbers = range(max(0, group - self._lag), min(group + self._lag, max(groups)) + 1)
        wanted = torch.arange(_GROUP + 2 * self._net.config.radius) + group * _GROUP - self._net.config.radius
        index = wanted.clamp(0, self._count - 1) - numbers[0] * _GROUP
        parts = zip(*(groups[number] for number in numbers), strict=True)
        logits = self._net.judge([torch.cat(part, 1)[:, index] for part in parts])
        return logits[0].detach().double().sigmoid().numpy()


def runs(marked: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """First and last index of each stretch of True in bool `[N]`; up to `gap` others within do not part it."""
    index = np.flatnonzero(marked)
    if not len(index):
        return []
    breaks = np.flatnonzero(np.diff(index) > gap + 1)
    return list(zip(index[np.r_[0, breaks + 1]].tolist(), index[np.r_[breaks, len(index) - 1]].tolist(), strict=True))


def changes_of(probabilities: np.ndarray, seen: np.ndarray) -> tuple[Transition, ...]:
    """Changes of shot in order, from probabilities `[N, 4]`.

    seen: bool `[N]`, where the change of the picture against the last one, among its neighbours, looks like a cut.
    """
    if not len(probabilities):
        return ()
    cut, dissolve, fade, _ = probabilities.T
    gradual = np.maximum(dissolve, fade)
    found: list[Transition] = []
    for first, last in runs(gradual >= _GRADUAL, _GAP):
        sure = gradual[first : last + 1].max() >= _GRADUAL_PEAK
        if sure and first > 0 and last < len(cut) - 1 and last - first < LONGEST:
            kind: TransitionKind = (
                "fade" if fade[first : last + 1].sum() > dissolve[first : last + 1].sum() else "dissolve"
            )
            found.append(Transition(first, last, kind))
    near = np.lib.stride_tricks.sliding_window_view(np.pad(seen, 1), 3).any(1)
    for index in np.flatnonzero(cut >= np.where(near, _CUT_SEEN, _CUT)).tolist():
        before, after = cut[max(0, index - _NEAR) : index], cut[index + 1 : index + 1 + _NEAR]
        if index == 0 or (before >= cut[index]).any() or (after > cut[index]).any():
            continue
        rivals = [each for each in found if each.kind != "cut" and each.first - _NEAR <= index <= each.last + _NEAR + 1]
        if any(gradual[each.first : each.last + 1].max() > cut[index] for each in rivals):
            continue
        found = [each for each in found if each not in rivals] + [Transition(index, index - 1, "cut")]
    return tuple(sorted(found, key=lambda each: each.first))


def flashes_of(probabilities: np.ndarray) -> tuple[tuple[int, int], ...]:
    """First and last frame of each flash, from probabilities `[N, 4]`."""
    flash = probabilities[:, CLASSES.index("flash")]
    return tuple((a, b) for a, b in runs(flash >= _FLASH, 1) if b - a < LONGEST_FLASH)


def settled(judged: np.ndarray) -> int:
    """For how many of the first frames the verdict stands, given the probabilities `[frames, 4]` that do."""
    count = len(judged) - _BEYOND
    gradual, flash = judged[:, 1:3].max(-1) >= _GRADUAL, judged[:, 3] >= _FLASH
    for marked, gap, longest in ((gradual, _GAP, LONGEST), (flash, 1, LONGEST_FLASH)):
        for first, last in runs(marked, gap)[-1:]:
            if last + gap + 2 > len(judged) and last - first < longest:
                count = min(count, first - _NEAR - 2)
    return max(0, count)
