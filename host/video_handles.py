"""VIDEO between nodes: a lazy handle on a file, or a batch of images in memory.

`video_source` opens either, ComfyUI's or ours, for streaming; `video_from_file` makes one that a node can give out. The
classes here are the embedded host's, with the methods of ComfyUI's that the pack uses.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import wave
import weakref
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from ..tokens.whole_files import whole_file
from . import IS_COMFYUI, files

if TYPE_CHECKING:
    import torch

    from ..video.reader import VideoReader

logger = logging.getLogger(__name__)

_CHUNK = 16  # frames
_saved: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # in-memory video -> its temp file


class VideoSource(NamedTuple):
    """What to open for a VIDEO: the whole file, and the window of it that is meant."""

    file: str | io.BytesIO
    start: Fraction  # seconds from the first frame
    duration: Fraction | None  # seconds; None: to the end


@dataclass
class VideoComponents:
    """A video in memory: images `[T, H, W, 3]` in 0..1, and ComfyUI's AUDIO."""

    images: torch.Tensor
    frame_rate: Fraction
    audio: dict[str, Any] | None = None


def video_from_file(path: str | os.PathLike[str]) -> Any:
    """A VIDEO backed by the file `path`, which must stay there while the VIDEO is in use."""
    if IS_COMFYUI:
        from comfy_api.latest import InputImpl

        return InputImpl.VideoFromFile(os.path.abspath(path))
    return VideoFromFile(os.path.abspath(path))


def video_source(video: Any) -> VideoSource:
    """What to open to stream a VIDEO, and the window that is meant: `VideoReader(file, start=..., duration=...)`.

    A VIDEO made of images in memory is written once to a lossless file in the temp folder (8 bits, exact frame rate).
    """
    if _is_in_memory(video):
        path = _saved.get(video)
        if path is None or not os.path.isfile(path):
            path = files.temp_path(".mp4")
            _write_components(video.get_components(), path, lossless=True)
            _saved[video] = path
        return VideoSource(path, Fraction(0), None)
    file = video.get_stream_source()
    # ComfyUI before 0.14 cannot trim
    start, duration = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
    return VideoSource(
        file=file if isinstance(file, io.BytesIO) else os.path.abspath(file),
        start=_seconds(start),
        duration=_seconds(duration) if duration else None,
    )


def _seconds(value: float) -> Fraction:
    """To the microsecond: 0.3 s is meant as 3/10, not as the float next to it, which may lie in the next frame."""
    return Fraction(value).limit_denominator(1_000_000)


def _is_in_memory(video: Any) -> bool:
    if isinstance(video, VideoFromComponents):
        return True
    if not IS_COMFYUI:
        return False
    from comfy_api.latest import InputImpl

    return isinstance(video, InputImpl.VideoFromComponents)


class VideoFromFile:
    """A VIDEO that lies in a file or in a BytesIO; nothing is decoded before somebody asks."""

    def __init__(self, file: str | io.BytesIO, *, start_time: float = 0, duration: float = 0):
        self._file = file
        self._start = start_time
        self._duration = duration

    def get_stream_source(self) -> str | io.BytesIO:
        """The whole file, also when this is a part of it: see `get_active_trim_window`."""
        if isinstance(self._file, io.BytesIO):
            self._file.seek(0)
        return self._file

    def get_active_trim_window(self) -> tuple[float, float]:
        """(start, duration) in seconds; duration 0 means to the end."""
        if self._start < 0:
            return max(float(self._whole_duration()) + self._start, 0.0), float(self._duration)
        return float(self._start), float(self._duration)

    def get_dimensions(self) -> tuple[int, int]:
        """(width, height) as displayed."""
        with _reader(VideoSource(self.get_stream_source(), Fraction(0), None)) as reader:
            return reader.info.width, reader.info.height

    def get_frame_rate(self) -> Fraction:
        with _reader(VideoSource(self.get_stream_source(), Fraction(0), None)) as reader:
            return reader.info.frame_rate

    def get_bit_depth(self) -> int:
        with _reader(VideoSource(self.get_stream_source(), Fraction(0), None)) as reader:
            return reader.info.bit_depth

    def get_duration(self) -> float:
        """Seconds, of the part that is meant."""
        start, duration = self.get_active_trim_window()
        rest = float(self._whole_duration()) - start
        return min(duration, rest) if duration else rest

    def get_frame_count(self) -> int:
        """Frames of the part that is meant, counted by decoding."""
        with _reader(video_source(self)) as reader:
            return sum(len(chunk.pts) for chunk in reader.chunks(_CHUNK))

    def get_components(self) -> VideoComponents:
        """All frames, 8 bits deep, in memory: 12 bytes a pixel. Prefer `video_source`."""
        import torch

        from ..video.frames import uint8_to_image

        with _reader(video_source(self)) as reader:
            images = torch.cat([uint8_to_image(chunk.frames) for chunk in reader.chunks(_CHUNK)])  # [T, H, W, 3]
            if reader.info.has_audio:
                logger.warning("The embedded host leaves the sound out here. Pass the VIDEO itself on to keep it.")
            return VideoComponents(images=images, frame_rate=reader.info.frame_rate)

    def as_trimmed(
        self, start_time: float = 0, duration: float = 0, strict_duration: bool = True
    ) -> VideoFromFile | None:
        """The part from `start_time` on, `duration` seconds long (0: to the end); None if it is shorter than that."""
        trimmed = VideoFromFile(self._file, start_time=self._start + start_time, duration=duration)
        return None if strict_duration and trimmed.get_duration() < duration else trimmed

    def save_to(self, path: str, format: str = "auto", codec: str = "auto") -> None:
        """Write an MP4: the same bytes if this is the whole of an MP4 already, else H.264 with the same time stamps."""
        source = video_source(self)
        with _reader(source) as reader:
            same_codec = codec == "auto" or reader.info.codec == codec
            if not (same_codec and source.start == 0 and source.duration is None and _is_mp4(source.file)):
                _transcode(reader, source, path)
                return
        _copy(source.file, path)

    def _whole_duration(self) -> Fraction:
        with _reader(VideoSource(self.get_stream_source(), Fraction(0), None)) as reader:
            if reader.info.duration is not None:
                return reader.info.duration
            return sum(len(chunk.pts) for chunk in reader.chunks(_CHUNK)) / reader.info.frame_rate


class VideoFromComponents:
    """A VIDEO made of images in memory."""

    def __init__(self, components: VideoComponents, bit_depth: int = 8):
        self._components = components
        self._bit_depth = bit_depth

    def get_components(self) -> VideoComponents:
        return self._components

    def get_dimensions(self) -> tuple[int, int]:
        """(width, height)."""
        return self._components.images.shape[2], self._components.images.shape[1]

    def get_frame_rate(self) -> Fraction:
        return self._components.frame_rate

    def get_frame_count(self) -> int:
        return self._components.images.shape[0]

    def get_duration(self) -> float:
        """Seconds."""
        return float(self.get_frame_count() / self._components.frame_rate)

    def get_bit_depth(self) -> int:
        return self._bit_depth

    def get_stream_source(self) -> str:
        """A lossless file in the temp folder."""
        return str(video_source(self).file)

    def as_trimmed(
        self, start_time: float = 0, duration: float = 0, strict_duration: bool = True
    ) -> VideoFromFile | None:
        return VideoFromFile(self.get_stream_source()).as_trimmed(start_time, duration, strict_duration)

    def save_to(self, path: str, format: str = "auto", codec: str = "auto") -> None:
        """Write an MP4, H.264, 8 bits."""
        _write_components(self._components, path, lossless=False)


def _reader(source: VideoSource) -> VideoReader:
    from ..video.reader import VideoReader

    return VideoReader(source.file, start=source.start, duration=source.duration)


def _is_mp4(file: str | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[4:8] == b"ftyp"
    with open(file, "rb") as stream:
        return stream.read(8)[4:] == b"ftyp"


def _copy(file: str | io.BytesIO, path: str) -> None:
    with whole_file(path) as target:
        if isinstance(file, io.BytesIO):
            target.write(file.getvalue())
        else:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def _transcode(reader: VideoReader, source: VideoSource, path: str) -> None:
    from ..video.writer import VideoWriter

    info = reader.info
    # a part begins at time 0 of the new file; the whole keeps its start offset
    is_part = source.start != 0 or source.duration is not None
    shift = math.floor((info.start + source.start) / info.time_base) if is_part else 0
    duration = 0
    with VideoWriter(
        path,
        width=info.width,
        height=info.height,
        frame_rate=info.frame_rate,
        time_base=info.time_base,
        audio_source=source.file if info.has_audio else None,
        audio_start=shift * info.time_base,
        audio_duration=source.duration,
    ) as writer:
        for chunk in reader.chunks(_CHUNK):
            writer.write(chunk.frames, [pts - shift for pts in chunk.pts])
            duration = chunk.durations[-1]
        writer.close(duration or None)


def _write_components(components: Any, path: str, *, lossless: bool) -> None:
    from ..video.frames import image_to_uint8
    from ..video.writer import VideoWriter

    images = components.images
    frames, height, width = images.shape[:3]
    with VideoWriter(
        path,
        width=width,
        height=height,
        frame_rate=Fraction(components.frame_rate),
        lossless=lossless,
        audio_source=_wav(components.audio) if components.audio else None,
    ) as writer:
        for begin in range(0, frames, _CHUNK):
            writer.write(image_to_uint8(images[begin : begin + _CHUNK, ..., :3]))


def _wav(audio: dict[str, Any]) -> io.BytesIO:
    """AUDIO's first clip as a 16-bit WAV file."""
    samples = (audio["waveform"][0].float().cpu().clamp(-1, 1) * 32767).round().short()  # [channels, N]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(int(audio["sample_rate"]))
        file.writeframes(samples.T.contiguous().numpy().astype("<i2").tobytes())
    buffer.seek(0)
    return buffer
