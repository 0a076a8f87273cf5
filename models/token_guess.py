"""A guess of missing frames as codes: known frames are decoded, their motion is followed, and the result is coded.

It is what a generator of tokens begins with. Between two known frames both are moved to the moment in between; after
the last one it is moved on as it moved before. Where no frame is known as a whole, what is missing of each is a smooth
surface through the codes around it. None of this needs weights but the tokenizer's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .flow_search import Motion, find_motion, flow_after, flow_at, pixel_grid, sample
from .image_tokenizer import ImageTokenizer
from .interpolator import blend

EXTRA = 2
"""Values of a guess beside its codes: how much it is to be doubted, and how far things moved."""
NONE = 2.0
"""The doubt where there is no guess at all."""
_DIFFERS = 32.0 / 255  # difference that makes a doubt of 1
_FAR = 16.0  # pixels that count as 1
_SMOOTH_DOUBT = 1.0
"""The doubt where only the surroundings in the same frame say something."""
_ROUNDS = 64  # of averaging with the neighbours
_AT_ONCE = 8  # frames that are made and coded together


class Guessed(NamedTuple):
    """Frames `[t, 3, H, W]` in [0, 1], and for each pixel the doubt and the distance `[t, 1, H, W]`."""

    frames: Tensor
    doubt: Tensor
    far: Tensor


def frames_between(first: Tensor, second: Tensor, times: Tensor, motion: Motion | None = None) -> Guessed:
    """Frames at `times` `[t]`, above 0 and below 1, between two `[1, 3, H, W]` in [0, 1]; H, W multiples of 16.

    motion: that of `find_motion` for the two, if it is known already.
    """
    flow, share = flow_at(motion or find_motion(first, second), times.view(-1, 1, 1, 1))
    many = (len(times), -1, -1, -1)
    first, second = first.expand(many), second.expand(many)
    grid = pixel_grid(first.shape[-2], first.shape[-1], first)
    one, two = sample(first, grid + flow[:, :2]), sample(second, grid + flow[:, 2:])
    doubt = (one - two).abs().mean(1, keepdim=True) / _DIFFERS
    far = torch.maximum(flow[:, :2].norm(dim=1, keepdim=True), flow[:, 2:].norm(dim=1, keepdim=True))
    return Guessed(blend(first, second, flow, share), doubt, far / _FAR)


def frames_after(seen: Tensor, count: int) -> Guessed:
    """The `count` frames after `seen` `[n, 3, H, W]` in [0, 1], evenly spaced; the last three of them are looked at."""
    back = min(2, len(seen) - 1)
    last = seen[-1:]
    if not back:
        still = last.new_zeros(count, 1, *last.shape[-2:])
        return Guessed(last.expand(count, -1, -1, -1), still + 1, still)
    later = torch.arange(1, count + 1, device=seen.device, dtype=torch.float32).view(-1, 1, 1, 1) / back
    flow, weight = flow_after(find_motion(seen[-1 - back : len(seen) - back], last), later)
    moved = sample(last.expand(count, -1, -1, -1), pixel_grid(last.shape[-2], last.shape[-1], last) + flow)
    return Guessed(moved, (1 - weight).clamp(min=0), flow.norm(dim=1, keepdim=True) / _FAR)


@torch.inference_mode()
def guess(image: ImageTokenizer, indices: Tensor, known: Tensor) -> Tensor:
    """float32 `[t, h, w, d + EXTRA]`: codes of d digits, not rounded, then doubt and distance.

    indices: int64 `[t, h, w]` with h and w even, on the tokenizer's device. known: bool `[t, h, w]`; frames that are
    not known as a whole are guessed from the nearest ones that are. Those have their own codes and no doubt. Where none
    is, each frame is guessed from what is known of it.
    """
    whole = known.flatten(1).all(1).tolist()
    codes = image.quantizer.indices_to_codes(indices).movedim(1, -1)
    made = torch.cat([codes, torch.zeros_like(codes[..., :EXTRA])], -1)
    for start, stop in _runs(whole):
        if any(whole):
            made[start:stop] = _guess_run(image, indices, whole, start, stop)
        else:
            made[start:stop] = around(codes[start:stop], known[start:stop])
    return made


def around(codes: Tensor, known: Tensor) -> Tensor:
    """`[t, h, w, d + EXTRA]`: codes `[t, h, w, d]`, where not `known` a smooth surface through those around them.

    Of frames of which nothing is known there is no guess.
    """
    there = known[..., None].to(codes.dtype)
    mean = (codes * there).sum((1, 2), keepdim=True) / there.sum((1, 2), keepdim=True).clamp(min=1)
    smooth = torch.where(known[..., None], codes, mean).movedim(-1, 1)  # [t, d, h, w]
    given = smooth
    for _ in range(_ROUNDS):
        wide = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
        mean = (wide[:, :, :-2, 1:-1] + wide[:, :, 2:, 1:-1] + wide[:, :, 1:-1, :-2] + wide[:, :, 1:-1, 2:]) / 4
        smooth = torch.where(known[:, None], given, mean)
    doubt = torch.where(known.flatten(1).any(1)[:, None, None], _SMOOTH_DOUBT, NONE).expand(known.shape)
    told = torch.stack([torch.where(known, 0.0, doubt), torch.zeros_like(doubt)], -1)
    return torch.cat([smooth.movedim(1, -1), told], -1)


def _runs(whole: list[bool]) -> Iterator[tuple[int, int]]:
    """First frame and end of each run of frames that are not known as a whole."""
    start = 0
    while start < len(whole):
        if whole[start]:
            start += 1
            continue
        stop = start
        while stop < len(whole) and not whole[stop]:
            stop += 1
        yield start, stop
        start = stop


def _guess_run(image: ImageTokenizer, indices: Tensor, whole: list[bool], start: int, stop: int) -> Tensor:
    before, after = _neighbours(whole, start - 1, -1), _neighbours(whole, stop, 1)
    if before and after:
        first, second = (decoded(image, indices[i : i + 1]) for i in (before[0], after[0]))
        times = torch.arange(1, stop - start + 1, device=indices.device) / (stop - start + 1)
        motion = find_motion(first, second)
        parts = (frames_between(first, second, some, motion) for some in times.split(_AT_ONCE))
        return torch.cat([coded(image, part) for part in parts])
    # the nearest frame last; backwards where only later frames are known
    seen = decoded(image, indices[(before or after)[::-1]])
    part = coded(image, frames_after(seen, stop - start))
    return part if before else part.flip(0)


def _neighbours(whole: list[bool], nearest: int, step: int) -> list[int]:
    """Up to three frames known as a whole, from `nearest` on, one beside the other."""
    found = []
    for index in (nearest, nearest + step, nearest + 2 * step):
        if not 0 <= index < len(whole) or not whole[index]:
            break
        found.append(index)
    return found


def decoded(image: ImageTokenizer, indices: Tensor) -> Tensor:
    """Frames `[t, 3, H, W]` in [0, 1], as whole grey levels: what a viewer has."""
    frames = torch.cat([image.decode(some) for some in indices.split(_AT_ONCE)])
    return (frames.float() * 127.5 + 127.5).round() / 255


def coded(image: ImageTokenizer, guessed: Guessed) -> Tensor:
    """A guess's codes, doubt and distance `[t, h, w, d + EXTRA]`; doubt and distance are means of each cell."""
    size = image.config.spatial_compression
    made = []
    for frames, doubt, far in zip(*(each.split(_AT_ONCE) for each in guessed), strict=True):
        latents = image.to_latent(image.encoder(frames * 2 - 1)).float()
        told = F.avg_pool2d(torch.cat([doubt, far], 1), size)
        made.append(torch.cat([image.quantizer.unrounded(latents), told], 1).movedim(1, -1))
    return torch.cat(made)
