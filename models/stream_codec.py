"""The token stream: a key frame in full, then motion and residual tokens only where the video changed.

The loop is closed: the encoder predicts from what the decoder will have, and both get there by the same function on frames
of the same shape, rounded to bytes after each step. So the quality that the encoder reports is what the decoder gives.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.accounting import count_frame
from ..tokens.video_tokens import BLOCK, CELL, IFrame, Mode, PFrame, VideoTokens
from .checkpoint import VideoTokenizer
from .motion import MotionSearch, half_pel_planes, warp
from .rate_control import RateControl, make_rate_control
from .residual_codec import ResidualCodec

CELL_SAMPLES = CELL * CELL * 3
INTRA_TOKENS = 5  # a block token and four codes
SKIP_TOKENS = 0.2  # runs of skipped blocks share a token


@dataclass
class EncodeResult:
    """What an encoder found out about a clip."""

    frames: list[IFrame | PFrame] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    """dB of each decoded frame against what was encoded, RGB on uint8; 100 where they are equal."""


def to_unit(frames: Tensor) -> Tensor:
    """uint8 `[B, 3, H, W]` -> float in [-1, 1], channels last."""
    return (frames.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_bytes(frames: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, rounded: the only form in which a frame is ever referred to."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def pad_to_blocks(frame: Tensor) -> Tensor:
    """uint8 `[B, 3, H, W]` -> the same with edges repeated up to whole blocks."""
    height, width = frame.shape[2:]
    padding = (0, -width % BLOCK, 0, -height % BLOCK)
    return F.pad(frame.float(), padding, mode="replicate").to(torch.uint8) if any(padding) else frame


def cells_of(blocks: Tensor) -> Tensor:
    """`[bh, bw]` -> `[h, w]`: the value of the block each cell belongs to."""
    return blocks.repeat_interleave(2, 0).repeat_interleave(2, 1)


def blocks_of(cells: Tensor) -> Tensor:
    """`[h, w]` -> `[bh, bw, 4]`: the cells of each block in raster order."""
    h, w = cells.shape
    return cells.view(h // 2, 2, w // 2, 2).permute(0, 2, 1, 3).reshape(h // 2, w // 2, 4)


class FrameDecoder:
    """Frames in, one after another: the state is the last decoded frame, nothing else."""

    def __init__(self, tokenizer: VideoTokenizer):
        self.tokenizer = tokenizer
        self.reference: Tensor | None = None
        """uint8 `[1, 3, H, W]`, padded to whole blocks."""

    def decode(self, frame: IFrame | PFrame) -> Tensor:
        """The frame as uint8 `[1, 3, H, W]`, padded to whole blocks."""
        if isinstance(frame, IFrame):
            self.reference = self.key(frame)
        elif self.reference is None:
            raise ValueError("Decoding starts at a P-frame. Supported are starts at an I-frame; see VideoTokens.gops.")
        else:
            self.reference = self.predicted(frame, half_pel_planes(self.reference))
        return self.reference

    def key(self, frame: IFrame) -> Tensor:
        codes = torch.from_numpy(frame.codes).long().unsqueeze(0).to(self.tokenizer.device)
        return to_bytes(self.tokenizer.image.decode(codes))

    def predicted(self, frame: PFrame, planes: Tensor) -> Tensor:
        device = self.tokenizer.device
        motion = torch.from_numpy(frame.motion_field()).unsqueeze(0).to(device)
        context = warp(planes, motion)
        codes = torch.from_numpy(frame.code_grid()).long().unsqueeze(0).to(device)
        modes = cells_of(torch.from_numpy(frame.modes).to(device)).unsqueeze(0)
        mask = (codes >= 0) & (modes == Mode.RESIDUAL)
        decoded = context
        if mask.any():
            coded = to_bytes(self._codec.decode(codes.clamp(min=0), mask, to_unit(context)))
            decoded = torch.where(_pixels(mask), coded, context)
        intra = modes == Mode.INTRA
        if intra.any():
            # Neighbours of intra cells lend their context's codes, so that the key-frame decoder sees a whole frame.
            known = torch.where(intra, codes, self.tokenizer.image.encode(to_unit(context)))
            decoded = torch.where(_pixels(intra), to_bytes(self.tokenizer.image.decode(known)), decoded)
        return decoded

    @property
    def _codec(self) -> ResidualCodec:
        if self.tokenizer.residual is None:
            raise ValueError(
                f"Tokenizer {self.tokenizer.id!r} has no residual codec, but the stream has P-frames. "
                "Load one that has, or encode every frame for itself."
            )
        return self.tokenizer.residual


def _pixels(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2).unsqueeze(1)


@dataclass
class _Candidate:
    """One way to code a frame and what it costs."""

    frame: IFrame | PFrame
    decoded: Tensor
    error: float
    """Squared error over the visible samples."""
    tokens: int
    price: float = 0.0
    """Squared error that one token had to save: lambda."""


class StreamEncoder:
    """Encodes frames one after another under a rate control. Memory is a few frames, whatever the length of the clip."""

    def __init__(self, tokenizer: VideoTokenizer, rate: RateControl, *, max_gop: int = 48):
        if tokenizer.residual is None:
            raise ValueError(f"Tokenizer {tokenizer.id!r} has no residual codec. Encode every frame for itself instead.")
        if max_gop < 1:
            raise ValueError(f"Invalid max_gop ({max_gop}). Supported are 1 frame and more.")
        self.tokenizer, self.rate, self.max_gop = tokenizer, rate, max_gop
        self.codec: ResidualCodec = tokenizer.residual
        self.decoder = FrameDecoder(tokenizer)
        self.since_key = 0
        self.price: float | None = None
        self.hint: Tensor | None = None

    def encode(self, frame: np.ndarray) -> tuple[IFrame | PFrame, float]:
        """uint8 `[H, W, 3]` -> (the coded frame, its PSNR in dB)."""
        height, width, _ = frame.shape
        source = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0).to(self.tokenizer.device)
        current = pad_to_blocks(source)
        self.visible = current.new_zeros(current.shape[2:], dtype=torch.float32)
        self.visible[:height, :width] = 1.0
        samples = height * width * 3
        if self.decoder.reference is None or self.since_key >= self.max_gop:
            chosen = self._key(current)
        else:
            chosen = self._best(current, samples)
        key = isinstance(chosen.frame, IFrame)
        self.since_key = 1 if key else self.since_key + 1
        self.hint = None if key else self.hint
        self.decoder.reference = chosen.decoded
        psnr = min(100.0, 10 * np.log10(255.0**2 * samples / max(chosen.error, 1e-9)))
        self.rate.spent(chosen.tokens, float(psnr), key)
        return chosen.frame, float(psnr)

    def _cell_errors(self, frame: Tensor, current: Tensor) -> Tensor:
        """Squared error per cell `[h, w]` over what is visible, as float64 sums of exact integers."""
        error = (frame.float() - current.float()).square().sum(1, keepdim=True) * self.visible
        return F.avg_pool2d(error, CELL).squeeze(0).squeeze(0).double() * (CELL * CELL)

    def _key(self, current: Tensor) -> _Candidate:
        codes = self.tokenizer.image.encode(to_unit(current))
        frame = IFrame(codes[0].to(torch.int32).cpu().numpy())
        decoded = self.decoder.key(frame)
        return _Candidate(frame, decoded, float(self._cell_errors(decoded, current).sum()), sum(count_frame(frame).values()))

    def _best(self, current: Tensor, samples: int) -> _Candidate:
        assert self.decoder.reference is not None
        target = self.rate.target_error(samples)
        price = self.price or (target or 65.0 * samples) / samples * CELL_SAMPLES * 0.5
        planner = _Planner(self, current, price)
        chosen = planner.predicted(target, self.rate.allowance())
        key_tokens = planner.errors.numel()
        costly = chosen.tokens > 0.4 * key_tokens
        failed = target is not None and chosen.error > 1.1 * target
        if (costly or failed) and self.rate.affords(key_tokens):
            key = self._key(current)
            floor = 0.1 * (target or chosen.error) / samples * CELL_SAMPLES
            worth = max(chosen.price, floor)
            if key.error + worth * key.tokens < chosen.error + worth * chosen.tokens:
                self.price = None
                return key
            planner.offer_intra(key)
            again = planner.predicted(target, self.rate.allowance())
            if again.error + worth * again.tokens < chosen.error + worth * chosen.tokens:
                chosen = again
        self.price, self.hint = max(chosen.price, 1.0), planner.field
        return chosen


class _Planner:
    """All ways to code one frame from the last one, and the choice among them at a price per token."""

    def __init__(self, encoder: StreamEncoder, current: Tensor, price: float):
        self.encoder, self.current = encoder, current
        assert encoder.decoder.reference is not None
        self.planes = half_pel_planes(encoder.decoder.reference)
        search = MotionSearch(current, self.planes)
        vector, self.field = search.run([] if encoder.hint is None else [encoder.hint])
        still, moved = warp(self.planes, search.uniform(vector)), warp(self.planes, self.field)
        skip, motion = encoder._cell_errors(still, current), encoder._cell_errors(moved, current)
        saved = blocks_of(skip).sum(-1) - blocks_of(motion).sum(-1)
        self.moves = (saved > price * (1 - SKIP_TOKENS)) & (self.field[0] != vector.view(1, 1, 2)).any(-1)
        self.vector = vector[0]
        context = torch.where(_pixels(cells_of(self.moves).unsqueeze(0)), moved, still)
        self.errors = torch.where(cells_of(self.moves), motion, skip)
        unit = to_unit(context)
        self.codes = encoder.codec.encode(to_unit(current), unit)
        everywhere = torch.ones_like(self.codes, dtype=torch.bool)
        self.coded = encoder._cell_errors(to_bytes(encoder.codec.decode(self.codes, everywhere, unit)), current)
        self.intra: Tensor | None = None
        self.intra_codes: Tensor | None = None

    def offer_intra(self, key: _Candidate) -> None:
        """Adds the blocks of a key frame to the choice."""
        assert isinstance(key.frame, IFrame)
        self.intra = blocks_of(self.encoder._cell_errors(key.decoded, self.current)).sum(-1)
        self.intra_codes = torch.from_numpy(key.frame.codes)

    def choose(self, price: float) -> tuple[Tensor, Tensor, float, float]:
        """(modes `[bh, bw]`, marked cells `[bh, bw, 4]`, expected error, expected tokens) at a price per token."""
        plain, coded = blocks_of(self.errors), blocks_of(self.coded)
        marked = coded + price < plain
        bare = plain.sum(-1)
        bare_tokens = torch.where(self.moves, 1.0, SKIP_TOKENS)
        refined = torch.where(marked, coded, plain).sum(-1)
        refined_tokens = 1.0 + marked.sum(-1)
        refine = marked.any(-1) & (refined + price * refined_tokens < bare + price * bare_tokens)
        error = torch.where(refine, refined, bare)
        tokens = torch.where(refine, refined_tokens, bare_tokens)
        modes = torch.where(refine, int(Mode.RESIDUAL), torch.where(self.moves, int(Mode.MOTION), int(Mode.SKIP)))
        if self.intra is not None:
            whole = self.intra + price * INTRA_TOKENS < error + price * tokens
            error = torch.where(whole, self.intra, error)
            tokens = torch.where(whole, float(INTRA_TOKENS), tokens)
            modes = torch.where(whole, int(Mode.INTRA), modes)
        return modes, marked & (modes == Mode.RESIDUAL).unsqueeze(-1), float(error.sum()), float(tokens.sum())

    def price_for(self, fits: Callable[[float, float], bool], low: float = 0.5, high: float = 4e6) -> float:
        """The price, within 2 %, at which expected (error, tokens) just fit. `fits` turns at most once over the prices."""
        generous = fits(*self.choose(low)[2:])
        while high / low > 1.02:
            middle = (low * high) ** 0.5
            same = fits(*self.choose(middle)[2:]) == generous
            low, high = (middle, high) if same else (low, middle)
        return low if generous else high

    def predicted(self, target: float | None, allowance: float | None) -> _Candidate:
        """The P-frame that meets the target error with few tokens, or the best one within the allowance of tokens."""
        if target is not None:
            return self._meet(target)
        assert allowance is not None
        limit, found = allowance, None
        for _ in range(3):
            found = self.build(self.price_for(lambda error, tokens, limit=limit: tokens <= limit))
            if found.tokens <= allowance:
                break
            limit -= found.tokens - allowance
        assert found is not None
        return found

    def _meet(self, target: float) -> _Candidate:
        """Neighbouring cells help each other, so the error is not the sum of its parts: decode, compare, aim again."""
        aim, best = target, None
        for _ in range(4):
            found = self.build(self.price_for(lambda error, tokens, aim=aim: error <= aim))
            if best is None or (found.error <= target, -found.tokens if found.error <= target else -found.error) > (
                best.error <= target,
                -best.tokens if best.error <= target else -best.error,
            ):
                best = found
            if 0.985 * target <= found.error <= target or found.price <= 0.6:
                break
            aim *= min(max((0.993 * target / max(found.error, 1.0)) ** 1.2, 0.3), 3.0)
        return best

    def build(self, price: float) -> _Candidate:
        """Codes the frame at this price and decodes it."""
        modes, marked, _, _ = self.choose(price)
        delta = (self.field[0] - self.vector.view(1, 1, 2)) * self.moves.unsqueeze(-1)
        has_motion = (modes == Mode.MOTION) | (modes == Mode.RESIDUAL)
        bits = (marked * torch.tensor([1, 2, 4, 8], device=marked.device)).sum(-1)
        intra = np.zeros((0, 4), np.int32)
        if self.intra_codes is not None:
            intra = blocks_of(self.intra_codes)[(modes == Mode.INTRA).cpu()].numpy()
        frame = PFrame(
            global_motion=(int(self.vector[0]), int(self.vector[1])),
            modes=modes.to(torch.uint8).cpu().numpy(),
            motion=delta[has_motion].to(torch.int8).cpu().numpy(),
            masks=bits[modes == Mode.RESIDUAL].to(torch.uint8).cpu().numpy(),
            residual=blocks_of(self.codes[0])[marked].to(torch.int32).cpu().numpy(),
            intra=intra,
        )
        decoded = self.encoder.decoder.predicted(frame, self.planes)
        error = float(self.encoder._cell_errors(decoded, self.current).sum())
        return _Candidate(frame, decoded, error, sum(count_frame(frame).values()), price)


def encode_stream(
    chunks: Iterable[np.ndarray],
    tokenizer: VideoTokenizer,
    *,
    quality: float | None = None,
    budget: float | None = None,
    frame_rate: float = 24.0,
    length: int | None = None,
    max_gop: int = 48,
    check: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> EncodeResult:
    """Encodes frames as a stream of I- and P-frames.

    chunks: uint8 `[T, H, W, 3]` each, all of one size. quality: dB that every frame should reach; budget: tokens a second,
    at `frame_rate`; neither: as good as each key frame. length: frames to come, if known, so that a budget is met at the end
    of a short clip too. check is called before each frame, progress with 1 after it.
    """
    encoder: StreamEncoder | None = None
    result = EncodeResult()
    for frames in chunks:
        for frame in frames:
            if check:
                check()
            if encoder is None:
                cells = (-(-frame.shape[0] // BLOCK) * 2) * (-(-frame.shape[1] // BLOCK) * 2)
                rate = make_rate_control(quality, budget, frame_rate, cells, length, max_gop)
                encoder = StreamEncoder(tokenizer, rate, max_gop=rate.gop)
            coded, psnr = encoder.encode(frame)
            result.frames.append(coded)
            result.psnr.append(psnr)
            if progress:
                progress(1)
    return result


def encode_frames(
    chunks: Iterable[np.ndarray],
    tokenizer: VideoTokenizer,
    *,
    check: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> EncodeResult:
    """Encodes every frame for itself, as an I-frame. Arguments as in encode_stream."""
    decoder, result = FrameDecoder(tokenizer), EncodeResult()
    for frames in chunks:
        for frame in frames:
            if check:
                check()
            height, width, _ = frame.shape
            source = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0).to(tokenizer.device)
            codes = tokenizer.image.encode(to_unit(pad_to_blocks(source)))
            coded = IFrame(codes[0].to(torch.int32).cpu().numpy())
            decoded = decoder.key(coded)[:, :, :height, :width]
            error = (decoded.float() - source.float()).square().double().mean().item()
            result.frames.append(coded)
            result.psnr.append(min(100.0, float(10 * np.log10(255.0**2 / max(error, 1e-12)))))
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
        decoded = decoder.decode(tokens.frames[i])
        if i >= start:
            yield decoded[0, :, : tokens.height, : tokens.width].permute(1, 2, 0).cpu().numpy()


def check_match(tokens: VideoTokens, tokenizer: VideoTokenizer) -> None:
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
