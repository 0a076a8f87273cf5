"""What a video is: the description a reader gives, and the chunks it gives out."""

from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .opening import OpenedVideo
from .orientation import Orientation

_DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True)
class VideoInfo:
    """What a stream is, as it will be given out: `width` x `height` after rotation, with square pixels.

    `frame_rate` is the container's average rate (never 0); `frame_count` and `duration` (seconds) are the container's
    claims and may be None or wrong. `start` is the stream's first time stamp in seconds. `rotation` is what was
    applied, in degrees clockwise, after mirroring left to right if `mirrored`.
    """

    path: str
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    start: Fraction
    duration: Fraction | None
    frame_count: int | None
    rotation: int
    mirrored: bool
    has_audio: bool
    has_alpha: bool
    bit_depth: int
    pixel_format: str
    codec: str


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames: uint8 `[T, H, W, 3]` RGB, their time stamps and durations in ticks of `info.time_base`.

    Time stamps increase strictly, also from chunk to chunk, and keep the stream's start offset.
    """

    frames: np.ndarray
    pts: tuple[int, ...]
    durations: tuple[int, ...]

    def __repr__(self) -> str:
        return f"FrameChunk(frames={self.frames.shape}, pts={self.pts[0]}..{self.pts[-1]})"


def describe(
    opened: OpenedVideo, frame: VideoFrame, first_pts: int | None, orientation: Orientation, size: tuple[int, int]
) -> tuple[VideoInfo, str]:
    """The description of an opened video from its container and first frame, and a warning or an empty string.

    `size` is (width, height) before `orientation` is applied.
    """
    stream, container = opened.stream, opened.container
    width, height = size[::-1] if orientation.transposed else size
    time_base = cast(Fraction, stream.time_base)
    first = stream.start_time if stream.start_time is not None else first_pts
    duration = None
    if stream.duration:
        duration = stream.duration * time_base
    elif container.duration:
        duration = Fraction(container.duration, 1_000_000)
    rate = _frame_rate(stream)
    info = VideoInfo(
        path=opened.name,
        width=width,
        height=height,
        frame_rate=rate or _DEFAULT_RATE,
        time_base=time_base,
        start=(first or 0) * time_base,
        duration=duration,
        frame_count=stream.frames or None,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
        has_audio=any(s.codec_context is not None for s in container.streams.audio),
        has_alpha=_has_alpha(frame, opened),
        bit_depth=max(c.bits for c in frame.format.components),
        pixel_format=frame.format.name,
        codec=stream.codec_context.name,
    )
    note = "" if rate else f"the container states no usable frame rate; {_DEFAULT_RATE} per second is assumed"
    return info, note


def _frame_rate(stream: VideoStream) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and Fraction(1, 3600) <= rate <= 1000:
            return Fraction(rate)
    return None


def _has_alpha(frame: VideoFrame, opened: OpenedVideo) -> bool:
    if opened.stream.metadata.get("alpha_mode") == "1":  # VP8/VP9 keep alpha beside the stream; decoders drop it
        return True
    if not any(component.is_alpha for component in frame.format.components):
        return False
    # Gif and apng decode to RGBA always: there only pixels that really are transparent count.
    return opened.demuxer not in ("gif", "apng") or bool(frame.to_ndarray(format="rgba")[..., 3].min() < 255)
