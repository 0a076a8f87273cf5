"""Carries the sound of one file into another beside newly written pictures: copied where it can be, else as AAC."""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, cast

from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from .opening import AV_FAILURES, check_source, describe_failure, open_container

# Codecs a container can hold and common players accept in it; Matroska takes all.
_MP4 = frozenset({"aac", "mp3", "opus", "ac3", "eac3", "alac", "flac"})
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_BIT_RATE = 160_000


class AudioTrack:
    """The first audio stream of a source on its way into an output container.

    `start` is the source time in seconds (on the clock of its time stamps) that becomes time 0 of the output; what lies
    before it, or `duration` seconds and more after it, is left out, to the accuracy of one audio packet (about 20 ms).
    `warnings` names what could not be carried.
    """

    def __init__(
        self,
        source: InputContainer,
        stream: AudioStream,
        output: OutputContainer,
        *,
        name: str,
        start: Fraction,
        duration: Fraction | None,
    ) -> None:
        self.warnings: list[str] = []
        self._name = name
        self._source, self._stream, self._output = source, stream, output
        self._start = start
        self._first = start
        self._end = None if duration is None else start + duration
        self._time_base = cast(Fraction, stream.time_base)
        copied = _fits(stream, output.format.name)
        self._target = output.add_stream_from_template(stream) if copied else self._add_aac()
        self._packets = self._copied() if copied else self._encoded()
        self._next: tuple[Fraction, list[Packet]] | None = None

    def write_until(self, seconds: Fraction | None) -> None:
        """Mux all sound that begins before output time `seconds` (None: all that is left)."""
        while True:
            self._next = self._next or next(self._packets, None)
            if self._next is None or (seconds is not None and self._next[0] >= seconds):
                return
            self._output.mux(self._next[1])
            self._next = None

    def delay(self, seconds: Fraction) -> None:
        """Let all sound begin `seconds` later. Only before the first `write_until`."""
        self._start -= seconds

    def close(self) -> None:
        """Release the source."""
        self._source.close()

    def _add_aac(self) -> AudioStream:
        context = self._stream.codec_context
        rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
        layout = "mono" if context.channels == 1 else "stereo"
        if context.channels > 2:
            self.warnings.append(f"audio with {context.channels} channels was mixed down to stereo")
        target = self._output.add_stream("aac", rate=rate, layout=layout)
        target.codec_context.bit_rate = _AAC_BIT_RATE
        return cast(AudioStream, target)

    def _copied(self) -> Iterator[tuple[Fraction, list[Packet]]]:
        shift = round(self._start / self._time_base)
        for packet in self._demuxed():
            if packet.pts is None or packet.dts is None:
                continue
            time = packet.pts * self._time_base
            if self._first and time < self._first:
                continue
            if self._end is not None and time >= self._end:
                return
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._target
            yield time - self._start, [packet]

    def _encoded(self) -> Iterator[tuple[Fraction, list[Packet]]]:
        shift = round(self._start / self._time_base)
        time = Fraction(0)
        try:
            for packet in self._demuxed():
                for frame in self._stream.codec_context.decode(packet):
                    if frame.pts is None or frame.pts * self._time_base < self._first:
                        continue
                    if self._end is not None and frame.pts * self._time_base >= self._end:
                        break
                    time = frame.pts * self._time_base - self._start
                    frame.pts -= shift
                    yield time, self._target.encode(frame)
        except AV_FAILURES as e:
            self.warnings.append(
                f"the audio of {self._name!r} breaks off at {float(time):.2f} s ({describe_failure(e)})"
            )
        yield time, self._target.encode(None)

    def _demuxed(self) -> Iterator[Packet]:
        try:
            yield from self._source.demux(self._stream)
        except AV_FAILURES as e:
            self.warnings.append(f"the audio of {self._name!r} breaks off ({describe_failure(e)})")


def open_audio(
    source: str | os.PathLike[str] | BinaryIO,
    output: OutputContainer,
    *,
    start: Fraction = Fraction(0),
    duration: Fraction | None = None,
) -> AudioTrack | None:
    """The first usable audio stream of `source` as a track of `output`, or None where there is none.

    Raises VideoError for a source that is no readable media file.
    """
    if isinstance(source, io.BytesIO):
        source = io.BytesIO(source.getvalue())  # a reader may be at work on the same object; the bytes are shared
    name, target, size = check_source(source)
    container, _ = open_container(name, target, size)
    stream = next((s for s in container.streams.audio if s.codec_context is not None and s.time_base), None)
    if stream is None:
        container.close()
        return None
    return AudioTrack(container, stream, output, name=name, start=start, duration=duration)


def _fits(stream: AudioStream, container_format: str) -> bool:
    codec = stream.codec_context.codec.canonical_name
    if container_format == "matroska":
        return True
    return codec in _MP4 or (container_format == "mov" and codec.startswith("pcm_s"))
