"""Opens a video file defensively: container sniffed and pinned, no network, limits set, every failure one clear line.

FFmpeg treats a name as a URL, a playlist or a pattern if it is let, and some broken files crash older PyAV versions.
All of that is decided here, before the first packet is decoded. Reader and writer (for its audio) both come through.
"""

import io
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

import av
import av.container
import av.error
import av.video.stream

MAX_PIXELS = 36_000_000  # 8K UHD (7680 x 4320) fits; a hostile header does not
MAX_FRAMES = 2_000_000  # 18 hours at 30 per second
OPEN_TIMEOUT = (10.0, 10.0)  # seconds to open, seconds per read: a stalled mount ends as an error

# What av raises on bad bytes. ValueError covers UnicodeDecodeError (metadata) and bad arguments derived from headers.
AV_FAILURES = (av.error.FFmpegError, OSError, ValueError, IndexError, EOFError)

REENCODE = "Fix: fetch or export the file again, or convert it: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUT.mp4"

# (offset, magic bytes, FFmpeg demuxer). Only these demuxers can ever run: none of them opens a second file.
_MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"GIF8", "gif"),
    (0, b"OggS", "ogg"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"DKIF", "ivf"),
    (0, b"YUV4MPEG2", "yuv4mpegpipe"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav"),  # sound only: what a clip held in memory has its sound in
    *((4, box, "mov") for box in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof")),
)
_STILLS = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\x00"), (0, b"MM\x00*"))

_DECODERS = """
    h264 hevc vvc vp8 vp9 libvpx-vp9 av1 libdav1d libaom-av1 mpeg1video mpeg2video mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2
    msmpeg4v3 h263 h263p flv wmv1 wmv2 wmv3 vc1 theora libtheora mjpeg prores dnxhd cfhd dvvideo ffv1 huffyuv ffvhuff
    utvideo rawvideo qtrle rpza svq1 svq3 cinepak gif apng png
"""
DECODERS = frozenset(_DECODERS.split())


class VideoError(ValueError):
    """A video that cannot be read or written. The message is one line: the input, what is wrong, the way out."""


@dataclass(frozen=True)
class OpenedVideo:
    """An open container with the stream to decode. `damage` says what is visibly missing from the file, or is empty."""

    name: str
    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    demuxer: str
    damage: str
    warnings: tuple[str, ...]


def refuse(name: str, problem: str, fix: str = REENCODE) -> VideoError:
    """The error for input `name` in its one form: what is wrong, then what to do. Always a single line."""
    problem = " ".join(str(problem).split())
    return VideoError(f"Cannot read video {name!r}: {problem}. {fix}")


def describe_failure(error: BaseException) -> str:
    """FFmpeg's own words for a failure, without file name and error number."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:160]


def sniff(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head` (at least 600 bytes where the file has them), or None."""
    for offset, magic, demuxer in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return demuxer
    if head[:8] == b"\x89PNG\r\n\x1a\n" and b"acTL" in head[:512]:
        return "apng"
    for first, step in ((0, 188), (4, 192)):  # MPEG-TS, and M2TS with its 4-byte time stamps
        if len(head) > first + 2 * step and all(head[first + k * step] == 0x47 for k in range(3)):
            return "mpegts"
    return None


def check_source(source: str | os.PathLike[str] | BinaryIO) -> tuple[str, str | BinaryIO, int]:
    """(name for messages, absolute path or rewound file object, size in bytes) of a source that may be opened."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        if not isinstance(name, str) or not name or "\0" in name:
            raise refuse(str(name), "it is not a usable file name", "Fix: give the path of a video file")
        path = os.path.abspath(name)
        try:
            status = os.stat(path)
        except OSError as e:
            reason = "there is no such file" if isinstance(e, FileNotFoundError) else describe_failure(e)
            raise refuse(name, reason, "Fix: check the spelling and the folder") from e
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            raise refuse(name, f"it is {kind}, not a regular file", "Fix: give the path of a video file")
        return name, path, status.st_size
    if not isinstance(source, io.IOBase) and not (hasattr(source, "read") and hasattr(source, "seek")):
        raise TypeError(f"A video source is a path or a seekable binary file object, not {type(source).__name__}.")
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return "<memory>", source, size


def open_video(source: str | os.PathLike[str] | BinaryIO) -> OpenedVideo:
    """Open `source` for decoding its best video stream. Raises VideoError for whatever is not a readable video."""
    name, target, size = check_source(source)
    container, demuxer = open_container(name, target, size)
    try:
        stream, warnings = _pick_stream(name, container)
        _check_decoder(name, stream)
        damage = _missing_bytes(target, stream, demuxer, size)
    except BaseException:
        container.close()
        raise
    return OpenedVideo(name, container, stream, demuxer, damage, tuple(warnings))


def open_container(name: str, target: str | BinaryIO, size: int) -> tuple[av.container.InputContainer, str]:
    """Open a checked source with the one demuxer its first bytes ask for."""
    if size == 0:
        raise refuse(name, "the file is empty (0 bytes)", "Fix: fetch or export the file again")
    head = _read_at(target, 0, 4096)
    demuxer = sniff(head)
    if demuxer is None:
        if any(head[offset : offset + len(magic)] == magic for offset, magic in _STILLS):
            fix = "Fix: load it as an image, or convert an animation to mp4 or gif first"
            raise refuse(name, "it is an image or an animated image, not a video", fix)
        fix = "Fix: give an mp4, mov, mkv, webm, avi, ts, ogg, flv, wmv, gif or y4m file; a new suffix does not convert"
        raise refuse(name, f"its content is no known video container (it begins with {head[:8]!r})", fix)
    if demuxer == "mov" and not {b"moov", b"moof"} & _top_level_boxes(target, size).keys():
        raise refuse(name, "the mp4 index (moov) is missing: the file is truncated or was never finished")
    options = {"format_whitelist": demuxer}
    if isinstance(target, str):
        options["protocol_whitelist"] = "file"
    try:
        container = av.open(target, mode="r", options=options, metadata_errors="replace", timeout=OPEN_TIMEOUT)
    except AV_FAILURES as e:
        raise refuse(name, f"it begins like a {demuxer} file but cannot be opened ({describe_failure(e)})") from e
    return container, demuxer


def _pick_stream(name: str, container: av.container.InputContainer) -> tuple[av.video.stream.VideoStream, list[str]]:
    videos = [s for s in container.streams.video if not _is_cover(s)]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams if s.type})) or "nothing readable"
        raise refuse(name, f"it has no video stream (it holds: {kinds})", "Fix: give a file with a picture track")
    # Decoding a stream without a codec context crashes PyAV before 18.1 (PyAV #2344).
    usable = [s for s in videos if s.codec_context is not None]
    if not usable:
        raise refuse(name, "its video codec is unknown to this FFmpeg")
    warnings = []
    best = container.streams.best("video")
    stream = next((s for s in usable if best is not None and s.index == best.index), usable[0])
    if len(videos) > 1:
        warnings.append(f"{len(videos)} video streams; stream {stream.index} is read, the others are ignored")
    return stream, warnings


def _is_cover(stream: av.video.stream.VideoStream) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _check_decoder(name: str, stream: av.video.stream.VideoStream) -> None:
    context = stream.codec_context
    if context.name not in DECODERS:
        raise refuse(name, f"its video codec {context.name!r} is not among the ones this pack decodes")
    if context.width * context.height > MAX_PIXELS:
        limit = f"{MAX_PIXELS:,} pixels a frame"
        raise refuse(name, f"{context.width}x{context.height} exceeds the limit of {limit}", "Fix: scale it down first")
    # av.open(options=...) does not reach the decoder: only the context's own options do, before the first decode.
    context.options = {"max_pixels": str(MAX_PIXELS)}
    # Frame threads have hung on early close; slice threads have not.
    context.thread_type = "SLICE"


def _read_at(target: str | BinaryIO, offset: int, count: int) -> bytes:
    if isinstance(target, str):
        try:
            with open(target, "rb") as file:
                file.seek(offset)
                return file.read(count)
        except OSError as e:
            raise refuse(target, describe_failure(e), "Fix: check that the file may be read") from e
    target.seek(offset)
    data = target.read(count)
    target.seek(0)
    return data


def _top_level_boxes(target: str | BinaryIO, size: int) -> dict[bytes, int]:
    """Box type -> end offset the box claims, for the top level of an mp4/mov file."""
    boxes: dict[bytes, int] = {}
    offset = 0
    for _ in range(4096):
        head = _read_at(target, offset, 16)
        if len(head) < 8:
            break
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            length = size - offset
        if length < 8:
            break
        offset += length
        boxes[kind] = max(boxes.get(kind, 0), offset)
    return boxes


def _missing_bytes(target: str | BinaryIO, stream: av.video.stream.VideoStream, demuxer: str, size: int) -> str:
    """What the file's own structure says is cut off its end, as a phrase; empty if nothing is."""
    needed = 0
    if demuxer == "mov":
        entries = list(getattr(stream, "index_entries", None) or ())[-256:]
        needed = max((entry.pos + entry.size for entry in entries), default=0)
    elif demuxer == "avi":
        needed = 8 + int.from_bytes(_read_at(target, 4, 4), "little")
    elif demuxer == "matroska":
        needed = _matroska_end(_read_at(target, 0, 4096))
    if needed > size + 1:  # AVI pads chunks to even sizes: one byte may be absent
        return f"truncated: its index reaches to byte {needed:,} but the file ends at {size:,}"
    return ""


def _matroska_end(head: bytes) -> int:
    """The byte at which the segment ends by its own header; 0 where the size is left open (live recordings)."""

    def size_at(offset: int) -> tuple[int, int]:
        first = head[offset]
        width = 9 - first.bit_length()
        value = int.from_bytes(head[offset : offset + width], "big") - (1 << (7 * width))
        unknown = value == (1 << (7 * width)) - 1
        return offset + width, 0 if unknown else value

    body, length = size_at(4)
    segment = body + length
    if head[segment : segment + 4] != b"\x18\x53\x80\x67" or segment + 12 > len(head):
        return 0
    body, length = size_at(segment + 4)
    return body + length if length else 0
