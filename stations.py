"""The stations as functions: what nodes and commands call. Frames stream through; nothing holds a whole clip.

`check` is called often and may raise to cancel; `progress` is called with the number of frames done since it last was.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch

from .models.checkpoint import AnyTokenizer, ClipTokenizer
from .models.clip_codec import decode_groups, encode_groups
from .models.network_checks import checked
from .models.stream_codec import EncodeResult, check_match, decode_stream, encode_frames, encode_stream
from .tokens.accounting import report
from .tokens.video_tokens import PFrame, VideoTokens
from .video.clips import Clip
from .video.frames import center_crop, fit_size, resize
from .video.metrics import QualityMeter
from .video.reader import VideoReader
from .video.writer import VideoWriter

Source = str | os.PathLike[str] | BinaryIO
MODES = ("stream", "frames", "clip")
Check = Callable[[], None]
Advance = Callable[[int], None]
Part = tuple[Fraction | float, Fraction | float | None]
"""Start and duration in seconds; None: to the end."""


def unwatched(*_: Any) -> None:
    """Neither cancelled nor watched."""


@dataclass(frozen=True)
class Encoded:
    """Tokens, and how good the frames are that they decode to."""

    tokens: VideoTokens
    psnr: np.ndarray
    """dB of each decoded frame against what was encoded."""
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)
    """The keys of `tokenreel encode --json`, but for file_bytes."""


def encode_clip(
    clip: Clip,
    tokenizer: AnyTokenizer,
    *,
    mode: Literal["stream", "frames", "clip"] = "stream",
    quality: float | None = None,
    budget: float | None = None,
    margin: float = 0.0,
    max_gop: int = 48,
    with_ssim: bool = True,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> Encoded:
    """Encodes a clip. quality: dB; budget: tokens a second; both only in mode "stream".

    Mode "clip" takes a ClipTokenizer, the others a VideoTokenizer. Raises ValueError for a bad knob.
    """
    if mode not in MODES:
        raise ValueError(f"Invalid mode ({mode!r}). Supported modes are {', '.join(map(repr, MODES))}.")
    if mode != "stream" and (quality is not None or budget is not None):
        raise ValueError(f"Mode {mode!r} has a fixed rate: it takes neither a quality nor a budget. Use mode 'stream'.")
    if isinstance(tokenizer, ClipTokenizer) != (mode == "clip"):
        made, fit = "groups of frames", "'clip' (node: Encode Video to Tokens)"
        if mode == "clip":
            made, fit = "single frames", "'stream' or 'frames'"
        raise ValueError(
            f"Invalid mode ({mode!r}): tokenizer {tokenizer.id!r} codes {made}. Use mode {fit}, or another tokenizer."
        )
    started = time.monotonic()
    meter = QualityMeter() if with_ssim else None
    observe = meter.update if meter else None
    chunks = (chunk.frames for chunk in clip.chunks())
    with torch.inference_mode(), checked(tokenizer.networks, check):
        if isinstance(tokenizer, ClipTokenizer):
            result = encode_groups(chunks, tokenizer, check=check, progress=progress, observe=observe)
        elif mode == "frames":
            result = encode_frames(chunks, tokenizer, check=check, progress=progress, observe=observe)
        else:
            result = encode_stream(
                chunks,
                tokenizer,
                quality=quality,
                budget=budget,
                margin=margin,
                frame_rate=float(clip.frame_rate),
                length=clip.length,
                max_gop=max_gop,
                check=check,
                progress=progress,
                observe=observe,
            )
    tokens = _assemble(clip, result, tokenizer)
    psnr, seconds = np.array(result.psnr), time.monotonic() - started
    facts = {**report(tokens), "psnr": float(psnr.mean()), "seconds": round(seconds, 3)}
    if meter:
        facts["ssim"] = meter.result()["ssim"]
    return Encoded(tokens, psnr, seconds, facts)


def _assemble(clip: Clip, result: EncodeResult, tokenizer: AnyTokenizer) -> VideoTokens:
    if not result.frames:
        raise ValueError("The clip has 0 frames in the part that was chosen. Choose a part with at least one frame.")
    predicted = any(isinstance(frame, PFrame) for frame in result.frames)
    return VideoTokens(
        width=clip.width,
        height=clip.height,
        frame_rate=Fraction(clip.frame_rate),
        time_base=clip.time_base,
        pts=tuple(clip.pts),
        duration=clip.duration,
        frames=tuple(result.frames),
        levels=tokenizer.levels,
        tokenizer=tokenizer.id,
        digest=tokenizer.digest,
        codec=tokenizer.codec_id if predicted else "",
        codec_digest=tokenizer.codec_digest if predicted else "",
    )


def decoded_frames(tokens: VideoTokens, tokenizer: AnyTokenizer, stop: int | None = None) -> Iterator[np.ndarray]:
    """Frames of a clip of tokens up to `stop`, uint8 `[H, W, 3]`. ValueError where the tokenizer is another one."""
    if isinstance(tokenizer, ClipTokenizer):
        return decode_groups(tokens, tokenizer, stop=stop)
    return decode_stream(tokens, tokenizer, stop=stop)


def decode_to_file(
    tokens: VideoTokens,
    tokenizer: AnyTokenizer,
    path: str | os.PathLike[str],
    *,
    lossless: bool = False,
    audio: Source | None = None,
    audio_start: Fraction | float = 0,
    check: Check = unwatched,
    progress: Advance = unwatched,
    collect: Callable[[np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Decodes tokens to a video file with the time stamps of the source; `audio` is a file whose sound is carried.

    `collect` is given every decoded frame, uint8 `[1, H, W, 3]`. The file appears when it is finished. Returns frames,
    width, height, frame_rate, duration, seconds.
    """
    check_match(tokens, tokenizer)
    started = time.monotonic()
    writer = VideoWriter(
        path,
        width=tokens.width,
        height=tokens.height,
        frame_rate=tokens.frame_rate,
        time_base=tokens.time_base,
        lossless=lossless,
        audio_source=audio,
        audio_start=audio_start,
        audio_duration=tokens.duration if audio is not None else None,
    )
    with torch.inference_mode(), checked(tokenizer.networks, check), writer:
        for frame, pts in zip(decoded_frames(tokens, tokenizer), tokens.pts, strict=True):
            check()
            writer.write(frame[np.newaxis], [pts])
            if collect:
                collect(frame[np.newaxis])
            progress(1)
        last = tokens.duration / tokens.time_base - (tokens.pts[-1] - tokens.pts[0])
        writer.close(max(1, round(last)))
    return {
        "frames": len(tokens.pts),
        "width": tokens.width,
        "height": tokens.height,
        "frame_rate": float(tokens.frame_rate),
        "duration": float(tokens.duration),
        "seconds": round(time.monotonic() - started, 3),
    }


def matched(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """Reference frames brought to the size of what is measured: scaled by the short side, cropped where that was."""
    scaled = fit_size(frames.shape[2], frames.shape[1], min(width, height))
    if scaled[0] >= width and scaled[1] >= height:
        return np.ascontiguousarray(center_crop(resize(frames, *scaled), (width, height)))
    return resize(frames, width, height)


def measure_files(
    reference: Source,
    other: Source,
    *,
    reference_part: Part = (0, None),
    other_part: Part = (0, None),
    meter: QualityMeter | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> dict[str, Any]:
    """PSNR and SSIM of one video against another, frame by frame in order; the reference is scaled to the other's size.

    Frames beyond the end of the shorter one are left out, and counted in `frames_left_out`. A `meter` that is given
    has the numbers of every frame afterwards.
    """
    started, meter = time.monotonic(), meter or QualityMeter()
    (a_start, a_length), (b_start, b_length) = reference_part, other_part
    with (
        VideoReader(reference, start=a_start, duration=a_length) as a,
        VideoReader(other, start=b_start, duration=b_length) as b,
    ):
        size = (b.info.width, b.info.height)
        left, right = _single(a), _single(b)
        counts = [0, 0]
        while True:
            check()
            one, two = next(left, None), next(right, None)
            counts[0] += one is not None
            counts[1] += two is not None
            if one is None or two is None:
                break
            meter.update(matched(one, *size), two)
            progress(1)
        counts[0] += sum(1 for _ in left)
        counts[1] += sum(1 for _ in right)
        scaled = (a.info.width, a.info.height) != size
        rate, source_size = float(b.info.frame_rate), [a.info.width, a.info.height]
    return {
        **meter.result(),
        "width": size[0],
        "height": size[1],
        "frame_rate": rate,
        "reference_size": source_size,
        "reference_scaled": scaled,
        "frames_left_out": abs(counts[0] - counts[1]),
        "seconds": round(time.monotonic() - started, 3),
    }


def _single(reader: VideoReader) -> Iterator[np.ndarray]:
    for chunk in reader.chunks(8):
        for i in range(len(chunk.pts)):
            yield chunk.frames[i : i + 1]


def name_of(source: Source) -> str:
    """A short name for messages and reports."""
    return Path(os.fspath(source)).name if isinstance(source, (str, os.PathLike)) else "<memory>"
