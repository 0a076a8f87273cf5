"""Streaming video writer: RGB chunks with exact time stamps in, a finished file or nothing out.

    with VideoWriter("out.mp4", width=640, height=360, frame_rate=Fraction(24)) as writer:
        writer.write(frames)                # uint8 [T, 360, 640, 3]

Lossy output is H.264 with its index in front, in BT.709 colour tagged as such, so that every browser plays it and shows
the right hue: 4:2:0 for even sizes. An odd width or height cannot be expressed in 4:2:0 H.264 (its cropping works in
steps of two pixels), so such clips are written 4:4:4, which keeps the size exact and which Chrome, Edge and Firefox
play; Safari and hardware players may not. `lossless=True` writes RGB H.264 that reads back bit for bit; it is meant for
measuring and most players do not show it.
"""

import contextlib
import os
import secrets
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from .audio import AudioTrack, open_audio
from .colour import rgb_to_frame
from .opening import AV_FAILURES, MAX_PIXELS, VideoError, describe_failure

__all__ = ["SUFFIXES", "VideoError", "VideoWriter"]

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix -> FFmpeg muxer
_LARGE = 2_500_000  # pixels of a frame: above 1080p, looking ahead as far as usual takes most of the memory
_TINY = 144, 256  # pixels, short and long side: below, x264's macroblock tree reads what it never wrote
_MAX_TICKS = 2**31 - 1  # mp4 and libav keep time bases as 32-bit integers


class VideoWriter:
    """Writes one video beside its final name and moves it there when it is complete.

    Leaving the `with` block normally finishes the file; an exception, Ctrl-C included, removes every trace and leaves
    an older file of that name alone. `frame_rate` is the nominal rate; `time_base` (seconds per tick, 1 / frame_rate if
    not given) is what `pts` count in. mp4 and mov keep time stamps exactly, mkv rounds them to milliseconds.
    `audio_source` is a file whose sound is carried: `audio_start` is the time on its own clock, in seconds, that
    becomes time 0 here. `crf` is x264's quality, 0 to 51, lower is better. Raises VideoError for whatever prevents
    writing, in one line.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        frame_rate: Fraction,
        time_base: Fraction | None = None,
        lossless: bool = False,
        crf: int = 18,
        audio_source: str | os.PathLike[str] | BinaryIO | None = None,
        audio_start: Fraction | float = 0,
        audio_duration: Fraction | float | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.name = os.fspath(path)
        self._path = Path(os.path.abspath(self.name))
        self._size = (width, height)
        self._rate = Fraction(frame_rate)
        self._time_base = 1 / self._rate if time_base is None and self._rate > 0 else Fraction(time_base or 0)
        self._check(crf)
        self._held: tuple[np.ndarray, int] | None = None  # the newest frame waits until its duration is known
        self._offset = 0
        self._durations: dict[int, int] = {}
        self._reformatter = VideoReformatter()
        self._audio: AudioTrack | None = None
        self._closed = False
        self._container, self._temporary = self._open_temporary()
        try:
            self._stream, self._pixel_format = self._add_video(lossless, crf)
            if audio_source is not None:
                window = None if audio_duration is None else Fraction(audio_duration)
                self._audio = open_audio(audio_source, self._container, start=Fraction(audio_start), duration=window)
        except AV_FAILURES as e:
            self.abort()
            raise e if isinstance(e, VideoError) else self._refuse(f"encoder refused ({describe_failure(e)})") from e

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frames: np.ndarray, pts: Sequence[int] | None = None) -> None:
        """Append uint8 `[T, H, W, 3]` RGB frames of the writer's size.

        `pts` are their time stamps in ticks of the time base, strictly increasing over the whole file; without them
        each frame follows one nominal frame interval after the one before.
        """
        width, height = self._size
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
            shape = tuple(frames.shape)
            raise ValueError(f"Invalid frames: {frames.dtype} {shape}. They are uint8 [frames, {height}, {width}, 3].")
        if pts is not None and len(pts) != len(frames):
            raise ValueError(f"{len(pts)} time stamps for {len(frames)} frames. Give one for each frame.")
        step = max(1, round(1 / (self._rate * self._time_base)))
        for index, rgb in enumerate(frames):
            following = 0 if self._held is None else self._held[1] - self._offset + step
            self._append(rgb, following if pts is None else int(pts[index]))

    def close(self, final_duration: int | None = None) -> None:
        """Finish the file and move it to its name. `final_duration` is that of the last frame, in ticks.

        Without it the last frame lasts one nominal frame interval. Raises VideoError when no frame was written.
        """
        if self._closed:
            return
        finished = False
        try:
            if self._held is None:
                raise self._refuse("not a single frame was given (0 frames)", "Fix: check the source and its window")
            self._emit(max(1, final_duration or round(1 / (self._rate * self._time_base))))
            self._mux(None)
            if self._audio is not None:
                self._audio.write_until(None)
                self.warnings.extend(self._audio.warnings)
            self._container.close()
            _sync(self._temporary)
            os.replace(self._temporary, self._path)
            finished = True
        except AV_FAILURES as e:
            raise e if isinstance(e, VideoError) else self._refuse(describe_failure(e)) from e
        finally:
            self._closed = True
            self._release(finished)
        _sync(self._path.parent)

    def abort(self) -> None:
        """Drop what was written so far. Safe to call at any time; after `close` it does nothing."""
        if not self._closed:
            self._closed = True
            self._release(finished=False)

    # -- opening

    def _check(self, crf: int) -> None:
        width, height = self._size
        if self._path.suffix.lower() not in SUFFIXES:
            supported = ", ".join(SUFFIXES)
            problem = f"the suffix {self._path.suffix!r} names no supported container"
            raise self._refuse(problem, f"Fix: end the name in one of {supported}")
        if self._path.is_dir():
            raise self._refuse("it is a folder", "Fix: give a file name inside it")
        if not self._path.parent.is_dir():
            raise self._refuse(f"the folder {str(self._path.parent)!r} does not exist", "Fix: create it first")
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            limit = f"Fix: give 1x1 to {MAX_PIXELS:,} pixels a frame"
            raise self._refuse(f"{width}x{height} is no possible frame size", limit)
        if not 0 < self._rate <= 100_000:
            raise self._refuse(f"the frame rate {self._rate} is out of range", "Fix: give a rate above 0")
        parts = (self._time_base.numerator, self._time_base.denominator)
        if self._time_base <= 0 or max(parts) > _MAX_TICKS:
            problem = f"the time base {self._time_base} is out of range"
            raise self._refuse(problem, f"Fix: give a positive fraction with terms up to {_MAX_TICKS}")
        if not 0 <= crf <= 51:
            raise ValueError(f"Invalid crf {crf}. It is 0 (best) to 51.")

    def _open_temporary(self) -> tuple[OutputContainer, Path]:
        temporary = self._path.with_name(f".{self._path.stem[:40]}.{secrets.token_hex(6)}.part")
        muxer = SUFFIXES[self._path.suffix.lower()]
        options = {}
        if muxer != "matroska":
            # Without these the track counts in other ticks and the start offset is rounded to milliseconds.
            ticks = str(self._time_base.denominator)
            options = {"movflags": "+faststart", "video_track_timescale": ticks, "movie_timescale": ticks}
        try:
            # Created here, not by FFmpeg: exclusively, and with the permissions a plain new file would get.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return av.open(str(temporary), mode="w", format=muxer, options=options), temporary
        except AV_FAILURES as e:
            temporary.unlink(missing_ok=True)
            fix = "Fix: check that the folder can be written and has room"
            raise self._refuse(describe_failure(e), fix) from e

    def _add_video(self, lossless: bool, crf: int) -> tuple[VideoStream, str]:
        odd = self._size[0] % 2 or self._size[1] % 2
        pixel_format = "rgb24" if lossless else "yuv444p" if odd else "yuv420p"
        quality = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": str(crf), "preset": "fast"}
        if not lossless and self._size[0] * self._size[1] > _LARGE:
            quality["rc-lookahead"] = "10"  # frames that x264 holds, three bytes a pixel each, instead of 30
        if not lossless and (min(self._size) < _TINY[0] or max(self._size) < _TINY[1]):
            quality["mbtree"] = "0"  # with it the same frames give now this file, now that one
        if self._time_base * self._rate != 1:
            quality["bf"] = "0"  # mp4 stores gaps in decoding order: with B-frames uneven ones lose the last duration
        rate = self._rate.limit_denominator(1_000_000)
        stream = cast(
            VideoStream,
            self._container.add_stream("libx264rgb" if lossless else "libx264", rate=rate, options=quality),
        )
        context = cast(Any, stream.codec_context)  # PyAV's type hints lack some writable attributes
        context.width, context.height = self._size
        context.pix_fmt = pixel_format
        context.time_base = self._time_base
        stream.time_base = self._time_base
        if not lossless:
            context.color_range = 1  # limited
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        return stream, pixel_format

    # -- frames

    def _append(self, rgb: np.ndarray, tick: int) -> None:
        if self._held is None:
            self._offset = self._shift(tick)
        tick += self._offset
        if self._held is not None:
            duration = tick - self._held[1]
            if duration <= 0:
                raise ValueError(f"Time stamp {tick} follows {self._held[1]}. Time stamps must increase strictly.")
            self._emit(duration)
        self._held = (rgb.copy(), tick)

    def _shift(self, first: int) -> int:
        """Ticks to add to every time stamp: mp4 cannot show what lies before 0, so a negative start moves to 0."""
        if first >= 0:
            return 0
        self.warnings.append(f"time stamps begin at {float(first * self._time_base):.3f} s and were moved to 0")
        if self._audio is not None:
            self._audio.delay(-first * self._time_base)
        return -first

    def _emit(self, duration: int) -> None:
        """Encode the held frame, now that its duration is known, and the sound up to it."""
        assert self._held is not None
        rgb, tick = self._held
        try:
            frame = rgb_to_frame(rgb, self._reformatter, self._pixel_format)
            frame.pts, frame.time_base = tick, self._time_base
            self._durations[tick] = duration
            self._mux(frame)
            if self._audio is not None:
                self._audio.write_until(tick * self._time_base)
        except AV_FAILURES as e:
            raise self._refuse(f"encoding failed ({describe_failure(e)})") from e

    def _mux(self, frame: VideoFrame | None) -> None:
        packets: list[Packet] = self._stream.encode(frame)
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, 0)
            self._container.mux(packet)

    # -- the end

    def _release(self, finished: bool) -> None:
        if self._audio is not None:
            self._audio.close()
        if not finished:
            with contextlib.suppress(*AV_FAILURES):
                self._container.close()  # flushes into the file that is removed next
            self._temporary.unlink(missing_ok=True)

    def _refuse(self, problem: str, fix: str = "Fix: check the free space and try another output name") -> VideoError:
        return VideoError(f"Cannot write video {self.name!r}: {' '.join(problem.split())}. {fix}")


def _sync(path: Path) -> None:
    """Flush a file or folder to disk; folders cannot be flushed on every system, which is then nothing to report."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
