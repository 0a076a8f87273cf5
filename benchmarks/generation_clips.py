"""What the generator is measured on: clips with their tokens, runs of frames to be made, and how these are judged.

A run begins, and between known frames also ends, with a frame that the generator is given as tokens. Pixels count as
moving where a channel of the source differs from a known frame of the run by more than MOVING grey levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..host import resources
from ..models.image_tokenizer import ImageTokenizer
from ..models.shots import MotionMeter
from ..tokens.video_tokens import BLOCK
from ..video.clips import HeldClip, VideoClip
from ..video.frames import model_to_uint8, uint8_to_model
from ..video.metrics import PSNR_CAP
from ..video.opening import VideoError

MOVING = 8  # grey levels
LEAST_MOVING = 0.01  # share of the pixels: where fewer move, PSNR of moving ones is that of a few edges
AT_ONCE = 8  # frames that are coded together

Tell = Callable[[str], None]


class Pictures:
    """uint8 `[T, H, W, 3]` <-> tokens int64 `[T, h, w]`, every frame for itself."""

    def __init__(self, image: ImageTokenizer):
        self.image = image

    def encode(self, frames: np.ndarray) -> Tensor:
        """H and W are multiples of 16."""
        some = (frames[at : at + AT_ONCE] for at in range(0, len(frames), AT_ONCE))
        with torch.inference_mode():
            return torch.cat([self.image.encode(uint8_to_model(each)) for each in some])

    def decode(self, tokens: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([model_to_uint8(self.image.decode(each)) for each in tokens.split(AT_ONCE)])


@dataclass(frozen=True)
class CodedClip:
    """A clip as it is, as tokens, and as it comes back from them."""

    name: str
    source: np.ndarray
    """uint8 `[T, H, W, 3]`."""
    tokens: Tensor
    """int64 `[T, h, w]`."""
    decoded: np.ndarray
    changes: tuple[tuple[int, int], ...]
    """Of each change of shot the first frame that is not of the old shot, and the first of the new one."""

    def whole(self, first: int, last: int) -> bool:
        """Whether no shot changes from frame `first` to frame `last`."""
        return first >= 0 and last < len(self.source) and not any(a <= last and b > first for a, b in self.changes)


def coded_clip(path: Path, pictures: Pictures, *, side: int, frames: int) -> CodedClip:
    """The centre square of at most `side` pixels, of the first `frames` frames. VideoError where it cannot be read.

    Clips are made smaller, never larger; sides are multiples of 16.
    """
    with VideoClip(path) as clip:
        side = min(side, clip.width, clip.height) // BLOCK * BLOCK
    if not side:
        raise VideoError(f"{path.name} is smaller than {BLOCK}x{BLOCK} pixels.")
    with VideoClip(path, size=side, crop=True, max_frames=frames) as clip:
        source = HeldClip(clip).frames
    meter = MotionMeter()
    with torch.inference_mode():
        meter.update(source)
        changes = tuple((each.first, each.begins) for each in meter.transitions)
    tokens = pictures.encode(source)
    return CodedClip(path.name, source, tokens, pictures.decode(tokens), changes)


def coded_clips(
    paths: Sequence[Path], pictures: Pictures, others: list[dict[str, str]], *, side: int, frames: int
) -> Iterator[CodedClip]:
    """One after another; those that cannot be read go to `others`, with the reason."""
    for path in paths:
        resources.check_cancelled()
        try:
            yield coded_clip(path, pictures, side=side, frames=frames)
        except VideoError as error:
            others.append({"clip": path.name, "reason": str(error)})


@dataclass(frozen=True)
class Runs:
    """Frames in a row of one clip, several times: known at the first, with `closed` also at the last, else to be made.

    Both arrays are uint8 `[N, K, H, W, 3]`; F frames of each run, K - 1 or K - 2, are to be made.
    """

    source: np.ndarray
    decoded: np.ndarray
    closed: bool

    @classmethod
    def of(cls, clip: CodedClip, starts: Sequence[int], *, asked: int, closed: bool) -> Runs:
        """Runs whose first frames, which are known, are `starts`."""
        length = asked + 1 + closed
        source, decoded = (np.stack([each[at : at + length] for at in starts]) for each in (clip.source, clip.decoded))
        return cls(source, decoded, closed)

    def repeated(self, times: int) -> Runs:
        """Each of them so many times, one after another."""
        return Runs(self.source.repeat(times, 0), self.decoded.repeat(times, 0), self.closed)

    @property
    def asked(self) -> slice:
        return slice(1, -1 if self.closed else None)

    @property
    def moving(self) -> np.ndarray:
        """bool `[N, F, H, W]`."""
        asked = self.source[:, self.asked].astype(np.int16)
        known = [self.source[:, :1], *([self.source[:, -1:]] if self.closed else [])]
        return np.any([(np.abs(asked - each) > MOVING).any(-1) for each in known], 0)

    def judge(self, made: np.ndarray) -> dict[str, float | None]:
        """`all`, `moving`: dB of the squared errors of all of `made` `[N, F, H, W, 3]`; `energy`: made over real.

        Energy is the mean difference from frame to frame, from the first known one on to the last.
        """
        errors, moving, steps = squared(self.source[:, self.asked], made), self.moving, self._steps(made)
        return {
            "all": decibels(errors.sum(), 3 * errors.size),
            "moving": decibels(errors[moving].sum(), 3 * moving.sum()) if moving.mean() >= LEAST_MOVING else None,
            "energy": _ratio(*steps.sum(1)),
        }

    def judge_frames(self, made: np.ndarray) -> dict[str, list[float | None]]:
        """The same of each of the F frames to be made."""
        errors, moving = squared(self.source[:, self.asked], made), self.moving
        pixels, many = errors[:, 0].size, moving.mean((0, 2, 3)) >= LEAST_MOVING
        sums, counts = (errors * moving).sum((0, 2, 3)), moving.sum((0, 2, 3))
        steps = self._steps(made)[:, : errors.shape[1]]
        return {
            "all": [decibels(each, 3 * pixels) for each in errors.sum((0, 2, 3))],
            "moving": [
                decibels(each, 3 * count) if enough else None
                for each, count, enough in zip(sums, counts, many, strict=True)
            ],
            "energy": [_ratio(*each) for each in steps.T],
        }

    def _steps(self, made: np.ndarray) -> np.ndarray:
        """`[2, K - 1]`: mean difference from frame to frame, in grey levels; made, with the known ones, and real."""
        runs = self.decoded.copy()
        runs[:, self.asked] = made
        both = (each.astype(np.int16) for each in (runs, self.source))
        return np.stack([np.abs(np.diff(each, axis=1)).mean((0, 2, 3, 4)) for each in both])


def squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared differences of two uint8 `[..., 3]`, summed over channels: int64 `[...]`."""
    return np.square(one.astype(np.int64) - other).sum(-1)


def decibels(error: float, values: float) -> float:
    """Of a sum of squared errors of so many values, at most 100."""
    return float(min(PSNR_CAP, 10 * np.log10(255**2 * values / error))) if error else PSNR_CAP


def _ratio(made: float, real: float) -> float | None:
    return float(made / real) if real else None
