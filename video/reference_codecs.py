"""What our tokens are held against: MJPEG and H.264 at chosen settings, measured in the same way.

Quality is the mean of per-frame RGB PSNR on decoded uint8 frames; the rate counts what lies in the packets, without
container, and without the note on itself that x264 writes into the first one. All code 4:2:0, which bounds RGB PSNR.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from .colour import frame_to_rgb, rgb_to_frame
from .metrics import psnr
from .rate_curves import RatePoint

_SEI = 6  # H.264 NAL unit type: notes, nothing that is decoded


@dataclass(frozen=True)
class ReferenceCodec:
    """An encoder with all of its options but the rate, and the settings of that from fine to coarse."""

    name: str
    encoder: str
    decoder: str
    settings: tuple[int, ...]
    options: tuple[tuple[str, str], ...] = ()


_X264 = (("preset", "medium"), ("threads", "1"))
_CRF = (10, 16, 22, 26, 30, 34, 38, 42, 47, 51)
REFERENCE_CODECS: dict[str, ReferenceCodec] = {
    codec.name: codec
    for codec in (
        ReferenceCodec("MJPEG", "mjpeg", "mjpeg", (2, 4, 8, 14, 22, 31)),
        ReferenceCodec("x264 intra", "libx264", "h264", _CRF, (*_X264, ("tune", "psnr"), ("g", "1"))),
        ReferenceCodec(
            "x264 zerolatency, GOP 12", "libx264", "h264", _CRF, (*_X264, ("tune", "psnr,zerolatency"), ("g", "12"))
        ),
        ReferenceCodec("x264 medium", "libx264", "h264", _CRF, (*_X264, ("tune", "psnr"), ("g", "250"))),
    )
}


def rate_point(codec: ReferenceCodec, frames: np.ndarray, frame_rate: Fraction, setting: int) -> RatePoint:
    """Encodes uint8 `[T, H, W, 3]` and decodes it again. Odd sizes lose their last row or column first."""
    T, H, W = frames.shape[:3]
    frames = frames[:, : H - H % 2, : W - W % 2]
    packets = list(_encode(codec, frames, frame_rate, setting))
    values = [
        float(psnr(frames[i : i + 1], decoded[np.newaxis])[0]) for i, decoded in enumerate(_decode(codec, packets))
    ]
    if len(values) != T:
        raise ValueError(f"{codec.name} gave {len(values)} frames for {T}. Use another build of FFmpeg.")
    size = sum(_payload(codec, bytes(packet)) for packet in packets)
    return RatePoint(setting, 8 * size / (T * frames.shape[1] * frames.shape[2]), float(np.mean(values)))


def recompressed(codec: ReferenceCodec, frames: np.ndarray, frame_rate: Fraction, setting: int) -> np.ndarray:
    """What is left of uint8 `[T, H, W, 3]`, H and W even, after encoding at a setting."""
    return np.stack(list(_decode(codec, list(_encode(codec, frames, frame_rate, setting)))))


def rate_curve(
    codec: ReferenceCodec,
    frames: np.ndarray,
    frame_rate: Fraction,
    settings: Sequence[int] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[RatePoint]:
    """A point for each setting (those of the codec by default), from the lowest rate to the highest.

    check is called before each of them and may raise to cancel.
    """
    points = []
    for setting in settings or codec.settings:
        check()
        points.append(rate_point(codec, frames, frame_rate, setting))
    return sorted(points, key=lambda point: point.bits_per_pixel)


def _encode(codec: ReferenceCodec, frames: np.ndarray, frame_rate: Fraction, setting: int) -> Iterator[Packet]:
    context = cast(VideoCodecContext, CodecContext.create(codec.encoder, "w"))
    context.width, context.height = frames.shape[2], frames.shape[1]
    rate = Fraction(frame_rate).limit_denominator(1_000_000)
    context.framerate, context.time_base = rate, 1 / rate
    jpeg = codec.encoder == "mjpeg"
    context.pix_fmt = "yuvj420p" if jpeg else "yuv420p"
    untyped = cast(Any, context)  # PyAV's type hints lack some writable attributes
    untyped.color_range = 2 if jpeg else 1
    untyped.colorspace = 5 if jpeg else 1
    rate_options = {"qmin": str(setting), "qmax": str(setting)} if jpeg else {"crf": str(setting)}
    context.options = {**dict(codec.options), **rate_options}
    reformatter = VideoReformatter()
    for index, rgb in enumerate(frames):
        frame = _jpeg_frame(rgb, reformatter) if jpeg else rgb_to_frame(rgb, reformatter, "yuv420p")
        frame.pts, frame.time_base = index, context.time_base
        yield from context.encode(frame)
    yield from context.encode(None)


def _jpeg_frame(rgb: np.ndarray, reformatter: VideoReformatter) -> VideoFrame:
    source = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return reformatter.reformat(
        source, format="yuvj420p", src_colorspace=5, dst_colorspace=5, src_color_range=2, dst_color_range=2
    )


def _decode(codec: ReferenceCodec, packets: Sequence[Packet]) -> Iterator[np.ndarray]:
    context = cast(VideoCodecContext, CodecContext.create(codec.decoder, "r"))
    context.thread_type = "SLICE"
    reformatter = VideoReformatter()
    for packet in (*packets, None):
        for frame in context.decode(packet):
            yield frame_to_rgb(frame, reformatter, frame.width, frame.height)


def _payload(codec: ReferenceCodec, packet: bytes) -> int:
    """Bytes of a packet without H.264's notes."""
    if codec.decoder != "h264":
        return len(packet)
    notes = sum(len(unit) + 3 for unit in packet.split(b"\x00\x00\x01")[1:] if unit and unit[0] & 31 == _SEI)
    return len(packet) - notes


def build_names() -> str:
    """Versions of the libraries behind the figures."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
