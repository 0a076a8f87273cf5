"""What a clip costs at several qualities: our stream, every frame for itself, and the codecs everybody knows.

Rates are bits per pixel of what is kept: of the whole `.tokens` file for ours, of the packets alone for the others.
Quality is the mean of per-frame RGB PSNR on uint8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .models.checkpoint import AnyTokenizer, ClipTokenizer, VideoTokenizer
from .models.rate_control import HIGHEST_QUALITY, LOWEST_QUALITY
from .stations import Advance, Check, Encoded, encode_clip, unwatched
from .tokens.bitstream import tokens_to_bytes
from .video.clips import HeldClip
from .video.rate_curves import RatePoint, bd_rate
from .video.reference_codecs import REFERENCE_CODECS, rate_curve

STREAM, EVERY_FRAME, GROUPS = "TokenReel stream", "every frame for itself", "four frames at a time"
MATCH = "as key frames"
POINTS = 3
"""Qualities of the stream that are asked for, besides that of its key frames."""
_LOWEST_TARGET = 27.0  # dB; so that curves have something to say about 28 dB, the least that is usually compared
_LEAST_RANGE = 4.0  # dB that the curve reaches down


@dataclass(frozen=True)
class TokenPoint:
    """A clip as tokens, and what they take and give."""

    name: str
    encoded: Encoded
    file_bytes: int

    @property
    def bits_per_pixel(self) -> float:
        """Of the file, with everything in it."""
        tokens = self.encoded.tokens
        return 8 * self.file_bytes / (tokens.width * tokens.height * len(tokens.pts))

    @property
    def raw_bits_per_pixel(self) -> float:
        """Of the tokens, without entropy coding."""
        return self.encoded.report["bits_per_pixel"]

    @property
    def psnr(self) -> float:
        return self.encoded.report["psnr"]


@dataclass(frozen=True)
class RateDistortion:
    """The curves of one clip."""

    width: int
    height: int
    frames: int
    every_frame: TokenPoint
    stream: tuple[TokenPoint, ...]
    """From the lowest quality asked for to the highest; the last is as good as its key frames."""
    codecs: dict[str, list[RatePoint]]
    groups: TokenPoint | None = None
    """By a tokenizer of whole clips, if one was given."""

    @property
    def fixed(self) -> list[TokenPoint]:
        """What has a single rate."""
        return [self.every_frame, *([self.groups] if self.groups else [])]

    def bd_rates(self) -> dict[str, float | None]:
        """Percent that the stream's files take more than a codec's packets at equal quality; None: no overlap."""
        return {name: bd_rate(self.stream, points) for name, points in self.codecs.items()}


def token_point(name: str, clip: HeldClip, tokenizer: AnyTokenizer, **knobs: Any) -> TokenPoint:
    """Encodes the clip once; `knobs` are those of `stations.encode_clip`."""
    encoded = encode_clip(clip, tokenizer, **knobs)
    return TokenPoint(name, encoded, len(tokens_to_bytes(encoded.tokens)))


def quality_targets(ceiling: float, points: int) -> list[float]:
    """dB to ask a stream for, rising evenly to just below `ceiling`: what the tokenizer reaches on this clip."""
    ceiling = min(max(ceiling, LOWEST_QUALITY + _LEAST_RANGE), HIGHEST_QUALITY)
    spread = np.linspace(min(_LOWEST_TARGET, ceiling - _LEAST_RANGE), ceiling, points, endpoint=False)
    return [round(float(quality), 2) for quality in spread]


def stream_curve(
    clip: HeldClip, tokenizer: VideoTokenizer, ceiling: float, points: int = POINTS, **watchers: Any
) -> Iterator[TokenPoint]:
    """The stream at `points` qualities below `ceiling` dB, from the lowest."""
    for quality in quality_targets(ceiling, points):
        yield token_point(f"at least {quality:.1f} dB", clip, tokenizer, quality=quality, **watchers)


def passes(points: int = POINTS, clip_tokenizer: ClipTokenizer | None = None) -> int:
    """How many times over the clip `rate_distortion` goes; every codec counts as one."""
    return 2 + points + (clip_tokenizer is not None) + len(REFERENCE_CODECS)


def rate_distortion(
    clip: HeldClip,
    tokenizer: VideoTokenizer,
    clip_tokenizer: ClipTokenizer | None = None,
    *,
    points: int = POINTS,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> RateDistortion:
    """Measures all curves of one clip, and the point of a second tokenizer, of whole clips.

    `progress` is called with frames; there are `passes` times those of the clip. Raises ValueError for a tokenizer
    without a residual codec, and for fewer than 0 points.
    """
    if points < 0:
        raise ValueError(f"Invalid points ({points}). Supported are 0 points and more.")
    watchers = {"check": check, "progress": progress}
    single = token_point(EVERY_FRAME, clip, tokenizer, mode="frames", **watchers)
    best = token_point(MATCH, clip, tokenizer, **watchers)
    stream = (*stream_curve(clip, tokenizer, single.psnr, points, **watchers), best)
    groups = token_point(GROUPS, clip, clip_tokenizer, mode="clip", **watchers) if clip_tokenizer else None
    curves = codec_curves(clip, check=check, progress=progress)
    return RateDistortion(clip.width, clip.height, len(clip.pts), single, stream, curves, groups)


def codec_curves(
    clip: HeldClip,
    names: Sequence[str] = tuple(REFERENCE_CODECS),
    *,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> dict[str, list[RatePoint]]:
    """The curves of the reference codecs, each from its lowest rate to its highest."""
    frames, curves = clip.frames, {}
    for name in names:
        curves[name] = rate_curve(REFERENCE_CODECS[name], frames, clip.frame_rate, check=check)
        progress(len(frames))
    return curves
