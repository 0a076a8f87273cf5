"""Clips as the stations take them: sized frames in chunks with exact time stamps, from a file or from images."""

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np
import torch

from .frames import center_crop, fit_size, image_to_uint8, resize
from .reader import FrameChunk, VideoInfo, VideoReader

CHUNK = 8
"""Frames held at a time."""


class Clip(Protocol):
    """Read once, front to back. `pts` and `duration` are complete when the chunks have been read."""

    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    length: int | None
    """Frames to come, as far as that is known beforehand."""
    pts: list[int]

    @property
    def duration(self) -> Fraction: ...

    def chunks(self) -> Iterator[FrameChunk]: ...


class VideoClip:
    """Frames of a file or stream, scaled so that the short side is `size`, with `crop` cut to the centre square.

    `start` and `duration` (seconds) and `max_frames` choose a part. `strict` refuses damaged files. Raises VideoError
    for what cannot be read and ValueError for a size that cannot be.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        start: Fraction | float = 0,
        duration: Fraction | float | None = None,
        max_frames: int | None = None,
        size: int | None = None,
        crop: bool = False,
        strict: bool = True,
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"Invalid max_frames ({max_frames}). Supported are 1 frame and more.")
        self.reader = VideoReader(source, start=start, duration=duration, strict=strict)
        info = self.reader.info
        try:
            self._scaled = fit_size(info.width, info.height, size)
        except ValueError:
            self.reader.close()
            raise
        self._square = min(self._scaled) if crop else None
        self.width, self.height = (self._square, self._square) if self._square else self._scaled
        self.frame_rate, self.time_base = info.frame_rate, info.time_base
        self._max_frames = max_frames
        self.length = _expected_frames(info, Fraction(start), duration, max_frames)
        self.pts: list[int] = []
        self._last_duration = 1
        # A part begins at time 0; the whole keeps its start offset.
        is_part = start != 0 or duration is not None
        self._shift = math.floor((info.start + Fraction(start)) / info.time_base) if is_part else 0

    def __enter__(self) -> "VideoClip":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.close()

    @property
    def origin(self) -> Fraction:
        """The time on the source's own clock, in seconds, that is 0 in `pts`."""
        return self._shift * self.time_base

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame read to the end of the last one."""
        return (self.pts[-1] - self.pts[0] + self._last_duration) * self.time_base

    def chunks(self) -> Iterator[FrameChunk]:
        for chunk in self.reader.chunks(CHUNK):
            count = len(chunk.pts)
            if self._max_frames is not None:
                count = min(count, self._max_frames - len(self.pts))
            frames = resize(chunk.frames[:count], *self._scaled)
            if self._square:
                frames = np.ascontiguousarray(center_crop(frames, self._square))
            pts = tuple(tick - self._shift for tick in chunk.pts[:count])
            self.pts.extend(pts)
            self._last_duration = max(1, chunk.durations[count - 1])
            yield FrameChunk(frames, pts, chunk.durations[:count])
            if self._max_frames is not None and len(self.pts) >= self._max_frames:
                return


class MiddleOfClip:
    """The middle of the frames of another clip, which has not been read yet."""

    def __init__(self, clip: Clip, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.frame_rate, self.time_base, self.length = clip.frame_rate, clip.time_base, clip.length
        self.pts = clip.pts
        self._clip = clip

    @property
    def duration(self) -> Fraction:
        """That of the other clip."""
        return self._clip.duration

    def chunks(self) -> Iterator[FrameChunk]:
        for chunk in self._clip.chunks():
            middle = center_crop(chunk.frames, (self.width, self.height))
            yield FrameChunk(np.ascontiguousarray(middle), chunk.pts, chunk.durations)


def _expected_frames(
    info: VideoInfo, start: Fraction, duration: Fraction | float | None, max_frames: int | None
) -> int | None:
    """What the container promises for this part of the clip; None where it promises nothing."""
    count = info.frame_count
    if info.duration is not None and (start or duration is not None or count is None):
        seconds = max(info.duration - start, Fraction(0))
        seconds = seconds if duration is None else min(seconds, Fraction(duration))
        count = round(seconds * info.frame_rate)
    if count is None:
        return None
    return max(1, count if max_frames is None else min(count, max_frames))


class ImageClip:
    """Images `[T, H, W, C]` in [0, 1] as a clip of constant frame rate; the alpha channel is dropped.

    `size` and `crop` are those of VideoClip.
    """

    def __init__(
        self, images: torch.Tensor, frame_rate: Fraction, *, size: int | None = None, crop: bool = False
    ) -> None:
        if images.ndim != 4 or images.shape[0] == 0 or images.shape[-1] not in (3, 4):
            raise ValueError(
                f"Invalid images {tuple(images.shape)}. Supported are [frames, height, width, 3], at least one frame."
            )
        if frame_rate <= 0:
            raise ValueError(f"Invalid frame rate ({frame_rate}). Supported are rates above 0.")
        self._images = images[..., :3]
        self._scaled = fit_size(int(images.shape[2]), int(images.shape[1]), size)
        self._square = min(self._scaled) if crop else None
        self.width, self.height = (self._square, self._square) if self._square else self._scaled
        self.frame_rate, self.time_base = frame_rate, 1 / frame_rate
        self.length: int | None = len(images)
        self.pts: list[int] = []

    @property
    def duration(self) -> Fraction:
        return len(self.pts) * self.time_base

    def chunks(self) -> Iterator[FrameChunk]:
        for start in range(0, len(self._images), CHUNK):
            frames = resize(image_to_uint8(self._images[start : start + CHUNK]), *self._scaled)
            if self._square:
                frames = np.ascontiguousarray(center_crop(frames, self._square))
            pts = tuple(range(start, start + len(frames)))
            self.pts.extend(pts)
            yield FrameChunk(frames, pts, (1,) * len(frames))


class HeldClip:
    """All frames of another clip, uint8 in memory, to be read as often as wanted."""

    def __init__(self, clip: Clip) -> None:
        self._chunks = list(clip.chunks())
        if not self._chunks:
            raise ValueError(
                "The clip has 0 frames in the part that was chosen. Choose a part with at least one frame."
            )
        self.width, self.height = clip.width, clip.height
        self.frame_rate, self.time_base, self.duration = clip.frame_rate, clip.time_base, clip.duration
        self.pts: list[int] = list(clip.pts)
        self.length: int | None = len(self.pts)

    @property
    def frames(self) -> np.ndarray:
        """uint8 `[T, H, W, 3]`."""
        return np.concatenate([chunk.frames for chunk in self._chunks])

    def chunks(self) -> Iterator[FrameChunk]:
        yield from self._chunks
