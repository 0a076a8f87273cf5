"""Clips in groups of frames: the causal video tokenizer run over a clip, one group after another.

Memory is one group and what the network remembers, however long the clip is.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..tokens.video_tokens import CFrame, VideoTokens
from .checkpoint import ClipTokenizer
from .frame_decoder import pad_to_blocks, to_bytes, to_unit
from .stream_codec import EncodeResult, check_match, decibels, single_frames
from .video_tokenizer import GROUP, Memory


def encode_groups(
    chunks: Iterable[np.ndarray],
    tokenizer: ClipTokenizer,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> EncodeResult:
    """Encodes the first frame for itself and the others in groups of four; the last group repeats its last frame.

    chunks: uint8 `[T, H, W, 3]` each, all of one size. check is called before and after each pass through the network,
    progress with the number of frames done, observe with a source and a decoded frame, both uint8 `[1, H, W, 3]`.
    """
    result, seen, known = EncodeResult(), None, None
    for frames in _grouped(single_frames(chunks)):
        check()
        group = _to_group(frames, tokenizer.device)
        codes, seen = tokenizer.network.encode_group(group, seen)
        coded = CFrame(codes[0].to(torch.int32).cpu().numpy(), len(frames))
        check()
        decoded, known = _decode(coded, tokenizer, known, *frames.shape[1:3])
        check()
        errors = np.square(decoded.astype(np.float64) - frames).mean((1, 2, 3))
        result.frames.append(coded)
        result.psnr += [decibels(float(error)) for error in errors]
        if observe:
            for source, made in zip(frames, decoded, strict=True):
                check()
                observe(source[np.newaxis], made[np.newaxis])
        if progress:
            progress(len(frames))
    return result


def decode_groups(
    tokens: VideoTokens, tokenizer: ClipTokenizer, *, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Decodes frames `[start, stop)` one by one, uint8 `[H, W, 3]`; decoding always begins at the first group.

    Raises ValueError where the tokens were made by another tokenizer.
    """
    check_match(tokens, tokenizer)
    stop = len(tokens.pts) if stop is None else stop
    if not 0 <= start < stop <= len(tokens.pts):
        raise ValueError(f"Invalid range [{start}, {stop}). Supported is 0 <= start < stop <= {len(tokens.pts)}.")
    known = None
    for coded, group in zip(tokens.frames, tokens.groups, strict=True):
        if group.start >= stop:
            return
        assert isinstance(coded, CFrame)
        decoded, known = _decode(coded, tokenizer, known, tokens.height, tokens.width)
        yield from decoded[max(start - group.start, 0) : max(stop - group.start, 0)]


def _grouped(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames `[H, W, 3]` -> uint8 `[n, H, W, 3]`: one, then four each, at the end what is left."""
    held: list[np.ndarray] = []
    wanted = 1
    for frame in frames:
        held.append(frame)
        if len(held) == wanted:
            yield np.stack(held)
            held, wanted = [], GROUP
    if held:
        yield np.stack(held)


def _to_group(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 `[n, H, W, 3]`, n <= 4 -> float `[1, 4, 3, ...]` in [-1, 1], the last frame repeated, whole blocks."""
    whole = np.concatenate([frames, np.repeat(frames[-1:], GROUP - len(frames), 0)])
    return to_unit(pad_to_blocks(torch.from_numpy(whole).permute(0, 3, 1, 2).to(device))).unsqueeze(0)


def _decode(
    coded: CFrame, tokenizer: ClipTokenizer, known: Memory | None, height: int, width: int
) -> tuple[np.ndarray, Memory]:
    """Frames of a group uint8 `[span, height, width, 3]`, and what the decoder knows then."""
    codes = torch.from_numpy(coded.codes).long().unsqueeze(0).to(tokenizer.device)
    decoded, known = tokenizer.network.decode_group(codes, known)
    shown = to_bytes(decoded[0, : coded.span])[:, :, :height, :width].permute(0, 2, 3, 1)
    return np.ascontiguousarray(shown.cpu().numpy()), known
