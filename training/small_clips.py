"""The clips of a pack at half or a quarter of their size, as H.264 leaves them: what an upscaler is given in use.

`python -m tokenreel.training.small_clips --pack clips.safetensors --scale 2 --out worn2.safetensors`
"""

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file

from ..video.reference_codecs import REFERENCE_CODECS, recompressed
from .data import RUN

LOWEST, HIGHEST = 18, 32
"""Constant rate factors: from hardly to plainly visible."""


def whole(frames: np.ndarray, scale: int) -> np.ndarray:
    """Without the last rows and columns that a frame of half the size, even for 4:2:0, has no pixel for."""
    height, width = (size // (2 * scale) * 2 * scale for size in frames.shape[1:3])
    return frames[:, :height, :width]


def small_and_worn(frames: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 `[T, H, W, 3]` -> `[T, H / scale, W / scale, 3]` through H.264 at a random quality."""
    planes = torch.from_numpy(np.ascontiguousarray(whole(frames, scale))).permute(0, 3, 1, 2).float()
    small = F.interpolate(planes, scale_factor=1 / scale, mode="bicubic", antialias=True).round().clamp(0, 255)
    small_frames = np.ascontiguousarray(small.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    quality = int(rng.integers(LOWEST, HIGHEST + 1))
    return recompressed(REFERENCE_CODECS["x264 medium"], small_frames, Fraction(25), quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng, made = np.random.default_rng(0), {}
    with safe_open(args.pack, "np") as file:
        run = int((file.metadata() or {}).get("run", RUN))
        for name in sorted(file.keys()):
            clip = file.get_tensor(name)
            length = min(run, len(clip))
            runs = [clip[start : start + length] for start in range(0, len(clip), length)]
            made[name] = np.concatenate([small_and_worn(each, args.scale, rng) for each in runs])
            print(f"{name}: {made[name].shape}", flush=True)
    save_file(made, args.out)


if __name__ == "__main__":
    main()
