"""The token stream: a key frame in full, then motion and residual tokens only where the video changed.

The loop is closed: the encoder predicts from what the decoder will have, and both get there by the same function on
frames of the same shape, rounded to bytes after each step. So the quality that the encoder reports is what the decoder
gives.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..tokens.video_tokens import BLOCK, CELL, CFrame, Frame, IFrame, PFrame, VideoTokens
from .checkpoint import AnyTokenizer, VideoTokenizer
from .frame_decoder import FrameDecoder, pad_to_blocks, to_unit, visible
from .frame_planner import Candidate, FramePlanner, key_candidate
from .rate_control import RateControl, make_rate_control

CELL_SAMPLES = CELL * CELL * 3
NEW_CONTENT = 4.0
"""Times the error aimed at that motion leaves, 6 dB, where the frame shows something else than the one before."""
RENEWED = 0.5
"""Share of the cells coded anew, over any number of frames, after which the picture may be another: a dissolve."""
SETTLED = 0.02
"""Share of the cells coded in a frame below which change is over; four times as much in all was worth a look then."""


@dataclass
class EncodeResult:
    """What an encoder found out about a clip."""

    frames: list[Frame] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    """dB of each decoded frame against what was encoded, RGB on uint8; 100 where they are equal."""


def decibels(error: float) -> float:
    """PSNR of a mean squared error; to the last bit what measuring the decoded frames gives."""
    return min(100.0, float(10 * np.log10(255.0**2 / error))) if error > 0 else 100.0


class StreamEncoder:
    """Encodes frames one after another under a rate control. Memory is a few frames, however long the clip is."""

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        rate: RateControl,
        *,
        max_gop: int = 48,
        check: Callable[[], None] = lambda: None,
    ):
        if tokenizer.residual is None:
            raise ValueError(
                f"Tokenizer {tokenizer.id!r} has no residual codec. Encode every frame for itself instead."
            )
        if max_gop < 1:
            raise ValueError(f"Invalid max_gop ({max_gop}). Supported are 1 frame and more.")
        self.tokenizer, self.rate, self.max_gop, self.check = tokenizer, rate, max_gop, check
        self.decoder = FrameDecoder(tokenizer)
        self.since_key = 0
        self.price: float | None = None
        self.hint: Tensor | None = None
        self.optimism = 0.99
        self.renewed = 0
        """Cells coded since a key frame was tried: how much of the picture may have become something else."""
        self.coded = 0
        """Cells coded in the last frame."""

    def encode(self, frame: np.ndarray) -> tuple[IFrame | PFrame, float]:
        """uint8 `[H, W, 3]` -> (the coded frame, its PSNR in dB)."""
        height, width, _ = frame.shape
        source = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0).to(self.tokenizer.device)
        current = pad_to_blocks(source)
        shown = current.new_zeros(current.shape[2:], dtype=torch.float32)
        shown[:height, :width] = 1.0
        samples = height * width * 3
        due = self.since_key >= self.max_gop and self.rate.affords(shown.numel() // CELL**2)
        if self.decoder.reference is None or due:
            chosen = self._key(current, shown, samples)
        else:
            chosen = self._best(current, shown, samples)
        key = isinstance(chosen.frame, IFrame)
        self.since_key = 1 if key else self.since_key + 1
        self.hint = None if key else self.hint
        self.decoder.reference = chosen.decoded
        psnr = decibels(chosen.error / samples)
        self.rate.spent(chosen.tokens, psnr, key)
        return chosen.frame, psnr

    def _key(self, current: Tensor, shown: Tensor, samples: int) -> Candidate:
        self.check()
        key, self.renewed = key_candidate(current, shown, self.decoder), 0
        self.rate.tried_key(decibels(key.error / samples))
        return key

    def _best(self, current: Tensor, shown: Tensor, samples: int) -> Candidate:
        target, allowance = self.rate.target_error(samples), self.rate.allowance()
        price = self.price or (target or 65.0 * samples) / samples * CELL_SAMPLES * 0.5
        planner = FramePlanner(
            current, shown, self.decoder, price, self.hint, target=target, allowance=allowance, check=self.check
        )
        planner.optimism = self.optimism
        key_tokens, key = shown.numel() // CELL**2, None
        if self.rate.follows_keys and target is not None:
            unlike = planner.left > NEW_CONTENT * target
            settled = self.coded < SETTLED * key_tokens < self.renewed / 4
            if unlike or settled or self.renewed > RENEWED * key_tokens:
                key = self._key(current, shown, samples)
                target = self.rate.target_error(samples)
        chosen = planner.predicted(target, allowance)
        costly = chosen.tokens > 0.4 * key_tokens
        failed = target is not None and chosen.error > 1.1 * target
        if (costly or failed) and self.rate.affords(key_tokens):
            key = key or self._key(current, shown, samples)
            target = self.rate.target_error(samples)  # what a key frame reaches may be what is asked for
            worth = max(chosen.price, 0.1 * (target or chosen.error) / samples * CELL_SAMPLES)
            planner.offer_intra(key)
            again = planner.predicted(target, allowance)
            chosen = again if self.rate.follows_keys or again.cost(worth) < chosen.cost(worth) else chosen
            if key.cost(worth) < chosen.cost(worth):
                self.price = None
                return key
        self.hint, self.optimism = planner.field, planner.optimism
        coded = chosen.frame.residual.size + chosen.frame.intra.size if isinstance(chosen.frame, PFrame) else 0
        self.coded, self.renewed = coded, self.renewed + coded
        if coded:
            self.price = max(chosen.price, 1.0)  # a frame that needs no code would do so at any price: it tells none
        return chosen


def single_frames(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames `[H, W, 3]` of all chunks, which have to be of one size."""
    size = None
    for frames in chunks:
        size = size or frames.shape[1:]
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size or size[-1] != 3:
            raise ValueError(
                f"Invalid frames: {frames.dtype} {frames.shape} in a clip of {size}. Supported are uint8 [T, H, W, 3], "
                "all of one size; scale them first."
            )
        yield from frames


def encode_stream(
    chunks: Iterable[np.ndarray],
    tokenizer: VideoTokenizer,
    *,
    quality: float | None = None,
    budget: float | None = None,
    margin: float = 0.0,
    frame_rate: float = 24.0,
    length: int | None = None,
    max_gop: int = 48,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> EncodeResult:
    """Encodes frames as a stream of I- and P-frames.

    chunks: uint8 `[T, H, W, 3]` each, all of one size. quality: dB that every frame should reach; budget: tokens a
    second, at `frame_rate`; neither: as good as each key frame, plus `margin` dB. length: frames to come, if known, so
    that a budget is met at the end of a short clip too. check is called before each pass through a network, progress
    with 1 after each frame, observe with the source and the decoded frame, both uint8 `[1, H, W, 3]`.
    """
    encoder: StreamEncoder | None = None
    result = EncodeResult()
    for frame in single_frames(chunks):
        check()
        if encoder is None:
            cells = (-(-frame.shape[0] // BLOCK) * 2) * (-(-frame.shape[1] // BLOCK) * 2)
            rate = make_rate_control(quality, budget, frame_rate, cells, length, max_gop, margin)
            encoder = StreamEncoder(tokenizer, rate, max_gop=rate.gop, check=check)
        coded, psnr = encoder.encode(frame)
        result.frames.append(coded)
        result.psnr.append(psnr)
        if observe:
            assert encoder.decoder.reference is not None
            observe(frame[np.newaxis], visible(encoder.decoder.reference, *frame.shape[:2])[np.newaxis])
        if progress:
            progress(1)
    return result


def encode_frames(
    chunks: Iterable[np.ndarray],
    tokenizer: VideoTokenizer,
    *,
    check: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> EncodeResult:
    """Encodes every frame for itself, as an I-frame. Arguments as in encode_stream."""
    decoder, result = FrameDecoder(tokenizer), EncodeResult()
    for frame in single_frames(chunks):
        if check:
            check()
        height, width, _ = frame.shape
        source = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0).to(tokenizer.device)
        codes = tokenizer.image.encode(to_unit(pad_to_blocks(source)))
        coded = IFrame(codes[0].to(torch.int32).cpu().numpy())
        decoded = decoder.key(coded)[:, :, :height, :width]
        error = (decoded.float() - source.float()).square().double().mean().item()
        result.frames.append(coded)
        result.psnr.append(decibels(error))
        if observe:
            observe(frame[np.newaxis], visible(decoded, height, width)[np.newaxis])
        if progress:
            progress(1)
    return result


def decode_stream(
    tokens: VideoTokens, tokenizer: VideoTokenizer, *, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Decodes frames `[start, stop)` one by one, uint8 `[H, W, 3]`; decoding begins at the key frame before `start`.

    Raises ValueError where the tokens were made by another tokenizer or codec: other weights would give noise.
    """
    check_match(tokens, tokenizer)
    stop = len(tokens.frames) if stop is None else stop
    if not 0 <= start < stop <= len(tokens.frames):
        raise ValueError(f"Invalid range [{start}, {stop}). Supported is 0 <= start < stop <= {len(tokens.frames)}.")
    decoder = FrameDecoder(tokenizer)
    first = max(gop.start for gop in tokens.gops if gop.start <= start)
    for i in range(first, stop):
        frame = tokens.frames[i]
        assert not isinstance(frame, CFrame)  # groups have the digest of a tokenizer of their own
        decoded = decoder.decode(frame)
        if i >= start:
            yield visible(decoded, tokens.height, tokens.width)


def check_match(tokens: VideoTokens, tokenizer: AnyTokenizer) -> None:
    """Raises ValueError unless the tokens were made with just these weights."""
    if tokens.digest != tokenizer.digest:
        raise ValueError(
            f"These tokens were made by tokenizer {tokens.tokenizer!r} ({tokens.digest[:12]}), not by {tokenizer.id!r} "
            f"({tokenizer.digest[:12]}). Load the tokenizer they were made with."
        )
    if tokens.codec and tokens.codec_digest != tokenizer.codec_digest:
        raise ValueError(
            f"These tokens were made with residual codec {tokens.codec!r} ({tokens.codec_digest[:12]}), not with "
            f"{tokenizer.codec_id or 'none'!r} ({tokenizer.codec_digest[:12]}). Load the codec they were made with."
        )
