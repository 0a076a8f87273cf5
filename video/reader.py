"""Streaming video reader: RGB chunks with exact time stamps, in memory proportional to the chunk.

    with VideoReader("clip.mp4") as reader:
        for chunk in reader.chunks(16):
            chunk.frames, chunk.pts         # uint8 [T, H, W, 3], ticks of reader.info.time_base

Frames come out upright (rotation and mirroring applied), with square pixels, in RGB converted with the stream's own
matrix and range. What cannot be kept is named in `warnings`; what is broken raises `VideoError`.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from .colour import HDR_TRANSFERS, frame_to_rgb, transfer_of
from .info import FrameChunk, VideoInfo, describe
from .opening import AV_FAILURES, MAX_FRAMES, MAX_PIXELS, VideoError, describe_failure, open_video, refuse
from .orientation import UPRIGHT, Orientation, display_orientation, square_pixel_size

__all__ = ["FrameChunk", "VideoError", "VideoInfo", "VideoReader"]

_MAX_BAD_PACKETS = 200  # undecodable packets in a row before a stream is given up
_SEEK_FROM = 10  # seconds: nearer starts are reached by decoding, which is right even where the index is wrong
_SEEK_MARGIN = 3  # seconds decoded before the wanted start, so that open GOPs have settled


class VideoReader:
    """Reads one video, once, front to back.

    `start` and `duration` (seconds, from the stream's first frame) and `max_frames` choose a window; frames whose time
    stamp lies in [start, start + duration) are given. `strict` makes a truncated or damaged file an error; otherwise
    what decodes is given and `warnings` says what is missing. `alpha="refuse"` makes transparency an error instead of
    dropping it with a warning. Raises VideoError on opening for anything without at least one decodable frame.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        start: Fraction | float = 0,
        duration: Fraction | float | None = None,
        max_frames: int | None = None,
        strict: bool = True,
        alpha: Literal["drop", "refuse"] = "drop",
    ) -> None:
        self.warnings: list[str] = []
        self._source = source
        self._strict = strict
        self._reformatter = VideoReformatter()
        self._max_frames = MAX_FRAMES if max_frames is None else max_frames
        self._counts: dict[str, int] = {}
        self._started = False
        self._frame_size: tuple[int, int] | None = None
        self._opened = open_video(source)
        try:
            self._begin(Fraction(start), None if duration is None else Fraction(duration), alpha)
        except BaseException:
            self.close()
            raise

    def _begin(self, start: Fraction, duration: Fraction | None, alpha: str) -> None:
        name = self._opened.name
        for label, value in (("start", start), ("duration", duration), ("max_frames", self._max_frames)):
            if value is not None and (value < 0 or (label != "start" and value == 0)):
                raise refuse(name, f"{label} = {value} is out of range", f"Fix: give a {label} above zero")
        self.warnings.extend(self._opened.warnings)
        if self._opened.damage:
            self._damaged(self._opened.damage)
        self._newest = (-(1 << 63), 0)
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            raise refuse(name, "not a single frame could be decoded from it (0 frames)")
        self._orientation, self._coded_size = self._geometry(self._first)
        self.info, note = describe(
            self._opened, self._first, self._timestamp(self._first), self._orientation, self._coded_size
        )
        if note:
            self.warnings.append(note)
        self._note_losses(self._first, alpha)
        self._from = self.info.start + start
        self._until = None if duration is None else self._from + duration
        if start > _SEEK_FROM:
            self._seek()

    # -- context manager

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        self._opened.container.close()

    # -- reading

    def chunks(self, size: int = 16) -> Iterator[FrameChunk]:
        """Yield all frames of the window in chunks of `size` (the last one may be shorter). Once per opening."""
        if size < 1:
            raise ValueError(f"Invalid chunk size {size}. It is at least 1.")
        if self._started:
            raise RuntimeError(f"The video {self._opened.name!r} was already read. Open it again to read it again.")
        self._started = True
        frames: list[np.ndarray] = []
        pts: list[int] = []
        durations: list[int] = []
        total = 0
        for frame, tick, duration in self._window():
            frames.append(self._rgb(frame))
            pts.append(tick)
            durations.append(duration)
            total += 1
            if len(frames) == size:
                yield FrameChunk(np.stack(frames), tuple(pts), tuple(durations))
                frames, pts, durations = [], [], []
        if frames:
            yield FrameChunk(np.stack(frames), tuple(pts), tuple(durations))
        if total == 0:
            fix = f"Fix: start lies past the end; the clip lasts {_seconds(self.info.duration)}"
            raise refuse(self._opened.name, f"no frame at or after {_seconds(self._from - self.info.start)}", fix)
        self._summarise(total)

    def _window(self) -> Iterator[tuple[VideoFrame, int, int]]:
        """(frame, pts, duration) of the frames asked for."""
        base = self.info.time_base
        given = 0
        for frame, tick, duration in self._timed():
            if tick * base < self._from:
                continue
            if self._until is not None and tick * base >= self._until:
                return
            if given == self._max_frames:
                if given == MAX_FRAMES:
                    raise refuse(self._opened.name, f"it has more than {MAX_FRAMES:,} frames", "Fix: cut it up")
                return
            given += 1
            yield frame, tick, duration

    def _timed(self) -> Iterator[tuple[VideoFrame, int, int]]:
        """All frames with time stamps that exist and increase strictly, and their durations.

        A frame lasts until the next one; only the last one's duration is the container's word, or the frame interval.
        """
        step = max(1, round(1 / (self.info.frame_rate * self.info.time_base)))
        held: tuple[VideoFrame, int] | None = None
        for frame, tick in self._stamped(step):
            if held is not None:
                yield *held, tick - held[1]
            held = frame, tick
        if held is not None:
            yield *held, self._told_duration(held[0]) or step

    def _stamped(self, step: int) -> Iterator[tuple[VideoFrame, int]]:
        expected: int | None = None
        last: int | None = None
        frame = self._first
        self._first = None
        while frame is not None:
            tick = self._timestamp(frame)
            if tick is None:
                self._count("frames without time stamp, placed one frame interval after the one before")
                tick = 0 if expected is None else expected
            if last is not None and tick <= last:
                self._count("frames with a repeated or backward time stamp, moved forward")
                tick = last + 1
            last, expected = tick, tick + step
            yield frame, tick
            frame = next(self._frames, None)

    def _decode(self) -> Iterator[VideoFrame]:
        """Every decodable frame in display order; damage raises or is counted, as `strict` says."""
        stream = self._opened.stream
        decoded = bad = 0
        for packet in self._packets():
            try:
                frames = stream.codec_context.decode(packet)
            except EOFError:  # flushed twice: nothing more is in the decoder
                continue
            except AV_FAILURES as e:
                bad += 1
                if bad > _MAX_BAD_PACKETS:
                    raise refuse(self._opened.name, f"its {stream.codec_context.name} data cannot be decoded") from e
                if decoded:
                    self._damaged(f"damaged after frame {decoded} ({describe_failure(e)})")
                else:
                    self._count("undecodable packets before the first whole picture, skipped")
                continue
            bad = 0
            for frame in frames:
                if frame.is_corrupt and not decoded:
                    self._count("incomplete frames before the first whole picture, skipped")
                    continue
                if frame.is_corrupt:
                    self._damaged(f"damaged: the picture data of frame {decoded} is incomplete")
                decoded += 1
                yield frame

    def _packets(self) -> Iterator[Packet | None]:
        """Packets of the stream, then None to flush the decoder, also where the file ends in the middle."""
        packets = self._opened.container.demux(self._opened.stream)
        while True:
            try:
                packet = next(packets, None)
            except AV_FAILURES as e:
                self._damaged(f"the file breaks off ({describe_failure(e)})")
                packet = None
            if packet is None or (packet.size == 0 and packet.pts is None and packet.dts is None):
                yield None
                return
            if packet.pts is not None and packet.duration:
                self._newest = max(self._newest, (packet.pts, packet.duration))
            if packet.is_corrupt:
                self._damaged("a packet is incomplete: the file is damaged or truncated")
            yield packet

    def _told_duration(self, frame: VideoFrame) -> int | None:
        """Of the last frame, as the container says. PyAV before 15 does not tell it of a frame, but of a packet."""
        if hasattr(frame, "duration"):
            return frame.duration
        tick, duration = self._newest
        return duration if tick == frame.pts else None

    # -- what a stream is

    def _geometry(self, frame: VideoFrame) -> tuple[Orientation, tuple[int, int]]:
        """The orientation to apply, and (width, height) before it, with square pixels."""
        orientation, note = display_orientation(frame)
        if note:
            self.warnings.append(note)
        context = self._opened.stream.codec_context
        size, note = square_pixel_size(frame.width, frame.height, context.sample_aspect_ratio)
        if note:
            self.warnings.append(note)
        if size[0] * size[1] > MAX_PIXELS:
            raise refuse(self._opened.name, f"{size[0]}x{size[1]} exceeds the limit of {MAX_PIXELS:,} pixels a frame")
        return orientation, size

    def _note_losses(self, frame: VideoFrame, alpha: str) -> None:
        """Name in `warnings` everything about the stream that 8-bit RGB frames do not carry."""
        if self.info.has_alpha and alpha == "refuse":
            fix = "Fix: flatten it onto a background first, or allow dropping the transparency"
            raise refuse(self._opened.name, f"it has transparency ({self.info.pixel_format})", fix)
        if self.info.has_alpha:
            self.warnings.append("transparency (alpha) was dropped")
        if self.info.bit_depth > 8:
            self.warnings.append(f"{self.info.bit_depth}-bit samples were reduced to 8 bits")
        transfer = HDR_TRANSFERS.get(transfer_of(frame, self._opened.stream.codec_context))
        if transfer:
            self.warnings.append(f"HDR ({transfer}) was not tone-mapped; colours look flat")
        if frame.interlaced_frame:
            self.warnings.append("interlaced fields were not separated")

    # -- one frame

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        width, height = self._coded_size
        size = (frame.width, frame.height)
        self._frame_size = self._frame_size or size
        if size != self._frame_size:
            self._count(f"frames of another size inside the stream, scaled to {width}x{height}")
        try:
            rgb = frame_to_rgb(frame, self._reformatter, width, height)
        except AV_FAILURES as e:
            problem = f"{frame.format.name} pixels cannot be converted to RGB ({describe_failure(e)})"
            raise refuse(self._opened.name, problem) from e
        return rgb if self._orientation == UPRIGHT else np.ascontiguousarray(self._orientation.apply(rgb))

    def _timestamp(self, frame: VideoFrame) -> int | None:
        # AVI stores no presentation times: what FFmpeg derives for B-frames goes back and forth, decoding times do not.
        if self._opened.demuxer == "avi" or frame.pts is None:
            return frame.dts
        return frame.pts

    # -- seeking, damage, counts

    def _seek(self) -> None:
        """Jump close before the wanted start; if the container lands behind it, read from the beginning instead."""
        stream, base = self._opened.stream, self.info.time_base
        target = self._from - _SEEK_MARGIN
        try:
            self._opened.container.seek(int(target / base), stream=stream, backward=True)
            self._frames = self._decode()
            self._first = next(self._frames, None)
        except AV_FAILURES:
            self._first = None
        tick = None if self._first is None else self._timestamp(self._first)
        if tick is None or tick * base > self._from:
            self.close()
            self._opened = open_video(self._source)
            self._frames = self._decode()
            self._first = next(self._frames, None)

    def _damaged(self, problem: str) -> None:
        if self._strict:
            raise refuse(self._opened.name, problem)
        if problem not in self.warnings:
            self.warnings.append(problem)

    def _count(self, event: str) -> None:
        self._counts[event] = self._counts.get(event, 0) + 1

    def _summarise(self, total: int) -> None:
        claim = self.info.frame_count or 0
        if total < claim and self._from == self.info.start and self._until is None and total < self._max_frames:
            self.warnings.append(f"the container announces {claim} frames, {total} came out")
        self.warnings.extend(f"{event}: {count}" for event, count in self._counts.items())
        self._counts.clear()


def _seconds(value: Fraction | None) -> str:
    return "an unknown time" if value is None else f"{float(value):.3f} s"
