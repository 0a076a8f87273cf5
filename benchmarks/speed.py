"""Frames a second of encoding and decoding on a CPU, beside other small autoencoders, in one process and in turn.

The networks are timed alone, one frame at a time, all in 32-bit floats and with channels last; the stream and the
tokenizer of whole clips as they are used, from frames to tokens and back. Everything runs once to warm up, then in
rounds, each thing once in a round, so that what else the machine does falls on all alike. The median counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.checkpoint import AnyTokenizer, ClipTokenizer, list_tokenizers, load_clip_tokenizer, load_tokenizer
from ..stations import decoded_frames, encode_clip
from ..video.clips import HeldClip, VideoClip
from ..video.metrics import psnr
from .peers import find_peers
from .tokens import clips_in

THREADS = 2
FRAMES = 17  # of a clip; one, and groups of four
NETWORK_ROUNDS, CLIP_ROUNDS = 7, 3


@dataclass
class Candidate:
    """Something that encodes and decodes; `seconds` collects a pair for each round."""

    name: str
    parameters: int
    encode: Callable[[], Any]
    decode: Callable[[Any], np.ndarray]
    """What `encode` gave -> uint8 `[T, H, W, 3]`."""
    seconds: list[tuple[float, float]]

    def run(self) -> np.ndarray:
        """One round; the decoded frames."""
        started = time.perf_counter()
        coded = self.encode()
        between = time.perf_counter()
        decoded = self.decode(coded)
        self.seconds.append((between - started, time.perf_counter() - between))
        return decoded


def measure_speed(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """On the first clip of `args.clips`, beside the pairs of weights in `args.peers`, if that is given."""
    if args.peers and not os.path.isdir(args.peers):
        raise ValueError(f"There is no folder {args.peers!r}. Name a folder of weights with --peers DIR.")
    path = clips_in(args.clips)[0]
    tell(f"  {path.name}, {THREADS} threads")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(time_all, str(path), args.size, args.peers).result()


def time_all(path: str, size: int, peers: str | None, frames: int = FRAMES) -> dict[str, Any]:
    """Frames a second, parameters and PSNR of every network, and of the stream and the clip tokenizer."""
    torch.set_num_threads(THREADS)
    with VideoClip(path, size=size, crop=True, max_frames=frames) as clip:
        held = HeldClip(clip)
    with torch.inference_mode():
        return {
            "size": size,
            "frames": len(held.pts),
            "threads": THREADS,
            "networks": _timed(_networks(held.frames, peers), NETWORK_ROUNDS, held.frames),
            "clips": _timed(_whole(held), CLIP_ROUNDS, held.frames),
        }


def _timed(candidates: list[Candidate], rounds: int, frames: np.ndarray) -> list[dict[str, Any]]:
    quality = [float(psnr(frames, each.run()).mean()) for each in candidates]
    for each in candidates:
        each.seconds.clear()
    for _ in range(rounds):
        for each in candidates:
            each.run()
    return [
        {
            "name": each.name,
            "parameters": each.parameters,
            "psnr": decibels,
            "rounds": rounds,
            "encode_fps": len(frames) / statistics.median(one for one, _ in each.seconds),
            "decode_fps": len(frames) / statistics.median(two for _, two in each.seconds),
            "both_fps": len(frames) / statistics.median(one + two for one, two in each.seconds),
        }
        for each, decibels in zip(candidates, quality, strict=True)
    ]


def _networks(frames: np.ndarray, peers: str | None) -> list[Candidate]:
    """Ours, and the others."""
    tokenizer = load_tokenizer()
    pairs: list[tuple[str, Any, Any, Any]] = [
        (
            f"TokenReel {tokenizer.id}",
            tokenizer.image,
            lambda x: tokenizer.image.encode(2 * x - 1),
            lambda codes: tokenizer.image.decode(codes) / 2 + 0.5,
        )
    ]
    for name, encoder, decoder in find_peers(Path(peers)) if peers else ():
        pairs.append((name, torch.nn.ModuleList([encoder, decoder]), encoder, decoder))
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(255)
    singles = [each.unsqueeze(0).contiguous(memory_format=torch.channels_last) for each in pictures]
    candidates = []
    for name, network, encode, decode in pairs:
        network.to(memory_format=torch.channels_last)
        count = sum(weight.numel() for weight in network.parameters())
        candidates.append(Candidate(name, count, _each(encode, singles), _pictures_by(decode), []))
    return candidates


def _each(network: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    return lambda: [network(each) for each in inputs]


def _pictures_by(network: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], np.ndarray]:
    def decode(coded: list[Tensor]) -> np.ndarray:
        frames = torch.cat([network(each) for each in coded])
        return frames.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    return decode


def _whole(clip: HeldClip) -> list[Candidate]:
    """From frames to tokens and back, with everything that belongs to it."""
    tokenizers: list[AnyTokenizer] = [load_tokenizer()]
    if list_tokenizers(kinds=["video_tokenizer"]):
        tokenizers.append(load_clip_tokenizer())
    candidates = []
    for each in tokenizers:
        each.to(torch.device("cpu"))
        whole = isinstance(each, ClipTokenizer)
        networks = [each.network] if whole else [each.image, each.residual]
        count = sum(weight.numel() for network in networks if network for weight in network.parameters())
        mode = "clip" if whole else "stream"
        candidates.append(Candidate(f"TokenReel {mode}", count, _encoder(clip, each, mode), _decoder(each), []))
    return candidates


def _encoder(clip: HeldClip, tokenizer: AnyTokenizer, mode: Any) -> Callable[[], Any]:
    return lambda: encode_clip(clip, tokenizer, mode=mode, with_ssim=False).tokens


def _decoder(tokenizer: AnyTokenizer) -> Callable[[Any], np.ndarray]:
    return lambda tokens: np.stack(list(decoded_frames(tokens, tokenizer)))
